"""CoBa derived a second time, in plain numpy, from the specification and not from the package's code.

Both functions take whole recorded traces and return the weights in force after every record, so nothing
here is incremental: no ring, no running sum, no state.
"""

import numpy as np

DEAD_ZONE = 1e-12


def line_slope(x, y):
    """Least-squares slope with intercept, or None where two points are missing."""
    if len(x) < 2:
        return None
    x, y = np.asarray(x, float), np.asarray(y, float)
    dx = x - x.mean()
    return float(dx @ (y - y.mean()) / (dx @ dx))


def softmax(z):
    z = np.asarray(z, float)
    e = np.exp(z - z.max())
    return e / e.sum()


def loss_ratios(losses, initial, present):
    """Return (ratios, mask); a missing V(0) is the task's first present record, which stays a point."""
    losses = np.asarray(losses, float)
    mask = np.isfinite(losses) if present is None else np.asarray(present, bool) & np.isfinite(losses)
    base = np.full(losses.shape[1], np.nan) if initial is None else np.array(initial, float)
    for k in range(losses.shape[1]):
        rows = np.flatnonzero(mask[:, k])
        if np.isnan(base[k]) and len(rows):
            base[k] = losses[rows[0], k]
    return np.where(mask, losses, 0.0) / np.where(np.isnan(base), 1.0, base), mask


def divergence(peaks, tau):
    """q * softmax(-tau * q * a / sum|a|) at the newest entry, unclamped; 1 where all peaks are 0."""
    peaks, q = np.asarray(peaks), len(peaks)
    total = np.abs(peaks).sum()
    z = -tau * q * peaks / total if total > 0 else np.zeros(q)
    return q * softmax(z)[-1]


def coba_paper(losses, window, warmup, tau=5.0, initial=None, present=None, joined=None):
    """Return (weights [T, K], divergence factors [T])."""
    ratio, mask = loss_ratios(losses, initial, present)
    T, K = ratio.shape
    joined = np.zeros(K, int) if joined is None else np.asarray(joined)
    weights, factors = np.full((T, K), 1 / K), np.full(T, np.nan)
    slope_at = np.full((K, T + 1), np.nan)  # by task and record number; NaN where none was recorded
    peaks = []
    for t in range(1, T + 1):
        if not mask[t - 1].any():  # nothing was seen: what was in force stays in force
            if t > 1:
                weights[t - 1], factors[t - 1] = weights[t - 2], factors[t - 2]
            continue
        alpha = {}
        for k in range(K):
            numbers = np.arange(max(1, t - window + 1), t + 1)
            numbers = numbers[mask[numbers - 1, k]]
            slope = line_slope(numbers, ratio[numbers - 1, k])
            if slope is not None and t - joined[k] >= max(warmup, 2):
                alpha[k] = slope_at[k, t] = slope
        if not alpha:
            continue
        tasks = sorted(alpha)
        a = np.array([alpha[k] for k in tasks])
        n_valid = len(tasks)
        total = np.abs(a).sum()
        rcs = softmax(n_valid * a / total if total > DEAD_ZONE * n_valid else np.zeros(n_valid))
        logits = []
        for k in tasks:
            recent = np.abs(slope_at[k, max(1, t - window + 1) : t + 1])
            n, size = np.isfinite(recent).sum(), np.nansum(recent)
            logits.append(-n * alpha[k] / size if size > DEAD_ZONE * n else 0.0)
        acs = softmax(logits)
        peaks.append(a.max())
        factors[t - 1] = df = min(divergence(peaks, tau), 1.0)
        row = np.full(K, 1 / K)
        row[tasks] = (df * rcs + (1 - df) * acs) * n_valid / K
        weights[t - 1] = row
    return weights, factors


def coba_mftcoder(losses, window, warmup, tau=5.0, initial=None, present=None):
    """Return (weights [T, K], divergence factors [T])."""
    ratio, mask = loss_ratios(losses, initial, present)
    T, K = ratio.shape
    weights, factors = np.full((T, K), 1 / K), np.full(T, np.nan)
    slope_lists, largest_slopes = [], []
    for t in range(warmup - 1, T + 1):  # t columns exist at the released code's iteration c = t + 1
        c = t + 1
        start = max(0, c - window)
        columns = slice(max(0, t - (c - start)), t)
        alpha = np.zeros(K)
        for k in range(K):
            y = ratio[columns, k][mask[columns, k]]
            alpha[k] = line_slope(np.arange(len(y)), y) or 0.0
        top = [row[there].max() for row, there in zip(ratio[columns], mask[columns], strict=True) if there.any()]
        largest_slopes.append(line_slope(np.arange(len(top)), top) or 0.0)
        slope_lists.append(alpha)

        total = np.abs(alpha).sum()
        rcs = softmax(K * alpha / total if total > 0 else np.zeros(K))
        looked_back = np.array(slope_lists[start:])  # entry 0 is iteration W, `start` an absolute iteration
        sums = np.abs(looked_back).sum(axis=0)
        acs = softmax([-len(looked_back) * alpha[k] / sums[k] if sums[k] > 0 else 0.0 for k in range(K)])
        factors[t - 1] = df = divergence(largest_slopes, tau)
        w = softmax(K * (df * rcs + (1 - df) * acs))
        floor = 1 / (10 * K)
        weights[t - 1] = 0.9 * w + floor if (w < floor).any() else w
    return weights, factors


FORMS = {"paper": coba_paper, "mftcoder": coba_mftcoder}
