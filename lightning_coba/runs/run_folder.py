"""The folder of one run: who may write to it, and what is written besides the logs."""

import importlib.metadata
import json
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from lightning_coba.cli.errors import one_line
from lightning_coba.runs.folder_lock import locked

FORMAT_VERSION = 1
#: What makes a run longer; raised, it lets a finished run go on.
LENGTH = ("max_steps", "max_epochs")
#: What may differ between the start of a run and its resumption: its length, what only watches, and who computes (an
#: optimizer step keeps its rows).
MAY_CHANGE = (
    "resume", "test_before", "callbacks.", "logger.", "trainer.default_root_dir",
    "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.accelerator",
    "data.batch_size", "data.eval_batch_size", "data.num_proc",
    *(f"trainer.{key}" for key in LENGTH),
)  # fmt: skip
#: Seconds to wait for a run that is just being stopped.
PATIENCE = 3.0
ERROR_FILE = "error.txt"
PACKAGES = ("lightning-coba", "lightning", "torch", "transformers", "peft", "hydra-core")


class RunInUseError(FileExistsError):
    """Another process is training the run."""


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

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from training the same run; of several ranks the first does.

        Raises:
            RunInUseError: if another process trains it now.
        """
        with ExitStack() as stack:
            if rank_zero_only.rank == 0:
                try:
                    stack.enter_context(locked(self.path, PATIENCE))
                except BlockingIOError:
                    raise RunInUseError(
                        f"Another process is training the run in {self.path}. Wait for it, or start another with "
                        "name=..."
                    ) from None
            yield

    def claim(self, resume: Any, settings: Mapping[str, Any]) -> Path | None:
        """Take the folder for this run and return the checkpoint to resume from, if there is one.

        Args:
            resume: false, or "auto".
            settings: the resolved configuration.

        Raises:
            ValueError: if ``resume`` is neither of the two, or the run there was started with other settings than may
                change on the way; nothing has been written then.
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
        if taken and rank_zero_only.rank == 0:
            self._refuse_other_settings(settings)
        return found

    def _refuse_other_settings(self, settings: Mapping[str, Any]) -> None:
        file = self.path / "config.yaml"
        if not file.is_file():
            return
        before, now = _flat(OmegaConf.to_container(OmegaConf.load(file))), _flat(settings)
        keys = [k for k in now | before if now.get(k) != before.get(k) and not k.startswith(MAY_CHANGE)]
        if keys:
            listed = "; ".join(f"{key}={before.get(key)}, now {now.get(key)}" for key in keys[:4])
            raise ValueError(
                f"The run in {self.path} was started with {listed}. Resume it with the same settings, or start another "
                "with name=..."
            )

    def is_finished(self, settings: Mapping[str, Any]) -> bool:
        """Return whether the run is complete, and these settings do not ask for more of it."""
        return self.card.get("status") == "finished" and self.card.get("length") == run_length(settings)

    @rank_zero_only
    def write_card(self, **entries: Any) -> None:
        """Add entries to ``run.json``, which is replaced in one move."""
        versions = {name: _version(name) for name in PACKAGES}
        card = self.card | {"format_version": FORMAT_VERSION, "packages": versions} | entries
        if card.get("status") != "failed" and card.pop("error", None):  # of an earlier attempt
            (self.path / ERROR_FILE).unlink(missing_ok=True)
        self.path.mkdir(parents=True, exist_ok=True)
        partial = self._card.with_suffix(".json.partial")
        partial.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, self._card)

    def write_failure(self, error: BaseException, **entries: Any) -> None:
        """Keep what ended the run: one line in ``run.json``, and all of it in ``error.txt``."""
        self.write_card(**entries, status="failed", error=one_line(error))
        if rank_zero_only.rank == 0:
            text = "".join(traceback.format_exception(error))
            (self.path / ERROR_FILE).write_text(text, encoding="utf-8")


def described(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run's card says of its settings from the start."""
    balancer = settings["balancer"]
    method = balancer.get("balancer", balancer)["_target_"].rpartition(".")[-1]
    return {
        "name": settings["name"],
        "method": "CoBa" if method == "ConvergenceBalancer" else method,
        "seed": settings["seed"],
        "suite": settings["suite"],
    }


def checkpoint_step(checkpoint: Path | None) -> int:
    """Return the optimizer step at which a checkpoint was written; 0 for none."""
    if checkpoint is None:
        return 0
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])


def run_length(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that say how long a run is."""
    return {key: settings["trainer"].get(key) for key in LENGTH}


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested settings as ``{"a.b": value}``."""
    if not isinstance(node, Mapping):
        return {prefix.rstrip("."): node}
    return {k: v for key, value in node.items() for k, v in _flat(value, f"{prefix}{key}.").items()}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
