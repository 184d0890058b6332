"""Errors as a user reads them."""

import errno

from hydra.errors import InstantiationException

from lightning_coba.errors import UserError
from lightning_coba.runs.redaction import without_secrets

#: What the machine refuses, whatever the program does: no room, no permission, no such path possible.
_OF_THE_MACHINE = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.ENAMETOOLONG,
    errno.ELOOP, errno.EISDIR, errno.EEXIST,
}  # fmt: skip

_ROOM = "Make room, then give the command again; coba-train goes on with resume=auto."
_CURES = {errno.ENOSPC: _ROOM, errno.EDQUOT: _ROOM, errno.EROFS: "Write to another folder."}


def unwrapped(error: BaseException) -> BaseException:
    """Return the error itself where Hydra has wrapped one of a part that it instantiated."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def one_line(error: BaseException) -> str:
    """Return an error as one line, to be written down: what it says to the user, or its type and the first line."""
    error = unwrapped(error)
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "stopped from outside"
    first = without_secrets(next(iter(sentence_of(error).strip().splitlines()), ""))
    return first if is_for_the_user(error) else f"{type(error).__name__}: {first}".removesuffix(": ")


def sentence_of(error: BaseException) -> str:
    """Return what an error says to the user; of the operating system's, with the path before it."""
    error = unwrapped(error)
    if is_for_the_user(error) and isinstance(error, OSError) and not isinstance(error, UserError):
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{error.strerror}. {_CURES.get(error.errno or 0, '')}".strip()
    return str(error)


def is_for_the_user(error: BaseException) -> bool:
    """Return whether the error says what the user can mend: by its type, or because the machine refuses to go on."""
    error = unwrapped(error)
    return isinstance(error, UserError) or (isinstance(error, OSError) and error.errno in _OF_THE_MACHINE)
