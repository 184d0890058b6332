"""The run folder: its files, their formats, who may write to it, and a run opened again."""

from lightning_coba.runs.collection import Run, find_runs, read_run
from lightning_coba.runs.files import RunFiles
from lightning_coba.runs.trained_run import TrainedRun

__all__ = ["Run", "RunFiles", "TrainedRun", "find_runs", "read_run"]
