"""What whoever uses this package can mend: one type of exception, with what is wrong, where, and what to do."""


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
        super().__init__(what, cure, where)  # so that it survives being sent to another process
        self.what, self.cure, self.where = what, cure, where

    def __str__(self) -> str:
        sentence = f"{self.what} {self.cure}".strip()
        return f"{self.where}: {sentence}" if self.where else sentence


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that was named is not there."""

    __str__ = UserError.__str__  # that of the operating system's errors reads an error number


class FileInTheWayError(UserError, FileExistsError):
    """Something is where a file or a run should go."""

    __str__ = UserError.__str__


class MissingPackageError(UserError, ImportError):
    """An optional package is not installed; the cure installs it."""

    __str__ = UserError.__str__


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
