from dataclasses import dataclass
from typing import ClassVar, Literal

from lightning_coba.balancers.constant import ConstantBalancer


@dataclass(frozen=True)
class TokenMean(ConstantBalancer):
    r"""Weigh every token alike: :math:`\sum_i s_i / \sum_i n_i` over the tasks' loss sums and token counts.

    The proportional baseline, what fine-tuning on the concatenated data does: a task counts as much as it has tokens.
    It needs ``TaskLosses`` (sums and counts) in ``combine``; from task means it cannot be computed. Its ``weights``
    are the uniform ones, and multiply nothing. An update costs nothing.

    Example:
        >>> import torch
        >>> from lightning_coba import TaskLosses, TaskWeights
        >>> weights = TaskWeights(["code", "qa"])
        >>> weights.weighs = TokenMean.weighs
        >>> weights.combine(TaskLosses(torch.tensor([30.0, 2.0]), torch.tensor([15, 1]))).item()
        2.0

    References:
        "case1" of MFTCoder, ``loss_utils.py``.
    """

    weighs: ClassVar[Literal["tasks", "tokens"]] = "tokens"
