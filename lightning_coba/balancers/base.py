"""What every balancer is: a frozen set of hyper-parameters, a state that is a value, and a pure update."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lightning_coba.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a balancer may see at one record; a signal that it does not need is None.

    A task that is not present is ignored in every signal. A present task may still lack a single one (a held-out loss
    but no training rows, say), which is then NaN. Training signals are of one whole optimizer step: all its
    micro-batches, all ranks.

    Attributes:
        step: optimizer step at which it was taken; for logs only, no balancer computes with it.
        epoch: epoch of the training data, from 0.
        present: which tasks have a value in this record, bool ``[K]``.
        losses: held-out loss of each task, ``[K]``.
        losses_se: standard error of each of these means, clustered by row, float64 ``[K]``, NaN where it is not known.
            An extra, not a signal: ``needs`` cannot name it, and a balancer must do without where it is None.
        train_losses: unweighted training loss of each task in the step, before its update, ``[K]``.
        losses_after_step: the same rows' losses after the update, with the same dropout, ``[K]``.
        grad_norms: Euclidean norm of each task's unweighted gradient on the chosen parameters, ``[K]``.
        gramian: inner products of the tasks' unweighted gradients, ``[K, K]``; 0 where a task has none.
        hypergradients: row i = derivative of task i's held-out loss with respect to the K weights of a look-ahead
            step, ``[K, K]``.
    """

    step: int
    present: Tensor
    epoch: int = 0
    losses: Tensor | None = None
    losses_se: Tensor | None = None
    train_losses: Tensor | None = None
    losses_after_step: Tensor | None = None
    grad_norms: Tensor | None = None
    gramian: Tensor | None = None
    hypergradients: Tensor | None = None


#: Signals that are a matrix per record, ``[K, K]``; the others are a vector.
MATRIX_SIGNALS = frozenset({"gramian", "hypergradients"})
#: Every signal that a balancer may name in ``needs``.
SIGNALS = ("losses", "train_losses", "losses_after_step", "grad_norms", "gramian", "hypergradients")
#: Which losses feed a balancer that can work on either; held-out ones make its starred form.
Source = Literal["train", "held_out"]


class Balancer(ABC):
    """A rule that turns per-task signals into loss weights.

    A concrete balancer is a frozen dataclass whose fields are the paper's hyper-parameters; everything that changes
    lives in a ``State``, a NamedTuple of tensors whose shapes do not depend on the losses, so that saving, resuming,
    copying and replaying need no further code.
    """

    #: What the weights multiply: task means, or nothing ("tokens": every token counts alike, whatever its task).
    weighs: ClassVar[Literal["tasks", "tokens"]] = "tasks"
    #: Whether weights may be negative; they are then divided by the sum of their absolute values.
    signed: ClassVar[bool] = False
    #: The step on which a record's weights act: the one after it, or the very step whose gradients it holds.
    acts_on: ClassVar[Literal["next step", "this step"]] = "next step"
    #: When records are taken where nobody says so: after validation passes, or every optimizer step. None = of every
    #: step if ``needs`` has a signal of training, else after validation passes. ``"validation"`` serves a method on
    #: held-out and training losses: it is shown the means of the training losses since the last record.
    cadence: ClassVar[Literal["validation", "steps"] | None] = None

    @property
    def needs(self) -> frozenset[str]:
        """Names of the signals (see :data:`SIGNALS`) that :meth:`update` reads."""
        return frozenset()

    @property
    def baseline_signal(self) -> str | None:
        """Name of the signal that is divided by its own value before training; None where none is."""
        return None

    @property
    def label(self) -> str:
        """Name in tables: the class, starred where held-out losses feed a method made for training losses."""
        return type(self).__name__ + "*" * (getattr(self, "source", "train") == "held_out")

    @abstractmethod
    def init(self, num_tasks: int, initial: Tensor | None = None, device: torch.device | str | None = None) -> Any:
        """Return the state before the first record.

        Args:
            num_tasks: K, at least 1.
            initial: baseline of ``baseline_signal``, V(0) or L(0) of each task, ``[K]``; NaN or None = the task's first
                present record.
            device: where the state lives; a device without float64 (MPS) is replaced by the CPU.
        """

    @abstractmethod
    def update(self, state: Any, observation: Observation) -> tuple[Any, Tensor]:
        """Return the next state and the weights, float64 ``[K]`` on the simplex; ``state`` is left as it was."""

    def for_tasks(self, tasks: Sequence[str]) -> "Balancer":
        """Return this balancer with everything that is given by task name put into task order."""
        return self

    def admit(self, state: Any, columns: Sequence[int | None]) -> Any:
        """Return ``state`` for a longer list of tasks; the added ones begin as :meth:`init` begins.

        It serves every state whose tensors with a dimension have one row per task.

        Args:
            state: state for the tasks before.
            columns: for every task of the new list its index in the old one, or None where it was added.
        """
        return admitted(state, self.init(len(columns), device=state.weights.device), columns)


