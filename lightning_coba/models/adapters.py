"""Add an adapter to a language model, and tell its settings."""

import warnings
from collections.abc import Mapping
from enum import Enum
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from lightning_coba.functional import set_seed, undisturbed
from lightning_coba.user_files import refused_setting


def with_adapter(model: PreTrainedModel, peft: PeftConfig, seed: int) -> PeftModel:
    """Return the model with a fresh adapter, whose initial values follow from the seed alone."""
    with undisturbed(model, evaluate=False), warnings.catch_warnings():
        # peft 0.21 asks transformers 5 under a name that will go.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        set_seed(seed, model.device)
        with refused_setting("peft"):
            return get_peft_model(model, peft)


def plain_peft(peft: PeftConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an adapter's configuration as numbers, strings, lists and dicts, for a checkpoint."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(entry) for key, entry in value.items()}
        if isinstance(value, set | list | tuple):
            return [plain(entry) for entry in (sorted(value, key=str) if isinstance(value, set) else value)]
        return value.value if isinstance(value, Enum) else value

    return {key: plain(value) for key, value in (peft if isinstance(peft, Mapping) else peft.to_dict()).items()}


def adapter_settings(model: nn.Module) -> dict[str, str]:
    """Return an adapter's settings as text, to be compared."""
    if not isinstance(model, PeftModel):
        return {}
    # Where the base model came from may differ between machines, and versions may move.
    free = {"base_model_name_or_path", "revision", "inference_mode", "peft_version"}
    return {key: str(value) for key, value in plain_peft(model.active_peft_config).items() if key not in free}
