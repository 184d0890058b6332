from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_coba.balancers.base import Balancer, Observation, admitted, check_num_tasks, float64_device
from lightning_coba.balancers.checks import check_count, check_number
from lightning_coba.errors import UserError
from lightning_coba.functional import (
    absolute_convergence_scores,
    divergence_factor,
    masked_slopes,
    relative_convergence_scores,
)
from lightning_coba.functional.arrays import namespace
from lightning_coba.functional.kendall import MOST_POINTS, critical_kendall, kendall_scores

#: Loss-ratio slopes below this (per record) are the rounding noise of a constant loss. Paper form only.
SLOPE_RESOLUTION = 1e-12
#: Loss ratios that differ by less are equal to the test for noise: rounding in bf16 alone moves them by about as much.
RATIO_RESOLUTION = 1e-3
#: Smallest buffer of the divergence factor's history; it doubles when it is full.
MIN_HISTORY = 1024


class CoBaState(NamedTuple):
    """Everything that CoBa knows after ``record`` records; float64 and bool tensors on one device."""

    record: int  # records seen
    initial: Tensor  # [K] V(0); NaN until a task's first present record
    ratios: Tensor  # [K, N] ring of loss / V(0); record r sits in slot (r - 1) % N
    ratios_present: Tensor  # [K, N] bool
    slopes: Tensor  # [K, n] ring of the slopes that the absolute score looks back on
    slopes_recorded: Tensor  # [K, n] bool
    peaks: Tensor  # [capacity] peak slope of every record: the divergence factor's history
    peaks_recorded: Tensor  # [capacity] bool
    joined: Tensor  # [K] int64, the record after which a task joined: each task has its own warm-up
    weights: Tensor  # [K] in force
    loss_ratio: Tensor  # [K] of the last record, NaN where absent: this and what follows serve logs and `explain`
    slope: Tensor  # [K] NaN where a task has no line yet
    rcs: Tensor  # [K] NaN during warm-up
    acs: Tensor  # [K] NaN during warm-up
    divergence_factor: Tensor  # scalar, NaN during warm-up


#: Fields of the state with one row per task.
PER_TASK = (
    "initial", "ratios", "ratios_present", "slopes", "slopes_recorded", "joined", "weights", "loss_ratio", "slope",
    "rcs", "acs",
)  # fmt: skip


