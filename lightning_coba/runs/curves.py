"""What a run logged step by step, from its ``metrics.csv``."""

import csv
import io
import re
import sys
from pathlib import Path

from lightning_coba.errors import UserError
from lightning_coba.log_keys import VAL_LOSS, task_key
from lightning_coba.runs.card import WHOLE, number
from lightning_coba.user_files import open_file

_COUNT = re.compile(r"[0-9]{1,18}")

#: Part of a result -> step -> value.
Curves = dict[str, dict[int, float]]


def read_curves(file: Path, key: str = VAL_LOSS, first_step: int = 1) -> tuple[Curves, int]:
    """Return a quantity by task and step, and the number of steps that were logged.

    Args:
        file: ``metrics.csv``, complete or not; where there is none, there are no curves.
        key: What the columns are named by, such as ``val_loss``: ``val_loss/code`` is that of the task ``code``. Where
            there are no such columns, ``val_loss`` itself is the curve named `WHOLE`.
        first_step: Number of the first step in the file: of `first_step` of the run's card.
    """
    try:
        with open_file(file) as stream:
            text = stream.read().decode("utf-8", errors="replace")
    except (UserError, OSError):
        return {}, 0
    # Without its line break the last line may be half of one, and still have all its cells.
    csv.field_size_limit(sys.maxsize)  # the one error of a reader that is not strict
    reader = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    columns = next(reader, [])
    beginning = task_key(key, "")
    wanted = {i: name.removeprefix(beginning) for i, name in enumerate(columns) if name.startswith(beginning)}
    wanted = wanted or {i: WHOLE for i, name in enumerate(columns) if name == key}
    curves: Curves = {}
    last = 0
    for cells in reader:
        if not cells or len(cells) != len(columns) or not _COUNT.fullmatch(cells[0]):
            continue
        last = max(last, step := int(cells[0]) + 1 - first_step)
        for i, name in wanted.items():
            if cells[i]:
                curves.setdefault(name, {})[step] = number(cells[i])
    return curves, last
