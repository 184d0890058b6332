"""Lightning callbacks: the glue between a trainer's hooks and a balancer, and what a run needs around it."""

from lightning_coba.callbacks.balance_csv import BalanceCSV
from lightning_coba.callbacks.convergence_balancer import ConvergenceBalancer
from lightning_coba.callbacks.last_checkpoint import LastCheckpoint
from lightning_coba.callbacks.notebook_view import NotebookView
from lightning_coba.callbacks.step_timer import StepTimer
from lightning_coba.callbacks.task_balancing import TaskBalancing
from lightning_coba.callbacks.task_progress_bar import TaskProgressBar
from lightning_coba.callbacks.trajectory_images import TrajectoryImages
from lightning_coba.callbacks.whole_windows import WholeWindows

__all__ = [
    "BalanceCSV",
    "ConvergenceBalancer",
    "LastCheckpoint",
    "NotebookView",
    "StepTimer",
    "TaskBalancing",
    "TaskProgressBar",
    "TrajectoryImages",
    "WholeWindows",
]
