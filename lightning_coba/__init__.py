"""Fine-tune one model on several tasks without any of them being left behind or burnt out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_coba.balancers import replay
    from lightning_coba.balancing import ConvergenceBalancer, TaskBalancing, TaskWeights
    from lightning_coba.data import MultitaskDataModule, Task
    from lightning_coba.export.citations import citation
    from lightning_coba.functional import TaskLosses
    from lightning_coba.runs import TrainedRun
    from lightning_coba.systems.multitask import MultitaskLM

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
    "ConvergenceBalancer": "lightning_coba.balancing",
    "MultitaskDataModule": "lightning_coba.data",
    "MultitaskLM": "lightning_coba.systems.multitask",
    "Task": "lightning_coba.data",
    "TaskBalancing": "lightning_coba.balancing",
    "TaskLosses": "lightning_coba.functional",
    "TaskWeights": "lightning_coba.balancing",
    "TrainedRun": "lightning_coba.runs",
    "citation": "lightning_coba.export.citations",
    "replay": "lightning_coba.balancers",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
