"""What all methods of torchjd share: lazy imports, exact resumes, draws of their own, tasks that are left out."""

import io
import subprocess
import sys

import pytest
import torch

from lightning_coba.balancers import (
    DWA,
    IMTLG,
    IMTLL,
    MGDA,
    RLW,
    STCH,
    UW,
    AlignedMTL,
    CAGrad,
    GeometricMean,
    NashMTL,
    Observation,
    PCGrad,
    UPGrad,
)
from lightning_coba.balancers.torchjd_adapter import drawing, shares

ON_LOSSES = [UW(), IMTLL(), DWA(block_records=3), RLW(), GeometricMean(), STCH()]
ON_GRADIENTS = [MGDA(), PCGrad(), IMTLG(), AlignedMTL(), CAGrad(), UPGrad(), NashMTL()]
everyone = pytest.mark.parametrize("balancer", ON_LOSSES + ON_GRADIENTS, ids=lambda balancer: balancer.label)


def records(balancer, num_records, num_tasks, dtype=torch.float64):
    """Random records of what the method needs, a fifth of the tasks absent."""
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(num_records, num_tasks, generator=generator, dtype=torch.float64).add(0.5).to(dtype)
    vectors = torch.randn(num_records, num_tasks, 7, generator=generator, dtype=torch.float64).to(dtype)
    present = torch.rand(num_records, num_tasks, generator=generator) >= 0.2
    values = {"train_losses": losses, "gramian": vectors @ vectors.mT}
    return [
        Observation(step=t, present=present[t], **{name: values[name][t] for name in balancer.needs})
        for t in range(num_records)
    ]


def run(balancer, state, observations):
    weights = []
    for observation in observations:
        state, row = balancer.update(state, observation)
        weights.append(row)
    return state, torch.stack(weights)


@everyone
def test_a_run_cut_anywhere_goes_on_bit_for_bit(balancer):
    observations = records(balancer, 11, 3)
    state, whole = run(balancer, balancer.init(3), observations)
    for cut in (1, 4, 6, 10):
        before, _ = run(balancer, balancer.init(3), observations[:cut])
        stream = io.BytesIO()
        torch.save(before._asdict(), stream)
        stream.seek(0)
        restored = type(before)(**torch.load(stream, weights_only=True))
        torch.rand(1)  # a resumed process has drawn something else
        resumed, rest = run(balancer, restored, observations[cut:])
        assert torch.equal(rest, whole[cut:])
        for field, value in resumed._asdict().items():
            torch.testing.assert_close(value, getattr(state, field), rtol=0, atol=0, equal_nan=True)


@everyone
def test_the_global_generator_stays_as_it_was(balancer):
    before = torch.get_rng_state()
    run(balancer, balancer.init(3), records(balancer, 3, 3))
    assert torch.equal(torch.get_rng_state(), before)


@everyone
def test_inference_mode_and_narrow_records_change_nothing_but_digits(balancer):
    _, wide = run(balancer, balancer.init(4), records(balancer, 3, 4))
    with torch.inference_mode():
        state, weights = run(balancer, balancer.init(4), records(balancer, 3, 4, torch.float32))
    assert weights.dtype == state.weights.dtype == torch.float64
    assert (weights - wide).abs().max() < 1e-3
    run(balancer, state, records(balancer, 2, 4))  # a state from inference mode works outside it


@everyone
def test_an_admitted_task_starts_at_its_share(balancer):
    state, weights = run(balancer, balancer.init(2), records(balancer, 7, 2))
    wider = balancer.admit(state, [1, None, 0])
    assert torch.equal(wider.weights[[2, 0]], weights[-1] * (2 / 3))
    assert wider.weights[1] == 1 / 3
    assert wider.record == 7
    _, after = run(balancer, wider, records(balancer, 3, 3))
    assert (after.abs().sum(dim=1) - 1).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("balancer", "package"),
    [(balancer, "torchjd") for balancer in (*ON_LOSSES, *ON_GRADIENTS)]
    + [(balancer, solver) for balancer in ON_GRADIENTS for solver in balancer.solvers],
    ids=lambda value: value if isinstance(value, str) else value.label,
)
def test_a_missing_package_is_named_with_the_line_to_type(balancer, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError) as error:
        balancer.init(2)
    assert str(error.value) == (
        f"`{balancer.label}` needs {package}. Type: pip install -c constraints.txt 'lightning-coba[torchjd]'"
    )


def test_the_classes_come_without_torchjd_and_a_state_with_it():
    code = (
        "import sys\n"
        "from lightning_coba.balancers import DWA, MGDA, STCH, UW, CAGrad, NashMTL\n"
        "balancers = DWA(), MGDA(), UW(), STCH(), CAGrad(), NashMTL()\n"
        "print({'torchjd', 'cvxpy', 'qpsolvers'} & {*sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_drawing_is_a_function_of_seed_and_record():
    def draw(seed, record):
        with drawing(seed, record):
            return torch.rand(4)

    assert torch.equal(draw(3, 7), draw(3, 7))
    others = [draw(3, 8), draw(4, 7), draw(37, 0)]
    assert not any(torch.equal(draw(3, 7), other) for other in others)


def test_shares_keep_what_is_not_known_at_one_part_of_k():
    weights = shares(torch.tensor([3.0, torch.nan, 1.0, 7.0]).double(), torch.tensor([True, False, True, False]))
    assert weights.tolist() == [0.375, 0.25, 0.125, 0.25]
    nothing = shares(torch.zeros(2).double(), torch.tensor([True, True]))
    assert nothing.tolist() == [0.5, 0.5]
