"""The folder of one run: who may write to it, how far each of its fits has come, and what its card says."""

import importlib.metadata
import json
import math
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_only

from lightning_coba.errors import DivergedError, FileInTheWayError, UserError
from lightning_coba.folder_lock import locked
from lightning_coba.runs.card import check_entries, read_entries
from lightning_coba.runs.checkpoint_file import checkpoint_to_resume
from lightning_coba.runs.files import RunFiles
from lightning_coba.runs.redaction import without_secrets
from lightning_coba.runs.settings import flat, load_settings
from lightning_coba.runs.whole_file import write_whole

FORMAT_VERSION = 2
#: What makes a fit longer; raised, it lets a finished one go on.
LENGTH = ("max_steps", "max_epochs")
#: What may differ between the start of a fit and its resumption: its length, what only watches, and who computes (an
#: optimizer step keeps its rows).
MAY_CHANGE = (
    "resume", "test_before", "callbacks.", "logger.", "trainer.default_root_dir",
    "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.accelerator",
    "data.batch_size", "data.eval_batch_size", "data.num_proc",
    *(f"trainer.{key}" for key in LENGTH),
)  # fmt: skip
#: What may change with the length: how the learning rate comes to its end.
SCHEDULE = "scheduler."
#: Entries of the card that a system's `card()` may not set.
OWN_ENTRIES = (
    "format_version", "packages", "status", "system", "name", "seed", "suite", "phases", "length", "results", "error",
    "divergence",
)  # fmt: skip
#: Status of a run that no error has ended.
UNDISTURBED = ("running", "finished", "preempted")
#: Status of a run that has ended before its end; without a checkpoint it left nothing, and gives way to another.
ENDED_EARLY = ("failed", "preempted", "diverged")
#: Seconds to wait for a run that is just being stopped.
PATIENCE = 3.0
PACKAGES = ("lightning-coba", "lightning", "torch", "transformers", "peft", "hydra-core")


class RunInUseError(FileInTheWayError):
    """Another process is training the run."""


