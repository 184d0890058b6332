"""How ``coba-train`` ends: a sentence for what the user can mend, a traceback for faults of ours, and an exit code."""

import os
import sys
import traceback
from typing import NoReturn

from lightning_coba.cli.composition import composition_error
from lightning_coba.cli.outcome import outcome_of


def end_with(error: BaseException) -> NoReturn:
    """Say what ended the command, and end it. Of several ranks the first speaks; tracebacks come from all.

    Raises:
        SystemExit: always, which Hydra lets pass.
    """
    sys.stdout.flush()
    outcome = outcome_of(error)
    if outcome.sentence is None and (told := composition_error(sys.argv[1:])):  # Hydra raises what it likes
        outcome = outcome_of(told)
    if outcome.sentence is None or (os.environ.get("HYDRA_FULL_ERROR") == "1" and outcome.status == "failed"):
        traceback.print_exception(error)
    elif os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"coba-train: {outcome.sentence}", file=sys.stderr, flush=True)
    raise SystemExit(outcome.exit_code)
