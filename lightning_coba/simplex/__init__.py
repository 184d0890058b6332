"""Named shares that move over time (weights of tasks, of objectives, of masks): their records, tables and figures.

Whoever moves them offers ``simplexes()``; progress bar, files, images and notebook then show them.
"""

import lazy_loader

# Loaded when a name of the .pyi is first asked for: matplotlib and torch take seconds to import.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
