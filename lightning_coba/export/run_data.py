"""The data of a run, as far as it is still there when the model is exported."""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lightning_coba.errors import UserError
from lightning_coba.export.markdown import code_span
from lightning_coba.runs.trained_run import TrainedRun

_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(:[\w.-]+)?")


@dataclass(frozen=True)
class RunData:
    """What a model card says of the data.

    Attributes:
        place: where the rows came from, in words.
        hub_ids: data sets of the Hugging Face hub among it.
        sizes: split -> task -> rows; empty where the data is gone or no longer holds the tasks of the run.
        chat_tasks: those of the run whose rows were conversations; None where that cannot be seen any more.
    """

    place: str
    hub_ids: Sequence[str]
    sizes: Mapping[str, Mapping[str, int]]
    chat_tasks: Sequence[str] | None

    @classmethod
    def of(cls, run: TrainedRun) -> Self:
        """Read the data of a run; what was tokenised for it is still in the cache."""
        settings = run.settings["data"]
        chat, sizes = settings.get("chat"), {}
        chat_tasks = None if chat is None else run.tasks if chat else []
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the run has told its user
                datamodule = run.load_datamodule()
                datamodule.setup("fit")
            if set(datamodule.task_names) != set(run.tasks):
                raise UserError("it is other data")
            sizes = datamodule.sizes
            tables = [rows.store.table for rows in datamodule.corpus.texts]
            chat_tasks = [
                task
                for task, table in zip(datamodule.task_names, tables, strict=True)
                if table.column("messages").null_count < table.num_rows
            ]
        except (OSError, ValueError, ImportError):
            pass
        # The path of a folder that is gone looks like a name on the hub.
        return cls(_place(settings), _hub_ids(settings) if sizes else (), sizes, chat_tasks)


def _place(settings: Mapping[str, Any]) -> str:
    if root := settings.get("root"):
        # Not the whole path: it may name people and machines.
        return f"files in {code_span(Path(str(root)).name)}"
    tasks = settings.get("tasks")
    made_by = tasks.get("_target_") if isinstance(tasks, Mapping) else None
    return f"`{made_by}()`" if made_by else "the tasks of the configuration"


def _hub_ids(settings: Mapping[str, Any]) -> list[str]:
    tasks = settings.get("tasks")
    sources = [task.get("train") for task in tasks if isinstance(task, Mapping)] if isinstance(tasks, list) else []
    found = [_HUB_ID.fullmatch(source) for source in sources if isinstance(source, str) and not Path(source).exists()]
    return sorted({match[1] for match in found if match})
