"""Fine-tune one model on several tasks without any of them being left behind or burnt out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_coba.balancers import replay
    from lightning_coba.callbacks import ConvergenceBalancer, TaskBalancing
    from lightning_coba.citations import citation
    from lightning_coba.data import MultitaskDataModule, Task
    from lightning_coba.functional import TaskLosses
    from lightning_coba.modules.multitask_lm import MultitaskLM
    from lightning_coba.modules.task_weights import TaskWeights
    from lightning_coba.trained_run import TrainedRun

__all__ = [
    "ConvergenceBalancer",
    "MultitaskDataModule",
    "MultitaskLM",
    "Task",
    "TaskBalancing",
    "TaskLosses",
    "TaskWeights",
    "TrainedRun",
    "citation",
    "replay",
]

#: Loaded when a name is first asked for: torch, lightning, transformers and peft take seconds to import.
_HOMES = {
    "ConvergenceBalancer": "lightning_coba.callbacks",
    "MultitaskDataModule": "lightning_coba.data",
    "MultitaskLM": "lightning_coba.modules.multitask_lm",
    "Task": "lightning_coba.data",
    "TaskBalancing": "lightning_coba.callbacks",
    "TaskLosses": "lightning_coba.functional",
    "TaskWeights": "lightning_coba.modules.task_weights",
    "TrainedRun": "lightning_coba.trained_run",
    "citation": "lightning_coba.citations",
    "replay": "lightning_coba.balancers",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
