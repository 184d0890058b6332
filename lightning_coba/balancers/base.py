"""What every balancer is: a frozen set of hyper-parameters, a state that is a value, and a pure update."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a balancer may see at one record.

    Attributes:
        step: optimizer step at which it was taken; for logs only, no balancer computes with it.
        present: which tasks have a value in this record, bool ``[K]``.
        losses: held-out loss of each task, ``[K]``, or None where the balancer does not need them.
    """

    step: int
    present: Tensor
    losses: Tensor | None = None


class Balancer(ABC):
    """A rule that turns per-task signals into loss weights.

    A concrete balancer is a frozen dataclass whose fields are the paper's hyper-parameters; everything that changes
    lives in a ``State``, a NamedTuple of tensors whose shapes do not depend on the losses, so that saving, resuming,
    copying and replaying need no further code.
    """

    #: Fields of :class:`Observation` (beside ``step`` and ``present``) that :meth:`update` reads.
    needs: ClassVar[frozenset[str]] = frozenset()
    #: What the weights multiply: task means, or nothing ("tokens": every token counts alike, whatever its task).
    weighs: ClassVar[Literal["tasks", "tokens"]] = "tasks"

    @abstractmethod
    def init(self, num_tasks: int, initial: Tensor | None = None, device: torch.device | str | None = None) -> Any:
        """Return the state before the first record.

        Args:
            num_tasks: K, at least 1.
            initial: baseline loss V(0) of each task, ``[K]``; NaN or None = the task's first present record.
            device: where the state lives; a device without float64 (MPS) is replaced by the CPU.
        """

    @abstractmethod
    def update(self, state: Any, observation: Observation) -> tuple[Any, Tensor]:
        """Return the next state and the weights, float64 ``[K]`` on the simplex; ``state`` is left as it was."""

    def for_tasks(self, tasks: Sequence[str]) -> "Balancer":
        """Return this balancer with everything that is given by task name put into task order."""
        return self

    @abstractmethod
    def admit(self, state: Any, columns: Sequence[int | None]) -> Any:
        """Return ``state`` for a longer list of tasks.

        Args:
            state: of the tasks before.
            columns: for every task of the new list its index in the old one, or None where it was added.
        """


class ConstantState(NamedTuple):
    """State of a balancer that does not look at losses."""

    weights: Tensor
    record: int


def constant_state(shares: Sequence[float], num_tasks: int, device: torch.device | str | None) -> ConstantState:
    """Return the state that keeps ``shares``, normalised to sum 1, in force for ever."""
    check_num_tasks(num_tasks)
    weights = torch.tensor(shares, dtype=torch.float64, device=float64_device(device))
    return ConstantState(weights / weights.sum(), record=0)


def float64_device(device: torch.device | str | None) -> torch.device:
    """Return ``device``, or the CPU where it has no float64."""
    chosen = torch.device("cpu" if device is None else device)
    return torch.device("cpu") if chosen.type == "mps" else chosen


def check_num_tasks(num_tasks: int) -> None:
    """Raise ValueError unless there is at least one task."""
    if num_tasks < 1:
        raise ValueError(f"`init.num_tasks` must be at least 1; got {num_tasks}. Name the tasks.")


