"""Public callbacks, one per file: what a run shows, saves and times."""

from lightning_coba.callbacks.balance_csv import BalanceCSV
from lightning_coba.callbacks.best_checkpoint import BestCheckpoint
from lightning_coba.callbacks.last_checkpoint import LastCheckpoint
from lightning_coba.callbacks.notebook_view import NotebookView
from lightning_coba.callbacks.step_timer import StepTimer
from lightning_coba.callbacks.task_progress_bar import TaskProgressBar
from lightning_coba.callbacks.trajectory_images import TrajectoryImages
from lightning_coba.callbacks.whole_windows import WholeWindows

__all__ = [
    "BalanceCSV",
    "BestCheckpoint",
    "LastCheckpoint",
    "NotebookView",
    "StepTimer",
    "TaskProgressBar",
    "TrajectoryImages",
    "WholeWindows",
]
