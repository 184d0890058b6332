"""The answer of a replay: in words, pictures and files."""

import csv
import io
import re

import numpy as np
import pytest
from matplotlib.colors import to_hex
from rich.console import Console

from lightning_coba.balancers import DWA, CoBa, Fixed, Uniform
from lightning_coba.errors import UserError
from lightning_coba.reports import (
    LossTable,
    default_settings,
    final_weights_figure,
    name_settings,
    parse_settings,
    replay_settings,
    replayed_weights_figure,
    task_findings,
    turning_points_figure,
    write_replay_report,
)
from lightning_coba.reports.replay.setting_figures import TURNED
from lightning_coba.reports.replay.setting_findings import setting_finding
from lightning_coba.reports.replay.verdict import notes, verdict

T = np.arange(24.0)
CURVES = {
    "turns": 1 + 0.02 * (T - 8) ** 2 / 8,  # lowest at record 9
    "flat": np.where(T < 6, 2 - 0.2 * T, 0.8),
    "learns": 3 - 0.08 * T,
}


def table_of(**curves):
    return LossTable(list(curves), np.arange(1, 25) * 50, np.stack(list(curves.values()), axis=1), source="log.csv")


@pytest.fixture(scope="module")
def table():
    return table_of(**CURVES)


@pytest.fixture(scope="module")
def report(table, tmp_path_factory):
    return write_replay_report(table, default_settings(None, 24), tmp_path_factory.mktemp("replay"))


# ---------------------------------------------------------------- findings


def test_where_tasks_stand_at_the_end(table):
    found = {one.task: one for one in task_findings(table)}
    assert {task: one.state for task, one in found.items()} == {
        "turns": "diverging",
        "flat": "flat",
        "learns": "improving",
    }
    turns = found["turns"]
    assert (turns.best_record, turns.best_step) == (9, 450)
    assert turns.rise == pytest.approx(CURVES["turns"][-1] - 1)
    assert turns.last_ratio == pytest.approx(CURVES["turns"][-1] / CURVES["turns"][0])
    assert [one.has_turned for one in found.values()] == [True, False, False]


def test_noise_is_no_trend():
    noise = np.random.default_rng(0).normal(size=24)
    (found,) = task_findings(table_of(noisy=1 + 0.05 * noise))
    assert found.state == "flat"


@pytest.mark.parametrize("records", [5, 8, 12, 20, 40])
def test_a_trend_is_told_from_noise(records):
    """Student's t: a loss that stays is called flat in 19 of 20 cases, and one that falls steadily improving."""
    noise = 0.02 * np.random.default_rng(2).normal(size=(records, 1000))
    steps, names = np.arange(records), [f"t{k}" for k in range(1000)]
    stays = [one.state for one in task_findings(LossTable(names, steps, 1 + noise))]
    assert stays.count("flat") > 930
    falls = [one.state for one in task_findings(LossTable(names, steps, 3 + noise - 0.05 * steps[:, None]))]
    assert falls.count("improving") > 800
    assert falls.count("diverging") == 0


@pytest.mark.parametrize("records", [12, 24, 400])
def test_noise_is_rarely_called_overfitting(records):
    noise = 1 + 0.02 * np.random.default_rng(1).normal(size=(records, 200))
    steps, names = np.arange(records), [f"t{k}" for k in range(200)]
    found = task_findings(LossTable(names, steps, noise))
    assert np.mean([one.rise > 0.01 for one in found]) > 0.8  # as it would be by the ends alone
    assert np.mean([one.has_turned for one in found]) < 0.2
    assert np.mean([one.is_noise for one in found]) > 0.5
    turning = noise + np.linspace(-0.5, 0.5, records)[:, None] ** 2
    found = task_findings(LossTable(names, steps, turning))
    assert np.mean([one.has_turned for one in found]) > 0.95
    assert not any(one.is_noise for one in found)


def test_a_loss_that_reached_zero_and_rose_has_turned():
    rises, stays = task_findings(table_of(rises=np.abs(1 - T / 10), stays=np.maximum(1 - T / 10, 0)))
    assert (rises.has_turned, rises.rise, rises.best_record) == (True, np.inf, 11)
    assert (stays.has_turned, stays.rise, stays.state) == (False, 0, "flat")


def test_a_task_of_two_records_or_none():
    table = LossTable(["two", "none"], [1, 2, 3], [[2, np.nan], [1, np.nan], [np.nan, np.nan]])
    two, none = task_findings(table)
    assert (two.state, two.best_record, none.state, none.best_record) == ("unknown", 2, "unknown", 0)


def test_what_a_setting_did():
    table = LossTable(["a", "b"], [10, 20, 30], np.ones((3, 2)))
    results = replay_settings(table, {"equal": Uniform(), "fixed": Fixed([3, 1])})
    equal, fixed = (setting_finding(name, result) for name, result in results.items())
    assert (equal.first_record, equal.mean.tolist(), equal.raised, equal.damped) == (0, [0.5, 0.5], [], [])
    assert (fixed.first_record, fixed.final.tolist(), fixed.largest, fixed.largest_task) == (1, [0.75, 0.25], 0.75, "a")
    assert (fixed.mean_change, fixed.raised, fixed.damped) == (0.0, ["a"], ["b"])


