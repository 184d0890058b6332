"""Which parameters a balancer takes gradients of."""

import re

from torch import nn

from lightning_coba.errors import UserError

#: A named set, or a regular expression on parameter names.
LAST_BLOCK, ALL = "last_block", "all"


def shared_parameters(module: nn.Module, which: str) -> list[nn.Parameter]:
    """Return the trainable parameters of a set.

    Args:
        module: that is trained.
        which: ``"last_block"`` = those of the last transformer block that has any; ``"all"``; or a regular expression
            that is searched for in their names.

    Raises:
        ValueError: if the set is empty, or the module has no transformer blocks for ``"last_block"``.
    """
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if which == LAST_BLOCK:
        return _last_block(module)
    chosen = [p for name, p in trainable.items() if which == ALL or re.search(which, name)]
    if not chosen:
        raise UserError(
            f"`parameters={which!r}` must match a trainable parameter of {type(module).__name__}; it matches none.",
            f"There are: {_listed(list(trainable))}.",
        )
    return chosen


def _last_block(module: nn.Module) -> list[nn.Parameter]:
    for model in module.modules():
        # The convention of transformers: the configuration counts the blocks, and they are a list of that length.
        config = getattr(model, "config", None)
        if getattr(config, "is_encoder_decoder", False):
            break  # two stacks: which of their ends all tasks share is for the user to say
        depth = getattr(config, "num_hidden_layers", None)
        lists = (m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth)
        for blocks in lists:
            for block in reversed(blocks):
                chosen = [p for p in block.parameters() if p.requires_grad]
                if chosen:
                    return chosen
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    raise UserError(
        f"`parameters` must be given: {type(module).__name__} has no transformer blocks with trainable parameters, so "
        "which of them all tasks share is not known.",
        f"Give a regular expression on the names of the last shared layer, or 'all'. There are: {_listed(names)}.",
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "none"
