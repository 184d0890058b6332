"""The page of one run: what it says of every kind of run, and that nothing of a run gets into it unescaped."""

import json
import re

import pytest
from written_runs import result

from lightning_coba.errors import UserError
from lightning_coba.log_keys import BALANCE_COLUMNS
from lightning_coba.loggers import MetricsCSV
from lightning_coba.reports import write_run_page
from lightning_coba.reports.run_page.run_figures import losses_figure
from lightning_coba.reports.run_page.story import read_story
from lightning_coba.reports.run_page.words import headline
from lightning_coba.reports.run_page.writing import task_table, write_run_pages
from lightning_coba.runs.card import Objective

STEPS = (10, 20, 30, 40)


def write(folder, curves, *, starts=None, weights=None, slopes=None, training=True, after=None, balancer="", **card):
    """Write a run folder: `curves` is task -> validation loss at steps 10, 20, 30, 40."""
    tasks = list(curves)
    folder.mkdir(parents=True)
    entries = {
        "status": "finished", "name": folder.name, "tasks": tasks, "method": "CoBa", "seed": 1, "suite": "suite",
        "packages": {"torch": "2.13.0"}, "timing": {"seconds_per_step": 0.5, "steps": 40, "validation_seconds": 5.0},
        "format_version": 2, "results_before": {"test_loss": result(dict.fromkeys(tasks, 4.0))},
        "results": {"test_loss": result(after or dict.fromkeys(tasks, 3.0))},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(entries | card))
    (folder / "config.yaml").write_text(
        "system: {seed: 1}\nmodel: {model: tiny, dtype: null, compile: false}\noptimizer: {lr: 0.001}\n" + balancer
    )
    logger = MetricsCSV(folder)
    for step in range(max(STEPS)):
        if training:
            logger.log_metrics({f"train_loss/{task}": 3 - step / 40 for task in tasks}, step)
        if step + 1 in STEPS:
            record = STEPS.index(step + 1)
            logger.log_metrics({f"val_loss/{task}": curve[record] for task, curve in curves.items()}, step)
    logger.save()
    if weights is not None:
        rows = [BALANCE_COLUMNS]
        for t, step in enumerate(STEPS):
            for task in tasks:
                loss = curves[task][t]
                start = (starts or {}).get(task, 4.0)
                slope = slopes[task] if slopes else ""
                rows.append((t + 1, step, task, loss, loss / start, slope, "", "", "", weights[task][t]))
        text = "".join(",".join(str(cell) for cell in row) + "\n" for row in rows)
        (folder / "balance.csv").write_text(text)
    return folder


CURVES = {
    "burns": (3.0, 2.0, 2.3, 2.6),
    "falls": (3.0, 2.5, 2.2, 2.0),
    "slow": (3.9, 3.85, 3.8, 3.75),
    "done": (3.0, 2.0, 2.01, 2.02),
    "worse": (4.1, 4.2, 4.3, 4.4),
}
WEIGHTS = {"burns": (0.2, 0.2, 0.1, 0.05), **dict.fromkeys(list(CURVES)[1:], (0.2, 0.2, 0.225, 0.2375))}
SLOPES = {"burns": 0.05, "falls": -0.04, "slow": -0.01, "done": 0.00001, "worse": 0.02}


def page_of(folder):
    return write_run_page(folder).read_text(encoding="utf-8")


def test_each_task_gets_its_verdict(tmp_path):
    story = read_story(write(tmp_path / "run", CURVES, weights=WEIGHTS, slopes=SLOPES))
    assert story.verdicts == {
        "burns": "overfit", "falls": "still falling", "slow": "left behind", "done": "converged",
        "worse": "worse than at the start",
    }  # fmt: skip
    burns = story.tasks[0]
    assert (burns.first, burns.lowest, burns.best_step, burns.last) == (4.0, 2.0, 20, 2.6)
    assert burns.rise == pytest.approx(0.3)
    assert burns.last_ratio == pytest.approx(0.65)


def test_a_loss_that_rises_from_zero_has_overfitted(tmp_path):
    story = read_story(write(tmp_path / "run", {"rises": (3.0, 0.0, 0.1, 0.2), "stays": (3.0, 0.0, 0.0, 0.0)}))
    assert [*story.verdicts.values()] == ["overfit", "converged"]


