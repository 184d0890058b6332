"""What a run folder that somebody else sent must not do when it is opened: run code, or lead out of itself."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_coba.errors import MissingFileError, UserError
from lightning_coba.runs.building import BUILDABLE, CURE
from lightning_coba.runs.settings import flat
from lightning_coba.user_files import parse_json, read_text

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MODEL_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def refuse_links_out(folder: Path) -> None:
    """Refuse a folder with symbolic links to places outside, which would be read as its files, or written over.

    Raises:
        UserError: There is one; the message names it.
    """
    home = folder.resolve()
    for here, folders, files in os.walk(home):  # links to folders are not followed
        for path in (Path(here, name) for name in (*folders, *files)):
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                raise UserError(f"{path} is a link to {path.readlink()}, outside the folder of the run.", CURE)


def refuse_remote_code(model: Mapping[str, Any], trust_remote_code: bool) -> None:
    """Refuse settings of a model that would run code which comes with the model, or with a kernel of the hub.

    Raises:
        UserError: They would, and it is not trusted.
    """
    asked = bool(model.get("trust_remote_code"))
    kernel = not _is_own_attention(model.get("attn_implementation"))
    if (asked or kernel) and not trust_remote_code:
        key = "trust_remote_code" if asked else "attn_implementation"
        raise UserError(
            f"`model.{key}` is {model[key]!r} in config.yaml, so code that comes with {model.get('model')!r} or its "
            "kernels would run.",
            "If you trust it, pass --trust-remote-code (in Python: TrainedRun.open(..., trust_remote_code=True)).",
        )


def refuse_megatron(adapter: Mapping[str, Any], where: str) -> None:
    """Refuse settings of an adapter with which peft imports a module that they name.

    Raises:
        UserError: They do.
    """
    if adapter.get("megatron_config"):
        raise UserError("`megatron_config` has a module imported that `megatron_core` names.", CURE, where=where)


def _is_own_attention(value: Any) -> bool:
    """Return whether no code of the hub is fetched for an implementation of attention."""
    own = (None, "eager", "sdpa", "flex_attention")
    return value in own or (value == "flash_attention_2" and importlib.util.find_spec("flash_attn") is not None)


def _entries(file: Path) -> dict[str, Any]:
    found = parse_json(read_text(file), str(file), cure="Restore the file.")
    if not isinstance(found, dict):
        raise UserError("the file must hold a JSON object.", "Restore the file.", where=str(file))
    return found


def require_plain_model(folder: Path) -> None:
    """Refuse the folder of a model whose weights are pickled, or which asks for kernels of the hub.

    Raises:
        UserError: There are no safetensors in it, or its configuration names a kernel.
    """
    file = folder / "config.json"
    for key, value in flat(_entries(file)).items() if file.is_file() else ():
        names_code = any(part.endswith(("attn_implementation", "experts_implementation")) for part in key.split("."))
        if names_code and not _is_own_attention(value):
            raise UserError(f"`{key}` in {file} names a kernel of the hub, {value!r}, whose code would run.", CURE)
        if key.startswith("quantization_config"):
            raise UserError(f"`{key}` in {file} asks for a library of kernels to be loaded.", CURE)
    if (folder / ADAPTER_CONFIG).is_file():
        raise UserError(f"{folder} holds an adapter too, which would be loaded with the model.", CURE)
    if not any((folder / name).is_file() for name in MODEL_WEIGHTS):
        raise MissingFileError(
            f"{folder} holds no weights as safetensors, and pickled ones are not read.",
            "Ask for the model as safetensors; or, if you trust the folder, pass --trust-code.",
        )


def require_plain_adapter(folder: Path) -> None:
    """Refuse an adapter with pickled weights, or of a kind that `build` does not list.

    Raises:
        UserError: It is such an adapter.
    """
    missing = [name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise MissingFileError(
            f"{folder} has no {missing[0]}, and pickled weights are not read.",
            "Ask for the adapter as safetensors; or, if you trust the folder, pass --trust-code.",
        )
    config = _entries(folder / ADAPTER_CONFIG)
    refuse_megatron(config, str(folder / ADAPTER_CONFIG))
    kind = str(config.get("peft_type"))
    listed = {name.rpartition(".")[-1].removesuffix("Config").upper() for name in BUILDABLE["peft"]}
    if kind not in listed:
        raise UserError(
            f"`peft_type` in {folder / ADAPTER_CONFIG} is {kind}; in an untrusted run it must be "
            f"{' or '.join(sorted(listed))}.",
            CURE,
        )
