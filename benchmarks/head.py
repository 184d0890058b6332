"""The language model's head and its loss, forward and backward: ours against full logits, at several completion shares.

The head is frozen, as under LoRA, unless --train-head is given. Memory is the peak beyond the inputs.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from measure import (
    Check,
    arguments,
    cpu_seconds,
    one_quiet_thread,
    peak_mb,
    ratios,
    report,
    take_turns,
)
from torch import Tensor, nn

from lightning_coba.functional.chunked_loss import checkpointed_task_losses, chunked_task_losses, tokens_per_chunk

NUM_TASKS = 5
#: Completion share -> how many times as fast as full logits.
TARGETS = {1.0: 1.0, 0.5: 1.8, 0.25: 3.5, 0.1: 6.0}
MEMORY_SHARE = 0.25

Loss = Callable[["Inputs"], Tensor]


class Inputs:
    """Hidden states and targets of a batch whose completion tokens are spread over all positions."""

    def __init__(self, tokens: int, share: float, given: argparse.Namespace) -> None:
        torch.manual_seed(given.seed)
        self.hidden = torch.randn(tokens, given.hidden, requires_grad=True)
        self.weight = torch.randn(given.vocabulary, given.hidden) / given.hidden**0.5
        self.weight.requires_grad_(given.train_head)
        self.index = torch.randperm(tokens)[: round(share * tokens)].sort().values
        self.targets = torch.randint(given.vocabulary, (len(self.index),))
        self.tasks = torch.randint(NUM_TASKS, (len(self.index),))
        self.labels = torch.full((tokens,), -100).index_copy(0, self.index, self.targets)

    def backward(self, loss: Loss) -> tuple[Tensor, Tensor]:
        """Return loss and gradient of the hidden states."""
        self.hidden.grad = self.weight.grad = None
        value = loss(self)
        value.backward()
        assert self.hidden.grad is not None
        return value.detach(), self.hidden.grad


def ours(inputs: Inputs) -> Tensor:
    """Return the token mean from our per-task sums; a head that is trained takes the other of our two ways."""
    hidden, size = inputs.hidden.index_select(0, inputs.index), tokens_per_chunk(len(inputs.weight))
    about = (inputs.targets, inputs.tasks, NUM_TASKS, size)
    if inputs.weight.requires_grad:
        losses = checkpointed_task_losses(lambda states: states @ inputs.weight.T, hidden, *about)
    else:
        losses = chunked_task_losses(hidden, inputs.weight, None, *about)
    return losses.sums.sum() / losses.counts.sum()


def full(inputs: Inputs) -> Tensor:
    """Return the token mean from logits at all positions, as models compute it."""
    return nn.functional.cross_entropy(inputs.hidden @ inputs.weight.T, inputs.labels)


def extra_memory(loss: Loss, given: argparse.Namespace) -> float:
    """Return the peak of a forward and backward pass beyond what was there before, in MB."""
    inputs = Inputs(given.memory_tokens, MEMORY_SHARE, given)
    return peak_mb(partial(inputs.backward, loss))


CONTESTANTS: dict[str, Loss] = {"ours": ours, "full logits": full}


def main() -> int:
    """Race at every share, then compare memory and results."""
    parser = arguments(__doc__, "head", repetitions=9)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--memory-tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--train-head", action="store_true")
    given = parser.parse_args()
    one_quiet_thread()
    checks, costs = [], {}
    worst_loss = worst_gradient = 0.0
    for share, target in TARGETS.items():
        inputs = Inputs(given.tokens, share, given)
        value, gradient = inputs.backward(ours)
        expected, wanted = inputs.backward(full)
        worst_loss = max(worst_loss, ((value - expected).abs() / expected).item())
        worst_gradient = max(worst_gradient, ((gradient - wanted).norm() / wanted.norm()).item())
        turns = {name: partial(cpu_seconds, partial(inputs.backward, loss)) for name, loss in CONTESTANTS.items()}
        costs[f"{share:.0%}"] = taken = take_turns(turns, given.repetitions)
        checks.append(
            Check(f"full logits / ours, {share:.0%} completion", ratios(taken, "full logits", "ours"), ">=", target)
        )
    memory = {name: extra_memory(loss, given) for name, loss in CONTESTANTS.items()}
    checks += [
        Check(f"extra memory, {MEMORY_SHARE:.0%} completion", [memory["ours"] / memory["full logits"]], "<=", 0.1),
        Check("loss, relative error", [worst_loss], "<=", 1e-5, ""),
        Check("gradient, relative error", [worst_gradient], "<=", 1e-4, ""),
    ]
    return report("head", given, checks, costs, extra_memory_mb=memory)


if __name__ == "__main__":
    raise SystemExit(main())
