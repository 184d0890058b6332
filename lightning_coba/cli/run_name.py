"""The name of a run, which is its folder below ``runs/``: it must not lead anywhere else."""

import re
import sys
from typing import Any

from lightning_coba.errors import UserError
from lightning_coba.user_files import shown

#: File systems allow so many bytes in a name.
_LONGEST = 255


def checked_name(name: Any) -> str:
    """Return the name of a run; refuse one that leaves the folder of all runs. ``study/first`` is one below it.

    Raises:
        UserError: The name is empty, absolute, has ``..`` in it, or what no file system or terminal shows.
    """
    parts = str(name).split("/")
    leaves = any(part in ("", ".", "..") or len(part.encode()) > _LONGEST for part in parts)
    if name is None or leaves or re.search(r"[\x00-\x1f\x7f]", str(name)):
        raise UserError(
            f"`name` must be the name of a folder below runs/, such as first or study/first; got {shown(name)}.",
            "Choose another. To train elsewhere, set hydra.run.dir=DIR.",
        )
    return str(name)


def end_for_name(name: Any) -> None:
    """End the command with exit code 2 for a name that is refused, before any folder is made.

    Raises:
        SystemExit: then; Hydra lets nothing else out of its callbacks.
    """
    try:
        checked_name(name)
    except UserError as error:
        print(f"coba-train: {error}", file=sys.stderr)
        raise SystemExit(2) from None
