"""Read runs and show them: tables, figures, comparisons, and the metrics file they come from."""

import lazy_loader

# Loaded when a name of the .pyi is first asked for: lightning and matplotlib take seconds to import.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
