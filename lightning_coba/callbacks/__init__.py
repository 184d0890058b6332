"""Public callbacks, one per file: what a run shows, saves and times."""

import lazy_loader

# Names are loaded from where the .pyi says when they are first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
