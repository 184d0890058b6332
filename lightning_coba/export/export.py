"""Write the model of a run into a folder of its own, all of it or nothing."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_coba.errors import FileInTheWayError, UserError
from lightning_coba.export.base_model import BaseModel
from lightning_coba.export.readme import MARK, model_card
from lightning_coba.runs.trained_run import CHECKPOINTS, TrainedRun
from lightning_coba.runs.whole_file import follow_umask

DTYPES = ("float32", "bfloat16", "float16")
#: The files of a PEFT adapter.
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def export_run(
    run: TrainedRun | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    merge: bool = False,
    checkpoint: str = "final",
    dtype: str | None = None,
    device: str = "cpu",
    base: str | None = None,
    license: str | None = None,  # noqa: A002 - the model card's own word
    force: bool = False,
) -> Path:
    """Write what a run trained as a folder that transformers, or PEFT, loads without this package.

    Use it to publish a model, to serve it, or to go on with it elsewhere. The folder holds safetensors, the
    configurations, the tokenizer with its chat template, and a model card (``README.md``) with tasks, data, balancer,
    weights, results, settings, versions and citations.

    Args:
        run: opened, or its folder.
        out: folder to write; None = ``RUN/export/merged`` (``model`` after full fine-tuning, ``adapter`` without
            ``merge``).
        merge: whether the adapter is added into the base model's weights, which are then written whole. After full
            fine-tuning the model is written whole anyway.
        checkpoint: ``"final"``, ``"best"`` or ``"last"``; see :meth:`TrainedRun.load_model`.
        dtype: of whole weights: ``"float32"``, ``"bfloat16"`` or ``"float16"``; None = that of the training. An adapter
            by itself stays as it was trained.
        device: where the weights are added.
        base: of an adapter by itself: hub id or path under which others find its base model; None = as in the run.
        license: identifier such as ``"apache-2.0"`` for the model card; None = none is claimed.
        force: whether an earlier export in ``out`` is replaced.

    Returns:
        The folder.

    Raises:
        ValueError: An argument is outside its domain, the adapter cannot be merged, or the run is of a system other
            than multitask.
        FileExistsError: ``out`` holds something, and it is no earlier export or ``force`` is off.
        FileNotFoundError: The run, its weights or its base model are not there.

    Example:
        >>> folder = export_run("runs/demo-coba-seed1", merge=True, dtype="bfloat16")  # doctest: +SKIP
    """
    run = run if isinstance(run, TrainedRun) else TrainedRun.open(run)
    run.require_system("coba-export")
    whole = merge or not run.has_adapter
    _check(checkpoint, dtype, base, whole)
    kind = "adapter" if not whole else "merged" if run.has_adapter else "model"
    folder = Path(out).expanduser() if out is not None else run.files.export(kind)
    _refuse_what_is_there(folder, force)
    model_of_run = BaseModel.of(run, base)
    with _replacing(folder) as partial:
        if whole:
            model = _whole_model(run, checkpoint, dtype, device)
            model.save_pretrained(partial, max_shard_size="5GB")
            dtype = str(model.dtype).removeprefix("torch.")
        else:
            _write_adapter(run, partial, checkpoint, device, model_of_run.name)
        run.tokenizer.save_pretrained(partial)
        card = model_card(run, whole=whole, checkpoint=checkpoint, dtype=dtype, base=model_of_run, license=license)
        card.write(partial)
    return folder


def _check(checkpoint: str, dtype: str | None, base: str | None, whole: bool) -> None:
    trained = [name for name in CHECKPOINTS if name != "base"]
    if checkpoint not in trained:
        raise UserError(
            f"`export_run.checkpoint` must be one of {', '.join(trained)}; got {checkpoint!r}.", "Choose one."
        )
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"`export_run.dtype` must be one of {', '.join(DTYPES)}; got {dtype!r}.", "Choose one.")
    if dtype is not None and not whole:
        raise UserError(
            "`export_run.dtype` must be left out for an adapter by itself, which stays as it was trained; got "
            f"{dtype}.",
            "Leave it out, or merge.",
        )
    if base is not None and whole:
        raise UserError(
            "`export_run.base` must be left out where whole weights are written, which need no other model; got "
            f"{base!r}.",
            "Leave it out.",
        )


def _whole_model(run: TrainedRun, checkpoint: str, dtype: str | None, device: str) -> Any:
    """Return the trained model without an adapter; sums are made in float32."""
    import torch

    settings = run.settings["model"]
    if run.has_adapter:
        from lightning_coba.export.merge import merge_adapter

        # Weights of 4 bits cannot take small changes: the adapter goes into those that they were made from.
        full = replace(run, settings={**run.settings, "model": {**settings, "load_in_4bit": False}})
        model: Any = merge_adapter(full.load_model(checkpoint, device, "float32"))  # type: ignore[arg-type]
    else:
        model = run.load_model(checkpoint, device)
    return model.to(dtype=getattr(torch, dtype or settings.get("dtype", "float32")))


def _write_adapter(run: TrainedRun, folder: Path, checkpoint: str, device: str, base: str) -> None:
    saved = run.files.adapter
    if checkpoint == "final" and saved.is_dir():
        for name in ADAPTER_FILES:  # the base model may be far away
            shutil.copyfile(saved / name, folder / name)
    else:
        run.load_model(checkpoint, device).save_pretrained(str(folder))
    file = folder / ADAPTER_FILES[0]
    settings = json.loads(file.read_text(encoding="utf-8"))
    # What the run wrote may be a folder of this machine's cache.
    file.write_text(json.dumps(settings | {"base_model_name_or_path": base}, indent=2) + "\n", encoding="utf-8")


def _refuse_what_is_there(folder: Path, force: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    card = folder / "README.md"
    if not (card.is_file() and MARK in card.read_text(encoding="utf-8", errors="replace")):
        raise FileInTheWayError(
            f"`export_run.out` must be a new folder or an earlier export; {folder} holds something else.",
            "Name another with --out.",
        )
    if not force:
        raise FileInTheWayError(
            f"There is an export in {folder}.", "Replace it with --force, or name another with --out."
        )


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Give a folder beside the wanted one, which takes its place if all goes well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as beside:
        partial, old = Path(beside, "new"), Path(beside, "old")
        partial.mkdir()
        yield partial
        follow_umask(partial)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
