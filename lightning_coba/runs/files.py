"""Where everything lies in the folder of a run, of a sweep and of a report: the one place that spells the names."""

from dataclasses import dataclass
from pathlib import Path


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

    def phase(self, name: str) -> "RunFiles":
        """Return the files of one fit of a run of several."""
        return RunFiles(self.folder / name)

    @property
    def card(self) -> Path:
        """What the run is, how far it came and what it reached."""
        return self.folder / "run.json"

    @property
    def settings(self) -> Path:
        """The resolved configuration."""
        return self.folder / "config.yaml"

    @property
    def metrics(self) -> Path:
        """Everything that was logged, one row per step."""
        return self.folder / "metrics.csv"

    @property
    def balance(self) -> Path:
        """The balancer's records, one row per record and task."""
        return self.folder / "balance.csv"

    def records(self) -> list[Path]:
        """Return the records of everything that moved weights: the balancer's, then others beside them."""
        others = self.folder.glob(f"{self.balance.stem}-*{self.balance.suffix}")
        return [path for path in (self.balance, *sorted(others)) if path.is_file()]

    @property
    def before_after(self) -> Path:
        """Test loss of each task before and after training."""
        return self.folder / "before_after.csv"

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self.folder / "figures"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint from which a stopped run goes on."""
        return self.checkpoint("last")

    @property
    def best_checkpoint(self) -> Path:
        """The checkpoint with the best objective."""
        return self.checkpoint("best")

    def checkpoint(self, name: str) -> Path:
        """Return a checkpoint by its name, such as ``"best"``."""
        return self.checkpoints / f"{name}.ckpt"

    @property
    def adapter(self) -> Path:
        """Folder of the trained adapter."""
        return self.folder / "adapter"

    @property
    def model(self) -> Path:
        """Folder of the trained model, where it was trained whole."""
        return self.folder / "model"

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer."""
        return self.folder / "tokenizer"

    @property
    def page(self) -> Path:
        """The run as one page."""
        return self.folder / "report.html"

    @property
    def error(self) -> Path:
        """What ended a run that failed, in full."""
        return self.folder / "error.txt"

    @property
    def output(self) -> Path:
        """What a job of a sweep has printed, where several run at a time."""
        return self.folder / "output.log"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's event files."""
        return self.folder / "tensorboard"

    @property
    def wandb_id(self) -> Path:
        """The id under which Weights & Biases knows the run."""
        return self.folder / "wandb_run_id"

    @property
    def mlflow_id(self) -> Path:
        """The id under which MLflow knows the run."""
        return self.folder / "mlflow_run_id"

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

    @property
    def table(self) -> Path:
        """One row per task and metric."""
        return self.folder / "metrics.csv"

    @property
    def card(self) -> Path:
        """The same with how it was measured."""
        return self.folder / "metrics.json"

    @property
    def samples(self) -> Path:
        """Answers to look at."""
        return self.folder / "samples.html"

    @property
    def predictions(self) -> Path:
        """Folder of the answers, one file per task."""
        return self.folder / "predictions"

    @property
    def base_predictions(self) -> Path:
        """Folder of the answers of the model before training."""
        return self.predictions / "base"


@dataclass(frozen=True)
class ReportFiles:
    """Give the path of every file that a comparison of runs writes.

    Args:
        folder: The folder of the report.
    """

    folder: Path

    @property
    def page(self) -> Path:
        """The report as one page."""
        return self.folder / "report.html"

    @property
    def markdown(self) -> Path:
        """The same as Markdown, which needs the figures beside it."""
        return self.folder / "report.md"

    @property
    def runs(self) -> Path:
        """One row per run and task."""
        return self.folder / "runs.csv"

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self.folder / "figures"


def sweep_journal(folder: Path) -> Path:
    """Return the file in the folder of a sweep to which its jobs say what became of them."""
    return folder / "sweep.jsonl"
