import copy
import io
import math
import pickle
import re

import pytest
import torch
from torch import nn

from lightning_coba import TaskLosses, TaskWeights
from lightning_coba.functional import StepTotals

NAMES = ("code", "qa", "nlu")
SHARES = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


@pytest.fixture
def weights():
    module = TaskWeights(NAMES)
    module.assign(SHARES)
    return module


class Owner(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.task_weights = TaskWeights(NAMES)


def test_weights_start_uniform_in_float64():
    values = TaskWeights(NAMES).values
    assert values.dtype == torch.float64
    assert values.tolist() == [1 / 3] * 3


def test_a_dict_a_tensor_and_sums_with_counts_combine_alike(weights):
    means = torch.tensor([1.0, 2.0, 4.0])
    wanted = 0.5 * 1 + 0.3 * 2 + 0.2 * 4
    assert float(weights.combine(means)) == pytest.approx(wanted)
    shuffled = {"nlu": means[2], "code": means[0], "qa": means[1]}
    assert float(weights.combine(shuffled)) == pytest.approx(wanted)
    counts = torch.tensor([3, 1, 2])
    assert float(weights.combine(TaskLosses(means * counts, counts))) == pytest.approx(wanted)


def test_an_absent_task_is_a_missing_key_a_mask_or_a_count_of_zero(weights):
    wanted = (0.5 * 1 + 0.2 * 4) * 3 / 2
    dense = torch.tensor([1.0, math.nan, 4.0])
    present = torch.tensor([True, False, True])
    assert float(weights.combine({"nlu": dense[2], "code": dense[0]})) == pytest.approx(wanted)
    assert float(weights.combine(dense, present=present)) == pytest.approx(wanted)
    sums = TaskLosses(torch.tensor([2.0, 0.0, 4.0]), torch.tensor([2, 0, 1]))
    assert float(weights.combine(sums)) == pytest.approx(wanted)


def test_present_normalisation_divides_by_the_present_weights(weights):
    value = weights.combine({"code": torch.tensor(1.0), "nlu": torch.tensor(4.0)}, normalize="present")
    assert float(value) == pytest.approx((0.5 + 0.8) / 0.7)


@pytest.mark.parametrize("parts", [[[0, 1, 2], [3, 4, 5, 6, 7, 8]], [[0], [5, 2], [1, 3, 4, 6, 7, 8]]])
def test_micro_batches_with_totals_add_up_to_the_whole_batch(weights, parts):
    # "qa" is absent from the whole step, "nlu" from its first part.
    tasks = torch.tensor([0, 0, 0, 2, 2, 0, 2, 2, 2])
    scales = torch.linspace(0.5, 3, 9)

    def losses(parameter, rows):
        each = (parameter * scales[rows]).square()
        sums = torch.stack([each[tasks[rows] == k].sum() for k in range(3)])
        counts = torch.stack([(tasks[rows] == k).sum() for k in range(3)])
        return TaskLosses(sums, counts)

    whole = torch.tensor(1.3, requires_grad=True)
    value = weights.combine(losses(whole, list(range(9))))
    value.backward()

    split = torch.tensor(1.3, requires_grad=True)
    totals = StepTotals(counts=torch.tensor([4, 0, 5]), num_present=2)
    pieces = [weights.combine(losses(split, rows), totals=totals) for rows in parts]
    for piece in pieces:
        piece.backward()
    assert float(sum(pieces).detach()) == pytest.approx(float(value.detach()), rel=1e-6)
    assert float(split.grad) == pytest.approx(float(whole.grad), rel=1e-6)


def test_totals_without_counts_are_refused(weights):
    totals = StepTotals(counts=torch.ones(3), num_present=3)
    for losses in (torch.ones(3), {"qa": torch.tensor(1.0)}):
        with pytest.raises(ValueError, match=r"`combine.totals` must come with TaskLosses"):
            weights.combine(losses, totals=totals)


def test_an_unknown_name_is_refused_and_the_tasks_are_listed(weights):
    with pytest.raises(KeyError, match=r"'maths' is no task. The tasks are: code, qa, nlu"):
        weights.combine({"code": torch.tensor(1.0), "maths": torch.tensor(1.0)})
    with pytest.raises(KeyError, match=r"'maths' is no task. The tasks are: code, qa, nlu"):
        weights["maths"]


@pytest.mark.parametrize("losses", [torch.ones(2), torch.ones(4), TaskLosses(torch.ones(2), torch.ones(2))])
def test_a_wrong_number_of_losses_is_refused_by_name(weights, losses):
    with pytest.raises(ValueError, match="must hold 3 losses, one each for code, qa, nlu"):
        weights.combine(losses)


def test_an_empty_dict_is_refused(weights):
    with pytest.raises(ValueError, match="at least one task's loss"):
        weights.combine({})


def test_combine_is_the_plain_mean_before_the_tasks_are_known():
    weights = TaskWeights()
    assert float(weights.combine({"a": torch.tensor(1.0), "b": torch.tensor(3.0)})) == pytest.approx(2.0)
    assert float(weights.combine(torch.tensor([1.0, 3.0, 8.0]))) == pytest.approx(4.0)
    sums = TaskLosses(torch.tensor([2.0, 0.0, 6.0]), torch.tensor([2, 0, 2]))
    assert float(weights.combine(sums)) == pytest.approx(2.0)
    assert weights["anything"] == 1
    weights.bind(["b", "a"])
    assert weights.tasks == ("b", "a")
    assert weights.values.tolist() == [0.5, 0.5]


def test_bind_refuses_what_would_mix_up_tasks():
    with pytest.raises(ValueError, match=r"distinct names; got \['a', 'b', 'a'\]. Rename \['a'\]"):
        TaskWeights(["a", "b", "a"])
    with pytest.raises(ValueError, match="distinct names"):
        TaskWeights().bind([])
    weights = TaskWeights(["a", "b"])
    weights.assign(torch.tensor([0.9, 0.1]))
    weights.bind(["a", "b"])
    assert weights.values.tolist() == pytest.approx([0.9, 0.1])
    for names in (["b", "a"], ["a"], ["a", "b", "c"]):
        with pytest.raises(ValueError, match=f"must stay as they are: a, b; got {', '.join(names)}"):
            weights.bind(names)


@pytest.mark.parametrize(
    "cast",
    [
        lambda m: m.half(),
        lambda m: m.bfloat16(),
        lambda m: m.to(torch.bfloat16),
        lambda m: m.float(),
        lambda m: m.double(),
        lambda m: m.to("cpu", torch.float16),
    ],
    ids=["half", "bfloat16", "to bfloat16", "float", "double", "to cpu half"],
)
def test_the_weights_keep_float64_when_their_module_is_cast(cast):
    owner = Owner()
    owner.task_weights.assign(SHARES)
    cast(owner)
    assert owner.task_weights.values.dtype == torch.float64
    assert torch.equal(owner.task_weights.values, SHARES)
    alone = TaskWeights(NAMES)
    alone.assign(SHARES)
    assert torch.equal(cast(alone).values, SHARES)


def test_the_weights_are_in_no_state_dict_and_neither_parameters_nor_buffers():
    owner = Owner()
    assert owner.state_dict().keys() == owner.layer.state_dict(prefix="layer.").keys()
    assert len(list(owner.task_weights.parameters())) == 0
    assert len(list(owner.task_weights.buffers())) == 0
    owner.load_state_dict(nn.ModuleDict({"layer": nn.Linear(2, 2)}).state_dict(), strict=True)


def test_weights_made_on_meta_come_to_life_uniform():
    with torch.device("meta"):
        owner = Owner()
    assert owner.task_weights.values.is_meta
    owner.to_empty(device="cpu")
    assert owner.task_weights.values.dtype == torch.float64
    assert owner.task_weights.values.tolist() == [1 / 3] * 3


def test_weights_can_go_to_meta():
    weights = TaskWeights(NAMES).to("meta")
    assert weights.values.is_meta
    assert weights.values.shape == (3,)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_is_equal_and_independent(weights, clone):
    other = clone(weights)
    assert other.tasks == NAMES
    assert torch.equal(other.values, SHARES)
    other.assign(torch.tensor([0.2, 0.2, 0.6]))
    assert torch.equal(weights.values, SHARES)


def test_a_whole_module_saves_and_loads(weights):
    stream = io.BytesIO()
    torch.save(weights, stream)
    stream.seek(0)
    assert torch.equal(torch.load(stream, weights_only=False).values, SHARES)


@pytest.mark.parametrize(
    "use",
    [
        lambda w: w.combine(torch.ones(3)),
        lambda w: w.values,
        lambda w: w["qa"],
        lambda w: w.combine({"qa": torch.ones(())}),
    ],
    ids=["combine", "values", "name", "combine a dict"],
)
def test_reading_the_weights_counts_as_use(use):
    weights = TaskWeights(NAMES)
    weights.assign(SHARES)
    weights.half()
    assert not weights.used
    use(weights)
    assert weights.used


def test_the_received_tasks_are_remembered():
    weights = TaskWeights(NAMES)
    weights.combine({"qa": torch.tensor(1.0)})
    assert weights.received == {"qa"}
    weights.combine(torch.ones(3))
    assert weights.received == set(NAMES)


def test_one_weight_can_be_read_by_name(weights):
    assert float(weights["qa"]) == 0.3
    held = weights["qa"]
    weights.assign(torch.tensor([0.1, 0.1, 0.8]))
    assert float(held) == 0.3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("how", ["tensor", "dict", "sums", "name", "present"])
def test_weights_that_change_before_backward_do_not_break_it(weights, dtype, how):
    means = torch.tensor([1.0, 2.0, 4.0], dtype=dtype, requires_grad=True)
    if how == "tensor":
        value = weights.combine(means)
    elif how == "dict":
        value = weights.combine(dict(zip(NAMES, means, strict=True)))
    elif how == "sums":
        value = weights.combine(TaskLosses(means, torch.ones(3, dtype=torch.int64)))
    elif how == "name":
        value = sum(weights[name] * mean for name, mean in zip(NAMES, means, strict=True))
    else:
        value = weights.combine(means, normalize="present")
    weights.assign(torch.tensor([0.1, 0.1, 0.8]))
    value.backward()
    assert means.grad.tolist() == pytest.approx([0.5, 0.3, 0.2], rel=1e-2)
    assert weights.values.tolist() == pytest.approx([0.1, 0.1, 0.8])


def test_assign_writes_in_place_and_casts():
    weights = TaskWeights(NAMES)
    address = weights.values.data_ptr()
    weights.assign(SHARES.float())
    assert weights.values.data_ptr() == address
    assert weights.values.dtype == torch.float64
    with pytest.raises(RuntimeError):
        weights.assign(torch.ones(2) / 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_losses_combine_in_float32(weights, dtype):
    means = torch.tensor([1.0, 2.0, 4.0], dtype=dtype)
    for losses in (
        means,
        dict(zip(NAMES, means, strict=True)),
        TaskLosses(means * 2, torch.tensor([2, 2, 2])),
    ):
        value = weights.combine(losses)
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(1.9, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_counts_are_not_rounded_to_the_dtype_of_the_sums(weights, dtype):
    sums = torch.tensor([1000.0, 1000.0, 1000.0], dtype=dtype)
    counts = torch.tensor([100_001, 257, 3])
    wanted = float((SHARES * sums.double() / counts).sum())
    assert float(weights.combine(TaskLosses(sums, counts))) == pytest.approx(wanted, rel=1e-6)
    totals = StepTotals(counts, num_present=3)
    assert float(weights.combine(TaskLosses(sums, counts), totals=totals)) == pytest.approx(wanted, rel=1e-6)


def test_token_mean_divides_all_sums_by_all_counts(weights):
    weights.weighs = "tokens"
    losses = TaskLosses(torch.tensor([30.0, 0.0, 2.0]), torch.tensor([15, 0, 1]))
    assert float(weights.combine(losses)) == 2.0
    totals = StepTotals(torch.tensor([15, 48, 1]), num_present=3)
    assert float(weights.combine(losses, totals=totals)) == 0.5
    narrow = TaskLosses(torch.tensor([1000.0, 0.0, 0.0], dtype=torch.bfloat16), torch.tensor([100_001, 0, 0]))
    assert float(weights.combine(narrow)) == pytest.approx(1000 / 100_001, rel=1e-6)
    nothing = TaskLosses(torch.zeros(3), torch.zeros(3, dtype=torch.int64))
    assert weights.combine(nothing) == 0


@pytest.mark.parametrize("losses", [torch.ones(3), {"qa": torch.tensor(1.0)}], ids=["tensor", "dict"])
def test_token_mean_refuses_means(weights, losses):
    weights.weighs = "tokens"
    with pytest.raises(ValueError, match=re.escape("must be TaskLosses(sums, counts) for TokenMean")):
        weights.combine(losses)


def test_the_repr_names_the_tasks():
    assert repr(TaskWeights(NAMES)) == "TaskWeights(code, qa, nlu)"


@pytest.mark.parametrize("zero", [0.0, 0])
def test_plain_numbers_are_losses_that_nothing_is_learned_from(zero):
    weights = TaskWeights(["a", "b"])
    loss = torch.tensor(3.0, requires_grad=True)
    value = weights.combine({"a": zero, "b": loss})
    value.backward()
    assert value.item() == pytest.approx(1.5)
    assert loss.grad.item() == pytest.approx(0.5)  # `a` is present: it counts in the mean
    assert weights.combine({"a": zero}).item() == 0
    assert weights.combine({"a": 2, "b": 4.0}).item() == pytest.approx(3)
    assert TaskWeights().combine({"a": 2.0, "b": torch.tensor(4.0)}).item() == pytest.approx(3)