@dataclass(frozen=True)
class CoBa(Balancer):
    r"""Balance tasks by the slopes of their held-out losses, so that all converge together.

    Use it when tasks of one model learn at different speeds and some would overfit before others have begun. It needs
    held-out losses only: no training losses, no gradients. An update is O(K N + T) tiny operations; with
    `significance` it compares up to 100 points of each task pair by pair too.

    .. math::
        \alpha_i &= \text{slope of } V_i(t)/V_i(0) \text{ over the last } N \text{ records} \\
        \mathrm{RCS}_i &= \mathrm{softmax}_i\big(K\alpha_i / \textstyle\sum_j|\alpha_j|\big) \\
        \mathrm{ACS}_i &= \mathrm{softmax}_i\big(-n_i\alpha_i / \textstyle\sum_{s}|\alpha_i(s)|\big) \\
        \mathrm{DF} &= \min\big(q\,\mathrm{softmax}_s(-\tau q\, a_s/\textstyle\sum_u|a_u|)|_{s=t},\, 1\big),
            \quad a_s = \max_i \alpha_i(s) \\
        w &= \mathrm{DF}\cdot\mathrm{RCS} + (1-\mathrm{DF})\cdot\mathrm{ACS}

    K is the number of tasks, N the window, n_i the slopes of task i recorded within it, q all recorded peaks,
    :math:`\tau` the temperature. A negative slope converges: RCS gives more to the slowest task, ACS less to a task
    that diverges, and DF near 1 lets RCS speak, near 0 ACS.

    Args:
        window_records: N >= 2, records that a slope looks back on. Default ours; the paper has 5 passes over the
            held-out set (see :class:`~lightning_coba.ConvergenceBalancer`).
        warmup_records: W >= 1, uniform weights before record ``max(W, 2)``. Default ours; the paper: one pass.
        temperature: :math:`\tau` > 0, how sharply DF reacts (paper: 5).
        form: ``"paper"``, or ``"mftcoder"`` for parity with the released code (needs 3 <= W < N).
        significance: None, the default and the paper's rule: every record moves the weights. A level in (0, 1), such as
            0.01: a record moves them only if the ratios of at least one task fall or rise within the window more
            steadily than noise explains. Mann and Kendall's test of each task at this level / K, in which ratios that
            differ by less than 0.001 count as equal. A level of 0.01 needs 6 records for 2 or 3 tasks and 7 for up to
            25; in a shorter window, all records have to fall, or rise. A record that does not pass enters no history.
            Paper form only.

    Raises:
        ValueError: if an argument is outside its domain.

    Example:
        >>> state = CoBa().init(num_tasks=2)
        >>> state, weights = CoBa().update(state, Observation(
        ...     step=1, present=torch.tensor([True, True]), losses=torch.tensor([2.0, 3.0])))
        >>> weights.tolist()
        [0.5, 0.5]

    References:
        Gong et al., "CoBa: Convergence Balancer for Multitask Finetuning of Large Language Models", EMNLP 2024
        (arXiv 2410.06741), equations for RCS, ACS and DF; released code: MFTCoder, ``CoBaStatus``.

    **Differs from** the paper:
        * x is the record number, not the optimizer step: a replayed CSV and the live run agree at any cadence.
        * slopes enter the histories from record ``max(W, 2)``: slopes of two or three noisy points would own DF's
          denominator for the rest of the run.
        * a task that is absent from the records (mask, NaN, inf) enters no history; with fewer than 2 points in the
          window it gets 1/K and the others share the rest. A record without any task changes nothing.
        * slopes below 1e-12 per record count as 0, so that a constant loss is not taken for a diverging one.

    **The form "mftcoder"** is the released rule: a second softmax with gain K, the conditional floor 1/(10K), DF
    unclamped and from the slope of the largest ratio, gaps in a series closed. It differs from the released code:
        * float64 ratios, weights 1/K in warm-up, and no fault for an update interval above 1.
        * a denominator of 0 gives zero logits (DF = 1) where the code gives NaN for ever.
        * a record with every task absent is left out of the series of largest ratios.
        * a task admitted later (:meth:`admit`) takes part at once, with slope 0 until it has two points.
    """

    window_records: int = 10
    warmup_records: int = 3
    temperature: float = 5.0
    form: Literal["paper", "mftcoder"] = "paper"
    significance: float | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"losses"})  # type: ignore[misc]
    baseline_signal: ClassVar[str] = "losses"  # type: ignore[misc]

    def __post_init__(self) -> None:
        """Check the domains."""
        check_count("CoBa.window_records", self.window_records, at_least=2)
        check_count("CoBa.warmup_records", self.warmup_records)
        check_number("CoBa.temperature", self.temperature, above=0)
        if self.form not in ("paper", "mftcoder"):
            raise UserError(f'`CoBa.form` must be "paper" or "mftcoder"; got {self.form!r}.')
        if self.form == "mftcoder" and not 3 <= self.warmup_records < self.window_records:
            raise UserError(
                '`CoBa.form="mftcoder"` must have 3 <= warmup_records < window_records; got '
                f"warmup_records={self.warmup_records}, window_records={self.window_records}.",
                'Raise window_records, or use form="paper".',
            )
        if self.significance is not None:
            check_number("CoBa.significance", self.significance, above=0, below=1)
            if self.form != "paper":
                raise UserError(
                    f'`CoBa.significance` must be None with form="mftcoder", which moves the weights with every '
                    f"record; got {self.significance}.",
                    'Leave it out, or use form="paper".',
                )

    def init(
        self, num_tasks: int, initial: Tensor | None = None, device: torch.device | str | None = None
    ) -> CoBaState:
        """Return the state before the first record; see :meth:`Balancer.init`."""
        check_num_tasks(num_tasks)
        if initial is not None and initial.shape != (num_tasks,):
            raise UserError(f"`CoBa.init.initial` must have shape ({num_tasks},); got {tuple(initial.shape)}.")
        device = float64_device(device)
        columns = self.window_records
        # The released code looks back on N - W + 1 slopes once its window is full.
        slope_columns = columns if self.form == "paper" else columns - self.warmup_records + 1

        def full(*shape: int, value: float = torch.nan) -> Tensor:
            return torch.full(shape, value, dtype=torch.float64, device=device)

        def nothing(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.bool, device=device)

        return CoBaState(
            record=0,
            initial=full(num_tasks) if initial is None else initial.to(device, torch.float64, copy=True),
            ratios=full(num_tasks, columns, value=0.0),
            ratios_present=nothing(num_tasks, columns),
            slopes=full(num_tasks, slope_columns, value=0.0),
            slopes_recorded=nothing(num_tasks, slope_columns),
            peaks=full(MIN_HISTORY, value=0.0),
            peaks_recorded=nothing(MIN_HISTORY),
            joined=torch.zeros(num_tasks, dtype=torch.int64, device=device),
            weights=full(num_tasks, value=1 / num_tasks),
            loss_ratio=full(num_tasks),
            slope=full(num_tasks),
            rcs=full(num_tasks),
            acs=full(num_tasks),
            divergence_factor=full(),
        )

    def update(self, state: CoBaState, observation: Observation) -> tuple[CoBaState, Tensor]:
        """Take one record and return the next state and the weights; see :meth:`Balancer.update`."""
        assert observation.losses is not None
        device = state.ratios.device
        losses = observation.losses.detach().to(device, torch.float64)
        step = _in_numpy(self._step) if device.type == "cpu" else self._step
        state = step(state, losses, observation.present.to(device))
        return state, state.weights

    def admit(self, state: CoBaState, columns: Sequence[int | None]) -> CoBaState:
        """Continue with added tasks, each with its own baseline and warm-up; see :meth:`Balancer.admit`."""
        fresh = self.init(len(columns), device=state.ratios.device)
        return admitted(state, fresh._replace(joined=fresh.joined + state.record), columns, PER_TASK)

    def _step(self, state: CoBaState, losses: Tensor, present: Tensor) -> CoBaState:
        """Take one record, all of it in tensors or all of it in NumPy arrays."""
        state = _take_record(state, losses, present)
        return self._paper(state) if self.form == "paper" else self._mftcoder(state)

    def _paper(self, state: CoBaState) -> CoBaState:
        xp = namespace(state.ratios)
        num_tasks, window = state.ratios.shape
        # Shifting x changes no slope, so it never grows: slots before the oldest record's follow those behind it.
        x = xp.arange(window, dtype=xp.float64, device=state.ratios.device)
        x[: state.record % window] += window
        slopes, fitted = masked_slopes(x, state.ratios, state.ratios_present)
        seen = state.ratios_present[:, (state.record - 1) % window].any()
        moves = seen if self.significance is None else seen & self._exceeds_noise(x, state)
        valid = fitted & (state.joined <= state.record - max(self.warmup_records, 2)) & moves
        any_valid = valid.any()
        after = _record_slopes(state, slopes, valid, xp.where(valid, slopes, -torch.inf).max(), any_valid)
        rcs = relative_convergence_scores(slopes, valid, SLOPE_RESOLUTION)
        acs = absolute_convergence_scores(slopes, after.slopes, after.slopes_recorded, valid, SLOPE_RESOLUTION)
        factor = self._divergence_factor(after)
        factor = xp.where(factor > 1, 1.0, factor)
        # The simplex of the valid tasks is scaled to their share; the others get 1/K each.
        mixed = (factor * rcs + (1 - factor) * acs) * (valid.sum(dtype=xp.float64) / num_tasks)
        fresh = {
            "weights": xp.where(valid, mixed, 1 / num_tasks),
            "rcs": xp.where(valid, rcs, torch.nan),
            "acs": xp.where(valid, acs, torch.nan),
            "divergence_factor": xp.where(any_valid, factor, torch.nan),
        }
        # A record without any task changes nothing but the rings and the record number; one of noise only the slopes.
        kept: dict[str, Any] = {field: xp.where(moves, new, getattr(state, field)) for field, new in fresh.items()}
        return after._replace(**kept, slope=xp.where(seen, xp.where(fitted, slopes, torch.nan), state.slope))

    def _exceeds_noise(self, x: Tensor, state: CoBaState) -> Tensor:
        """Return whether any task's ratios fall or rise more steadily than noise does."""
        assert self.significance is not None
        xp = namespace(state.ratios)
        num_tasks, window = state.ratios.shape
        scores, points = kendall_scores(x, state.ratios, state.ratios_present, RATIO_RESOLUTION)
        thresholds = _critical_scores(self.significance / num_tasks, min(window, MOST_POINTS), xp, state.ratios.device)
        return (abs(scores) >= thresholds[points]).any()

    def _mftcoder(self, state: CoBaState) -> CoBaState:
        xp = namespace(state.ratios)
        num_tasks, columns = state.ratios.shape
        # The released code closes gaps: the points that are there get x = 1, 2, 3, ... in the order of records.
        order = (state.record + xp.arange(columns, device=state.ratios.device)) % columns
        present = state.ratios_present[:, order]
        ratios = state.ratios[:, order]
        slopes, fitted = masked_slopes(xp.cumsum(present, -1), ratios, present)
        if state.record < self.warmup_records - 1:
            return state._replace(slope=xp.where(fitted, slopes, torch.nan))
        everyone = xp.ones_like(fitted)
        any_present = present.any(0)[None]
        largest = xp.amax(xp.where(present, ratios, -torch.inf), 0)[None]
        peak, _ = masked_slopes(xp.cumsum(any_present, -1), largest, any_present)
        state = _record_slopes(state, slopes, everyone, peak[0], everyone.any())
        rcs = relative_convergence_scores(slopes, everyone)
        acs = absolute_convergence_scores(slopes, state.slopes, state.slopes_recorded, everyone)
        factor = self._divergence_factor(state)
        logits = num_tasks * (factor * rcs + (1 - factor) * acs)
        powers = xp.exp(logits - logits.max())
        weights = powers / powers.sum()
        floor = 1 / (10 * num_tasks)
        weights = xp.where((weights < floor).any(), weights * (1 - num_tasks * floor) + floor, weights)
        return state._replace(weights=weights, slope=slopes, rcs=rcs, acs=acs, divergence_factor=factor)

    def _divergence_factor(self, state: CoBaState) -> Tensor:
        end = state.record
        return divergence_factor(state.peaks[:end], state.peaks_recorded[:end], end - 1, self.temperature)


