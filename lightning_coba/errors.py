"""What whoever uses this package can mend: one type of exception, with what is wrong, where, and what to do."""

from typing import Any


class UserError(ValueError):
    """Say what is wrong, where, and what to do about it.

    Commands show it as one message and end with exit code 2; any other exception is a fault of ours, or of a library,
    and is shown with its traceback. Nothing has to be read out of the message: its parts are here.

    Args:
        what: is wrong; a clause or a sentence.
        cure: what to do, a sentence.
        where: file with line, task or setting; it comes before ``what``.

    Example:
        >>> print(UserError("the line is not UTF-8.", "Save the file as UTF-8.", where="qa/train.jsonl:7"))
        qa/train.jsonl:7: the line is not UTF-8. Save the file as UTF-8.
    """

    def __init__(self, what: str, cure: str = "", where: str = "") -> None:
        super().__init__(f"{f'{where}: ' if where else ''}{what} {cure}".rstrip())
        self.what, self.cure, self.where = what, cure, where

    def __reduce__(self) -> Any:
        """Let it be sent to another process with its parts."""
        return type(self), (self.what, self.cure, self.where)


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that was named is not there."""


class FileInTheWayError(UserError, FileExistsError):
    """Something is where a file or a run should go."""


class DamagedFileError(UserError):
    """A file does not hold what was written to it."""


class MissingPackageError(UserError, ModuleNotFoundError):
    """An optional package is not installed; the cure installs it."""


class WrongUseError(UserError, RuntimeError):
    """The parts of a run do not fit each other, which shows only while it runs."""


class DivergedError(UserError, RuntimeError):
    """A loss or a trained weight is no longer finite: training on would learn nothing.

    Args:
        what: Is not finite, and since when; a sentence.
        cure: What to try, a sentence.
        where: As for any error of the user's.
        step: First optimizer step that is known to be bad, from 1.
        tasks: Names of the tasks whose loss was bad then; empty where it is not known.
    """

    def __init__(
        self, what: str, cure: str = "", where: str = "", step: int | None = None, tasks: tuple[str, ...] = ()
    ) -> None:
        super().__init__(what, cure, where)
        self.step, self.tasks = step, tuple(tasks)

    def __reduce__(self) -> Any:
        """Let it be sent to another process with its parts."""
        return type(self), (self.what, self.cure, self.where, self.step, self.tasks)


class SettingError(UserError):
    """A setting of the configuration is wrong.

    Args:
        what: is wrong.
        cure: what to do.
        where: file and line, once they are known.
        key: of the setting, such as ``trainer.max_steps``; commands look up where it was set.
    """

    def __init__(self, what: str, cure: str = "", where: str = "", key: str = "") -> None:
        super().__init__(what, cure, where)
        self.key = key

    def __reduce__(self) -> Any:
        """Let it be sent to another process with its parts."""
        return type(self), (self.what, self.cure, self.where, self.key)
