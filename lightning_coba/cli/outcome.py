"""What an exception makes of a run and of the command: a status on the card, an exit code, what the user is told."""

from typing import NamedTuple

from lightning_coba.cli.errors import is_for_the_user, sentence_of
from lightning_coba.cli.stopping import stop_behind
from lightning_coba.errors import DivergedError


class Outcome(NamedTuple):
    """How a run ended before it was complete.

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
        >>> from lightning_coba.errors import UserError
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
    return Outcome("failed", 1, None)
