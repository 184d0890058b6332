"""Least-squares slopes of masked series, the one statistic that CoBa reads from a loss curve."""

import torch
from torch import Tensor


def masked_slopes(x: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    r"""Fit a straight line with intercept to the unmasked points of every row and return the slopes.

    .. math:: \alpha = \frac{\sum_s (x_s - \bar x)(y_s - \bar y)}{\sum_s (x_s - \bar x)^2}

    in centred form: the uncentred normal equations lose half of the digits once x is in the thousands.

    Args:
        x: regressor, shape ``[N]`` or ``[K, N]``, floating point. Only differences matter.
        y: series, shape ``[K, N]``. Masked entries are ignored, whatever they hold.
        mask: which points exist, bool, shape ``[K, N]``.

    Returns:
        ``(slopes, fitted)``, both of shape ``[K]``: the slope in units of y per unit of x, and whether the row had
        the two points that a slope needs (where it had not, the slope is 0).

    Example:
        >>> y = torch.tensor([[1.0, 3.0, 5.0], [4.0, 0.0, 2.0]])
        >>> mask = torch.tensor([[True, True, True], [True, False, True]])
        >>> masked_slopes(torch.arange(3.0), y, mask)[0].tolist()
        [2.0, -1.0]
    """
    points = mask.sum(dim=-1, keepdim=True)
    divisor = points.clamp(min=1)
    zero = y.new_zeros(())
    x = torch.where(mask, x, zero)
    y = torch.where(mask, y, zero)
    dx = torch.where(mask, x - x.sum(dim=-1, keepdim=True) / divisor, zero)
    dy = torch.where(mask, y - y.sum(dim=-1, keepdim=True) / divisor, zero)
    variance = (dx * dx).sum(dim=-1)
    fitted = points.squeeze(-1) >= 2
    slopes = (dx * dy).sum(dim=-1) / torch.where(fitted, variance, 1.0)
    return torch.where(fitted, slopes, zero), fitted
