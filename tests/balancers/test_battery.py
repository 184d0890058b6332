"""What every balancer owes its users, checked on every class that `lightning_coba.balancers` exports."""

import copy
import inspect
import io
import math

import pytest
import torch

import lightning_coba.balancers as package
from lightning_coba.balancers import DWA, FAMO, LBTW, STCH, Balancer, CoBa, Fixed, GradNorm, Observation, replay
from lightning_coba.balancers.base import MATRIX_SIGNALS, SIGNALS
from lightning_coba.balancers.settings import differing_settings, settings, settings_of_repr

#: Constructors for K tasks by class name; a class that is not here is built without arguments.
SETTINGS = {
    "CoBa": [
        lambda names: CoBa(),
        lambda names: CoBa(window_records=2, warmup_records=1, temperature=0.5),
        lambda names: CoBa(window_records=60, warmup_records=25),
        lambda names: CoBa(window_records=5, warmup_records=3, form="mftcoder"),
        lambda names: CoBa(window_records=40, warmup_records=15, form="mftcoder"),
    ],
    "DWA": [lambda names: DWA(block_records=7)],
    "STCH": [
        lambda names: STCH(),
        lambda names: STCH(
            mu=0.5,
            preference={name: 1.0 + i for i, name in enumerate(sorted(names))},
            reference=dict.fromkeys(names, 0.1),
        ),
    ],
    "FAMO": [
        lambda names: FAMO(),
        lambda names: FAMO(lr=0.5, gamma=0.0, min_losses={name: -float(i) for i, name in enumerate(sorted(names))}),
        lambda names: FAMO(source="held_out"),
    ],
    "GradNorm": [
        lambda names: GradNorm(),
        lambda names: GradNorm(alpha=0.5, lr=0.5, initial_records=3),
        lambda names: GradNorm(source="held_out"),
    ],
    "LBTW": [
        lambda names: LBTW(),
        lambda names: LBTW(alpha=2.0, initial_records=4, reset_each_epoch=True),
        lambda names: LBTW(source="held_out"),
    ],
    "Fixed": [lambda names: Fixed({name: 1.0 + index for index, name in enumerate(sorted(names))})],
}
#: Methods whose update takes milliseconds (a solver, a backward pass): so many records must do.
FEWER_RECORDS = {"CAGrad": 60, "IMTLL": 2_000, "NashMTL": 25, "UPGrad": 60, "UW": 2_000}
#: What a solver leaves open (measured: CAGrad 3e-12, NashMTL 9e-8), and draws that belong to a task's number.
PERMUTED_TO = {"CAGrad": 1e-10, "NashMTL": 1e-6, "PCGrad": None, "RLW": None}
CLASSES = [
    value
    for value in (getattr(package, name) for name in package.__all__)
    if inspect.isclass(value) and issubclass(value, Balancer) and not inspect.isabstract(value)
]
FACTORIES = [
    pytest.param(factory, id=f"{cls.__name__}-{index}")
    for cls in CLASSES
    for index, factory in enumerate(SETTINGS.get(cls.__name__, [lambda names, cls=cls: cls()]))
]
battery = pytest.mark.parametrize("factory", FACTORIES)
NAMES = ("a", "b", "c", "d", "e")


def build(factory, names=NAMES):
    return factory(names).for_tasks(names)


