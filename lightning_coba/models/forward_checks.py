"""Checks on a short probe that a model's forward does what the shortcuts around it assume."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_coba.functional import undisturbed

#: Largest difference that rounding in 16 bits explains, relative to the largest value.
TOLERANCE = 0.02
#: The same where the same numbers go through the same operations.
TIGHT_TOLERANCE = 1e-4
#: Hidden states are scaled up for the comparison, so that a soft cap on small logits cannot hide.
PROBE_SCALE = 1000.0


def head_of_backbone(model: nn.Module, parts: Callable[[], tuple[nn.Module, nn.Module]], vocabulary: int) -> str | None:
    """Compare a model's logits with those of its head on its backbone's hidden states.

    Args:
        model: ids -> logits.
        parts: returns backbone and head.
        vocabulary: number of ids.

    Returns:
        What is amiss, as the end of a sentence; None where they are the same.
    """
    try:
        with undisturbed(model) as device, torch.no_grad():
            ids = torch.arange(min(8, vocabulary), device=device)[None]
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
            backbone, head = parts()
            hook = backbone.register_forward_hook(_scale_hidden)
            try:
                own = model(**inputs).logits
                ours = head(backbone(**inputs).last_hidden_state)
            finally:
                hook.remove()
        same = _close(ours, own)
    except Exception as error:  # any model may fail in its own way once its parts are called alone
        return f"has parts that cannot be called one by one ({error})"
    return None if same else "does more than backbone and head on the way to its logits (a soft cap, virtual tokens)"


def packed_sequences(model: nn.Module, outputs: Callable[..., Tensor], vocabulary: int) -> str | None:
    """Compare what a model makes of two sequences that lie end to end with what it makes of each alone.

    A leak may be smaller than rounding in 16 bits, so the first sequence is also changed: the second may not notice.

    Args:
        model: whose training flags are kept.
        outputs: (ids, position ids), both ``[1, T]`` -> hidden states or logits ``[1, T, ...]``.
        vocabulary: number of ids.

    Returns:
        What is amiss, as the end of a sentence; None where nothing is.
    """
    try:
        with undisturbed(model) as device, torch.no_grad():
            sequences = [torch.arange(n, device=device)[None] for n in (9, 5)]
            ids = [(sequence + 3 * n) % vocabulary for n, sequence in enumerate(sequences)]
            alone = [outputs(one, positions) for one, positions in zip(ids, sequences, strict=True)]
            packed, changed = (
                outputs(torch.cat([first, ids[1]], dim=1), torch.cat(sequences, dim=1))
                for first in (ids[0], (ids[0] + 1) % vocabulary)
            )
        second = slice(ids[0].shape[1], None)
        apart = _close(changed[:, second], packed[:, second], TIGHT_TOLERANCE)
        same = apart and _close(packed, torch.cat(alone, dim=1))
    except Exception as error:  # any model may fail in its own way on inputs that it does not know
        return f"cannot read packed sequences ({error})"
    return None if same else "mixes sequences that are packed end to end"


def _close(ours: Tensor, own: Tensor, tolerance: float = TOLERANCE) -> bool:
    if ours.shape != own.shape:
        return False
    ours, own = ours.float(), own.float()
    return bool((ours - own).abs().max() <= tolerance * own.abs().max())


def _scale_hidden(module: nn.Module, inputs: tuple, output: Any) -> Any:
    output.last_hidden_state = output.last_hidden_state * PROBE_SCALE
    return output
