"""The data plane: tasks in, planned batches out, resumable without sampler state."""

from lightning_coba.data.datamodule import MultitaskDataModule
from lightning_coba.data.findings import Finding
from lightning_coba.data.inspection import Inspection, inspect_data
from lightning_coba.data.inspection_steps import RunLength
from lightning_coba.data.quickstart import quickstart_tasks
from lightning_coba.data.task import Task, tasks_at, tasks_in_file, tasks_in_folder

__all__ = [
    "Finding",
    "Inspection",
    "MultitaskDataModule",
    "RunLength",
    "Task",
    "inspect_data",
    "quickstart_tasks",
    "tasks_at",
    "tasks_in_file",
    "tasks_in_folder",
]
