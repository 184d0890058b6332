"""The view of a notebook in the process that trains."""

import pytest
from foreign import SHORT_RUNS, TASKS, Foreign, fit

from lightning_coba import ConvergenceBalancer
from lightning_coba.balancers import Uniform
from lightning_coba.balancing import TaskBalancing
from lightning_coba.callbacks import NotebookView
from lightning_coba.simplex import notebook

pytestmark = pytest.mark.filterwarnings(SHORT_RUNS, "ignore:.*never used")
COBA = {"window_records": 3, "warmup_records": 1}


@pytest.fixture
def shown(monkeypatch):
    """Return what an output below the cell was given to show: this is no notebook."""
    given = []

    class Output:
        def show(self, html):
            given.append(html)

    monkeypatch.setattr(notebook, "NotebookOutput", Output)
    return given


def test_it_is_drawn_after_every_nth_pass_and_at_the_end(shown):
    fit(Foreign(), ConvergenceBalancer(**COBA), NotebookView(2), max_epochs=3)
    begin, second, end = shown
    assert "Training has begun" in begin
    assert "Step 12" in second
    assert "Step 18" in end
    for html in (second, end):
        assert html.count("<img") == 2
        assert all(f"<th>{task}</th>" in html for task in TASKS)


def test_two_balancers_are_named_each_with_its_curves(shown):
    second = TaskBalancing(Uniform(), attribute="other_weights", tasks=TASKS)
    fit(Foreign(), ConvergenceBalancer(**COBA), second, NotebookView(), max_epochs=1)
    first, other = shown[-1].split("<h3>other_weights</h3>")
    assert "<h3>balance</h3>" in first
    assert first.count("<img") == other.count("<img") == 2


def test_losses_are_shown_where_nothing_moves(shown):
    fit(Foreign(steers=False), NotebookView(), max_epochs=1)
    assert "<th>val loss</th>" in shown[-1]
    assert "<img" not in shown[-1]


def test_names_are_shown_as_they_are_written():
    html = notebook.notebook_html("1 < 2", [(notebook.html_table("a & b", {"task": ["<i>"], "loss": ["1"]}), [])])
    assert "<b>1 &lt; 2</b>" in html
    assert "<h3>a &amp; b</h3>" in html
    assert "<th>&lt;i&gt;</th><td>1</td>" in html


def test_the_number_of_passes_must_be_positive_and_a_missing_notebook_is_named(monkeypatch):
    with pytest.raises(ValueError, match=r"`NotebookView.every_n_validations` must be >= 1; got 0"):
        NotebookView(0)
    monkeypatch.setitem(__import__("sys").modules, "IPython.display", None)
    with pytest.raises(ModuleNotFoundError, match=r"lightning-coba\[notebook\]"):
        fit(Foreign(), ConvergenceBalancer(**COBA), NotebookView(), max_epochs=1)