@cache
def _critical_scores(level: float, num_points: int, xp: Any, device: Any) -> Tensor:
    """Return the critical scores of 0 to so many points, the whole window; cached: they move to a device once."""
    values = [critical_kendall(level, points) for points in range(num_points + 1)]
    values[-1] = min(values[-1], num_points * (num_points - 1) / 2)  # a short window: all of it falls, or rises
    return xp.asarray(values, dtype=xp.float64, device=device)  # type: ignore[no-any-return]


def _in_numpy(step: Callable[..., CoBaState]) -> Callable[..., CoBaState]:
    """Let a step that takes either kind of array compute on NumPy views of its tensors, which live on the CPU."""

    def on_views(state: CoBaState, *signals: Tensor) -> CoBaState:
        views: Any = [field.numpy() if isinstance(field, Tensor) else field for field in state]
        with np.errstate(all="ignore"):
            after = step(CoBaState(*views), *(signal.numpy() for signal in signals))
        # A field that went through untouched stays the tensor it was: wrapping it again would add a layer per record.
        return CoBaState(
            after.record,
            *[
                old if new is view else torch.from_numpy(np.asarray(new))
                for old, view, new in zip(state[1:], views[1:], after[1:], strict=True)
            ],
        )

    return on_views


def _take_record(state: CoBaState, losses: Tensor, present: Tensor) -> CoBaState:
    """Write one row of losses into the ring of ratios."""
    xp = namespace(losses)
    # A first record that cannot be divided by counts as absent; later on, 0 is a legal loss.
    first = xp.isnan(state.initial) & present & (losses > 0) & (losses < torch.inf)
    initial = xp.where(first, losses, state.initial)
    ratio = losses / initial
    present = present & xp.isfinite(ratio)  # no baseline: NaN
    slot = state.record % state.ratios.shape[1]
    ratios, ratios_present = xp.asarray(state.ratios, copy=True), xp.asarray(state.ratios_present, copy=True)
    ratios[:, slot] = xp.where(present, ratio, 0.0)
    ratios_present[:, slot] = present
    return state._replace(
        record=state.record + 1,
        initial=initial,
        ratios=ratios,
        ratios_present=ratios_present,
        loss_ratio=xp.where(present, ratio, torch.nan),
    )


