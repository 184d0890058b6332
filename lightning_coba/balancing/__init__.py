"""Where a balancer meets Lightning: the one callback that knows hooks, ranks, accumulation and checkpoints."""

from lightning_coba.balancing.convergence_balancer import ConvergenceBalancer
from lightning_coba.balancing.protocol import ReportsTaskLosses
from lightning_coba.balancing.task_balancing import TaskBalancing
from lightning_coba.balancing.task_weights import TaskWeights

__all__ = ["ConvergenceBalancer", "ReportsTaskLosses", "TaskBalancing", "TaskWeights"]
