"""The data plane: tasks in, planned batches out, resumable without sampler state."""

from lightning_coba.data.datamodule import MultitaskDataModule
from lightning_coba.data.quickstart import quickstart_tasks
from lightning_coba.data.reading.task import Task, tasks_at, tasks_in_file, tasks_in_folder

__all__ = [
    "MultitaskDataModule",
    "Task",
    "quickstart_tasks",
    "tasks_at",
    "tasks_in_file",
    "tasks_in_folder",
]
