"""The data plane: tasks in, planned batches out, resumable without sampler state."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_coba.data.datamodule import MultitaskDataModule
    from lightning_coba.data.quickstart import quickstart_tasks
    from lightning_coba.data.reading.task import Task, tasks_at
    from lightning_coba.data.stream import Stream
    from lightning_coba.data.stream_loader import StreamLoader

__all__ = [
    "MultitaskDataModule",
    "Stream",
    "StreamLoader",
    "Task",
    "quickstart_tasks",
    "tasks_at",
]

#: Loaded when a name is first asked for: streams are for every layer, and the rest takes transformers to import.
_HOMES = {
    "Stream": "lightning_coba.data.stream",
    "StreamLoader": "lightning_coba.data.stream_loader",
    "MultitaskDataModule": "lightning_coba.data.datamodule",
    "quickstart_tasks": "lightning_coba.data.quickstart",
} | dict.fromkeys(["Task", "tasks_at"], "lightning_coba.data.reading.task")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
