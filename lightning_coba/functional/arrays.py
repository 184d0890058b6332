"""The one question that code for tensors and NumPy arrays alike has to ask.

Both share operators, ``sum``, ``any``, ``max`` by position, and most functions of their modules. On vectors as short as
a list of tasks a NumPy operation costs a fraction of the tensor's, whose time goes into finding its kernel.
"""

from typing import Any

import torch


def namespace(array: Any) -> Any:
    """Return the module whose functions take ``array``: NumPy for its arrays, torch for tensors.

    Example:
        >>> namespace(torch.zeros(1)).__name__
        'torch'
    """
    return torch if isinstance(array, torch.Tensor) else array.__array_namespace__()
