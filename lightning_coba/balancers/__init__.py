"""Balancers: one method, one file, one frozen dataclass with one state.

>>> from lightning_coba import replay
>>> from lightning_coba.balancers import Fixed
>>> replay(Fixed([3, 1]), losses=[[1.0, 2.0], [0.9, 1.5]])[-1].tolist()
[0.75, 0.25]
"""

import lazy_loader

# Names are loaded from where the .pyi says when they are first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