def test_how_restless_the_weights_are(table):
    (result,) = replay_settings(table, CoBa()).values()
    found = setting_finding("CoBa", result)
    assert found.first_record == 3
    assert found.mean_change == pytest.approx(np.abs(np.diff(result.weight, axis=0)).sum(axis=1)[1:].mean())


# ---------------------------------------------------------------- words


def test_the_verdict_names_what_overfitted_and_what_was_done(report):
    headline, *rest = report.verdict
    assert headline.startswith("There was something to balance: turns overfitted.")
    assert "CoBa (default) would have damped turns" in headline
    text = " ".join(rest)
    assert "still improving: learns; flat: flat; diverging: turns (+56% since its lowest, at step 450)" in text
    assert "71% of the run apart: flat at record 7, learns at record 24 of 24" in text
    assert "moved the weights from record 3 (step 150) on" in text
    assert "All 27 settings of CoBa raise learns and damp flat." in text


def words(table, *settings):
    """Return the verdict and the notes, without the pictures."""
    results = replay_settings(table, settings)
    found = [setting_finding(name, result) for name, result in results.items()]
    said = verdict(table, task_findings(table), found, next(iter(results.values())))
    return said, notes(table, results, name_settings(settings))


def test_a_run_without_overfitting_is_called_that():
    said, _ = words(table_of(fast=2 * np.exp(-T / 40), slow=2 * np.exp(-T / 80)), CoBa())
    assert said[0].startswith("No task overfitted; CoBa would have changed the shares")
    assert "All tasks were at their best at record 24 of 24." in said


def test_equal_tasks_leave_little_to_balance():
    said, _ = words(table_of(a=3 - 0.05 * T, b=3 - 0.05 * T), CoBa())
    assert said[0].startswith("Little to balance")


def test_noise_alone_is_nothing_to_balance():
    noise = 1 + 0.002 * np.random.default_rng(1).normal(size=(2, 24))
    said, _ = words(table_of(a=noise[0], b=noise[1]), CoBa())
    assert said[0].startswith("Nothing to balance: no task's loss changed by more than it scatters")


def test_only_a_method_that_follows_the_losses_is_said_to():
    said, _ = words(table_of(fast=2 * np.exp(-T / 40), slow=2 * np.exp(-T / 80)), Fixed([3, 1]))
    assert said[0].endswith("would have changed the shares all the same.")


def test_the_one_checkpoint_that_comes_closest_is_named():
    apart, _ = words(table_of(done=np.where(T < 6, 2 - 0.2 * T, 0.8), learns=3 - 0.08 * T), CoBa())
    assert any("learns at record 24 of 24. Still, record 24 is within 1% of the best" in one for one in apart)
    turns, other = 1 + np.abs(T - 8) / 100, 2 - T / 100
    least = np.maximum(turns / turns.min() - 1, other / other.min() - 1)
    apart, _ = words(table_of(turns=turns, other=other), CoBa())
    named = f"record {least.argmin() + 1} comes closest, at most {least.min():.1%} above each task's lowest."
    assert any(named in one for one in apart)


def test_settings_that_keep_to_equal_weights_do_not_disagree():
    said, _ = words(table_of(a=3 - 0.05 * T, b=3 - 0.05 * T - 1e-4 * T), CoBa(), CoBa(window_records=5))
    assert said[-1] == "None of the 2 settings of CoBa moves a weight by 10% on average."


def test_a_setting_that_does_not_damp_what_overfits_is_called_that(table):
    said, _ = words(table, Uniform())
    assert "Uniform would have damped none of them." in said[0]
    assert "Uniform would have kept all weights equal throughout." in said


def test_a_replay_says_that_it_is_one(report):
    assert "not what training under them would have given" in report.notes[-1]
    assert any("V(0)" in note for note in report.notes)


def test_a_measured_baseline_is_not_warned_about(table):
    measured = table.with_initial({"turns": 2.0, "flat": 2.0, "learns": 3.0})
    assert not any("V(0)" in note for note in words(measured, CoBa())[1])


def test_stand_ins_are_named(table):
    _, said = words(table, CoBa(), DWA(block_records=2))
    assert "DWA block 2: made for training losses; validation losses stand in for them." in said


def test_too_few_records_are_called_that(table):
    said, to_know = words(LossTable(table.tasks, table.steps[:2], table.losses[:2]), CoBa())
    assert said[0] == "Too few records to say where the tasks were heading."
    assert "CoBa would have kept all weights equal throughout." in said
    assert "Only 2 records: CoBa would not move before record 3" in to_know[0]
    assert "there are 12 and more (trainer.val_check_interval" in to_know[0]
    with pytest.raises(UserError, match=r"log\.csv has 1 record, and a slope needs two"):
        write_replay_report(LossTable(table.tasks, [1], table.losses[:1], source="log.csv"), [CoBa()], "nowhere")
    _, to_know = words(LossTable(table.tasks, table.steps[:12], table.losses[:12]), CoBa())
    assert not any("Only" in note for note in to_know)


