"""The tokenizer of a model, without loading the model."""

import logging
from pathlib import Path
from typing import Any


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

    path = Path(name_or_path).expanduser()
    if name_or_path.endswith(".gguf"):
        from lightning_coba.models.gguf import as_safetensors, find_gguf

        path = as_safetensors(find_gguf(name_or_path))
    elif not path.is_dir() and name_or_path.startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"`load_tokenizer.name_or_path` must be a folder, a .gguf file or a hub id; got {name_or_path!r}, which is "
            "none. Correct the path."
        )
    source = str(path) if path.is_dir() else name_or_path
    return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
