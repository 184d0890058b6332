"""Where everything lies in the folder of a run, of a sweep and of a report: the one place that spells the names."""

import re
from dataclasses import dataclass
from pathlib import Path

from lightning_coba.errors import UserError

_PHASE = re.compile(r"[A-Za-z0-9_-]+")


class _Named:
    """The path of a name in the folder of whoever has it as an attribute."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, files: "RunFiles | EvaluationFiles | ReportFiles | None", owner: type) -> Path:
        return files.folder / self.name if files is not None else Path(self.name)


@dataclass(frozen=True)
class RunFiles:
    """Give the path of every file in a run folder, or in the folder of one of its phases.

    Args:
        folder: The run folder.

    Example:
        >>> RunFiles(Path("runs/demo")).phase("search").last_checkpoint.as_posix()
        'runs/demo/search/checkpoints/last.ckpt'
    """

    folder: Path

    card = _Named("run.json")  # what the run is, how far it came and what it reached
    settings = _Named("config.yaml")  # the resolved configuration
    metrics = _Named("metrics.csv")  # everything that was logged, one row per step
    balance = _Named("balance.csv")  # the balancer's records, one row per record and task
    before_after = _Named("before_after.csv")  # test loss of each task before and after training
    page = _Named("report.html")  # the run as one page
    figures = _Named("figures")
    checkpoints = _Named("checkpoints")
    last_checkpoint = _Named("checkpoints/last.ckpt")  # from which a stopped run goes on
    previous_checkpoint = _Named("checkpoints/previous.ckpt")  # the one before, should the last be damaged
    best_checkpoint = _Named("checkpoints/best.ckpt")  # with the best objective
    adapter = _Named("adapter")
    model = _Named("model")  # where it was trained whole
    tokenizer = _Named("tokenizer")
    error = _Named("error.txt")  # what ended a run that failed, in full
    output = _Named("output.log")  # what a job of a sweep has printed, where several run at a time
    tensorboard = _Named("tensorboard")
    wandb_id = _Named("wandb_run_id")  # under which Weights & Biases knows the run
    mlflow_id = _Named("mlflow_run_id")

    def phase(self, name: str) -> "RunFiles":
        """Return the files of one fit of a run of several.

        Raises:
            UserError: The name is none of a folder in that of the run.
        """
        if not _PHASE.fullmatch(name):
            raise UserError(
                f"a phase must have a name of letters, digits, _ and -; got {name!r}.",
                "Restore `phases` in the card.",
                where=str(self.card),
            )
        return RunFiles(self.folder / name)

    def checkpoint(self, name: str) -> Path:
        """Return a checkpoint by its name, such as ``"best"``."""
        return self.checkpoints / f"{name}.ckpt"

    def records(self) -> list[Path]:
        """Return the records of everything that moved weights: the balancer's, then others beside them."""
        others = self.folder.glob(f"{self.balance.stem}-*{self.balance.suffix}")
        return [path for path in (self.balance, *sorted(others)) if path.is_file()]

    def evaluation(self, split: str = "test") -> "EvaluationFiles":
        """Return the files of an evaluation of the run's model on a split."""
        return EvaluationFiles(self.folder / ("evaluation" if split == "test" else f"evaluation-{split}"))

    def export(self, kind: str) -> Path:
        """Return the folder of an export: ``"adapter"``, ``"merged"`` or ``"model"``."""
        return self.folder / "export" / kind


@dataclass(frozen=True)
class EvaluationFiles:
    """Give the path of every file of an evaluation.

    Args:
        folder: The folder of the evaluation, in the folder of its run or elsewhere.
    """

    folder: Path

    table = _Named("metrics.csv")  # one row per task and metric
    card = _Named("metrics.json")  # the same with how it was measured
    samples = _Named("samples.html")  # answers to look at
    predictions = _Named("predictions")  # the answers, one file per task
    base_predictions = _Named("predictions/base")  # those of the model before training


@dataclass(frozen=True)
class ReportFiles:
    """Give the path of every file that a comparison of runs writes.

    Args:
        folder: The folder of the report.
    """

    folder: Path

    page = _Named("report.html")
    markdown = _Named("report.md")  # needs the figures beside it
    runs = _Named("runs.csv")  # one row per run and task
    figures = _Named("figures")


def sweep_journal(folder: Path) -> Path:
    """Return the file in the folder of a sweep to which its jobs say what became of them."""
    return folder / "sweep.jsonl"
