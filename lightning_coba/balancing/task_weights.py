from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_coba.errors import UserError
from lightning_coba.functional import StepTotals, TaskLosses, combine, task_means
from lightning_coba.functional.task_losses import Normalize


class KeptLosses(NamedTuple):
    """What one call of ``combine`` was given and returned, with its graph: a balancer may ask for gradients.

    Attributes:
        value: the scalar that ``combine`` returned.
        means: of the tasks, ``[K]``, in task order; as far as this batch holds its step.
        present: bool ``[K]``.
        scale: K / P, the factor of :meth:`TaskWeights.combine`.
        own: the batch's own losses, detached: sums and counts, or means and 1 each.
        normalize: of that call.
    """

    value: Tensor
    means: Tensor
    present: Tensor
    scale: Tensor
    own: TaskLosses
    normalize: Normalize


class TaskWeights(nn.Module):
    r"""Hold one loss weight per task, and combine the tasks' losses into the scalar that is minimised.

    A module that owns ``TaskWeights(tasks)`` trains with uniform weights; a balancing callback moves them. The weights
    are a mirror of the callback's state: they are no parameters and are not in the module's ``state_dict``.

    The callback gives ``task_weights`` to a module that has none. A module that is also trained or tested without the
    callback makes it in ``__init__``: ``self.task_weights = TaskWeights()``, with or without the names.

    ``combine`` returns :math:`\frac{K}{P}\sum_{i\ \mathrm{present}} w_i l_i` for K tasks of which P are present, so
    uniform weights give the plain mean over the present tasks. If your module *summed* its losses before, the loss
    and its gradient shrink by K: raise the learning rate (plain SGD) or multiply the result by K.

    Args:
        tasks: distinct names, in the order of every ``[K]`` tensor; may be left out and given later by :meth:`bind`.
            Until then ``combine`` is the plain mean of the losses it is given.

    Attributes:
        tasks: names, a tuple of K strings.
        weighs: ``"tasks"``, or ``"tokens"`` for :class:`~lightning_coba.balancers.TokenMean`.
        listening: whether ``combine`` keeps what it is given in training, for a balancer that works on it.
        kept: what it has kept, oldest first; whoever listens empties it.
        latest: mean losses ``[K]``, detached, and which tasks were present, of the last call of ``combine`` in
            training; None before it.
        seen: which tasks were present in any such call, bool ``[K]``; None before the first.

    Raises:
        ValueError: if a name occurs twice.

    Example:
        >>> weights = TaskWeights(["code", "qa"])
        >>> weights.combine({"code": torch.tensor(1.0), "qa": torch.tensor(3.0)}).item()
        2.0
        >>> weights.combine({"qa": torch.tensor(3.0)}).item()  # code is absent from this batch
        3.0
    """

    def __init__(self, tasks: Iterable[str] = ()) -> None:
        super().__init__()
        self.tasks: tuple[str, ...] = ()
        self.weighs: Literal["tasks", "tokens"] = "tasks"
        self.used = False
        self.received: set[str] = set()
        self.listening = False
        self.kept: list[KeptLosses] = []
        self.latest: tuple[Tensor, Tensor] | None = None
        self.seen: Tensor | None = None
        # No buffer: callbacks that average or swap a module's buffers must leave the weights alone.
        self._values = torch.empty(0, dtype=torch.float64)
        names = tuple(tasks)
        if names:
            self.bind(names)

    @property
    def values(self) -> Tensor:
        """Current weights, shape ``[K]``, float64 (float32 on a device without it), summing to 1.

        It is the tensor itself, which the callback overwrites between accumulation windows; clone what must last.
        """
        self.used = True
        return self._values

    def __getitem__(self, task: str) -> Tensor:
        self.used = True
        if not self.tasks:  # names come later: a plain sum until then
            return torch.ones((), dtype=self._values.dtype, device=self._values.device)
        # A copy: autograd keeps what it multiplied by, and the tensor is written to in place.
        return self._values[self._index(task)].clone()

    def bind(self, tasks: Sequence[str]) -> None:
        """Name the tasks of a ``TaskWeights`` that was made without names; the same names again do nothing."""
        names = tuple(tasks)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not names:
            raise UserError(f"`TaskWeights.tasks` must be distinct names; got {list(names)}.", f"Rename {twice}.")
        if self.tasks and self.tasks != names:
            raise UserError(
                f"`TaskWeights.tasks` must stay as they are: {', '.join(self.tasks)}; got {', '.join(names)}.",
                "Give the callback the same names in the same order, or make a new TaskWeights.",
            )
        if not self.tasks:
            self.tasks = names
            self._values = _uniform(len(names), self._values.device)

    @torch.no_grad()
    def assign(self, weights: Tensor) -> None:
        """Overwrite the weights in place with ``weights``, shape ``[K]`` in task order, on any device."""
        self._values.copy_(weights.to(self._values.dtype))

    def combine(
        self,
        losses: Mapping[str, Tensor | float] | Tensor | TaskLosses,
        present: Tensor | None = None,
        totals: StepTotals | None = None,
        normalize: Normalize = "step",
    ) -> Tensor:
        """Return the weighted loss of a batch, a scalar in float32 or wider.

        Args:
            losses: Mean loss of each task as a dict (a missing key = absent from this batch; a plain number is a loss
                that nothing is learned from), or as a ``[K]`` tensor in task order; or
                :class:`~lightning_coba.TaskLosses` (sums and counts; a count of 0 = absent).
            present: Bool ``[K]`` for a ``[K]`` tensor; default: all present.
            totals: Counts of the whole optimizer step, for ``TaskLosses`` under accumulation or several ranks: sums
                are divided by these. Default: this batch is the step.
            normalize: See :func:`~lightning_coba.functional.combine`.

        Raises:
            KeyError: if the dict has a name that is no task.
            ValueError: if shapes do not fit, or an argument does not go with this kind of losses.
        """
        self.used = True
        if present is not None and not isinstance(losses, Tensor):
            raise UserError(
                "`combine.present` must come with a [K] tensor: a dict lacks a task's key and TaskLosses its count "
                f"where it is absent; got it with a {type(losses).__name__}.",
                "Leave it out.",
            )
        if self.weighs == "tokens":
            value = _token_mean(losses, totals)
            assert isinstance(losses, TaskLosses)
            self._note(value, task_means(losses), losses.counts > 0)
            return value
        num_present, own = None, None
        if isinstance(losses, TaskLosses):
            counts = losses.counts if totals is None else totals.counts
            num_present = None if totals is None else totals.num_present
            present, own = losses.counts > 0, losses
            means = task_means(TaskLosses(losses.sums, counts))
        elif totals is not None:
            raise UserError("`combine.totals` must come with TaskLosses(sums, counts): means cannot be re-divided.")
        elif isinstance(losses, Mapping):
            means, present = self._stack(losses)
        else:
            means = losses
            if present is None:
                present = torch.ones_like(means, dtype=torch.bool)
        if not self.tasks:
            return combine(means, torch.full_like(means, 1 / max(len(means), 1)), present, num_present, normalize)
        self.received.update(losses if isinstance(losses, Mapping) else self.tasks)
        if means.shape != self._values.shape:
            raise UserError(
                f"`combine.losses` must hold {len(self.tasks)} losses, one each for {', '.join(self.tasks)}; got shape "
                f"{tuple(means.shape)}.",
                "Pass a dict where a batch lacks tasks.",
            )
        # A copy: autograd keeps what it multiplied by, and the tensor is written to in place.
        value = combine(means, self._values.clone(), present, num_present, normalize)
        self._note(value, means, present)
        if self.listening and value.requires_grad:
            own = TaskLosses(means, present) if own is None else own
            scale = len(present) / (present.sum() if num_present is None else torch.as_tensor(num_present)).clamp(min=1)
            # What an absent entry holds is nobody's business.
            own = TaskLosses(torch.where(own.counts > 0, own.sums.detach(), 0.0), own.counts.detach())
            self.kept.append(KeptLosses(value, means, present, scale, own, normalize))
        return value

    def _note(self, value: Tensor, means: Tensor, present: Tensor) -> None:
        """Keep what whoever watches training asks for; validation takes no gradients and does not count."""
        if not value.requires_grad:
            return
        self.latest = means.detach(), present
        seen = present if self.seen is None else self.seen.to(present.device)
        self.seen = seen | present

    def _stack(self, losses: Mapping[str, Tensor | float]) -> tuple[Tensor, Tensor]:
        if not losses:
            raise UserError("`combine.losses` must hold at least one task's loss; got an empty dict.")
        names = self.tasks or tuple(losses)
        for name in losses:
            if name not in names:
                self._index(name)
        numbers = torch.zeros((), device=self._values.device)
        one = next((value for value in losses.values() if isinstance(value, Tensor)), numbers)
        absent = torch.zeros((), dtype=one.dtype, device=one.device)
        means = torch.stack([torch.as_tensor(losses.get(name, absent)).to(one.device).reshape(()) for name in names])
        present = torch.tensor([name in losses for name in names])
        return means, present.to(means.device, non_blocking=True)

    def _index(self, task: str) -> int:
        if task not in self.tasks:
            raise KeyError(
                f"{task!r} is no task. The tasks are: {', '.join(self.tasks)}. Give the callback (or TaskWeights) the "
                "names under which training_step has its losses: tasks=[...]."
            )
        return self.tasks.index(task)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TaskWeights":
        # An empty tensor tells where the module goes; the weights follow there and keep their dtype, whatever
        # `.half()`, `.to(dtype)` and Lightning's "bf16-true" do to parameters.
        device = fn(torch.empty(0, device=self._values.device)).device
        if self._values.is_meta and device.type != "meta":
            self._values = _uniform(len(self.tasks), device)
        else:
            self._values = self._values.to(device, _dtype(device))
        return self

    def extra_repr(self) -> str:
        """Show the tasks in the module's repr."""
        return ", ".join(self.tasks)


def _dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _uniform(num_tasks: int, device: torch.device) -> Tensor:
    return torch.full((num_tasks,), 1 / max(num_tasks, 1), dtype=_dtype(device), device=device)


def _token_mean(losses: Mapping[str, Tensor | float] | Tensor | TaskLosses, totals: StepTotals | None) -> Tensor:
    if not isinstance(losses, TaskLosses):
        raise UserError(
            "`combine.losses` must be TaskLosses(sums, counts) for TokenMean: task means do not tell how many tokens "
            f"they are of; got {type(losses).__name__}.",
            "Return sums and counts, or use Uniform.",
        )
    counts = losses.counts if totals is None else totals.counts
    return task_means(TaskLosses(losses.sums.sum(), counts.sum()))