def admitted(state: Any, fresh: Any, columns: Sequence[int | None], per_task: Sequence[str] | None = None) -> Any:
    """Return ``state`` for a longer list of tasks, the kept ones with their share of the weights.

    Args:
        state: state for the tasks before.
        fresh: ``init`` for the tasks of now.
        columns: for every task of now its index before, or None where it was added.
        per_task: fields with one row per task (``weights`` among them), by default all tensors with a dimension; an
            added task's row is the fresh one. Every other field goes on as it was.
    """
    if per_task is None:
        per_task = [name for name, value in state._asdict().items() if isinstance(value, Tensor) and value.dim()]
    kept = [i for i, column in enumerate(columns) if column is not None]
    before = [column for column in columns if column is not None]
    values = {}
    for field in per_task:
        values[field] = getattr(fresh, field).clone()
        values[field][kept] = getattr(state, field)[before]
    values["weights"][kept] *= len(kept) / len(columns)
    return state._replace(**values)


def float64_device(device: torch.device | str | None) -> torch.device:
    """Return ``device``, or the CPU where it has no float64."""
    chosen = torch.device("cpu" if device is None else device)
    return torch.device("cpu") if chosen.type == "mps" else chosen


def moved(tensor: Tensor, like: Tensor) -> Tensor:
    """Return ``tensor``, detached, on the device and in the dtype of ``like``: a device may lack that dtype."""
    return tensor.detach().to(like.device).to(like.dtype)


def check_num_tasks(num_tasks: int) -> None:
    """Raise ValueError unless there is at least one task."""
    if num_tasks < 1:
        raise UserError(f"`init.num_tasks` must be at least 1; got {num_tasks}.", "Name the tasks.")


def replay(
    balancer: Balancer,
    losses: Any = None,
    initial: Any = None,
    present: Any = None,
    epochs: Sequence[int] | None = None,
    **signals: Any,
) -> Tensor:
    """Run a balancer over recorded losses, without a model, and return the weights it would have chosen.

    Use it to see what other settings would have done to a finished run, and in tests. A record costs one update.

    Args:
        balancer: any balancer.
        losses: held-out losses, ``[T, K]`` (tensor, array or nested lists); None where the balancer needs none.
        initial: baseline V(0) or L(0), ``[K]``; None or NaN entries = the task's first present record.
        present: bool ``[T, K]``, False where a task has no value; None = every finite entry. A loss of 0 is a legal
            loss and is never taken for absence.
        epochs: epoch of each record, T integers, for a balancer that starts over with each; default: all one.
        **signals: what else the balancer names in ``needs``: ``train_losses``, ``losses_after_step``, ``grad_norms``
            ``[T, K]``; ``gramian``, ``hypergradients`` ``[T, K, K]``.

    Returns:
        float64 ``[T, K]``; row t - 1 holds the weights in force after record t.

    Raises:
        TypeError: if a signal is unknown.
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
        raise UserError(
            f"{type(balancer).__name__} has no replay: a task's share is its number of tokens in each step, which "
            "losses do not tell."
        )
    if losses is not None:
        signals["losses"] = losses
    unknown = sorted(signals.keys() - set(SIGNALS))
    if unknown:
        raise TypeError(f"`replay` knows no signal {unknown}. The signals are: {', '.join(SIGNALS)}.")
    values = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in signals.items()}
    missing = sorted(balancer.needs - values.keys())
    if missing or not values:
        name = missing[0] if missing else "losses"
        raise UserError(
            f"`replay.{name}` must be given: {balancer.label} works on {', '.join(sorted(balancer.needs)) or 'it'}."
        )
    shape = next(iter(values.values())).shape[:2]
    for name, value in values.items():
        expected = shape + shape[1:] if name in MATRIX_SIGNALS else shape
        if len(shape) != 2 or value.shape != expected:
            shapes = {name: tuple(value.shape) for name, value in values.items()}
            raise UserError(
                "`replay`'s signals must all have one shape [T, K] (gramian and hypergradients [T, K, K]); got "
                f"{shapes}."
            )
    mask = torch.ones(shape, dtype=torch.bool) if present is None else torch.as_tensor(present, dtype=torch.bool)
    if mask.shape != shape:
        raise UserError(f"`replay.present` must have the losses' shape {tuple(shape)}; got {tuple(mask.shape)}.")
    if initial is not None:
        initial = torch.as_tensor(initial, dtype=torch.float64)
    if balancer.baseline_signal is not None:
        initial = check_baseline(initial, values[balancer.baseline_signal], mask)

    state = balancer.init(shape[1], initial=initial)
    rows = []
    for index in range(shape[0]):
        row = {name: value[index] for name, value in values.items() if name in balancer.needs}
        epoch = 0 if epochs is None else int(epochs[index])
        state, weights = balancer.update(state, Observation(step=index + 1, epoch=epoch, present=mask[index], **row))
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
            raise UserError(
                f"`initial` must hold one V(0) per task, shape {tuple(first.shape)}; got {tuple(initial.shape)}."
            )
        used = first if initial is None else torch.where(initial.isnan(), first, initial)
    if used is None:
        return None
    for index, value in enumerate(used.tolist()):
        if value <= 0 or value == float("inf"):
            name = tasks[index] if tasks else index
            raise UserError(
                f"The baseline loss V(0) of task {name!r} must be finite and > 0; got {value}.",
                "The balancer divides by it: give another one with `initial` (`baseline` of the callback), or leave "
                "the task out.",
            )
    return initial
