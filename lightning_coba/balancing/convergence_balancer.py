from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from torch.utils.data import DataLoader

from lightning_coba.balancers.coba import CoBa
from lightning_coba.balancing.task_balancing import TaskBalancing


class ConvergenceBalancer(TaskBalancing):
    """Balance a module's tasks with CoBa: :class:`TaskBalancing` with CoBa's own arguments.

    Args:
        tasks: see :class:`TaskBalancing`, as for every argument not listed here.
        window_records: N, records that a slope looks back on. Default 10 with the validation cadence; with the step
            cadence 5 M, M being the held-out draws of one pass, at least 3 (paper: 5 passes).
        warmup_records: W, the record from which the weights move. Default 3; with the step cadence M (paper: one pass).
        temperature: how sharply the divergence factor reacts (paper: 5).
        form: ``"paper"`` or ``"mftcoder"``; see :class:`~lightning_coba.balancers.CoBa`.
        significance: None = every record moves the weights, as in the paper; 0.01 = only records in which
            a loss changes more steadily than noise does; see :class:`~lightning_coba.balancers.CoBa`.
        every_n_steps: see :class:`TaskBalancing`.
        held_out: see :class:`TaskBalancing`; every record takes ceil(B / K) rows of every task.
        baseline: see :class:`TaskBalancing`.
        monitor: see :class:`TaskBalancing`.
        attribute: see :class:`TaskBalancing`.
        prior: see :class:`TaskBalancing`.
        min_weight: see :class:`TaskBalancing`.
        strict_tasks: see :class:`TaskBalancing`.
        max_overhead: see :class:`TaskBalancing`; the step cadence with an interval that is measured.

    Raises:
        ValueError: if an argument is outside its domain or does not fit the module; before training starts.

    Example:
        >>> import lightning as L
        >>> balancer = ConvergenceBalancer(tasks=["code", "qa"])
        >>> trainer = L.Trainer(callbacks=[balancer], logger=False, enable_checkpointing=False)

    References:
        Gong et al., "CoBa: Convergence Balancer for Multitask Finetuning of Large Language Models", EMNLP 2024.
    """

    def __init__(
        self,
        tasks: Sequence[str] | None = None,
        window_records: int | None = None,
        warmup_records: int | None = None,
        temperature: float = 5.0,
        form: Literal["paper", "mftcoder"] = "paper",
        every_n_steps: int | None = None,
        held_out: Mapping[str, DataLoader] | None = None,
        baseline: Literal["measure", "first_record"] | Mapping[str, float] = "measure",
        monitor: str = "val_loss/{task}",
        attribute: str = "task_weights",
        prior: Mapping[str, float] | None = None,
        min_weight: float = 0.0,
        strict_tasks: bool = True,
        max_overhead: float | None = None,
        significance: float | None = None,
    ) -> None:
        by_steps = every_n_steps is not None or max_overhead is not None
        fixed = {"temperature": temperature, "form": form, "significance": significance}
        super().__init__(
            partial(_coba, window_records, warmup_records, by_steps, fixed),
            tasks=tasks,
            every_n_steps=every_n_steps,
            held_out=held_out,
            baseline=baseline,
            monitor=monitor,
            attribute=attribute,
            prior=prior,
            min_weight=min_weight,
            strict_tasks=strict_tasks,
            max_overhead=max_overhead,
        )


def _coba(
    window_records: int | None,
    warmup_records: int | None,
    by_steps: bool,
    fixed: Mapping[str, Any],
    num_draws: int | None,
) -> CoBa:
    """Fill in the cadence's defaults; ``num_draws`` is M, or None with the validation cadence or before M is known."""
    if by_steps and num_draws is None:  # whether N and W go together shows when M is known
        return CoBa(**fixed)
    passes = CoBa.warmup_records if num_draws is None else max(num_draws, 3)
    window = CoBa.window_records if num_draws is None else 5 * passes
    return CoBa(
        window_records=window if window_records is None else window_records,
        warmup_records=passes if warmup_records is None else warmup_records,
        **fixed,
    )
