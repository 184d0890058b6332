"""A function for the balancer may make any of them; it learns how many draws a pass has."""

import pytest
from foreign import SHORT_RUNS, TASKS, Stepping, fit, held_out

from lightning_coba import ConvergenceBalancer, TaskBalancing
from lightning_coba.balancers import DWA, FAMO, LBTW, CoBa, Fixed, GradNorm, Uniform

pytestmark = pytest.mark.filterwarnings(SHORT_RUNS)


@pytest.mark.parametrize(
    "balancer",
    [
        CoBa(4, 2),
        LBTW(),
        LBTW(source="held_out"),
        GradNorm(),
        DWA(block_records=2),
        FAMO(),
        Fixed([1, 2, 3]),
        Uniform(),
    ],
    ids=lambda balancer: balancer.label,
)
@pytest.mark.parametrize("every_n_steps", [None, 2])
def test_it_is_balanced_as_by_the_balancer_itself(balancer, every_n_steps):
    def run(given):
        glue = {"tasks": TASKS, "every_n_steps": every_n_steps, "held_out": held_out()}
        callback = TaskBalancing(given, **glue, parameters="trunk" if isinstance(balancer, GradNorm) else None)
        fit(Stepping(), callback, max_epochs=3)
        return callback

    made, given = run(lambda draws: balancer), run(balancer)
    assert made.label == given.label
    assert made.losses_shown == given.losses_shown
    assert made.history["step"] == given.history["step"]
    assert made.history["weight"].equal(given.history["weight"])
    assert made.num_records > 0


def test_it_is_told_the_draws_of_a_pass_where_there_are_any():
    def make(draws):
        called.append(draws)
        return CoBa(warmup_records=draws or 3)

    for glue, expected in (({}, None), ({"every_n_steps": 2, "held_out": held_out()}, 6)):
        called = []
        callback = TaskBalancing(make, tasks=TASKS, **glue)
        assert called == [None]  # at once, since its needs decide the cadence
        assert callback.label == "CoBa"
        fit(Stepping(), callback, max_epochs=1)
        assert called == [None, expected]
        assert callback.balancer == CoBa(warmup_records=expected or 3)


def test_one_that_changes_what_it_needs_is_refused():
    callback = TaskBalancing(
        lambda draws: CoBa() if draws is None else FAMO(), tasks=TASKS, every_n_steps=2, held_out=held_out()
    )
    with pytest.raises(ValueError, match=r"must need the same signals.*\['losses'\] when called with None.*with 6"):
        fit(Stepping(), callback, max_epochs=1)


@pytest.mark.parametrize("given", [lambda draws: "coba", lambda draws: None])
def test_one_that_makes_no_balancer_is_refused(given):
    with pytest.raises(ValueError, match=r"must be a balancer, or a function .* to one; got ('coba'|None)"):
        TaskBalancing(given)


def test_settings_that_fit_the_draws_alone_are_no_error_before_they_are_known():
    callback = ConvergenceBalancer(form="mftcoder", warmup_records=12, every_n_steps=1, held_out=held_out())
    fit(Stepping(), callback, max_epochs=1)
    assert callback.balancer == CoBa(window_records=30, warmup_records=12, form="mftcoder")


def test_reset_starts_over_with_any_balancer():
    for balancer in (LBTW(), Uniform()):
        callback = TaskBalancing(lambda draws, balancer=balancer: balancer, tasks=TASKS)
        fit(Stepping(), callback, max_epochs=2)
        first = callback.history
        callback.reset()
        assert callback.num_records == 0
        fit(Stepping(), callback, max_epochs=2)
        assert callback.history["weight"].equal(first["weight"])
