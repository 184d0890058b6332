"""Fine-tune one model on several tasks without any of them being left behind or burnt out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_coba.balancers import replay
from lightning_coba.callbacks import ConvergenceBalancer, TaskBalancing
from lightning_coba.functional import TaskLosses
from lightning_coba.modules.task_weights import TaskWeights

if TYPE_CHECKING:
    from lightning_coba.data import MultitaskDataModule, Task
    from lightning_coba.modules.multitask_lm import MultitaskLM

__all__ = [
    "ConvergenceBalancer",
    "MultitaskDataModule",
    "MultitaskLM",
    "Task",
    "TaskBalancing",
    "TaskLosses",
    "TaskWeights",
    "replay",
]

#: Names whose modules import transformers or peft, which takes seconds: loaded when they are first asked for.
_HEAVY = {
    "MultitaskDataModule": "lightning_coba.data",
    "MultitaskLM": "lightning_coba.modules.multitask_lm",
    "Task": "lightning_coba.data",
}


def __getattr__(name: str) -> Any:
    if name in _HEAVY:
        return getattr(import_module(_HEAVY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
