"""Generate answers to the rows of each task, and measure them: metrics with intervals, and code that is run."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_coba.evaluation.evaluating import evaluate, evaluate_model
    from lightning_coba.evaluation.generation_metrics import GenerationMetrics
    from lightning_coba.evaluation.metrics import METRICS, TextMetric
    from lightning_coba.evaluation.results import Evaluation
    from lightning_coba.models.generation import Decoding, generate

__all__ = [
    "METRICS",
    "Decoding",
    "Evaluation",
    "GenerationMetrics",
    "TextMetric",
    "evaluate",
    "evaluate_model",
    "generate",
]

#: Loaded when a name is first asked for: torchmetrics and transformers take seconds to import.
_HOMES = {
    "METRICS": "metrics",
    "Decoding": "generation",
    "Evaluation": "results",
    "GenerationMetrics": "generation_metrics",
    "TextMetric": "metrics",
    "evaluate": "evaluating",
    "evaluate_model": "evaluating",
    "generate": "generation",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
