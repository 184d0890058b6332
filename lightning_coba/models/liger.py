"""liger-kernel's fused head and loss: for a head that is trained, on a GPU, where the package is installed."""

import importlib.util
from collections.abc import Callable
from functools import cache
from importlib.metadata import version

from packaging.version import Version
from torch import Tensor

#: Earlier ones (0.8.0 was looked at) give wrong gradients where losses are asked for token by token.
FIRST_VERSION = Version("0.8.5")


@cache
def liger_loss() -> Callable[..., Tensor] | None:
    """Return ``liger_fused_linear_cross_entropy``, or None where liger-kernel is missing or too old.

    A frozen head does without it: with ``reduction="none"`` it computes the logits a second time in every backward
    pass and waits for the device, which :func:`~lightning_coba.functional.chunked_task_losses` does not.
    """
    if importlib.util.find_spec("liger_kernel") is None or Version(version("liger-kernel")) < FIRST_VERSION:
        return None
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    return liger_fused_linear_cross_entropy
