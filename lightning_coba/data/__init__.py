"""The data plane: tasks in, planned batches out, resumable without sampler state."""

import lazy_loader

# Loaded when a name of the .pyi is first asked for: streams are for every layer, the rest imports transformers.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
