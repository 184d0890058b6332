"""Take a trained model home: a folder that others can load without this package, with a card that says what it is."""

import lazy_loader

# Loaded when a name of the .pyi is first asked for: torch, transformers and peft take seconds to import.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
