"""What an exception makes of a run and of the command: a status on the card, an exit code, what the user is told."""

import sys
from typing import NamedTuple

from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

from lightning_coba.cli.errors import is_for_the_user, sentence_of
from lightning_coba.cli.stopping import stop_behind
from lightning_coba.errors import DivergedError, UserError


class Outcome(NamedTuple):
    """How a run ended that did not come to its end.

    Attributes:
        status: for ``run.json``.
        exit_code: of the command.
        sentence: what the user is told; None = the traceback, of a fault of ours.
    """

    status: str
    exit_code: int
    sentence: str | None


def outcome_of(error: BaseException) -> Outcome:
    """Return what follows from an exception.

    Example:
        >>> outcome_of(UserError("the row is empty.", "Fill it.", where="qa/train.jsonl:7"))
        Outcome(status='failed', exit_code=2, sentence='qa/train.jsonl:7: the row is empty. Fill it.')
        >>> outcome_of(KeyError("x"))
        Outcome(status='failed', exit_code=1, sentence=None)
    """
    if stop := stop_behind(error):
        return Outcome("preempted", int(str(stop.code)), str(stop))
    if isinstance(error, DivergedError):
        return Outcome("diverged", 1, str(error))
    if is_for_the_user(error):
        return Outcome("failed", 2, sentence_of(error))
    if isinstance(error, HydraException | OmegaConfBaseException) and not isinstance(error, InstantiationException):
        return Outcome("failed", 2, _why_it_did_not_compose(error))
    return Outcome("failed", 1, None)


def _why_it_did_not_compose(error: Exception) -> str:
    """Return what would have composed, or else what Hydra says."""
    from lightning_coba.cli.hints import hint_for

    if isinstance(error.__cause__, UserError):  # a resolver of ours
        return str(error.__cause__)
    if hint := hint_for(sys.argv[1:]):
        return hint
    causes = [error, *([error.__cause__] if isinstance(error.__cause__, OmegaConfBaseException) else [])]
    return " ".join(str(cause).strip() for cause in causes)
