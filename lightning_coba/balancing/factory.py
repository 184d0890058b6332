from collections.abc import Callable

from lightning_coba.balancers.base import Balancer
from lightning_coba.errors import UserError

#: Makes a balancer from the number of held-out draws in a pass; None = records are of validation passes.
BalancerFactory = Callable[[int | None], Balancer]


def made(given: Balancer | BalancerFactory, num_draws: int | None, needs: frozenset[str] | None = None) -> Balancer:
    """Return the balancer that was given, or the one that a function makes.

    Args:
        given: Balancer or function.
        num_draws: What the function is called with.
        needs: Signals that are settled already; None = any.

    Raises:
        ValueError: The function makes no balancer, or one that needs other signals.
    """
    balancer = given if isinstance(given, Balancer) else given(num_draws)
    if not isinstance(balancer, Balancer):
        raise UserError(
            "`TaskBalancing.balancer` must be a balancer, or a function from the number of held-out draws in a pass "
            f"to one; got {balancer!r}.",
            "Write for example TaskBalancing(CoBa()).",
        )
    if needs is not None and balancer.needs != needs:
        raise UserError(
            f"`TaskBalancing.balancer` must need the same signals whatever it is called with; it needs {sorted(needs)} "
            f"when called with None, and {sorted(balancer.needs)} with {num_draws}.",
            "Let it differ in other settings alone.",
        )
    return balancer
