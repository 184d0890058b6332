"""Add an adapter to a language model, and tell its settings."""

import warnings

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel


def with_adapter(model: PreTrainedModel, peft: PeftConfig, seed: int) -> PeftModel:
    """Return the model with a fresh adapter, whose initial values follow from the seed alone."""
    # Without the list, fork_rng warns on a machine with several GPUs.
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []), warnings.catch_warnings():
        # peft 0.21 asks transformers 5 under a name that will go.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        torch.manual_seed(seed)
        return get_peft_model(model, peft)


def adapter_settings(model: nn.Module) -> dict[str, str]:
    """Return an adapter's settings as text: a checkpoint may hold neither sets nor enums."""
    if not isinstance(model, PeftModel):
        return {}
    config = model.active_peft_config.to_dict()
    # Where the base model came from may differ between machines, and versions may move.
    names = config.keys() - {"base_model_name_or_path", "revision", "inference_mode", "peft_version"}
    return {
        key: str(sorted(map(str, config[key])) if isinstance(config[key], set | list) else config[key])
        for key in sorted(names)
    }