def test_the_runs_own_weights_are_compared(table):
    own = CoBa(window_records=6)
    (result,) = replay_settings(table, own).values()
    for weights, said in ((result.weight, "gives the weights that the run had"), (result.weight / 2, "weights up to")):
        ran = LossTable(table.tasks, table.steps, table.losses, balancer=own, weights=weights)
        assert any(said in note for note in words(ran, own)[1])


def test_what_the_run_did_is_told_as_that():
    table, own = table_of(fast=2 * np.exp(-T / 40), slow=2 * np.exp(-T / 80)), CoBa()
    (result,) = replay_settings(table, own).values()
    found = [setting_finding("CoBa", result)]
    for weights, changed, moved in (
        (result.weight, "CoBa changed the shares", "CoBa moved the weights"),
        (result.weight / 2, "CoBa would have changed the shares", "CoBa would have moved the weights"),
    ):
        ran = LossTable(table.tasks, table.steps, table.losses, balancer=own, weights=weights)
        said = " ".join(verdict(ran, task_findings(ran), found, result))
        assert changed in said
        assert moved in said


def test_one_task_has_nothing_to_balance(tmp_path):
    with pytest.raises(ValueError, match="two tasks or more; got a alone"):
        write_replay_report(table_of(a=3 - T / 30), [CoBa()], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- files and pictures


def test_the_files(report, table):
    with (report.folder / "weights.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 27 * 24 * 3
    last = rows[71]
    assert (last["setting"], last["record"], last["step"], last["task"]) == ("CoBa (default)", "24", "1200", "learns")
    first = next(iter(report.results.values()))
    assert float(last["weight"]) == first.weight[-1, 2]
    assert (rows[0]["slope"], rows[0]["rcs"]) == ("", "")
    with (report.folder / "settings.csv").open(encoding="utf-8") as stream:
        settings = list(csv.DictReader(stream))
    assert [row["setting"] for row in settings] == list(report.results)
    assert float(settings[0]["final_weight/learns"]) == first.weight[-1, 2]
    assert settings[0]["damped"].split()[0] == "turns"
    figures = {path.stem for path in (report.folder / "figures").glob("*.png")}
    assert figures == {"losses", "weights", "final-weights", "scores"}


def test_the_page_needs_nothing_else_and_escapes_what_it_shows(table, tmp_path):
    odd = LossTable(["<b>a</b>", "b", "c"], table.steps, table.losses, source="<script>", notes=["<i>read</i>"])
    report = write_replay_report(odd, parse_settings(["coba", "uniform"]), tmp_path)
    page = (tmp_path / "replay.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert not re.search(r"<(?:b|i|script)>", page)
    assert all(name in page for name in report.results)


def test_the_screen_holds_the_answer_in_one_screen(report):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report)
    text = console.export_text()
    assert "There was something to balance" in text
    assert "21 more are in replay.html" in text
    assert len(text.splitlines()) <= 45


def visible(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


def test_turning_points_are_marked(table):
    panels = visible(turning_points_figure(table))
    marks = {axes.get_title("left"): axes.lines[1] for axes in panels}
    assert marks["turns"].get_xdata()[0] == 450
    assert to_hex(marks["turns"].get_color()) == TURNED
    assert to_hex(marks["learns"].get_color()) != TURNED


@pytest.mark.parametrize("tasks", [2, 3, 6])
def test_words_below_a_title_end_within_the_figure(tasks):
    figure = turning_points_figure(table_of(**{f"t{k}": 3 - 0.08 * T for k in range(tasks)}))
    figure.canvas.draw()
    (words,) = (text for text in figure.texts if "diamond" in text.get_text())
    extent = words.get_window_extent()
    assert extent.x1 < figure.bbox.width
    assert all(axes.get_tightbbox().y1 <= extent.y0 for axes in visible(figure))


def test_each_setting_has_a_panel_and_each_task_a_line(table):
    results = replay_settings(table, [CoBa(), Uniform()])
    panels = visible(replayed_weights_figure(results))
    assert [axes.get_title("left") for axes in panels] == ["CoBa", "Uniform"]
    for axes, result in zip(panels, results.values(), strict=True):
        for k in range(3):
            np.testing.assert_array_equal(axes.lines[k].get_ydata(), result.weight[:, k])


def test_many_settings_are_a_map(report):
    axes = final_weights_figure(report.results).axes[0]
    shown = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(shown, [3 * result.weight[-1] for result in report.results.values()])


def test_steps_that_start_over_are_numbered(table):
    again = LossTable(table.tasks, [1, 2] * 12, table.losses)
    assert visible(turning_points_figure(again))[0].lines[0].get_xdata().tolist() == list(range(1, 25))
