"""Pretrained models in: loading, adapters, losses of completions, and generation."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_coba.models.generation import Decoding, generate
    from lightning_coba.models.language_model import LanguageModel, load_language_model
    from lightning_coba.models.tokenizer import load_tokenizer

__all__ = ["Decoding", "LanguageModel", "generate", "load_language_model", "load_tokenizer"]

#: Loaded when a name is first asked for: transformers and peft take seconds to import.
_HOMES = {
    "Decoding": "generation",
    "LanguageModel": "language_model",
    "generate": "generation",
    "load_language_model": "language_model",
    "load_tokenizer": "tokenizer",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
