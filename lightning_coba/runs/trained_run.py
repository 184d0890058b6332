"""A run folder, opened again: the model it trained, its tokenizer and its data."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lightning_coba.errors import MissingFileError, UserError
from lightning_coba.runs.building import build, refuse_unlisted
from lightning_coba.runs.card import MULTITASK, Result, check_entries, mapping, read_card, results_of
from lightning_coba.runs.collection import fits_of
from lightning_coba.runs.files import RunFiles
from lightning_coba.runs.received import refuse_links_out
from lightning_coba.runs.run_weights import RESTORE, RunWeights
from lightning_coba.runs.settings import read_settings
from lightning_coba.user_files import refusals

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lightning_coba.data import MultitaskDataModule

#: Which weights of a run: those it ended with (of the best validation pass), a checkpoint, or those it began with.
CHECKPOINTS = ("final", "best", "last", "base")


@dataclass(frozen=True)
class TrainedRun:
    """What ``coba-train`` left in a folder, as objects.

    Use it in a notebook, to generate with a model, to evaluate or to export it. Opening reads two small files; models
    and data are loaded when they are asked for. Nothing in the folder is executed, unless it is trusted.

    Args:
        path: The run folder.
        card: Contents of ``run.json``.
        settings: Contents of ``config.yaml``: the resolved configuration, of several fits that of the last.
        trust_code: Whether its configuration may build anything, such as a DataModule of your own, and its folder may
            hold pickled weights and links to other places.
        trust_remote_code: Whether code that comes with its model may run, where its configuration asks for that.

    Example:
        >>> run = TrainedRun.open("runs/demo-coba-seed1")  # doctest: +SKIP
        >>> model, tokenizer = run.load_model(), run.tokenizer  # doctest: +SKIP
    """

    path: Path
    card: Mapping[str, Any] = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)
    trust_code: bool = False
    trust_remote_code: bool = False

    @classmethod
    def open(cls, folder: str | os.PathLike[str], trust_code: bool = False, trust_remote_code: bool = False) -> Self:
        """Open a run folder, of a finished run or of one that has written a checkpoint.

        Args:
            folder: The run folder, which may be somebody else's.
            trust_code: Whether what its configuration names is built, whatever that is: in a folder of your own, or
                one that you have read.
            trust_remote_code: Whether code that comes with its model may run, where its configuration asks for that.

        Raises:
            FileNotFoundError: the folder is not one of a run.
            ValueError: it holds links to places outside, and it is not trusted.
        """
        path = Path(folder).expanduser()
        files = RunFiles(path)
        missing = [file.name for file in (files.card, files.settings) if not file.is_file()]
        if missing:
            raise MissingFileError(
                f"RUN must be the folder of a run of coba-train; got {path}, which has no "
                f"{missing[0]}.{_runs_below(path)}"
            )
        if not trust_code:
            refuse_links_out(path)
        card = read_card(files.card)
        check_entries(card, files.card)
        run = cls(path, card, read_settings(files.settings), trust_code, trust_remote_code)
        if run.system == MULTITASK:
            run._check_shape(files)
        return run

    def _check_shape(self, files: RunFiles) -> None:
        """Refuse files that lack what evaluation and export ask for."""
        tasks, model = self.card.get("tasks"), mapping(self.settings.get("model")).get("model")
        if not (isinstance(tasks, list) and all(isinstance(task, str) for task in tasks)):
            raise UserError("`tasks` must list the names of tasks.", "Restore the file.", where=str(files.card))
        if not self.trust_code:
            refuse_unlisted("model", self.settings.get("model"))
        if not isinstance(model, str):
            raise UserError("`model.model` must name a model.", "Restore the file.", where=str(files.settings))

    @property
    def files(self) -> RunFiles:
        """Where its results lie: in its folder, or in that of its last phase."""
        return fits_of(self.path, mapping(self.card.get("phases")))[-1]

    @property
    def system(self) -> str:
        """What was trained, such as ``"multitask"``."""
        return str(self.card.get("system") or MULTITASK)

    def require_system(self, command: str, system: str = MULTITASK) -> None:
        """Refuse a run of another system than a command serves.

        Args:
            command: Its name, for the message.
            system: The system that it serves.

        Raises:
            ValueError: The run is of another system; the message says where its results and its model are.
        """
        if self.system == system:
            return
        model = f"; its model: {self.files.model}" if self.files.model.is_dir() else ""
        raise UserError(
            f"{command} serves runs of system={system}; the run in {self.path} is of system={self.system}.",
            f"Its results: coba-report {self.path}{model}.",
        )

    @property
    def results(self) -> dict[str, Result]:
        """What its test pass measured after training, by key, the primary result first; empty before."""
        return results_of(self.card.get("results"))

    @property
    def results_before(self) -> dict[str, Result]:
        """The same before training; empty where that was not measured."""
        return results_of(self.card.get("results_before"))

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks it was trained on."""
        return list(self.card["tasks"])

    @property
    def name(self) -> str:
        """What the run is called."""
        return str(self.card.get("name") or self.path.resolve().name)

    @property
    def is_finished(self) -> bool:
        """Whether it trained to its end."""
        return self.card.get("status") == "finished"

    @property
    def has_adapter(self) -> bool:
        """Whether it trained a PEFT adapter, and not the whole model."""
        return self._weights.has_adapter

    @property
    def base_model(self) -> str:
        """Name or path of the model that it began with."""
        return self._weights.base_model

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer it was trained with."""
        from lightning_coba.models import load_tokenizer

        saved = self.files.tokenizer
        source, remote = str(saved) if saved.is_dir() else self.base_model, self._weights.remote_code()
        with refusals("the tokenizer cannot be loaded", RESTORE, source):
            return load_tokenizer(source, remote)

    def load_model(
        self, checkpoint: str = "final", device: str = "cpu", dtype: str | None = None
    ) -> "PreTrainedModel | PeftModel":
        """Load the trained model in evaluation mode; each call loads it again.

        Args:
            checkpoint: ``"final"``: what the run ended with, the weights of its best validation pass. ``"best"`` and
                ``"last"``: of a checkpoint, which an unfinished run has too. ``"base"``: the model before training.
            device: of torch, such as ``"cuda"``.
            dtype: of the weights, such as ``"bfloat16"``; None = that of the training.

        Returns:
            A ``PeftModel`` around the base model where an adapter was trained.

        Raises:
            ValueError: ``checkpoint`` is none of these, or the run is of a system other than multitask.
            FileNotFoundError: the run has no such weights, or the base model is not where it was.
        """
        self.require_system("`TrainedRun.load_model`")
        if checkpoint not in CHECKPOINTS:
            raise UserError(
                f"`TrainedRun.load_model.checkpoint` must be one of {', '.join(CHECKPOINTS)}; got {checkpoint!r}.",
                "Choose one.",
            )
        if checkpoint == "base":
            model = self._weights.base(dtype)[0]
        elif checkpoint == "final":
            model = self._weights.final(dtype)
        else:
            model = self._weights.of_checkpoint(checkpoint, dtype)
        return model.to(device).eval()

    def load_datamodule(self, **changes: Any) -> "MultitaskDataModule":
        """Return the data of the run with its tokenizer; call ``setup("test")`` to read it.

        Args:
            **changes: arguments of the datamodule that differ from the run's, such as ``root="elsewhere"`` or
                ``test_rows=100``.

        Raises:
            FileNotFoundError: the data is not where it was.
        """
        settings = {name: value for name, value in mapping(self.settings.get("data")).items() if name not in changes}
        try:
            datamodule = build("data", settings | changes, self.trust_code)
        except Exception as error:
            if isinstance(error, UserError) and not isinstance(error, FileNotFoundError):
                raise
            while isinstance(error.__cause__, Exception):
                error = error.__cause__
            if isinstance(error, FileNotFoundError) and "root" not in changes:
                raise MissingFileError(
                    f"The data of the run is not at {settings.get('root')!r}, seen from {Path.cwd()}.",
                    "Go to the folder where it was trained, or name the data's new place.",
                ) from error
            raise error from None
        if self.system == MULTITASK:
            datamodule.tokenizer = self.tokenizer
        return datamodule

    @property
    def _weights(self) -> RunWeights:
        has_diverged = self.card.get("status") == "diverged"
        trusted = self.trust_code, self.trust_remote_code
        return RunWeights(self.path, self.files, self.settings, has_diverged, *trusted)


def _runs_below(path: Path) -> str:
    """Return which runs there are in a folder that is none, for a person who gave it."""
    if not path.is_dir():
        return " There is no such folder."
    name = RunFiles(path).card.name
    runs = sorted(str(card.parent) for card in (*path.glob(f"*/{name}"), *path.glob(f"*/*/{name}")))
    return f" Give one of the runs in it: {', '.join(runs[:5])}." if runs else " Give runs/<name>."
