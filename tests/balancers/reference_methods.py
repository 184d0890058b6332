"""LBTW, GradNorm, FAMO and MetaWeighting derived a second time, in plain numpy, from the specification alone.

Every function takes whole recorded traces and returns the weights ``[T, K]`` in force after every record. Adam is the
closed sum over all gradients so far and the min-norm point the best of all faces of the hull: no moment, running mean
or state travels from record to record, only the weights or logits themselves where the method says so.
"""

from itertools import combinations

import numpy as np

EPSILON = 1e-8


def known(present, *signals):
    """Return which entries ``[T, K]`` are marked present and finite in every signal."""
    mask = np.ones(signals[0].shape[:2], bool) if present is None else np.array(present, bool)
    for signal in signals:
        mask &= np.isfinite(signal).all(axis=tuple(range(2, signal.ndim)))
    return mask


def adam_change(gradients, lr, betas=(0.9, 0.999), eps=1e-8):
    """Return what Adam adds to one parameter at its last step, given the gradients of all its steps."""
    gradients = np.asarray(gradients, float)
    age = np.arange(len(gradients))[::-1]
    mean, square = (
        (1 - beta) * beta**age @ gradients**power / (1 - beta ** len(gradients))
        for power, beta in enumerate(betas, start=1)
    )
    return -lr * mean / (np.sqrt(square) + eps)


def loss_ratios(losses, here, initial, initial_records, starts):
    """Return L(t) / L(0), ``[T, K]``; an absent entry holds the task's ratio before it, or 1.

    Args:
        losses: ``[T, K]``.
        here: which entries count, ``[T, K]``.
        initial: given L(0), ``[K]``, or None; NaN = measured.
        initial_records: how many of a task's first records L(0) is the mean of.
        starts: for each record the index of the one at which L(0) was taken last.
    """
    ratios = np.ones(losses.shape)
    divisible = here & (losses > 0)  # no other record can be a baseline
    for t, k in np.ndindex(*losses.shape):
        rows = starts[t] + np.flatnonzero(divisible[starts[t] : t + 1, k])
        given = initial is not None and starts[t] == 0 and np.isfinite(initial[k])
        if here[t, k] and (len(rows) or given):
            ratios[t, k] = losses[t, k] / (initial[k] if given else losses[rows[:initial_records], k].mean())
        elif t:
            ratios[t, k] = ratios[t - 1, k]
    return ratios


def lbtw(losses, alpha=0.5, initial=None, present=None, initial_records=1, reset_each_epoch=False, epochs=None):
    """w_i = r_i^alpha / sum_j r_j^alpha, with r = L(t) / L(0)."""
    losses = np.asarray(losses, float)
    starts = np.zeros(len(losses), int)
    if reset_each_epoch:
        starts = np.array([next(s for s in range(t + 1) if epochs[s] == epochs[t]) for t in range(len(losses))])
    powers = loss_ratios(losses, known(present, losses), initial, initial_records, starts) ** alpha
    powers[powers.sum(axis=1) == 0] = 1.0  # 0 / 0 in the rescale
    return powers / powers.sum(axis=1, keepdims=True)


def gradnorm(losses, grad_norms, alpha=1.5, lr=0.025, initial=None, present=None, initial_records=1, floor=1e-3):
    """Descend sum_i |w_i g_i - mean(w g) rho_i^alpha| in w, clamp, rescale to K; divided by K on return."""
    losses, norms = np.asarray(losses, float), np.asarray(grad_norms, float)
    num_records, num_tasks = losses.shape
    here = known(present, losses, norms)
    ratios = loss_ratios(losses, here, initial, initial_records, np.zeros(num_records, int))
    weights, slopes = np.ones(num_tasks), [[] for _ in range(num_tasks)]
    rows = []
    for t in range(num_records):
        tasks = np.flatnonzero(here[t])
        if len(tasks):
            weighted, ratio = weights[tasks] * norms[t, tasks], ratios[t, tasks]
            rho = ratio / ratio.mean() if ratio.mean() > 0 else np.ones(len(tasks))
            target = weighted.mean() * rho**alpha
            weights = weights.copy()
            for k, distance in zip(tasks, weighted - target, strict=True):
                slopes[k].append(np.sign(distance) * norms[t, k])
                weights[k] = max(weights[k] + adam_change(slopes[k], lr), floor)
            weights *= num_tasks / weights.sum()
        rows.append(weights / num_tasks)
    return np.array(rows)


