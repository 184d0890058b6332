"""Take a trained model home: a folder that others can load without this package, with a card that says what it is."""

from typing import TYPE_CHECKING, Any

from lightning_coba.export.base_model import BaseModel
from lightning_coba.export.loading import export_notes
from lightning_coba.export.model_card import ModelCard, model_card

if TYPE_CHECKING:
    from lightning_coba.export.export import export_run
    from lightning_coba.export.merge import merge_adapter

__all__ = ["BaseModel", "ModelCard", "export_notes", "export_run", "merge_adapter", "model_card"]

#: Names whose modules import torch, transformers or peft: loaded when they are first asked for.
_HEAVY = {"export_run": "export", "merge_adapter": "merge"}


def __getattr__(name: str) -> Any:
    if name in _HEAVY:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HEAVY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
