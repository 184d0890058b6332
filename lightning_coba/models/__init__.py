"""Pretrained models in: loading, adapters, losses of completions, and generation."""

import lazy_loader

# Loaded when a name of the .pyi is first asked for: transformers and peft take seconds to import.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
