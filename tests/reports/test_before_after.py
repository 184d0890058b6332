import csv
import io
import math

import pytest
from rich.console import Console

from lightning_coba.reports import before_after_rows, before_after_table, write_before_after

BEFORE = {"code": 1.0, "qa": 4.0, "nlu": 2.0}
AFTER = {"nlu": 2.5, "code": 0.5, "qa": 1.0}


def test_rows_keep_the_order_of_before_and_end_in_the_unweighted_mean():
    *tasks, mean = before_after_rows(BEFORE, AFTER, tokens={"code": 10, "qa": 1000, "nlu": 1})
    assert [(row["task"], row["ratio"]) for row in tasks] == [("code", 0.5), ("qa", 0.25), ("nlu", 1.25)]
    assert mean == {
        "task": "mean",
        "test_loss_before": pytest.approx(7 / 3),
        "test_loss_after": pytest.approx(4 / 3),
        "ratio": pytest.approx(2 / 3),
        "tokens": 1011,
    }


def test_a_perfect_start_has_no_ratio():
    assert math.isnan(before_after_rows({"a": 0.0}, {"a": 1.0})[0]["ratio"])


def test_the_file_reads_back_exactly(tmp_path):
    rows = before_after_rows({"a": 0.1 + 0.2, "b": 3.0}, {"a": 1 / 3, "b": 2.0}, tokens={"a": 1, "b": 2})
    write_before_after(tmp_path / "before_after.csv", rows)
    with (tmp_path / "before_after.csv").open(newline="") as stream:
        reader = csv.DictReader(stream)
        read = list(reader)
    assert reader.fieldnames == ["task", "test_loss_before", "test_loss_after", "ratio"]
    assert [row["task"] for row in read] == ["a", "b", "mean"]
    for wanted, got in zip(rows, read, strict=True):
        assert all(float(got[name]) == wanted[name] for name in reader.fieldnames[1:])


@pytest.mark.parametrize("tokens", [None, {"code": 12345, "qa": 7, "nlu": 1}])
def test_the_table_says_what_it_shows(tokens):
    console = Console(width=100, file=io.StringIO())
    console.print(before_after_table(before_after_rows(BEFORE, AFTER, tokens)))
    text = " ".join(console.file.getvalue().split())
    for words in ("TEST split", "per completion token", "lower is better", "mean", "1.250"):
        assert words in text
    assert ("12,345" in text) == (tokens is not None)


def test_other_tasks_after_than_before_are_refused_by_name():
    with pytest.raises(ValueError, match=r"`before_after_rows\.after` must name .* got code"):
        before_after_rows(BEFORE, {"code": 1.0})
    with pytest.raises(ValueError, match="tokens"):
        before_after_rows(BEFORE, AFTER, tokens={"other": 1})
    with pytest.raises(ValueError, match="at least one task"):
        before_after_rows({}, {})
