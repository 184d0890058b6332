"""The data plane: tasks in, planned batches out, resumable without sampler state."""

from lightning_coba.data.datamodule import MultitaskDataModule
from lightning_coba.data.quickstart import quickstart_tasks
from lightning_coba.data.reading.task import Task, tasks_at, tasks_in_file, tasks_in_folder
from lightning_coba.data.stream import Stream
from lightning_coba.data.stream_loader import StreamLoader

__all__ = [
    "MultitaskDataModule",
    "Stream",
    "StreamLoader",
    "Task",
    "quickstart_tasks",
    "tasks_at",
    "tasks_in_file",
    "tasks_in_folder",
]
