"""What an evaluation found: as an object, as a table, and as files."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lightning_coba.evaluation.rows import EvaluationRow
from lightning_coba.evaluation.scores import Score
from lightning_coba.runs.files import EvaluationFiles


@dataclass(frozen=True)
class Measured:
    """One metric of one task.

    Attributes:
        score: of the model.
        rows: it rests on.
        per_row: the metric of each of these rows alone.
        base: of the base model on the same rows, where asked for.
        difference: score - base, with the interval of the paired difference.
    """

    score: Score
    rows: int
    per_row: list[float] = field(repr=False)
    base: Score | None = None
    difference: Score | None = None


@dataclass(frozen=True)
class TaskResult:
    """What was found of one task.

    Attributes:
        metrics: name -> result, the main one first.
        rows: that were answered.
        answers: to each row, of which the first is shown.
        base_answers: those of the base model; empty where not asked for.
        seconds: that the answers took, this time; 0 for those that were there already.
        notes: what did not run, and why.
    """

    metrics: dict[str, Measured]
    rows: list[EvaluationRow] = field(repr=False)
    answers: list[list[str]] = field(repr=False)
    base_answers: list[list[str]] = field(default_factory=list, repr=False)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """The metrics of each task, with intervals.

    Attributes:
        tasks: task -> result.
        split: which split; numbers of ``"validation"`` chose the checkpoint and are no test results.
        settings: how the answers were made.

    Example:
        >>> evaluation = evaluate("runs/demo-coba-seed1", base=True)  # doctest: +SKIP
        >>> rich.print(evaluation.table())  # doctest: +SKIP
        >>> evaluation.tasks["code"].metrics["chrf"].score.value  # doctest: +SKIP
    """

    tasks: dict[str, TaskResult]
    split: str
    settings: Mapping[str, Any]

    def table(self) -> Table:
        """Return a `rich` table: a line per task and metric, with 95 % intervals."""
        with_base = any(measured.base for _, _, measured in self._measured())
        table = Table(
            title=f"Metrics of generated answers on the {self.split.upper()} split, in % (higher is better)",
            caption="low..high: 95 % interval when the rows are drawn again."
            + (" change: against the same rows before training." if with_base else ""),
            box=SIMPLE_HEAD,
            collapse_padding=True,
            pad_edge=False,
        )
        table.add_column("task", no_wrap=True)
        table.add_column("metric", no_wrap=True)
        for name in ("value  low..high", "rows", *(("before", "change  low..high") if with_base else ("seconds",))):
            table.add_column(name, justify="right", overflow="fold")
        for task, result in self.tasks.items():
            for number, (name, measured) in enumerate(result.metrics.items()):
                cells = [task if number == 0 else "", name, _with_interval(measured.score), str(measured.rows)]
                if measured.base is not None and measured.difference is not None:
                    cells += [f"{100 * measured.base.value:.1f}", _with_interval(measured.difference, "+.1f")]
                elif number == 0:
                    cells.append(f"{result.seconds:.0f}")
                table.add_row(*cells)
            table.add_section()
        return table

    @property
    def notes(self) -> list[str]:
        """What did not run, and why."""
        return [f"{task}: {note}" for task, result in self.tasks.items() for note in result.notes]

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of ``metrics.csv``."""
        found = []
        for task, name, measured in self._measured():
            row = {"task": task, "metric": name, **asdict(measured.score), "rows": measured.rows}
            if measured.base is not None and measured.difference is not None:
                change = measured.difference
                row |= {"base": measured.base.value, "difference": change.value}
                row |= {"difference_low": change.low, "difference_high": change.high}
            found.append(row)
        return found

    def write(self, files: EvaluationFiles) -> None:
        """Write ``metrics.csv`` and ``metrics.json``."""
        files.folder.mkdir(parents=True, exist_ok=True)
        rows = self.rows()
        with files.table.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        card = {"format": 1, "split": self.split, "settings": dict(self.settings), "tasks": self._tasks_card()}
        files.card.write_text(json.dumps(card, indent=2, default=str) + "\n", encoding="utf-8")

    def _tasks_card(self) -> dict[str, Any]:
        return {
            task: {
                "rows": len(result.rows),
                "seconds": round(result.seconds, 2),
                "notes": result.notes,
                "metrics": {
                    name: asdict(measured.score)
                    | {key: value for key, value in asdict(measured).items() if key in ("rows", "base", "difference")}
                    for name, measured in result.metrics.items()
                },
            }
            for task, result in self.tasks.items()
        }

    def _measured(self) -> Iterator[tuple[str, str, Measured]]:
        for task, result in self.tasks.items():
            for name, measured in result.metrics.items():
                yield task, name, measured


def _with_interval(score: Score, form: str = ".1f") -> str:
    value = format(100 * score.value, form)
    if score.low is None or score.high is None:
        return value
    return f"{value}  {format(100 * score.low, form)}..{format(100 * score.high, form)}"
