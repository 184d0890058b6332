"""Modules: the weights that a balancer moves, and a language model that is trained with them."""

from typing import TYPE_CHECKING, Any

from lightning_coba.modules.protocol import ReportsTaskLosses
from lightning_coba.modules.task_weights import TaskWeights

if TYPE_CHECKING:
    from lightning_coba.modules.language_model import load_language_model
    from lightning_coba.modules.multitask_lm import MultitaskLM

__all__ = ["MultitaskLM", "ReportsTaskLosses", "TaskWeights", "load_language_model"]


def __getattr__(name: str) -> Any:
    # transformers and peft take seconds to import: whoever only wants the callback does not pay for them.
    if name == "MultitaskLM":
        from lightning_coba.modules.multitask_lm import MultitaskLM

        return MultitaskLM
    if name == "load_language_model":
        from lightning_coba.modules.language_model import load_language_model

        return load_language_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