def famo(train_losses, losses_after_step=None, losses=None, lr=0.025, gamma=1e-3, min_losses=0.0, present=None):
    """xi <- Adam(J_softmax(xi)^T delta + gamma xi), then w_i = (z_i / D_i) / sum_j z_j / D_j; ``losses`` = starred."""
    before = distances(train_losses, present, np.asarray(min_losses, float) - EPSILON)
    num_records, num_tasks = before.shape
    if losses is None:
        delta = np.log(before) - np.log(distances(losses_after_step, present, np.asarray(min_losses, float) - EPSILON))
    else:
        delta = since_the_record_before(np.log(distances(losses, present, 0.0)))
    delta[np.isnan(delta)] = 0.0

    logits, gradients, rows = np.zeros(num_tasks), [], []
    for t in range(num_records):
        row = rows[-1] if rows else np.full(num_tasks, 1 / num_tasks)
        if np.isfinite(before[t]).any():
            z = np.exp(logits) / np.exp(logits).sum()
            jacobian = np.diag(z) - np.outer(z, z)
            gradients.append(jacobian.T @ delta[t] + gamma * logits)
            logits = logits + adam_change(gradients, lr)
            known_at = [np.flatnonzero(np.isfinite(before[: t + 1, k])) for k in range(num_tasks)]
            seen = [k for k in range(num_tasks) if len(known_at[k])]
            share = np.exp(logits[seen]) / [before[known_at[k][-1], k] for k in seen]
            row = np.full(num_tasks, 1 / num_tasks)
            row[seen] = share / share.sum() * len(seen) / num_tasks
        rows.append(row)
    return np.array(rows)


def distances(losses, present, bounds):
    """Return losses - bounds, NaN where absent or without a logarithm."""
    losses = np.asarray(losses, float)
    distance = losses - bounds
    return np.where(known(present, losses) & (distance > 0), distance, np.nan)


def since_the_record_before(logarithms):
    """Return by how much each entry is below the last known one before it; NaN where there is none."""
    falls = np.full(logarithms.shape, np.nan)
    for k in range(logarithms.shape[1]):
        rows = np.flatnonzero(np.isfinite(logarithms[:, k]))
        falls[rows[1:], k] = -np.diff(logarithms[rows, k])
    return falls


def min_norm_point(points):
    """Return the point of the convex hull of the rows, ``[n, K]``, that is nearest to the origin.

    It is the nearest point of the affine hull of some affinely independent rows and lies between them: the best over
    all subsets of rows for which that is so.
    """
    points = np.asarray(points, float)
    best = points[np.linalg.norm(points, axis=1).argmin()]
    for size in range(2, min(len(points), points.shape[1] + 1) + 1):
        chosen = points[np.array(list(combinations(range(len(points)), size)))]  # [subsets, size, K]
        origin, edges = chosen[:, 0], (chosen[:, 1:] - chosen[:, :1]).swapaxes(1, 2)
        q, r = np.linalg.qr(edges)
        diagonal = np.abs(np.diagonal(r, axis1=1, axis2=2))
        independent = diagonal.min(axis=1) > 1e-12 * diagonal.max(axis=1)
        if not independent.any():
            continue
        origin, edges, q, r = origin[independent], edges[independent], q[independent], r[independent]
        rest = np.linalg.solve(r, -(q.swapaxes(1, 2) @ origin[..., None]))[..., 0]
        inside = (rest >= 0).all(axis=1) & (rest.sum(axis=1) <= 1)
        if inside.any():
            nearest = origin[inside] + (edges[inside] @ rest[inside][..., None])[..., 0]
            lengths = np.linalg.norm(nearest, axis=1)
            if lengths.min() < np.linalg.norm(best):
                best = nearest[lengths.argmin()]
    return best


def metaweighting(hypergradients, lr, present=None):
    """w <- max(w - lr d*, 0), rescaled to sum 1; d* = min-norm point of the hull of the present rows.

    Nothing is read of an absent task, so its column is 0 and its weight changes by the rescaling alone.
    """
    hypergradients = np.asarray(hypergradients, float)
    num_tasks = hypergradients.shape[1]
    present = np.ones(hypergradients.shape[:2], bool) if present is None else np.asarray(present, bool)
    hypergradients = np.where(present[:, None, :], hypergradients, 0.0)
    here = known(present, hypergradients)
    weights, rows = np.full(num_tasks, 1 / num_tasks), []
    for record, mask in zip(hypergradients, here, strict=True):
        if mask.any():
            moved = np.maximum(weights - lr * min_norm_point(record[mask]), 0.0)
            weights = moved / moved.sum() if moved.sum() > 0 else np.full(num_tasks, 1 / num_tasks)
        rows.append(weights)
    return np.array(rows)