def _record_slopes(
    state: CoBaState, slopes: Tensor, recorded: Tensor, peak: Tensor, peak_recorded: Tensor
) -> CoBaState:
    """Write the slopes of the record just taken into the ring of slopes and the history of peaks."""
    xp = namespace(slopes)
    slot = (state.record - 1) % state.slopes.shape[1]
    ring, ring_recorded = xp.asarray(state.slopes, copy=True), xp.asarray(state.slopes_recorded, copy=True)
    ring[:, slot] = xp.where(recorded, slopes, 0.0)
    ring_recorded[:, slot] = recorded
    peaks, peaks_recorded = _with_room(state.peaks, state.record), _with_room(state.peaks_recorded, state.record)
    peaks[state.record - 1] = xp.where(peak_recorded, peak, 0.0)
    peaks_recorded[state.record - 1] = peak_recorded
    return state._replace(slopes=ring, slopes_recorded=ring_recorded, peaks=peaks, peaks_recorded=peaks_recorded)


def _with_room(history: Tensor, length: int) -> Tensor:
    """Copy a history into a buffer of at least ``length`` entries, twice as large where it was full."""
    xp = namespace(history)
    if length <= len(history):
        return xp.asarray(history, copy=True)  # type: ignore[no-any-return]
    larger: Tensor = xp.zeros(2 * len(history), dtype=history.dtype, device=history.device)
    larger[: len(history)] = history
    return larger
