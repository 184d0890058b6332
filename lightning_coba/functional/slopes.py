"""Least-squares slopes of masked series, the one statistic that CoBa reads from a loss curve."""

from torch import Tensor

from lightning_coba.functional.arrays import namespace


def masked_slopes(x: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    r"""Fit a straight line with intercept to the unmasked points of every row and return the slopes.

    .. math:: \alpha = \frac{\sum_s (x_s - \bar x)(y_s - \bar y)}{\sum_s (x_s - \bar x)^2}

    in centred form: the uncentred normal equations lose half of the digits once x is in the thousands. Takes tensors,
    or NumPy arrays throughout.

    Args:
        x: regressor, shape ``[N]`` or ``[K, N]``, of any real dtype. Only differences matter.
        y: series, shape ``[K, N]``. Masked entries are ignored, whatever they hold.
        mask: which points exist, bool, shape ``[K, N]``.

    Returns:
        ``(slopes, fitted)``, both of shape ``[K]``: the slope in units of y per unit of x, and whether the row had
        the two points that a slope needs (where it had not, the slope is 0).

    Example:
        >>> import torch
        >>> y = torch.tensor([[1.0, 3.0, 5.0], [4.0, 0.0, 2.0]])
        >>> mask = torch.tensor([[True, True, True], [True, False, True]])
        >>> masked_slopes(torch.arange(3.0), y, mask)[0].tolist()
        [2.0, -1.0]
    """
    xp = namespace(y)
    present = xp.asarray(mask, dtype=y.dtype)
    points = present.sum(-1)[:, None]
    divisor = xp.where(points < 1, 1.0, points)
    # In place from here on: at this size a fresh array costs as much as the arithmetic that fills it.
    dx = x * present
    dx -= dx.sum(-1)[:, None] / divisor
    dx *= present
    dy = xp.where(mask, y, 0.0)
    dy -= dy.sum(-1)[:, None] / divisor  # where a point is masked, dx is 0
    dy *= dx
    covariance = dy.sum(-1)
    dx *= dx
    fitted = points[:, 0] >= 2
    return xp.where(fitted, covariance / dx.sum(-1), 0.0), fitted
