"""Lightning loggers that keep what a run logged across a resume."""

import lazy_loader

# Loaded when a name of the .pyi is first asked for: lightning takes seconds to import.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