def test_a_task_that_gains_next_to_nothing_at_the_end_has_converged(tmp_path):
    story = read_story(write(tmp_path / "run", {"creeps": (3.0, 2.0, 1.999, 1.998), "falls": (3.0, 2.0, 1.9, 1.8)}))
    assert [*story.verdicts.values()] == ["converged", "still falling"]


def test_settings_are_shown_as_they_are_typed(tmp_path):
    cells = re.findall(r'<th scope="row">(model\.\w+)</th><td>(.*?)</td>', page_of(write(tmp_path / "run", CURVES)))
    assert dict(cells) == {"model.model": "tiny", "model.dtype": "null", "model.compile": "false"}


def test_headline_and_diagnosis_in_words(tmp_path):
    after = {"burns": 3.0, "falls": 2.0, "slow": 3.9, "done": 2.0, "worse": 4.4}
    story = read_story(write(tmp_path / "run", CURVES, weights=WEIGHTS, slopes=SLOPES, after=after))
    did, *told = headline(story)
    assert did == "burns got 0.88 times the equal share on average."
    assert told == [
        "CoBa trained 5 tasks for 40 steps.",
        "Test loss: 4 of 5 tasks better than before training; mean 4.000 before, 3.060 after (-23.5 %). Worse: worse.",
        "Worse on validation than at the start: worse (+10.0 %).",
        "Overfit, the validation loss rising from its minimum: burns (+30.0 % since step 20).",
        "Left behind: slow (-6.2 %).",
        "2 tasks still improved at the end: a longer run may help.",
    ]
    table = task_table(story)
    assert dict(zip(table.columns, (cell.text for cell in table.rows[0]), strict=True)) == {
        "task": "burns", "came to": "overfit", "at the start": "4.000", "lowest": "2.000", "at step": "20",
        "at the end": "2.600", "change": "-35.0 %", "above lowest": "+30.0 %", "slope": "+0.0500",
        "last weight": "0.25x",
    }  # fmt: skip
    assert "below 0 the loss falls" in table.reading["slope"]


def test_whether_a_balancer_helped_is_left_to_a_run_beside_it(tmp_path):
    folder = write(
        tmp_path / "run",
        CURVES,
        weights=WEIGHTS,
        slopes=SLOPES,
        balancer="balancer: {_target_: lightning_coba.ConvergenceBalancer}\n",
    )
    bare = write(tmp_path / "bare", CURVES, weights=WEIGHTS)
    assert ["balancer=uniform" in " ".join(headline(read_story(run))) for run in (folder, bare)] == [True, False]


def test_page_is_one_file_and_holds_every_part(tmp_path):
    folder = write(tmp_path / "run", CURVES, weights=WEIGHTS, slopes=SLOPES)
    page = page_of(folder)
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "http" not in re.sub(r'src="data:[^"]*"', "", page)
    assert len(re.findall("<img", page)) == 3  # losses, ratios, weights; no scores were recorded
    for part in (
        "overfit",
        "optimizer.lr",
        "torch 2.13.0",
        "Test results",
        "500 ms each, 20 s in all",
        "20 % of the time",
    ):
        assert part in page, part
    assert [path.name for path in folder.glob("report*")] == ["report.html"]


def test_text_of_a_run_is_escaped(tmp_path):
    folder = write(tmp_path / "run", {"<b>t</b>": (3, 2, 1, 1)}, method="<script>x</script>", suite="a&b", error="<i>")
    (folder / "config.yaml").write_text("data: {root: '<img src=x>'}\n")
    page = page_of(folder)
    assert not re.search("<script|<b>t|<img src=x|<i>", page)
    assert "&lt;script&gt;x" in page
    assert "a&amp;b" in page


def test_runs_of_every_kind_have_a_page(tmp_path):
    alone = write(tmp_path / "alone", {"only": (3.0, 2.0, 2.0, 1.9)}, weights={"only": (1, 1, 1, 1)})
    assert "last weight" in page_of(alone)
    many = {f"task-{i}": (3.0, 2.0, 1.9, 1.8) for i in range(20)}
    assert page_of(write(tmp_path / "many", many, weights=dict.fromkeys(many, (0.05,) * 4))).count("<tr>") > 40
    assert "training loss" not in page_of(write(tmp_path / "plain", CURVES, training=False))

    trained = write(tmp_path / "famo", CURVES, weights=WEIGHTS, method="FAMO", records="training")
    story = read_story(trained)
    assert story.tasks[0].first == 3.0  # the first pass: training losses say nothing about validation
    assert "taken in training steps" in page_of(trained)


