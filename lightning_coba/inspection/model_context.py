"""How many tokens a model reads at most, without loading the model."""

from typing import Any


def context_of(tokenizer: Any) -> int | None:
    """Return the positions of the model that a tokenizer was loaded with; None where that is not known.

    Args:
        tokenizer: of `load_tokenizer`: the configuration of the model lies beside it.
    """
    from transformers import AutoConfig

    if not tokenizer.name_or_path:
        return None
    try:
        config = AutoConfig.from_pretrained(tokenizer.name_or_path, trust_remote_code=False)
    except (OSError, ValueError):  # a tokenizer by itself, or a model whose code is not trusted
        return None
    return getattr(config.get_text_config(), "max_position_embeddings", None)
