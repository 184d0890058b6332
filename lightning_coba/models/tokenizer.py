"""The tokenizer of a model, without loading the model."""

import logging
from pathlib import Path
from typing import Any

from lightning_coba.errors import MissingFileError
from lightning_coba.models.hub import require_model


def load_tokenizer(name_or_path: str, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer that training with a model uses.

    Args:
        name_or_path: of the model: hub id, folder, ``.gguf`` file, or ``package/file.gguf``; see `load_language_model`.
        trust_remote_code: whether code from the hub may run; off.

    Raises:
        FileNotFoundError: There is no such model.
    """
    # Where it is installed, peft imports it, and it warns of a kernel that is optional.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_source(name_or_path), trust_remote_code=trust_remote_code)


def model_source(name_or_path: str) -> str:
    """Return what transformers loads a model from: a folder, for a GGUF file that of its copy, or a hub id.

    Raises:
        FileNotFoundError: There is no such folder or file, and no such model on the hub.
    """
    path = Path(name_or_path).expanduser()
    if name_or_path.endswith(".gguf"):
        from lightning_coba.models.gguf import as_safetensors, find_gguf

        path = as_safetensors(find_gguf(name_or_path))
    elif not path.is_dir() and name_or_path.startswith((".", "/", "~")):
        raise MissingFileError(
            f"`model` {name_or_path!r} is no folder.", "Give a hub id, a folder of save_pretrained, or a .gguf file."
        )
    if path.is_dir():
        return str(path)
    require_model(name_or_path)
    return name_or_path