def signals(balancer, num_records, num_tasks, seed=0):
    """Random positive records, by name, of everything that a balancer asks for; [T, K, K] where it is a matrix."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for name in sorted(balancer.needs | {"losses"}):
        walk = torch.randn(num_records, num_tasks, generator=generator, dtype=torch.float64).mul(0.03).cumsum(0).exp()
        values[name] = walk * (1 + 0.1 * torch.rand(walk.shape, generator=generator, dtype=torch.float64))
        if name in MATRIX_SIGNALS:
            vectors = torch.randn(num_records, num_tasks, 7, generator=generator, dtype=torch.float64)
            values[name] = vectors @ vectors.mT
    return values


def hide(values, present, hidden):
    """Write ``hidden`` wherever a task is absent; of a matrix, into its row and its column."""
    pairs = present[:, :, None] & present[:, None, :]
    return {
        name: torch.where(pairs if name in MATRIX_SIGNALS else present, value, hidden) for name, value in values.items()
    }


def permute(values, order):
    return {n: v[:, order][:, :, order] if n in MATRIX_SIGNALS else v[:, order] for n, v in values.items()}


def records(balancer, wanted):
    return min(wanted, FEWER_RECORDS.get(type(balancer).__name__, wanted))


def assert_on_simplex(balancer, weights):
    assert weights.dtype == torch.float64
    assert weights.isfinite().all()
    assert balancer.signed or (weights >= 0).all()
    assert (weights.abs().sum(dim=-1) - 1).abs().max() < 1e-12


def record(balancer, values, present, index):
    row = {name: value[index] for name, value in values.items() if name in balancer.needs}
    return Observation(step=index + 1, present=present[index], **row)


def run(balancer, state, values, present, rows):
    weights = []
    for index in rows:
        state, row = balancer.update(state, record(balancer, values, present, index))
        weights.append(row)
    return state, torch.stack(weights)


def equal(one, other):
    """Deep equality of two states, with NaN equal to NaN."""
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        return (
            same and torch.equal(one.nan_to_num(nan=math.pi), other.nan_to_num(nan=math.pi)) and equal_nan(one, other)
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def equal_nan(one, other):
    return not one.is_floating_point() or torch.equal(one.isnan(), other.isnan())


def through_torch_save(values):
    stream = io.BytesIO()
    torch.save(values, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def through_a_checkpoint(state):
    return type(state)(**through_torch_save(state._asdict()))


def num_bytes(state):
    return {
        name: value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 8
        for name, value in state._asdict().items()
    }


def test_the_battery_collects_every_balancer():
    assert {"CoBa", "FAMO", "Fixed", "GradNorm", "LBTW", "MetaWeighting", "TokenMean", "Uniform"} <= {
        cls.__name__ for cls in CLASSES
    }
    assert SETTINGS.keys() <= {cls.__name__ for cls in CLASSES}


@pytest.mark.parametrize("cls", CLASSES)
def test_the_file_of_a_balancer_is_its_name_in_lower_case(cls):
    assert cls.__module__ == f"lightning_coba.balancers.{cls.__name__.lower()}"


@battery
@pytest.mark.parametrize("absent", [0.0, 0.35])
def test_weights_are_on_the_simplex(factory, absent):
    balancer = build(factory)
    values = signals(balancer, 200, 5)
    present = torch.rand(200, 5, generator=torch.Generator().manual_seed(1)) >= absent
    _, weights = run(balancer, balancer.init(5), values, present, range(records(balancer, 200)))
    assert_on_simplex(balancer, weights)


@battery
def test_needs_are_known_signals(factory):
    balancer = build(factory)
    assert balancer.needs <= set(SIGNALS)
    assert balancer.baseline_signal in (None, *balancer.needs)


@battery
def test_a_checkpoint_knows_the_settings_that_wrote_it(factory):
    balancer = build(factory)
    saved = through_torch_save(settings(balancer))
    assert saved == settings_of_repr(repr(balancer))
    assert differing_settings(saved, balancer) == []
    # A checkpoint of a version whose class had only the fields that must be given.
    required = {name: saved[name] for name in saved.keys() & {"weights"}}
    assert differing_settings({"class": saved["class"], **required}, type(balancer)(**required)) == []


@battery
def test_the_weights_are_those_of_the_state(factory):
    balancer = build(factory)
    values, present = signals(balancer, 40, 5), torch.ones(40, 5, dtype=torch.bool)
    state, weights = run(balancer, balancer.init(5), values, present, range(count := records(balancer, 40)))
    assert torch.equal(state.weights, weights[-1])
    assert state.record == count


@battery
def test_the_state_is_bounded(factory, request):
    # Ten thousand records cost seconds with CoBa; its settings share the one buffer that grows.
    first_of_its_class = request.node.callspec.id.endswith("-0")
    balancer = build(factory, ("a", "b"))
    num_records = records(balancer, 10_000 if first_of_its_class else 1_100)
    values, present = signals(balancer, 100, 2), torch.ones(100, 2, dtype=torch.bool)
    state = balancer.init(2)
    before = num_bytes(state)
    for index in range(num_records):
        state, _ = balancer.update(state, record(balancer, values, present, index % 100))
    after = num_bytes(state)
    grown = {name for name in after if after[name] > before[name]}
    assert grown <= {"peaks", "peaks_recorded"}
    for name in grown:
        assert len(getattr(state, name)) == 2 ** math.ceil(math.log2(num_records))


@battery
def test_update_leaves_the_given_state_as_it_was(factory):
    balancer = build(factory)
    values = signals(balancer, 60, 5)
    present = torch.rand(60, 5, generator=torch.Generator().manual_seed(2)) >= 0.3
    state = balancer.init(5)
    for index in range(records(balancer, 60)):
        kept = copy.deepcopy(state)
        following, _ = balancer.update(state, record(balancer, values, present, index))
        assert equal(kept, state)
        again, _ = balancer.update(state, record(balancer, values, present, index))
        assert equal(following, again)
        state = following


@battery
@pytest.mark.parametrize(("num_records", "cuts"), [(60, (0, 1, 30, 59)), (1040, (1023, 1024, 1025))])
def test_a_run_that_went_through_a_checkpoint_is_the_same_run(factory, num_records, cuts):
    balancer = build(factory, ("a", "b", "c"))
    num_records = records(balancer, num_records)  # the long run is for buffers that grow
    cuts = [cut for cut in cuts if cut < num_records]
    values = signals(balancer, num_records, 3)
    present = torch.rand(num_records, 3, generator=torch.Generator().manual_seed(3)) >= 0.2
    state, saved, whole = balancer.init(3), {}, []
    for index in range(num_records):
        if index in cuts:
            saved[index] = through_a_checkpoint(state)
        state, weights = balancer.update(state, record(balancer, values, present, index))
        whole.append(weights)
    for cut in cuts:
        resumed, rest = run(balancer, saved[cut], values, present, range(cut, num_records))
        assert torch.equal(torch.stack(whole[cut:]), rest), cut
        assert equal(state, resumed), cut


@battery
def test_permuting_the_tasks_permutes_the_weights(factory):
    order = [3, 0, 4, 1, 2]
    balancer = build(factory)
    moved = factory(NAMES).for_tasks([NAMES[i] for i in order])
    values = signals(balancer, 150, 5)
    present = torch.rand(150, 5, generator=torch.Generator().manual_seed(4)) >= 0.2
    tolerance = PERMUTED_TO.get(type(balancer).__name__, 1e-12)
    rows = range(records(balancer, 150))
    _, weights = run(balancer, balancer.init(5), values, present, rows)
    _, ours = run(moved, moved.init(5), permute(values, order), present[:, order], rows)
    assert tolerance is None or (ours - weights[:, order]).abs().max() < tolerance


@battery
def test_one_task_has_weight_one(factory):
    balancer = build(factory, ("a",))
    values = signals(balancer, 80, 1)
    present = torch.rand(80, 1, generator=torch.Generator().manual_seed(5)) >= 0.2
    _, weights = run(balancer, balancer.init(1), values, present, range(records(balancer, 80)))
    assert torch.equal(weights, torch.ones_like(weights))


@battery
@pytest.mark.parametrize("hidden", [math.nan, math.inf, 0.0, -1.0])
def test_an_absent_task_never_yields_nan(factory, hidden):
    balancer = build(factory)
    num_records = records(balancer, 120)
    values = signals(balancer, num_records, 5)
    present = torch.ones(num_records, 5, dtype=torch.bool)
    present[:, 0] = False  # never there
    present[: num_records // 2, 1] = False  # comes late
    present[num_records // 2 :, 2] = False  # goes
    _, weights = run(balancer, balancer.init(5), hide(values, present, hidden), present, range(num_records))
    assert_on_simplex(balancer, weights)


@battery
def test_what_masked_entries_hold_does_not_matter(factory):
    balancer = build(factory)
    present = torch.rand(80, 5, generator=torch.Generator().manual_seed(6)) >= 0.4
    values = signals(balancer, 80, 5)
    states = [
        run(balancer, balancer.init(5), hide(values, present, hidden), present, range(records(balancer, 80)))
        for hidden in (1e6, math.nan)
    ]
    assert equal(*states)


@battery
def test_replay_is_the_run(factory):
    balancer = build(factory)
    num_records = records(balancer, 50)
    values = signals(balancer, num_records, 5)
    present = torch.rand(num_records, 5, generator=torch.Generator().manual_seed(7)) >= 0.2
    _, weights = run(balancer, balancer.init(5), values, present, range(num_records))
    if balancer.weighs == "tokens":
        with pytest.raises(ValueError, match="has no replay"):
            replay(balancer, values["losses"], present=present)
    else:
        assert torch.equal(replay(balancer, present=present, **values), weights)


@battery
def test_an_admitted_task_gets_a_finite_weight(factory):
    balancer = build(factory, ("a", "b"))
    num_records = records(balancer, 40)
    values, present = signals(balancer, num_records, 2), torch.ones(num_records, 2, dtype=torch.bool)
    state, _ = run(balancer, balancer.init(2), values, present, range(num_records))
    kept = copy.deepcopy(state)
    larger = factory(("a", "b", "c")).for_tasks(("a", "b", "c"))
    wider = larger.admit(state, [0, 1, None])
    assert equal(kept, state)
    assert wider.record == num_records
    assert wider.weights.shape == (3,)
    assert_on_simplex(larger, wider.weights)
    values, present = signals(larger, num_records, 3), torch.ones(num_records, 3, dtype=torch.bool)
    _, weights = run(larger, wider, values, present, range(num_records))
    assert_on_simplex(larger, weights)


@battery
def test_init_needs_a_task(factory):
    with pytest.raises(ValueError, match=r"num_tasks|weights"):
        build(factory, ("a",)).init(0)


@pytest.mark.parametrize("cls", CLASSES)
def test_hyper_parameters_are_frozen(cls):
    balancer = SETTINGS.get(cls.__name__, [lambda names: cls()])[0](NAMES)
    with pytest.raises(AttributeError):
        balancer.anything = 1
