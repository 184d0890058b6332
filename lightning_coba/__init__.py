"""Fine-tune one model on several tasks without any of them being left behind or burnt out."""

import lazy_loader

# Loaded when a name of the .pyi is first asked for: torch, lightning, transformers and peft take seconds to import.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
