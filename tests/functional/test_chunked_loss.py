"""Losses in chunks against full logits and `cross_entropy`: values, gradients per task, precision, memory."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_coba.functional import checkpointed_task_losses, chunked_task_losses, tokens_per_chunk

N, H, V, K = 23, 8, 50, 3


@pytest.fixture
def head():
    torch.manual_seed(0)
    return nn.Linear(H, V).double().requires_grad_(False)


@pytest.fixture
def data():
    """Hidden states, targets and tasks; the last task has no token."""
    torch.manual_seed(1)
    hidden = torch.randn(N, H, dtype=torch.float64, requires_grad=True)
    return hidden, torch.randint(V, (N,)), torch.randint(K - 1, (N,))


def frozen(head, hidden, targets, tasks, chunk_size=5):
    return chunked_task_losses(hidden, head.weight, head.bias, targets, tasks, K, chunk_size)


def trained(head, hidden, targets, tasks, chunk_size=5):
    return checkpointed_task_losses(head, hidden, targets, tasks, K, chunk_size)


ROUTES = pytest.mark.parametrize("route", [frozen, trained])


def by_hand(head, hidden, targets, tasks):
    losses = F.cross_entropy(head(hidden), targets, reduction="none")
    return torch.stack([losses[tasks == k].sum() for k in range(K)])


@ROUTES
@pytest.mark.parametrize("chunk_size", [1, 5, N, 100])
def test_sums_and_each_task_s_gradient_are_those_of_full_logits(route, head, data, chunk_size):
    expected, losses = by_hand(head, *data), route(head, *data, chunk_size)
    torch.testing.assert_close(losses.sums, expected, rtol=1e-12, atol=1e-12)
    assert losses.counts.tolist() == [(data[2] == k).sum() for k in range(K)]
    for k in range(K):  # one backward pass a task, over one graph
        [ours] = torch.autograd.grad(losses.sums[k], data[0], retain_graph=True)
        [other] = torch.autograd.grad(expected[k], data[0], retain_graph=True)
        torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-12)
        assert (ours[data[2] != k] == 0).all()
        assert (ours[data[2] == k] != 0).any() == (k < 2)


def test_all_tasks_gradients_come_in_one_batched_backward_pass(head, data):
    [ours] = torch.autograd.grad(
        frozen(head, *data).sums, data[0], torch.eye(K, dtype=torch.float64), is_grads_batched=True
    )
    for k, gradient in enumerate(ours):
        torch.testing.assert_close(gradient, torch.autograd.grad(by_hand(head, *data)[k], data[0])[0])


@ROUTES
@pytest.mark.parametrize("bias", [True, False])
def test_gradcheck(route, data, bias):
    torch.manual_seed(2)
    head = nn.Linear(H, V, bias=bias).double().requires_grad_(False)
    assert torch.autograd.gradcheck(lambda hidden: route(head, hidden, *data[1:]).sums, data[0])


def test_a_second_derivative_is_refused(head, data):
    weights = torch.ones(K, dtype=torch.float64, requires_grad=True)
    [first] = torch.autograd.grad(frozen(head, *data).sums @ weights, data[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_gradient_of_a_trained_head_is_that_of_full_logits(head, data):
    head.requires_grad_()
    weights = torch.tensor([0.2, 0.7, 0.1], dtype=torch.float64)
    wanted = [data[0], *head.parameters()]
    ours = torch.autograd.grad(trained(head, *data).sums @ weights, wanted)
    expected = torch.autograd.grad(by_hand(head, *data) @ weights, wanted)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


def test_frozen_route_refuses_a_head_that_is_to_be_trained(head, data):
    head.requires_grad_()
    with pytest.raises(ValueError, match=r"must be frozen.*checkpointed_task_losses"):
        frozen(head, *data)
    with torch.no_grad():
        torch.testing.assert_close(frozen(head, *data).sums, by_hand(head, *data))


@ROUTES
def test_no_tokens_are_zero_losses_and_a_zero_gradient(route, head, data):
    head.requires_grad_(route is trained)
    hidden, targets, tasks = (value[:0] for value in data)
    losses = route(head, hidden, targets, tasks)
    assert losses.sums.tolist() == [0, 0, 0]
    assert losses.counts.tolist() == [0, 0, 0]
    losses.sums.sum().backward()
    assert data[0].grad.abs().sum() == 0
    if route is trained:  # DDP waits for every parameter
        assert head.weight.grad.abs().sum() == 0


def test_logits_too_large_for_exp_and_a_hopeless_target_stay_finite(head, data):
    hidden, targets, tasks = data
    far = (hidden * 1000).detach().requires_grad_()
    losses = chunked_task_losses(far.float(), head.weight.float(), None, targets, tasks, K, 5)
    expected = F.cross_entropy(F.linear(far, head.weight), targets, reduction="sum")
    torch.testing.assert_close(losses.sums.sum().double(), expected, rtol=1e-5, atol=0)
    [gradient] = torch.autograd.grad(losses.sums.sum(), far)
    assert gradient.isfinite().all()


@ROUTES
@pytest.mark.parametrize("autocast", [True, False])
def test_bf16_is_as_near_to_the_truth_as_full_logits_are(route, head, data, autocast):
    """Products in bfloat16, softmax and sums in float32; targets well learned, where rounding p - 1 would hurt."""
    hidden = 4 * F.normalize(data[0].detach())
    targets, tasks = head(hidden).argmax(dim=1), data[2]
    kept = torch.float32 if autocast else torch.bfloat16
    low = nn.Linear(H, V).to(kept).requires_grad_(False)
    low.load_state_dict({name: value * 4 for name, value in head.state_dict().items()})
    exact = nn.Linear(H, V).double().requires_grad_(False)
    exact.load_state_dict(low.state_dict())

    def gradient(losses_of, states):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            sums = losses_of(states)
        assert sums.dtype == torch.float32
        return sums, torch.autograd.grad(sums.sum(), states)[0]

    states = hidden.to(kept).requires_grad_()
    ours, mine = gradient(lambda states: route(low, states, targets, tasks).sums, states)
    full, other = gradient(lambda states: by_hand(low, states, targets, tasks), states) if autocast else (None, None)
    wide = states.detach().double().requires_grad_()
    truth = by_hand(exact, wide, targets, tasks)
    [correct] = torch.autograd.grad(truth.sum(), wide)
    assert mine.dtype == states.dtype
    torch.testing.assert_close(ours.double(), truth.detach(), rtol=0.03, atol=0)
    error = (mine - correct).norm() / correct.norm()
    assert error < 0.03
    if autocast:
        torch.testing.assert_close(ours, full, rtol=1e-5, atol=0)
        assert error <= 1.2 * (other - correct).norm() / correct.norm()


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that an operation returned."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@ROUTES
def test_no_more_than_a_chunk_of_logits_exists(route, head, data):
    with LargestTensor() as largest:
        route(head, *data, chunk_size=10).sums.sum().backward()
    assert largest.elements == 10 * V
    with LargestTensor() as largest:
        by_hand(head, *data).sum().backward()
    assert largest.elements == N * V


@ROUTES
def test_the_host_waits_for_no_value(route, head, data):
    """Meta tensors have none."""
    hidden = torch.empty(N, H, device="meta", requires_grad=True)
    targets, tasks = (torch.empty(N, dtype=torch.int64, device="meta") for _ in range(2))
    route(head.float().to("meta"), hidden, targets, tasks).sums.sum().backward()
    assert hidden.grad.shape == (N, H)


def test_frozen_route_keeps_one_gradient_row_a_token_and_nothing_without_gradients(head, data):
    kept = []

    def keep(tensor):
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        frozen(head, *data)
        assert sorted(kept) == [(K, N), (N, H)]  # which task a token is of, and the gradient
        kept.clear()
        with torch.no_grad():
            assert not frozen(head, *data).sums.requires_grad
    assert kept == []


def test_chunks_hold_fewer_tokens_of_a_larger_vocabulary():
    assert tokens_per_chunk(49152) == 170
    assert tokens_per_chunk(257) > 30_000
    assert tokens_per_chunk(10**6) == 64
