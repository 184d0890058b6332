"""CoBa's three scores as functions of slopes: relative, absolute, and the factor that decides between them.

They share one convention: a denominator of zero gives zero logits (a uniform softmax, a divergence factor of 1),
never NaN. ``resolution`` widens "zero" to "nothing but rounding noise", since all three scores are scale free and
would otherwise read the noise of a constant loss as movement. All take tensors, or NumPy arrays throughout.
"""

from torch import Tensor, inf

from lightning_coba.functional.arrays import namespace

#: Mean absolute value below which a quotient by it would overflow.
SMALLEST = 1e-300


def relative_convergence_scores(slopes: Tensor, valid: Tensor, resolution: float = 0.0) -> Tensor:
    r"""Give the slowest task the largest share: :math:`\mathrm{softmax}_i(K\alpha_i/\sum_j|\alpha_j|)`.

    Args:
        slopes: loss-ratio slope of each task, shape ``[K]``; negative = converging.
        valid: tasks that take part, bool ``[K]``. The gain K is their number.
        resolution: mean absolute slope per record below which nothing counts as movement.

    Returns:
        Shape ``[K]``; sums to 1 over the valid tasks, 0 elsewhere (all 0 where no task is valid).

    References:
        Gong et al., "CoBa: Convergence Balancer for Multitask Finetuning of Large Language Models", EMNLP 2024,
        the Relative Convergence Score.
    """
    slopes = namespace(slopes).where(valid, slopes, 0.0)
    gain = _gain(valid.sum(dtype=slopes.dtype), abs(slopes).sum(), resolution)
    return _masked_softmax(slopes * gain, valid)


def absolute_convergence_scores(
    slopes: Tensor, history: Tensor, recorded: Tensor, valid: Tensor, resolution: float = 0.0
) -> Tensor:
    r"""Lower a task that diverges: :math:`\mathrm{softmax}_i(-n_i\alpha_i/\sum_{s}|\alpha_i(s)|)`.

    Each task is measured against its own recent slopes, so a task that is slow but steady is not punished.

    Args:
        slopes: current slopes, shape ``[K]``.
        history: each task's recorded slopes, shape ``[K, n]``, the current one among them, in any order.
        recorded: which entries of ``history`` exist, bool ``[K, n]``; a task's :math:`n_i` is their number. The others
            are ignored, but must be finite.
        valid: tasks that take part, bool ``[K]``.
        resolution: mean absolute slope below which a task's logit is 0.

    Returns:
        Shape ``[K]``; sums to 1 over the valid tasks, 0 elsewhere.

    References:
        As :func:`relative_convergence_scores`; the Absolute Convergence Score.
    """
    exists = namespace(history).asarray(recorded, dtype=history.dtype)
    gain = _gain(exists.sum(-1), abs(history * exists).sum(-1), resolution)
    return _masked_softmax(-slopes * gain, valid)


def divergence_factor(peaks: Tensor, recorded: Tensor, current: int, temperature: float) -> Tensor:
    r"""Weigh the newest peak slope against all earlier ones: near 1 trust RCS, near 0 trust ACS.

    .. math:: z_s = -\frac{\tau q\, a_s}{\sum_u |a_u|}, \qquad \mathrm{DF} = q\,\mathrm{softmax}_s(z)\big|_{s=t}

    It is not clamped here: the paper form takes ``min(DF, 1)``, the released code does not.

    Args:
        peaks: peak slope :math:`a_s` of every record, shape ``[T]``.
        recorded: which entries exist, bool ``[T]``; q is their number.
        current: index of the newest record (a host integer).
        temperature: :math:`\tau` > 0.

    Returns:
        Scalar tensor; 1 where all peaks are 0, NaN where none is recorded.

    References:
        As :func:`relative_convergence_scores`; the Divergence Factor. Differs from the paper as printed in one
        public note: the denominator sums absolute values, as the released code does, since a signed sum can vanish.
    """
    xp = namespace(peaks)
    peaks = xp.where(recorded, peaks, 0.0)
    count = recorded.sum(dtype=peaks.dtype)
    # In place: the history is long, and each temporary of its size would cost as much as exp.
    peaks *= -temperature * _gain(count, abs(peaks).sum(), resolution=0.0)
    logits = xp.where(recorded, peaks, -inf)
    logits -= logits.max()
    powers = xp.exp(logits)
    return count * powers[current] / powers.sum()


def _gain(count: Tensor, total: Tensor, resolution: float) -> Tensor:
    """``count / total``, and 0 where the total is nothing but rounding noise."""
    moving = total > max(resolution, SMALLEST) * count
    return namespace(total).where(moving, count / total, 0.0)  # type: ignore[no-any-return]


def _masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    xp = namespace(logits)
    # The largest finite negative number instead of -inf: an all-masked row then gives zeros and not NaN.
    logits = xp.where(mask, logits, xp.finfo(logits.dtype).min)
    logits -= logits.max()
    powers = xp.exp(logits)
    return xp.where(mask, powers / powers.sum(), 0.0)
