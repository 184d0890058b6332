from dataclasses import dataclass

from lightning_coba.balancers.constant import ConstantBalancer


@dataclass(frozen=True)
class Uniform(ConstantBalancer):
    r"""Give every task the weight :math:`1/K`: the mean of the tasks' mean losses.

    The baseline that any balancer has to beat. It is uniform over *tasks*; uniform over tokens is
    :class:`~lightning_coba.balancers.TokenMean`. An update costs nothing.

    Example:
        >>> Uniform().init(num_tasks=4).weights.tolist()
        [0.25, 0.25, 0.25, 0.25]

    **Differs from** LibMTL's ``EW``: weights sum to 1, not to K.
    """
