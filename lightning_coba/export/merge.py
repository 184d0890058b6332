"""Put an adapter's changes into the weights of the model that it was trained on."""

import warnings
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from lightning_coba.errors import UserError


def merge_adapter(model: PeftModel) -> PreTrainedModel:
    """Return the base model with the adapter's changes in its own weights; the adapter is gone.

    Use it before a model is handed to software that knows nothing of adapters. The sums are made in the precision of
    the weights: load them in float32, and round afterwards. Works in place.

    A model whose head shares the weights of its embeddings is kept so where the adapter changes both alike or neither.
    Where it changes one of them, each gets weights of its own, and the configuration says so
    (``tie_word_embeddings=False``): they would be shared again when the model is loaded, and one change lost.

    Args:
        model: with one adapter that can be merged, such as LoRA, DoRA or IA3, modules to save included.

    Raises:
        ValueError: The adapter adds to the input (prompts, prefixes), which is in no weight.
    """
    if not hasattr(model.base_model, "merge_and_unload"):
        kind = model.active_peft_config.peft_type.value
        raise UserError(
            f"`merge_adapter.model` must have an adapter that changes weights, such as LoRA or IA3; got {kind}.",
            "Export the adapter by itself: leave out --merge.",
        )
    base = model.get_base_model()
    shared = bool(getattr(base.config, "tie_word_embeddings", False))
    _give_head_its_own(base)
    with warnings.catch_warnings():
        # peft warns that merging shared weights is delicate; see above.
        warnings.filterwarnings("ignore", ".*tie_word_embeddings.*")
        merged: Any = model.merge_and_unload(safe_merge=True)
    if shared:
        _share_again(merged)
    return merged


def _give_head_its_own(base: PreTrainedModel) -> None:
    """Part head and embeddings where an adapter sits on one of them: merging it would change both."""
    layers = (base.get_output_embeddings(), base.get_input_embeddings())
    if not any(isinstance(layer, BaseTunerLayer) for layer in layers):
        return
    head, embeddings = (layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer for layer in layers)
    if isinstance(head, nn.Linear) and head.weight is embeddings.weight:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)


def _share_again(model: PreTrainedModel) -> None:
    """Let head and embeddings be one where they are equal; else let the configuration say that they are two."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if isinstance(head, nn.Linear):
        model.config.tie_word_embeddings = torch.equal(head.weight, embeddings.weight)
        if model.config.tie_word_embeddings:
            head.weight = embeddings.weight
