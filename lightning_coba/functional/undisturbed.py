"""Look at a module without leaving a trace: random state, buffers and training flags are put back afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


class RandomState(NamedTuple):
    """State of the global generators of the CPU and of one device.

    Attributes:
        cpu: State of the CPU's generator.
        accelerator: State of the device's generator; None for the CPU.
    """

    cpu: Tensor
    accelerator: Tensor | None


def random_state(device: torch.device) -> RandomState:
    """Return the state of the generators that a forward on ``device`` draws from."""
    return RandomState(torch.get_rng_state(), _accelerator_state(device))


def set_random_state(state: RandomState, device: torch.device) -> None:
    """Put the generators back to ``state``, which was taken for the same device."""
    torch.set_rng_state(state.cpu)
    if state.accelerator is not None:
        if device.type == "mps":
            torch.mps.set_rng_state(state.accelerator)
        else:
            getattr(torch, device.type).set_rng_state(state.accelerator, device)


def _accelerator_state(device: torch.device) -> Tensor | None:
    if device.type in ("cpu", "meta"):
        return None
    if device.type == "mps":  # its functions know one device alone
        return torch.mps.get_rng_state()
    state: Tensor = getattr(torch, device.type).get_rng_state(device)
    return state


@contextmanager
def undisturbed(module: nn.Module, evaluate: bool = True) -> Iterator[torch.device]:
    """Restore a module's buffers and training flags and the random state afterwards, also after an exception.

    Use it around every forward pass that the training is not to notice. It copies the buffers, which are small.

    Args:
        module: The module to look at. The random state is that of the CPU and of the device of its first parameter.
        evaluate: Put every submodule into evaluation mode meanwhile; False leaves dropout and batch statistics on.

    Yields:
        The device.
    """
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    state = random_state(device)
    training = {child: child.training for child in module.modules()}
    # Buffers that were made under inference mode cannot be written to outside of it.
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers() if not buffer.is_inference()]
    if evaluate:
        module.eval()
    try:
        yield device
    finally:
        for child, flag in training.items():
            child.training = flag
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        set_random_state(state, device)
