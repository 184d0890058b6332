"""What the methods whose rule torchjd holds have in common: its import, its draws, and weights from what it returns."""

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_coba.balancers.base import Balancer, Observation, check_num_tasks, float64_device
from lightning_coba.errors import MissingPackageError
from lightning_coba.functional import adam_step, seed_of, set_seed


class TorchJDBalancer(Balancer):
    """A method whose rule torchjd holds, and whose state we hold.

    Abstract with behaviour, against our habit: a dozen methods start, check their packages and admit tasks alike and
    differ in a rule of a few lines. What torchjd keeps in a module is built anew from our state in each update.

    In a state of these methods every tensor with a dimension has one row per task.
    """

    #: Packages beside torchjd that the rule is solved with.
    solvers: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def _first_state(self, num_tasks: int, device: torch.device) -> Any:
        """Return the state before the first record."""

    def init(self, num_tasks: int, initial: Tensor | None = None, device: torch.device | str | None = None) -> Any:
        """Return the state before the first record; see :meth:`Balancer.init`.

        Raises:
            ImportError: if torchjd or a solver is not installed.
        """
        check_num_tasks(num_tasks)
        check_installed(type(self).__name__, "torchjd", *self.solvers)
        # A second and more, here rather than in the middle of training.
        import_module("torchjd.aggregation")
        import_module("torchjd.scalarization")
        return self._first_state(num_tasks, float64_device(device))


class LossBalancer(TorchJDBalancer):
    """A method that reads the training losses of a step."""

    @property
    def needs(self) -> frozenset[str]:
        """The step's training losses."""
        return frozenset({"train_losses"})


class LossesState(NamedTuple):
    """Each task's last loss; float64 tensors on one device."""

    record: int
    losses: Tensor  # [K] last known; NaN before a task was seen
    weights: Tensor  # [K] in force


def no_losses(num_tasks: int, device: torch.device) -> LossesState:
    """Return the state in which no task was seen."""
    unknown = torch.full((num_tasks,), torch.nan, dtype=torch.float64, device=device)
    return LossesState(0, unknown, uniform(num_tasks, device))


def last_losses(state: LossesState, observation: Observation) -> Tensor:
    """Return each task's loss of this record or, where it is absent, the last known one."""
    losses, present = training_losses(observation, like=state.losses)
    return torch.where(present, losses, state.losses)


class LearnedState(NamedTuple):
    """One learned number s per task and Adam's memory of it; float64 tensors on one device."""

    record: int
    values: Tensor  # [K] s
    exp_avg: Tensor  # [K] moments and step counts of Adam on s
    exp_avg_sq: Tensor  # [K]
    num_steps: Tensor  # [K] records in which the task was present
    weights: Tensor  # [K] in force


def nothing_learned(num_tasks: int, device: torch.device) -> LearnedState:
    """Return the state in which s is 0 for every task."""
    zeros = torch.zeros(num_tasks, dtype=torch.float64, device=device)
    return LearnedState(0, zeros, zeros.clone(), zeros.clone(), zeros.clone(), uniform(num_tasks, device))


def learn(
    state: LearnedState, observation: Observation, rule: Callable[[int], torch.nn.Module], parameter: str, lr: float
) -> tuple[LearnedState, Tensor]:
    """Take one step of Adam on s, and the weights at the new s.

    Args:
        state: before the record.
        observation: the record.
        rule: torchjd's class for K tasks, whose value is minimised over s; the weights are its derivatives with
            respect to the losses.
        parameter: what s is called in it.
        lr: learning rate of Adam.
    """

    def objective(losses: Tensor, values: Tensor) -> Tensor:
        value: Tensor = torch.func.functional_call(rule(len(losses)), {parameter: values}, (losses,))
        return value

    losses, present = training_losses(observation, like=state.values)
    losses = torch.where(present, losses, 0.0)
    _, gradient = derivatives(objective, losses, state.values)
    learned = adam_step(state.values, gradient, state.exp_avg, state.exp_avg_sq, state.num_steps, lr=lr, active=present)
    parts, _ = derivatives(objective, losses, learned[0])
    state = LearnedState(state.record + 1, *learned, shares(parts, known=learned[-1] > 0))
    return state, state.weights


class GradientState(NamedTuple):
    """What a method on gradients keeps; float64 tensors on one device."""

    record: int
    weights: Tensor  # [K] in force; their absolute values sum to 1
    scale: Tensor  # scalar, sum of the method's own |w| for gradients of mean squared norm 1; 0 = it gave none