def replay(
    balancer: Balancer,
    losses: Any = None,
    initial: Any = None,
    present: Any = None,
    **signals: Any,
) -> Tensor:
    """Run a balancer over recorded losses, without a model, and return the weights it would have chosen.

    Use it to see what other settings would have done to a finished run, and in tests. A record costs one update.

    Args:
        balancer: any balancer.
        losses: held-out losses, ``[T, K]`` (tensor, array or nested lists); None where the balancer needs none.
        initial: baseline V(0), ``[K]``; None or NaN entries = the task's first present record.
        present: bool ``[T, K]``, False where a task has no value; None = every finite entry. A loss of 0 is a legal
            loss and is never taken for absence.
        **signals: further ``[T, K]`` signals that the balancer names in ``needs``.

    Returns:
        float64 ``[T, K]``; row t - 1 holds the weights in force after record t.

    Raises:
        ValueError: if shapes disagree, if a baseline is not finite and positive, if a signal is missing, or if the
            balancer does not weigh tasks (``TokenMean``).

    Example:
        >>> from lightning_coba.balancers import CoBa
        >>> losses = [[1.0, 1.0], [0.9, 0.5], [0.8, 0.3], [0.7, 0.2], [0.6, 0.15]]
        >>> weights = replay(CoBa(window_records=4, warmup_records=2), losses)
        >>> weights.shape, weights[0].tolist()  # uniform before the warm-up is over
        (torch.Size([5, 2]), [0.5, 0.5])
        >>> bool(weights[2, 0] > weights[2, 1])  # the slower task gets more
        True
    """
    if balancer.weighs == "tokens":
        raise ValueError(
            f"{type(balancer).__name__} has no replay: a task's share is its number of tokens in each step, which "
            "losses do not tell."
        )
    if losses is not None:
        signals["losses"] = losses
    values = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in signals.items()}
    missing = sorted(balancer.needs - values.keys())
    if missing or not values:
        name = missing[0] if missing else "losses"
        raise ValueError(f"`replay.{name}` must be given: {type(balancer).__name__} works on it.")
    shape = next(iter(values.values())).shape
    if len(shape) != 2 or any(value.shape != shape for value in values.values()):
        shapes = {name: tuple(value.shape) for name, value in values.items()}
        raise ValueError(f"`replay`'s signals must all have one shape [T, K]; got {shapes}.")
    mask = torch.ones(shape, dtype=torch.bool) if present is None else torch.as_tensor(present, dtype=torch.bool)
    if mask.shape != shape:
        raise ValueError(f"`replay.present` must have the losses' shape {tuple(shape)}; got {tuple(mask.shape)}.")
    if initial is not None:
        initial = torch.as_tensor(initial, dtype=torch.float64)
    if "losses" in balancer.needs:
        initial = check_baseline(initial, values["losses"], mask)

    state = balancer.init(shape[1], initial=initial)
    rows = []
    for index in range(shape[0]):
        row = {name: value[index] for name, value in values.items() if name in balancer.needs}
        state, weights = balancer.update(state, Observation(step=index + 1, present=mask[index], **row))
        rows.append(weights)
    return torch.stack(rows) if rows else torch.empty(shape, dtype=torch.float64)


def check_baseline(
    initial: Tensor | None, losses: Tensor | None = None, present: Tensor | None = None, tasks: Sequence[str] = ()
) -> Tensor | None:
    """Raise ValueError, naming the task, unless every baseline that is or will be used is finite and positive.

    Args:
        initial: V(0), ``[K]``; NaN or None = taken from the first present record.
        losses: records ``[T, K]`` from which missing baselines will be taken.
        present: bool ``[T, K]``.
        tasks: names for the message; default: numbers.
    """
    used = initial
    if losses is not None and present is not None and len(losses):
        usable = present & losses.isfinite()
        first = losses.gather(0, usable.int().argmax(dim=0, keepdim=True)).squeeze(0)
        first = torch.where(usable.any(dim=0), first, torch.nan)
        if initial is not None and initial.shape != first.shape:
            raise ValueError(
                f"`initial` must hold one V(0) a task, shape {tuple(first.shape)}; got {tuple(initial.shape)}."
            )
        used = first if initial is None else torch.where(initial.isnan(), first, initial)
    if used is None:
        return None
    for index, value in enumerate(used.tolist()):
        if value <= 0 or value == float("inf"):
            name = tasks[index] if tasks else index
            raise ValueError(
                f"The baseline loss V(0) of task {name!r} must be finite and > 0; got {value}. CoBa divides by it: "
                "give another one with `initial` (`baseline` of the callback), or leave the task out."
            )
    return initial
