"""Errors as a user reads them."""

import traceback

from hydra.errors import InstantiationException

PACKAGE = __name__.partition(".")[0]


def unwrapped(error: BaseException) -> BaseException:
    """Return the error itself where Hydra has wrapped one of a part that it instantiated."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def one_line(error: BaseException) -> str:
    """Return an error as one line, such as ``ValueError: the first line of its message``."""
    error = unwrapped(error)
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "stopped from outside"
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}".removesuffix(": ")


def sentence_of(error: BaseException) -> str:
    """Return what an error says to the user; of the operating system's, with the path before it."""
    error = unwrapped(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    return str(error)


def is_for_the_user(error: BaseException) -> bool:
    """Return whether the error says what the user can correct: this package raised it, or it is about a file."""
    error = unwrapped(error)
    if isinstance(error, OSError) and error.filename is not None:
        return True
    if not isinstance(error, ValueError | FileNotFoundError | FileExistsError | ImportError):
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__", "").partition(".")[0] == PACKAGE
