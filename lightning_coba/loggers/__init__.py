"""Lightning loggers that keep what a run logged across a resume."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_coba.loggers.metrics_csv import MetricsCSV
    from lightning_coba.loggers.mlflow import RunMLflow
    from lightning_coba.loggers.tensorboard import RunTensorBoard
    from lightning_coba.loggers.wandb import RunWandb

__all__ = ["MetricsCSV", "RunMLflow", "RunTensorBoard", "RunWandb"]

#: Loaded when a name is first asked for: lightning takes seconds to import.
_HOMES = {"MetricsCSV": "metrics_csv", "RunMLflow": "mlflow", "RunTensorBoard": "tensorboard", "RunWandb": "wandb"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