def test_unfinished_and_broken_runs_say_so(tmp_path):
    killed = write(tmp_path / "killed", CURVES, weights=WEIGHTS, status="running", results={}, timing={})
    (killed / "balance.csv").write_text((killed / "balance.csv").read_text()[:-9])
    page = page_of(killed)
    assert "was killed: continue it with resume=auto" in page
    assert "must have 10 cells" in page or "must be a number" in page
    assert "Test results" not in page

    failed = tmp_path / "failed"
    failed.mkdir()
    (failed / "run.json").write_text(json.dumps({"status": "failed", "error": "ValueError: boom", "tasks": ["a"]}))
    page = page_of(failed)
    assert "ValueError: boom" in page
    assert "no records" in page
    (failed / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json: the file is damaged"):
        write_run_page(failed)

    with pytest.raises(FileNotFoundError, match=r"has no run.json. Give runs/<name>"):
        write_run_page(tmp_path)


def test_a_run_within_its_warm_up_is_told_apart_from_one_that_chose_equal_weights(tmp_path):
    story = read_story(write(tmp_path / "run", CURVES, weights=dict.fromkeys(CURVES, (0.2,) * 4)))
    assert any("within CoBa's warm-up" in note for note in story.notes)
    story = read_story(write(tmp_path / "other", CURVES, weights=dict.fromkeys(CURVES, (0.2,) * 4), method="Uniform"))
    assert story.notes == []


@pytest.mark.parametrize(("warmup", "words"), [(3, "noise does (balancer.significance=0.01)"), (5, "warm-up")])
def test_weights_that_stayed_equal_have_a_reason(tmp_path, warmup, words):
    coba = f"balancer: {{_target_: x.ConvergenceBalancer, significance: 0.01, warmup_records: {warmup}}}\n"
    run = write(tmp_path / "run", CURVES, weights=dict.fromkeys(CURVES, (0.2,) * 4), balancer=coba)
    [note] = [note for note in read_story(run).notes if "stayed equal" in note]
    assert words in note


def test_figures_of_the_run_are_taken_where_they_are_new(tmp_path):
    folder = write(tmp_path / "run", CURVES, weights=WEIGHTS)
    (folder / "figures").mkdir()
    (folder / "figures" / "weights.png").write_bytes(b"drawn by the run")
    assert "ZHJhd24gYnkgdGhlIHJ1bg==" in page_of(folder)
    (folder / "balance.csv").write_text((folder / "balance.csv").read_text())  # the records went on
    import os

    newer = (folder / "figures" / "weights.png").stat().st_mtime_ns + 10**9
    os.utime(folder / "balance.csv", ns=(newer, newer))
    assert "ZHJhd24gYnkgdGhlIHJ1bg==" not in page_of(folder)


def test_only_folders_that_are_runs_get_a_page(tmp_path):
    folder = write(tmp_path / "runs" / "mine", CURVES)
    assert write_run_pages([tmp_path / "runs", folder]) == [folder / "report.html"]
    assert not (tmp_path / "runs" / "report.html").exists()


def test_what_is_not_drawn_is_neither_named_nor_given_room():
    validation = {task: {10: 2.0, 20: 1.9} for task in "abcd"}
    figure = losses_figure(validation, {task: {1: 9.0} for task in "abcd"})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["validation", "validation minimum"]
    assert all(axes.get_ylim()[1] < 2.1 for axes in figure.axes)
    figure = losses_figure(validation, {"b": {1: 2.2, 10: 2.1}})  # drawn in one panel is enough
    assert "training (smoothed)" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_four_tasks_are_two_by_two():
    figure = losses_figure({task: {10: 2.0, 20: 1.9} for task in "abcd"}, {})
    assert figure.axes[0].get_gridspec().get_geometry() == (2, 2)


def test_a_system_without_balancer_and_tasks_has_a_page_of_its_results_losses_and_settings(tmp_path):
    folder = write(tmp_path / "toy", {}, system="toy", method="Toy", results={"test_mse": result({"all": 0.25})})
    story = read_story(folder)
    assert headline(story)[:2] == ["Toy trained for 40 steps.", "test_mse: 0.250 (lower is better)."]
    (folder / "metrics.csv").write_text("step,train_loss,val_loss\n9,2.0,3.0\n19,1.0,2.0\n29,0.9,2.5\n")
    (folder / "figures").mkdir()
    (folder / "figures" / "what_it_drew.png").write_bytes(b"png")
    page = page_of(folder)
    assert "system toy" in page
    assert "1 task" not in page
    assert "No task" not in headline(read_story(folder))[0]
    assert page.count("<img") == 2
    assert "what it drew" in page
    assert "the ring marks the validation minimum" in page
    assert "optimizer.lr" in page


def test_the_page_lists_the_phases_and_shows_an_objective_of_which_more_is_better(tmp_path):
    search = {"status": "finished", "results": {"test_r2": result({"all": 0.5}, "max")}}
    phases = {"search": search, "retrain": {"status": "running"}}
    folder = write(tmp_path / "toy", {}, system="toy", method="Toy", status="running", phases=phases, results={},
                   results_before={}, objective={"key": "val_r2", "better": "max", "value": None})  # fmt: skip
    logger = MetricsCSV(folder / "search")
    for step, value in enumerate((0.1, 0.5, 0.3)):
        logger.log_metrics({"val_r2": value, "train_loss": 1.0}, step)
    logger.save()
    page = page_of(folder)
    rows = re.findall(r'<tr><th scope="row">(\w+)</th>' + r"<td>(.*?)</td>\s*" * 3, page)
    assert ("search", "finished", "3", "test_r2 0.500") in rows
    assert ("retrain", "running", "—", "—") in rows
    assert "val_r2 in validation passes" in page
    assert "validation maximum" in page
    assert not read_story(folder).tasks


def test_the_length_of_a_run_is_that_of_all_its_phases(tmp_path):
    phases = {name: {"status": "finished", "timing": {"steps": steps}} for name, steps in (("a", 15), ("b", 1200))}
    folder = write(tmp_path / "toy", {}, system="toy", method="Toy", phases=phases)
    assert headline(read_story(folder))[0] == "Toy trained for 1,215 steps (a 15, b 1,200)."


def test_an_objective_that_is_no_loss_has_panels_of_its_own():
    curve, training = {10: 0.2, 20: 0.9, 30: 0.4}, {1: 9.0, 10: 5.0, 30: 4.0}
    figure = losses_figure({"all": curve}, {"all": training}, Objective("val_r2", "max"))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["val_r2", "train_loss"]
    assert figure.axes[0].get_ylim()[1] < 1
    assert figure.axes[1].get_ylim()[0] > 1


def test_shares_without_losses_are_shown_without_a_plot_of_losses_or_a_word_of_a_balancer(tmp_path):
    folder = write(tmp_path / "toy", {}, system="toy", method="Toy", results={"test_mse": result({"all": 0.25})})
    rows = "1,10,age,0.5\n1,10,noise,0.5\n2,20,age,0.7\n2,20,noise,0.3\n"
    (folder / "balance.csv").write_text(f"record,step,feature,weight\n{rows}")
    (folder / "balance-other.csv").write_text(f"record,step,feature,weight\n{rows}")
    page = page_of(folder)
    assert sorted(file.name for file in folder.rglob("*.png")) == ["weights.png"] * 2
    assert "balance-other: Weights in force" in page
    assert "balancer" not in page
    assert not read_story(folder).notes


def test_parts_of_a_result_that_are_no_tasks_are_named_and_have_no_mean(tmp_path):
    results = {"rate": result({"clean": 0.9, "attacked": 0.5}, "max"), "f1": result({"a": 0.25, "b": 0.75})}
    before = {"rate": result({"clean": 0.1, "attacked": 0.2}, "max")}
    folder = write(tmp_path / "run", {"a": (3, 2, 1, 1), "b": (3, 2, 1, 1)}, system="toy", method="Toy",
                   results=results, results_before=before)  # fmt: skip
    sentence = "rate: clean 0.900, attacked 0.500 (higher is better); before training clean 0.100, attacked 0.200."
    assert sentence in headline(read_story(folder))
    cells = re.findall(r'<tr><th scope="row">(\w+)</th>' + r"<td>(.*?)</td>\s*" * 4 + "</tr>", page_of(folder))
    assert ("clean", "0.100", "0.900", "9.000", "—") in cells
    assert ("mean", "—", "—", "—", "0.500") in cells
