from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from matplotlib import image
from matplotlib.text import Annotation, Text

from lightning_coba.simplex import BalanceTable, loss_ratio_figure, scores_figure, weights_figure, write_figures
from lightning_coba.simplex.figures import spread

FIGURES = [loss_ratio_figure, weights_figure, scores_figure]


def table(num_tasks, num_records, warmup=3, ratio=None):
    """Curves that fall at different speeds; scores and weights on the simplex after a warm-up."""
    rng = np.random.default_rng(num_tasks)
    t = np.arange(1, num_records + 1)
    if ratio is None:
        ratio = np.exp(-np.linspace(0.02, 0.3, num_tasks) * t[:, None])
    scores = [rng.dirichlet(np.ones(num_tasks), num_records) for _ in range(2)]
    factor = rng.random(num_records)
    for scored in (*scores, factor):
        scored[:warmup] = np.nan
    weight = np.where(t[:, None] <= warmup, 1 / num_tasks, scores[0])
    tasks = [f"task_{k}" for k in range(num_tasks)]
    return BalanceTable(tasks, t, 50 * t, 2 * ratio, ratio, 0 * scores[0], *scores, weight, factor)


def labels(axes):
    return [text for text in axes.texts if isinstance(text, Annotation) and text.get_text().startswith("task_")]


@pytest.mark.parametrize("seed", range(20))
def test_spread_keeps_order_bounds_and_distance(seed):
    rng = np.random.default_rng(seed)
    targets = rng.uniform(-5, 105, rng.integers(2, 11)).round(-1)
    placed = spread(targets, 8.0, 0.0, 100.0)
    assert placed.min() >= -1e-9
    assert placed.max() <= 100 + 1e-9
    order = np.argsort(placed)
    assert (np.diff(targets[order]) >= 0).all()
    assert (np.diff(placed[order]) >= 8 - 1e-9).all()


def test_spread_moves_nothing_that_is_apart_and_squeezes_what_cannot_fit():
    assert spread([70.0, 10.0, 40.0], 8.0, 0.0, 100.0).tolist() == [70.0, 10.0, 40.0]
    np.testing.assert_allclose(np.diff(spread([5.0] * 6, 8.0, 0.0, 10.0)), 2.0)
    assert spread([], 8.0, 0.0, 10.0).tolist() == []


def test_spread_moves_as_little_as_possible():
    targets = np.array([1.0, 1.5, 2.0, 9.0])
    best = np.square(spread(targets, 2.0, -10.0, 20.0) - targets).sum()
    rng = np.random.default_rng(0)
    for _ in range(2000):
        rival = targets + rng.normal(0, 1.5, 4)
        if (np.diff(rival) >= 2).all():
            assert np.square(rival - targets).sum() >= best


@pytest.mark.parametrize("figure_of", FIGURES)
@pytest.mark.parametrize("last", [1.0, np.r_[np.zeros(9), 1.0]], ids=["together", "at_the_edge"])
def test_end_labels_never_overlap(figure_of, last):
    balance = table(10, 12)
    for values in (balance.ratio, balance.weight, balance.rcs, balance.acs):
        values[-1] = last
    figure = figure_of(balance)
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    named = [axes for axes in figure.axes if labels(axes)]
    assert len(named) == (2 if figure_of is scores_figure else 1)
    for axes in named:
        assert len(labels(axes)) == 10
        # An annotation's own extent includes its leader; the text alone is what must not be overprinted.
        boxes = sorted((Text.get_window_extent(label, renderer) for label in labels(axes)), key=lambda box: box.y0)
        assert all(below.y1 < above.y0 for below, above in pairwise(boxes))
        assert all(axes.bbox.x1 < box.x0 and box.x1 < figure.bbox.x1 for box in boxes)
        assert axes.bbox.y0 - 15 < boxes[0].y0
        assert boxes[-1].y1 < axes.bbox.y1 + 15


def test_a_label_stands_beside_the_end_of_its_line_where_there_is_room():
    ratio = np.array([[1.0, 1.0, 1.0], [0.2, 0.9, 0.5]])
    figure = loss_ratio_figure(table(3, 2, ratio=ratio))
    (axes,) = figure.axes
    heights = {label.get_text(): axes.transLimits.inverted().transform(label.xyann)[1] for label in labels(axes)}
    assert heights == {
        "task_0  0.2": pytest.approx(0.2),
        "task_1  0.9": pytest.approx(0.9),
        "task_2  0.5": pytest.approx(0.5),
    }


