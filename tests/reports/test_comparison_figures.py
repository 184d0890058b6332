import numpy as np
import pytest

from lightning_coba.reports import compare, group_suites
from lightning_coba.reports.comparison.method_figures import (
    best_steps_figure,
    change_figure,
    curves_figure,
    method_styles,
)
from lightning_coba.runs import read_run


@pytest.fixture
def comparison(write_run):
    tasks = [f"task_{k}" for k in range(5)]
    factors = {"Uniform": 1.0, "CoBa": 0.9, "FAMO": 1.1}
    runs = []
    for method, factor in factors.items():
        loss = {task: factor * (1 + k) for k, task in enumerate(tasks)}
        best = {task: 10 * (1 + k % 3) for k, task in enumerate(tasks)}
        runs += [read_run(write_run(method, 1, loss, best=best))]
    [suite] = group_suites(runs)
    return compare(suite, suite.groups[0])


def words(axes):
    return [text.get_text() for text in axes.texts]


def test_changes_are_written_into_their_cells_with_a_row_of_means(comparison):
    [axes] = change_figure(comparison).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["CoBa", "FAMO"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [*comparison.tasks, "mean"]
    assert words(axes)[:12] == ["-10.0", "+10.0"] * 6
    np.testing.assert_allclose(axes.images[0].get_array()[:, 0], -10.0)


def test_changes_of_nothing_are_pale_and_have_no_sign(write_run):
    runs = [
        read_run(write_run("Uniform", 1, {"a": 1.0, "b": 1.0})),
        read_run(write_run("CoBa", 1, {"a": 0.9998, "b": 1.001})),
    ]
    [suite] = group_suites(runs)
    [axes] = change_figure(compare(suite, suite.groups[0])).axes
    assert words(axes)[:3] == ["0.0", "+0.1", "0.0"]
    assert axes.images[0].norm.vmax >= 5


def test_curves_have_a_panel_a_task_and_a_line_a_method(comparison):
    figure = curves_figure(comparison, method_styles(comparison.methods))
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in panels] == list(comparison.tasks)
    assert all(len(axes.lines) == 3 for axes in panels)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == comparison.methods


def test_best_steps_are_written_for_each_task_and_method(comparison):
    [axes] = best_steps_figure(comparison).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(comparison.tasks)
    assert words(axes)[:15] == [step for step in ("10", "20", "30", "10", "20") for _ in comparison.methods]


def test_methods_look_different_and_alike_in_every_figure():
    names = [f"method {k}" for k in range(40)] + ["Uniform"]
    styles = method_styles(names)
    assert len({tuple(style.items()) for style in styles.values()}) == 41
    assert method_styles(names[::-1]) == styles
