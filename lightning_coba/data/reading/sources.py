"""Where a split's records come from: files, `datasets`, or Python objects, read one record at a time.

A split is a list of parts. A part says how its records are read, what their numbers are called in errors, and
by which stamp it is recognised when it comes again.
"""

import itertools
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from lightning_coba.data.reading.files import find_files, is_saved_dataset, saved_splits, stamp
from lightning_coba.data.reading.formats import Records, origin_prefix, read_file, rows_of_batch
from lightning_coba.data.reading.hub import HubId, hub_id, load_split, unmarked_hub_id
from lightning_coba.data.reading.task import Task
from lightning_coba.errors import UserError
from lightning_coba.user_files import refusals

_ROWS_PER_READ = 1024


@dataclass(frozen=True)
class Part:
    """A part of a split.

    Attributes:
        prefix: what a record's number is put behind to say where it comes from.
        records: yields (number, fields) of each record; may be called once.
        stamp: changes when the records do; ``None`` if they cannot be known without reading them.
    """

    prefix: str
    records: Callable[[], Records]
    stamp: Any = None


def parts_of(task: Task, split: str) -> list[Part]:
    """Return the parts of one split of a task; nothing is read yet.

    Args:
        task: whose split; the split must be given.
        split: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        FileNotFoundError: A path leads nowhere; the message names task, split and path.
        ValueError: A saved or loaded dataset does not have the split.
    """
    return _parts(getattr(task, split), split, f"task {task.name!r}, {split}")


def _parts(source: Any, split: str, where: str) -> list[Part]:
    if isinstance(source, str | PathLike):
        return _parts_of_path(source, split, where)
    if isinstance(source, Mapping):
        if split not in source:
            raise UserError(
                f"the datasets have no split {split!r}, only {', '.join(map(repr, source))}.",
                f"Give the one that is meant, such as source[{next(iter(source), split)!r}].",
                where=where,
            )
        source = source[split]
    if _is_dataset(source):
        return [_dataset_part(source, where)]
    items = iter(source)
    first = list(itertools.islice(items, 1))
    if first and isinstance(first[0], str | PathLike):
        return [part for path in itertools.chain(first, items) for part in _parts_of_path(path, split, where)]
    return [Part(f"{where} item ", partial(_checked_rows, itertools.chain(first, items), where))]


def _checked_rows(items: Iterable[Any], where: str) -> Records:
    for number, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise UserError(
                f"a row must be a dict such as {{'prompt': ..., 'completion': ...}}; got {type(item).__name__}.",
                "Make it a dict, or give paths.",
                where=f"{where} item {number}",
            )
        yield number, item


def _parts_of_path(path: Any, split: str, where: str) -> list[Part]:
    if not isinstance(path, str | PathLike):
        raise UserError(
            f"a list of paths must hold paths alone; got {type(path).__name__}.",
            "Give paths or rows, not both.",
            where=where,
        )
    if marked := hub_id(str(path)):
        return [_hub_part(marked, split, where)]
    given = Path(path).expanduser()
    if unmarked := unmarked_hub_id(Path(path)):
        return [_hub_part(unmarked, split, where, there_is_no=str(path))]
    splits = saved_splits(given)
    if splits is not None:
        if split not in splits:
            raise UserError(
                f"the saved dataset {str(given)!r} has no split {split!r}, only {', '.join(map(repr, splits))}.",
                "Give the folder of the one that is meant.",
                where=where,
            )
        given = given / split
    if is_saved_dataset(given):
        files = [given / "state.json", *sorted(given.glob("*.arrow"))]
        return [Part(f"{given} row ", partial(_read_saved, given), [stamp(file) for file in files])]
    return [Part(origin_prefix(file), partial(read_file, file), stamp(file)) for file in find_files(path, where)]


def _read_saved(folder: Path) -> Records:
    import datasets

    with refusals("the saved dataset cannot be read", "Save it again with save_to_disk.", folder):
        yield from _rows_of(datasets.load_from_disk(str(folder)))


def _is_dataset(source: Any) -> bool:
    # Whoever made a dataset has imported the library, which takes a second: nobody else has to.
    datasets = sys.modules.get("datasets")
    return datasets is not None and isinstance(source, datasets.Dataset | datasets.IterableDataset)


def _dataset_part(dataset: Any, where: str) -> Part:
    # Streams have no fingerprint; a dataset's is made of the files and of all that was done to them.
    fingerprint = getattr(dataset, "_fingerprint", None)
    return Part(f"{where} row ", partial(_read_dataset, dataset), fingerprint)


def _read_dataset(dataset: Any) -> Records:
    import datasets

    return enumerate(dataset) if isinstance(dataset, datasets.IterableDataset) else _rows_of(dataset)


def _rows_of(dataset: Any) -> Records:
    batches = dataset.with_format("arrow").iter(_ROWS_PER_READ)
    return enumerate(fields for batch in batches for fields in rows_of_batch(batch))


def _hub_part(dataset: HubId, split: str, where: str, there_is_no: str = "") -> Part:
    try:
        return _dataset_part(load_split(dataset, split), where)
    except UserError as error:
        no_path = (
            f"there is no file or folder {there_is_no!r} (read from {str(Path.cwd())!r}), and " if there_is_no else ""
        )
        raise type(error)(f"{no_path}{error.what}", error.cure, where=where) from error
