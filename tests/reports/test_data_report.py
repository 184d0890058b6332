import io
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from lightning_coba.data import MultitaskDataModule, Task
from lightning_coba.inspection import Finding, Inspection, RunLength, inspect_data
from lightning_coba.inspection.steps import StepFacts
from lightning_coba.reports.data_report.figure import data_figure
from lightning_coba.reports.data_report.tables import label_table, split_table, step_table, task_table
from lightning_coba.reports.data_report.writing import headline, write_data_report

FINDINGS = [Finding("error", "qa", "broken", "Correct it.", "f.jsonl:3"), Finding("note", "", "odd", "Look.")]


def rows(split, answers):
    return [{"prompt": f"<b>{split}{i:03d}\n", "completion": answer} for i, answer in enumerate(answers)]


@pytest.fixture
def inspection(tokenizer):
    splits = {"train": rows("a", map(str, range(100))), "validation": rows("b", map(str, range(80)))}
    splits["train"] += [splits["validation"][0], {"prompt": "p" * 50 + "\n", "completion": "x"}]
    splits["validation"].append({"prompt": "q\n", "completion": "y" * 50})
    labels = {
        "train": rows("c", ["no"] * 60 + ["yes"] * 40),
        "validation": rows("d", ["no"] * 80),
        "test": rows("e", ["maybe", *["no"] * 34]),
    }
    data = [Task("sums", **splits), Task("qa", **labels)]
    return inspect_data(MultitaskDataModule(data, tokenizer=tokenizer, batch_size=4, max_length=32))


@pytest.fixture
def steps():
    rows = np.array([[3, 1], [0, 4], [4, 0]])
    return StepFacts(("sums", "qa"), rows, rows * 10, rows * 2, 0.25, RunLength(), np.array([8, 8]), 160)


def cells(table):
    return {row[0].text: dict(zip(table.columns, (cell.text for cell in row), strict=True)) for row in table.rows}


def test_the_table_of_tasks_holds_sizes_lengths_and_shares(inspection, steps):
    row = cells(task_table(inspection.tasks, steps))["qa"]
    assert (row["train"], row["val"], row["test"]) == ("100", "64/80", "35")
    assert (row["prompt"], row["completion"]) == ("8/8/8", "3/4/4")
    assert (row["learned"], row["steps"]) == ("42%", "67%")
    assert cells(task_table(inspection.tasks, steps))["sums"]["test"] == "10*"


def test_tasks_that_are_not_planned_have_no_share(inspection):
    steps = StepFacts(("qa",), *[np.ones((1, 1), dtype=int)] * 3, 0.0, RunLength(), np.ones(1), 8)
    assert cells(task_table(inspection.tasks, steps))["sums"]["learned"] == "-"


def test_every_split_has_its_rows_and_faults(inspection):
    splits = cells(split_table(inspection.tasks))
    assert {name: row["source"] for name, row in splits.items() if row["source"] != "its own"} == {
        "sums/test": "carved from train"
    }
    train, validation = splits["sums/train"], splits["sums/validation"]
    assert (train["longest"], train["cut"], train["dropped"]) == ("53", "1", "1")
    assert (validation["rows"], validation["evaluated"], validation["too long"]) == ("80", "64", "1")


def test_labels_are_listed_with_their_shares(inspection):
    row = cells(label_table([task for task in inspection.tasks if task.labels]))["qa"]
    assert (row["labels"], row["majority"], row["unseen in train"]) == ("2", "60%", "1")
    assert "no 60%, yes 40%" in row["share of the training rows"]


def test_steps_are_shown_with_rows_and_tokens(steps):
    shown = cells(step_table(steps, most=2))
    assert shown["qa"]["step 2"] == "4 · 40"
    assert shown["sums"]["step 2"] == "-"
    assert shown["all"]["mean step"] == "4.0 · 40"
    assert "step 3" not in shown["all"]


def test_everything_is_written_and_escaped(tmp_path, inspection):
    write_data_report(replace(inspection, findings=FINDINGS), tmp_path / "out", "my<data>", 32, "tokenizer t")
    page = (tmp_path / "out" / "data.html").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "data.png").stat().st_size > 10_000
    assert "data:image/png;base64," in page
    assert "http" not in page
    for text in ("my&lt;data&gt;", "&lt;b&gt;c0", "f.jsonl:3", "Training would stop: 1 error, 1 note."):
        assert text in page
    assert re.search(r'<span class="learned">no</span><span class="learned special">&lt;eos&gt;</span>', page)
    assert not re.search("<b>|<data>", page)


def test_the_screen_shows_the_answer_last(tmp_path, inspection):
    stream = io.StringIO()
    found = replace(inspection, findings=FINDINGS)
    Console(file=stream, width=80).print(write_data_report(found, tmp_path, "d", 32, ""))
    shown = stream.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    places = [
        shown.index(words) for words in ("64/80", "Rows · tokens", "no<eos>", "Training would stop", "error qa: broken")
    ]
    assert places == sorted(places)


def test_data_that_cannot_be_read_leaves_no_old_picture(tmp_path, inspection):
    write_data_report(inspection, tmp_path, "d", 32, "")
    broken = Inspection(FINDINGS)
    write_data_report(broken, tmp_path, "d", 32, "")
    assert not (tmp_path / "data.png").exists()
    assert "broken" in (tmp_path / "data.html").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"`data_figure.inspection` must have steps"):
        data_figure(broken, 32)


def test_headline_of_clean_data(steps):
    sentences = headline(Inspection([], steps=steps))
    assert sentences[0] == "Training would run: nothing to correct."
    assert "3 optimizer steps" in sentences[1]


def test_the_figure_has_a_panel_of_labels_only_where_there_are_labels(inspection, tokenizer):
    assert len(data_figure(inspection, 32).axes) == 4
    texts = [{"prompt": f"{i}\n", "completion": str(i)} for i in range(100)]
    without = inspect_data(MultitaskDataModule([Task("a", texts)], tokenizer=tokenizer))
    assert len(data_figure(without, 32).axes) == 3
