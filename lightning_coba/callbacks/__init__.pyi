from .balance_csv import BalanceCSV as BalanceCSV
from .best_checkpoint import BestCheckpoint as BestCheckpoint
from .last_checkpoint import LastCheckpoint as LastCheckpoint
from .notebook_view import NotebookView as NotebookView
from .step_timer import StepTimer as StepTimer
from .task_progress_bar import TaskProgressBar as TaskProgressBar
from .trajectory_images import TrajectoryImages as TrajectoryImages
from .whole_windows import WholeWindows as WholeWindows
