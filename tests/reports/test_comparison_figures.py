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


def compared(write_run, factors, seeds=(1,)):
    tasks = [f"task_{k}" for k in range(5)]
    runs = []
    for method, factor in factors.items():
        best = {task: 10 * (1 + k % 3) for k, task in enumerate(tasks)}
        for seed in seeds:
            loss = {task: factor * (1 + k) * (1 + 0.01 * seed * (method != "Uniform")) for k, task in enumerate(tasks)}
            runs.append(read_run(write_run(method, seed, loss, best=best)))
    [suite] = group_suites(runs)
    return compare(suite, suite.groups[0])


@pytest.fixture
def comparison(write_run):
    return compared(write_run, {"Uniform": 1.0, "CoBa": 0.9, "FAMO": 1.1})


def words(axes):
    return [text.get_text() for text in axes.texts]


def changes_of(comparison):
    [axes] = change_figure(comparison, method_styles(comparison.methods)).axes
    return axes


def test_differences_of_a_few_methods_are_points_with_their_intervals(write_run):
    axes = changes_of(found := compared(write_run, {"Uniform": 1.0, "CoBa": 0.9}, seeds=(1, 2, 3)))
    assert [label.get_text() for label in axes.get_yticklabels()] == [*found.tasks, "mean"]
    numbers = [text for text in axes.texts if text.get_text().startswith("-8.2")]
    assert len(numbers) == 6
    assert all(text.get_position()[0] > 1 for text in numbers)  # beside the panel: no number lies on a line
    ends = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2 and line.get_xdata()[0] < -5]
    assert all(low < -8.2 < high for low, high in ends)
    assert not axes.images


def test_differences_of_many_methods_are_a_map_with_a_row_of_means(write_run):
    factors = {"Uniform": 1.0, "CoBa": 0.9, "FAMO": 1.1, "LBTW": 0.9998, "DWA": 1.001}
    found = compared(write_run, {name: factor / (1.01 if factor != 1 else 1) for name, factor in factors.items()})
    axes = changes_of(found)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["CoBa", "LBTW", "DWA", "FAMO"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [*found.tasks, "mean"]
    assert words(axes)[:24] == ["-10.0", "0.0", "+0.1", "+10.0"] * 6  # nothing has no sign
    np.testing.assert_allclose(axes.images[0].get_array()[:, 0], -10.0)


def test_in_the_map_the_means_that_are_shown_to_differ_are_bold_and_no_others(write_run):
    factors = {"Uniform": 1.0, "CoBa": 0.8, "FAMO": 1.2, "LBTW": 0.98, "DWA": 0.981}  # and 1 to 3 % more by seed
    found = compared(write_run, factors, seeds=(1, 2, 3))
    bold = [text.get_text() for text in changes_of(found).texts if text.get_fontweight() == "bold"]
    assert sorted(bold) == ["+22.4", "-18.4"]


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
