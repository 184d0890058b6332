"""Fine-tune one model on several tasks, with loss weights that follow each task's held-out loss."""

import lazy_loader

# Loaded when a name of the .pyi is first asked for: torch, lightning, transformers and peft take seconds to import.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