class GradientBalancer(TorchJDBalancer):
    """A method that weights tasks by the inner products of their gradients, and keeps nothing from step to step.

    Tasks that are absent or whose gradient is zero or not finite are left out of the method: each gets 1/K, and the P
    others share P/K. Where the method gives nothing (a zero vector, a solver that fails), the P are weighted alike.
    """

    acts_on: ClassVar[Literal["next step", "this step"]] = "this step"

    @property
    def needs(self) -> frozenset[str]:
        """The Gramian of the tasks' gradients."""
        return frozenset({"gramian"})

    @abstractmethod
    def _solve(self, gramian: Tensor, record: int) -> Tensor:
        """Return the method's weights for at least two gradients of mean squared norm 1; zeros where it has none."""

    def _first_state(self, num_tasks: int, device: torch.device) -> GradientState:
        scale = torch.zeros((), dtype=torch.float64, device=device)
        return GradientState(0, uniform(num_tasks, device), scale)

    def update(self, state: GradientState, observation: Observation) -> tuple[GradientState, Tensor]:
        """Take one record; waits for the device. See :meth:`Balancer.update`."""
        record = state.record + 1
        gramian, usable = usable_gradients(observation)
        solution = self._solve(gramian, record) if len(gramian) > 1 else torch.ones_like(gramian.diagonal())
        weights, scale = signed_shares(solution, usable)
        state = GradientState(record, weights.to(state.weights), scale.to(state.scale))
        return state, state.weights


def check_installed(method: str, *packages: str) -> None:
    """Raise ImportError, with the line to type, unless all packages are there."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise MissingPackageError(
            f"`{method}` needs {', '.join(missing)}.", "Type: pip install -c constraints.txt 'lightning-coba[torchjd]'"
        )


def uniform(num_tasks: int, device: torch.device) -> Tensor:
    """Return the weight 1/K for each of ``num_tasks`` tasks."""
    return torch.full((num_tasks,), 1 / num_tasks, dtype=torch.float64, device=device)


def derivatives(rule: Callable[..., Tensor], *points: Tensor) -> tuple[Tensor, ...]:
    """Return the derivatives of the number ``rule(*points)`` with respect to each of the points."""
    # Hooks of a validation pass run in inference mode.
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [point.clone().detach().requires_grad_() for point in points]
        return torch.autograd.grad(rule(*leaves), leaves)


@contextmanager
def drawing(seed: int, record: int) -> Iterator[None]:
    """Make what is drawn on the CPU a pure function of (seed, record), and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        set_seed(seed_of(seed, "balancer", record))
        yield


@contextmanager
def quiet_solver() -> Iterator[None]:
    """Keep cvxpy's remarks on speed and accuracy, one per solve, from the user: an answer that fails is counted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def shares(parts: Tensor, known: Tensor) -> Tensor:
    """Return weights on the simplex: 1/K for a task that is not known, the others share the rest as their parts.

    Args:
        parts: >= 0, ``[K]``; entries that are not known may hold anything.
        known: bool ``[K]``.
    """
    parts = torch.where(known, parts, 0.0)
    total, num_known = parts.sum(), known.to(parts).sum()
    parts = torch.where((total > 0) & total.isfinite(), parts / total, 1 / num_known)
    return torch.where(known, parts * (num_known / len(known)), 1 / len(known))


def training_losses(observation: Observation, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return a record's training losses ``[K]``, of the dtype and device of ``like``, and where there is one."""
    assert observation.train_losses is not None
    losses = observation.train_losses.detach().to(like)
    return losses, observation.present.to(like.device) & losses.isfinite()


def usable_gradients(observation: Observation) -> tuple[Tensor, Tensor]:
    """Return the Gramian of the gradients that a method can work on, and which tasks they are of.

    Returns:
        float64 ``[P, P]`` on the CPU, divided by its mean squared norm: torchjd takes gradients whose squared norms sum
        to less than 1e-4 for zero, which small models and adapters fall below. And bool ``[K]``.
    """
    assert observation.gramian is not None
    gramian = observation.gramian.detach().to("cpu", torch.float64)
    squared_norms = gramian.diagonal()
    usable = observation.present.cpu() & squared_norms.isfinite() & (squared_norms > 0)
    if not gramian[usable][:, usable].isfinite().all():
        usable = torch.zeros_like(usable)
    gramian = gramian[usable][:, usable]
    return gramian / gramian.diagonal().mean(), usable


def signed_shares(solution: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights whose absolute values sum to 1, and the sum that the usable ones were divided by.

    Args:
        solution: the method's weights of the P usable tasks, ``[P]``.
        usable: bool ``[K]``; the others get 1/K.
    """
    scale = solution.abs().sum()
    if not (scale > 0 and scale.isfinite()):
        scale, parts = torch.zeros_like(scale), torch.full_like(solution, 1 / max(len(solution), 1))
    else:
        parts = solution / scale
    weights = uniform(len(usable), usable.device)
    weights[usable] = parts * (len(solution) / len(usable))
    return weights, scale
