from .balancers import replay as replay
from .balancing import (
    ConvergenceBalancer as ConvergenceBalancer,
    TaskBalancing as TaskBalancing,
    TaskWeights as TaskWeights,
)
from .data import MultitaskDataModule as MultitaskDataModule, Task as Task
from .export.citations import citation as citation
from .functional import TaskLosses as TaskLosses
from .runs import TrainedRun as TrainedRun
from .systems.multitask import MultitaskLM as MultitaskLM
