"""Which tasks a file holds, where a column of it names the task of each row."""

import json
import os
import tempfile
from hashlib import blake2b
from os import PathLike
from typing import Any

from lightning_coba.cache_folder import cache_folder
from lightning_coba.data.reading.files import find_files, stamp
from lightning_coba.data.reading.formats import origin_prefix, read_file


def values_in_column(path: str | PathLike[str], column: str) -> list[Any]:
    """Return the different values of a column, in order of appearance.

    All rows are read once, one at a time; the answer is kept in the cache folder until the files change.

    Args:
        path: a file, a glob or a folder of data files.
        column: a column of strings or numbers.

    Raises:
        FileNotFoundError: The path leads nowhere.
        ValueError: A row has no such column, or something else in it; the message names file and line.
    """
    files = find_files(path, "tasks_in_file")
    key = json.dumps([column, [stamp(file) for file in files]])
    kept = cache_folder() / "columns" / f"{blake2b(key.encode(), digest_size=16).hexdigest()}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    values: dict[Any, None] = {}
    for file in files:
        for number, fields in read_file(file):
            value = fields.get(column)
            if not isinstance(value, str | int) or value == "":
                raise ValueError(
                    f"{origin_prefix(file)}{number}: column {column!r} must name the row's task; got {value!r}. "
                    f"The columns are {', '.join(map(repr, fields)) or 'none'}. Fill it in, or name another column."
                )
            values[value] = None
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=kept.parent, delete=False) as partial:
        json.dump(list(values), partial)
    os.replace(partial.name, kept)
    return list(values)