class RunFolder:
    """``runs/<name>``: claimed by one run, continued by ``resume=auto``, refused to any other.

    Args:
        path: the folder of the run.
        phase: name of one fit of a run of several: it has a folder of its own below, and its status in the run's card.
    """

    def __init__(self, path: Path, phase: str | None = None) -> None:
        self.run = RunFiles(path)
        self.phase = phase
        self.files = self.run if phase is None else self.run.phase(phase)

    @property
    def path(self) -> Path:
        """The folder of the run."""
        return self.run.folder

    @property
    def card(self) -> dict[str, Any]:
        """Contents of ``run.json``; empty before a run has claimed the folder.

        Raises:
            DamagedFileError: it does not hold what a run writes.
        """
        if not self.run.card.is_file():
            return {}
        card = read_entries(self.run.card)
        check_entries(card, self.run.card)
        return card

    @property
    def entries(self) -> dict[str, Any]:
        """What the card says of this fit: the entries of its phase, or, where there is one fit, the card itself.

        Nothing of a phase whose folder was deleted: it is trained again.
        """
        if self.phase is None:
            return self.card
        return self.card.get("phases", {}).get(self.phase, {}) if self.files.folder.is_dir() else {}

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
                        f"Another process is training the run in {self.path}.",
                        "Wait for it, or start another with name=...",
                    ) from None
            yield

    def claim(self, resume: Any, settings: Mapping[str, Any]) -> Path | None:
        """Take the folder for this fit and return the checkpoint to resume from, if there is one.

        Args:
            resume: false, or "auto".
            settings: the resolved configuration of the fit.

        Raises:
            ValueError: if ``resume`` is neither of the two, or the fit there was started with other settings than may
                change on the way; nothing has been written then.
            FileExistsError: if a run is there and is not to be resumed, or has diverged; one that ended before its
                first checkpoint left nothing to resume, and gives way.
        """
        if resume not in (False, "auto"):
            raise UserError(f"`resume` must be false or auto; got {resume!r}.", "Write resume=auto.")
        found = self.files.last_checkpoint.is_file() or self.files.previous_checkpoint.is_file()
        # Of several ranks the first decides; the others may find what it has just written.
        status = self.entries.get("status")
        if status == "diverged" and resume == "auto" and rank_zero_only.rank == 0:
            self._refuse_diverged()
        taken = self.entries and not (status in ENDED_EARLY and not found)
        if taken and rank_zero_only.rank == 0:
            if resume != "auto":
                raise FileInTheWayError(
                    f"There is a run in {self.path}.", "Continue it with resume=auto, or start another with name=..."
                )
            self._refuse_other_settings(settings)
        return checkpoint_to_resume(self.files, set_aside=rank_zero_only.rank == 0)

    def _refuse_diverged(self) -> None:
        step = (self.entries.get("divergence") or {}).get("step")
        at = f" at step {step}" if step else ""
        raise FileInTheWayError(
            f"The run in {self.path} diverged{at}; the same settings would diverge again.",
            "Start another run with name=... and a changed setting, such as a lower optimizer.lr or "
            "trainer.gradient_clip_val.",
        )

    def _refuse_other_settings(self, settings: Mapping[str, Any]) -> None:
        version = self.card.get("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            which = "an earlier" if version < FORMAT_VERSION else "a later"
            raise UserError(
                f"The run in {self.path} was started with {which} version of lightning_coba, whose settings have "
                "another form.",
                "Finish it with that version, or start another run with name=...",
            )
        if not self.files.settings.is_file():
            return
        before = flat(load_settings(self.files.settings))
        now = flat(without_secrets(settings))
        changed = [key for key in now | before if now.get(key) != before.get(key)]
        length = [f"trainer.{key}" for key in LENGTH]
        free = MAY_CHANGE + ((SCHEDULE,) if {*length} & {*changed} else ())
        # The state of a schedule is that of its class.
        keys = [key for key in changed if not key.startswith(free) or key == f"{SCHEDULE}_target_"]
        if keys:
            listed = "; ".join(f"{key}={before.get(key)}, now {now.get(key)}" for key in keys[:4])
            raise UserError(
                f"The run in {self.path} was started with {listed}.",
                f"Resume it with the same settings (its length may change: {', '.join(length)}), or start another with "
                "name=...",
            )

    def is_finished(self, settings: Mapping[str, Any]) -> bool:
        """Return whether the fit is complete, and these settings do not ask for more of it."""
        return self.entries.get("status") == "finished" and self.entries.get("length") == run_length(settings)

    @rank_zero_only
    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Write the resolved configuration of the fit, without secrets of the environment."""
        self.files.folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(without_secrets(settings), sort_keys=False, allow_unicode=True)
        write_whole(self.files.settings, text)

    @rank_zero_only
    def write_card(self, **entries: Any) -> None:
        """Add entries to ``run.json``, which is replaced in one move."""
        versions = {name: _version(name) for name in PACKAGES}
        card = self.card | {"format_version": FORMAT_VERSION, "packages": versions} | entries
        if card.get("status") in UNDISTURBED and card.pop("error", None):  # of an earlier attempt
            card.pop("divergence", None)
            self.run.error.unlink(missing_ok=True)
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.run.card, json.dumps(_strict(without_secrets(card)), indent=2, allow_nan=False) + "\n")

    @rank_zero_only
    def write_entries(self, **entries: Any) -> None:
        """Add entries about this fit to the card: to those of its phase, or, where there is one fit, to the card."""
        if self.phase is None:
            self.write_card(**entries)
        else:
            self.write_card(phases=self.card.get("phases", {}) | {self.phase: self.entries | entries})

    @rank_zero_only
    def write_end(self, status: str, error: BaseException, said: str, **entries: Any) -> None:
        """Keep what ended the run before its end: one that was stopped from outside has only its status.

        Args:
            status: "preempted", or another one, of a run that ended by itself.
            error: kept in ``error.txt``; of a run that diverged, the entry ``divergence`` says the first bad ``step``
                and the ``tasks`` that were bad then.
            said: the same in one line, kept in ``run.json``.
            **entries: of the card.
        """
        outcome: dict[str, Any] = {"status": status}
        if isinstance(error, DivergedError):
            outcome["divergence"] = {"step": error.step, "tasks": list(error.tasks)}
        if self.phase is not None:
            self.write_entries(**outcome)
        if status == "preempted":
            self.write_card(**entries, **outcome)
            return
        self.write_card(**entries, **outcome, error=said)
        trace = without_secrets("".join(traceback.format_exception(error)))
        self.run.error.write_text(trace, encoding="utf-8")


def run_length(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that say how long a fit is."""
    return {key: settings["trainer"].get(key) for key in LENGTH}


def _strict(value: Any) -> Any:
    """Return what JSON can hold: it has no word for NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: _strict(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
