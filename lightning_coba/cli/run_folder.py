"""The folder of one run: who may write to it, and what is written besides the logs."""

import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only

FORMAT_VERSION = 1
PACKAGES = ("lightning-coba", "lightning", "torch", "transformers", "peft", "hydra-core")


class RunFolder:
    """``runs/<name>``: claimed by one run, continued by ``resume=auto``, refused to any other.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._card = path / "run.json"

    @property
    def card(self) -> dict[str, Any]:
        """Contents of ``run.json``; empty before a run has claimed the folder."""
        return json.loads(self._card.read_text(encoding="utf-8")) if self._card.is_file() else {}

    def claim(self, resume: Any) -> Path | None:
        """Take the folder for this run and return the checkpoint to resume from, if there is one.

        Raises:
            ValueError: if ``resume`` is neither false nor "auto".
            FileExistsError: if a run is there and is not to be resumed; one that failed before its first checkpoint
                left nothing to resume, and gives way.
        """
        if resume not in (False, "auto"):
            raise ValueError(f"`resume` must be false or auto; got {resume!r}. Write resume=auto.")
        last = self.path / "checkpoints" / "last.ckpt"
        found = last if last.is_file() else None
        # Of several ranks the first decides; the others may find what it has just written.
        taken = self.card and not (self.card.get("status") == "failed" and found is None)
        if taken and resume != "auto" and rank_zero_only.rank == 0:
            raise FileExistsError(
                f"There is a run in {self.path}. Continue it with resume=auto, or start another with name=..."
            )
        return found

    @rank_zero_only
    def write_card(self, **entries: Any) -> None:
        """Add entries to ``run.json``, which is replaced in one move."""
        versions = {name: _version(name) for name in PACKAGES}
        card = {"format_version": FORMAT_VERSION, "packages": versions} | self.card | entries
        self.path.mkdir(parents=True, exist_ok=True)
        partial = self._card.with_suffix(".json.partial")
        partial.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, self._card)


def checkpoint_step(checkpoint: Path | None) -> int:
    """Return the optimizer step at which a checkpoint was written; 0 for none."""
    if checkpoint is None:
        return 0
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
