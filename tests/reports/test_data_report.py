import io
import re

import numpy as np
import pytest
from rich.console import Console

from lightning_coba.inspection.example import Example, Piece
from lightning_coba.inspection.findings import Finding
from lightning_coba.inspection.inspecting import Inspection
from lightning_coba.inspection.lengths import SplitFacts
from lightning_coba.inspection.steps import RunLength, StepFacts
from lightning_coba.inspection.texts import LabelFacts
from lightning_coba.reports.data_report.figure import data_figure
from lightning_coba.reports.data_report.tables import label_table, split_table, step_table, task_table
from lightning_coba.reports.data_report.writing import headline, write_data_report

TASKS = ("a<b", "qa")


def split(task, name, rows, shown=None, carved=False):
    tokens = np.arange(1, rows + 1)
    return SplitFacts(task, name, rows, shown or rows, carved, tokens, np.full(rows, 2), 1, 2, 3)


@pytest.fixture
def inspection():
    splits = [
        one
        for task in TASKS
        for one in (split(task, "train", 100), split(task, "validation", 80, 64), split(task, "test", 9, carved=True))
    ]
    rows = np.array([[3, 1], [0, 4], [4, 0]])
    steps = StepFacts(TASKS, rows, rows * 10, rows * 2, 0.25, RunLength())
    pieces = [Piece("x\n<b>", False, False), Piece("yes", True, False), Piece("<eos>", True, True)]
    findings = [
        Finding("error", "qa", "broken", "Mend it.", "f.jsonl:3"),
        Finding("note", "", "odd", "Look."),
    ]
    labels = [LabelFacts("qa", {"no": 60, "yes": 40}, 0.6, ("maybe",))]
    return Inspection(findings, splits, labels, [Example("qa", "f.jsonl:7", pieces)], steps)


def cells(table):
    return {row[0].text: dict(zip(table.columns, (cell.text for cell in row), strict=True)) for row in table.rows}


def test_the_table_of_tasks_holds_sizes_lengths_and_shares(inspection):
    row = cells(task_table(inspection.splits, inspection.steps))["qa"]
    assert (row["train"], row["val"], row["test"]) == ("100", "64/80", "9*")
    assert row["prompt"] == "50/95/100"
    assert row["completion"] == "2/2/2"
    assert (row["learned"], row["steps"]) == ("42%", "67%")


def test_tasks_that_are_not_planned_have_no_share(inspection):
    steps = StepFacts(("qa",), *[np.ones((1, 1), dtype=int)] * 3, 0.0, RunLength())
    assert cells(task_table(inspection.splits, steps))["a<b"]["learned"] == "-"


def test_the_other_tables_name_every_split_label_and_step(inspection):
    row = cells(split_table(inspection.splits))["qa/test"]
    assert (row["source"], row["longest"]) == ("carved from train", "11")
    assert (row["cut"], row["too long"], row["dropped"]) == ("1", "2", "3")
    labels = cells(label_table(inspection.labels))["qa"]
    assert (labels["majority"], labels["unseen in train"]) == ("60%", "1")
    assert "no 60%, yes 40%" in labels["share of the training rows"]
    steps = cells(step_table(inspection.steps, most=2))
    assert steps["qa"]["step 2"] == "4 · 40"
    assert steps["a<b"]["step 2"] == "-"
    assert steps["all"]["mean step"] == "4.0 · 40"
    assert "step 3" not in steps["all"]


def test_everything_is_written_and_escaped(tmp_path, inspection):
    write_data_report(inspection, tmp_path / "out", "my<data>", 64, "tokenizer t")
    page = (tmp_path / "out" / "data.html").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "data.png").stat().st_size > 10_000
    assert "data:image/png;base64," in page
    assert "http" not in page
    for text in ("my&lt;data&gt;", "a&lt;b", "x\n&lt;b&gt;", "f.jsonl:3", "Training would stop: 1 error, 1 note."):
        assert text in page
    assert '<span class="learned">yes</span><span class="learned special">&lt;eos&gt;</span>' in page
    assert not re.search("<b>|<data>", page)


def test_the_screen_shows_the_answer_last(tmp_path, inspection):
    stream = io.StringIO()
    Console(file=stream, width=80).print(write_data_report(inspection, tmp_path, "d", 64, ""))
    shown = stream.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    places = [
        shown.index(words) for words in ("64/80", "mean step", "yes<eos>", "Training would stop", "error qa: broken")
    ]
    assert places == sorted(places)


def test_data_that_cannot_be_read_leaves_no_old_picture(tmp_path, inspection):
    write_data_report(inspection, tmp_path, "d", 64, "")
    broken = Inspection(inspection.findings)
    write_data_report(broken, tmp_path, "d", 64, "")
    assert not (tmp_path / "data.png").exists()
    assert "broken" in (tmp_path / "data.html").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"`data_figure.inspection` must have steps"):
        data_figure(broken, 64)


def test_headline_of_clean_data(inspection):
    clean = Inspection([], inspection.splits, steps=inspection.steps)
    assert headline(clean)[0] == "Training would run: nothing to correct."
    assert "3 optimizer steps" in headline(clean)[1]


def test_the_figure_has_a_panel_of_labels_only_where_there_are_labels(inspection):
    assert len(data_figure(inspection, 64).axes) == 4
    without = Inspection([], inspection.splits, steps=inspection.steps)
    assert len(data_figure(without, 64).axes) == 3