@pytest.mark.parametrize(("num_tasks", "num_records", "warmup"), [(1, 15, 3), (6, 1, 0), (24, 45, 3)])
def test_every_shape_of_run_is_written(tmp_path, num_tasks, num_records, warmup):
    balance = table(num_tasks, num_records, warmup)
    paths = write_figures(balance, tmp_path / "figures")
    assert [path.name for path in paths] == ["loss_ratio.png", "weights.png", "scores.png"]
    for path in paths:
        pixels = image.imread(path)
        assert pixels.shape[1] >= 1200
        assert pixels[..., :3].std() > 0.02  # something is drawn


def test_columns_without_a_number_make_no_figure(tmp_path):
    assert [path.stem for path in write_figures(table(3, 2, warmup=2), tmp_path)] == ["loss_ratio", "weights"]
    weights_alone = table(3, 2, warmup=2, ratio=np.full((2, 3), np.nan))
    assert [path.stem for path in write_figures(weights_alone, tmp_path)] == ["weights"]


def test_a_title_says_what_has_the_weights():
    assert weights_figure(table(2, 5)).axes[0].get_title(loc="left") == "Task weights"
    objectives = replace(table(2, 5), thing="objective")
    assert weights_figure(objectives).axes[0].get_title(loc="left") == "Objective weights"


def test_many_tasks_get_one_legend_and_no_two_look_alike():
    figure = scores_figure(table(24, 5))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"task_{k}" for k in range(24)]
    assert not any(labels(axes) for axes in figure.axes)
    looks = {(line.get_color(), line.get_linestyle(), str(line._dash_pattern)) for line in legend.get_lines()}
    assert len(looks) == 24


def test_gaps_stay_gaps_and_lone_records_stay_visible():
    balance = table(2, 60)
    balance.ratio[10:20, 0] = np.nan
    balance.ratio[30:, 1] = np.nan
    balance.ratio[40, 1] = 0.7
    figure = loss_ratio_figure(balance)
    gapped, lone = figure.axes[0].lines[-2:]
    assert np.isnan(gapped.get_ydata()[10:20]).all()
    assert lone.get_markevery() == [40]
    (end,) = [label for label in labels(figure.axes[0]) if "task_1" in label.get_text()]
    assert end.xy == (balance.steps[40], 0.7)


def test_a_second_fit_is_drawn_against_the_record():
    balance = table(2, 8)
    balance.steps[4:] -= balance.steps[3]
    (axes,) = loss_ratio_figure(balance).axes
    assert axes.get_xlabel().startswith("record")
    assert axes.lines[-1].get_xdata().tolist() == balance.records.tolist()


def test_infinite_losses_leave_the_axis_alone():
    balance = table(2, 10)
    balance.ratio[4, 0] = np.inf
    assert np.isfinite(loss_ratio_figure(balance).axes[0].get_ylim()).all()


def test_a_run_without_scores_says_so_and_shades_nothing():
    figure = scores_figure(table(3, 5, warmup=5))
    for axes in figure.axes:
        assert not axes.patches
        assert any("none recorded" in text.get_text() for text in axes.texts)


@pytest.mark.parametrize("figure_of", FIGURES)
def test_the_warmup_is_shaded_up_to_the_first_scores(figure_of):
    balance = table(3, 10, warmup=3)
    for axes in figure_of(balance).axes:
        (span,) = axes.patches
        assert (span.get_x(), span.get_x() + span.get_width()) == (0, balance.steps[3])


def test_the_uniform_share_is_a_dashed_line():
    (axes,) = weights_figure(table(4, 5)).axes
    assert [line.get_linestyle() for line in axes.lines if (np.asarray(line.get_ydata()) == 1).all()] == ["--"]


def test_a_factor_above_one_is_not_cut_off():
    balance = table(2, 10)
    balance.divergence_factor[-1] = 1.64
    assert scores_figure(balance).axes[2].get_ylim()[1] > 1.64


def test_no_pyplot_state_is_touched():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    open_before = pyplot.get_fignums()
    for figure_of in FIGURES:
        figure_of(table(2, 3))
    assert pyplot.get_fignums() == open_before


def test_training_losses_are_not_called_validation_losses():
    balance = table(3, 8)
    titles = [loss_ratio_figure(balance, kind).axes[0].get_title(loc="left") for kind in ("validation", "training")]
    assert titles == ["Validation loss relative to before training", "Training loss relative to the first record"]
