import json
import math

import pytest
import yaml
from written_runs import result

from lightning_coba.loggers import MetricsCSV
from lightning_coba.runs import RunFiles, find_runs, read_run

LOSS = {"a": 1.5, "b": 0.1 + 0.2}


def test_runs_are_found_at_any_depth_each_once_and_not_inside_one_another(tmp_path, write_run):
    first, second = write_run("CoBa", 1, LOSS), write_run("Uniform", 1, LOSS)
    (first / "checkpoints").mkdir()
    (first / "checkpoints" / "run.json").write_text("{}")
    assert find_runs([tmp_path, second, tmp_path / "runs"]) == [first, second]
    assert find_runs([second]) == [second]
    with pytest.raises(FileNotFoundError, match=r"^DIR must be a folder; got .*nowhere"):
        find_runs([tmp_path / "nowhere"])


def test_a_run_is_read_whole(write_run):
    accuracy = {"test_token_accuracy": {"a": 0.5, "b": 0.25}}
    run = read_run(write_run("CoBa", 3, LOSS, seconds=0.25, others=accuracy, best={"a": 20, "b": 40}))
    assert run.is_complete
    assert (run.system, run.suite, run.method, run.seed, run.tasks) == ("multitask", "suite", "CoBa", 3, ["a", "b"])
    assert (run.primary, run.after.values, run.after.better) == ("test_loss", LOSS, "min")
    assert run.before.values == {"a": 3.0, "b": 2 * LOSS["b"]}
    assert (run.others["test_token_accuracy"].values["b"], run.others["test_token_accuracy"].better) == (0.25, "max")
    assert (run.objective.key, run.objective.value) == ("val_loss", 1.0)
    assert (run.steps, run.seconds_per_step, run.validation_seconds) == (40, 0.25, 1.5)
    assert run.settings["balancer.temperature"] == 5.0
    assert list(run.curves["a"]) == [10, 20, 30, 40]
    assert (run.best_step("a"), run.best_step("b")) == (20, 40)
    assert math.isnan(run.best_step("other"))


def test_a_run_without_times_and_metrics_is_complete(write_run):
    run = read_run(write_run("CoBa", 1, LOSS))
    assert run.is_complete
    assert math.isnan(run.seconds_per_step)
    assert (run.steps, run.others) == (40, {})


def test_a_run_of_0_4_is_read_as_one_of_today(write_run):
    accuracy = {"a": 0.5, "b": 0.25}
    of_today = write_run("CoBa", 1, LOSS, others={"test_token_accuracy": accuracy})
    old = write_run("CoBa", 1, LOSS)
    card = json.loads(RunFiles(old).card.read_text())
    for new in ("system", "results", "results_before", "objective"):
        del card[new]
    card |= {"format_version": 1, "test_before": {"a": 3.0, "b": 2 * LOSS["b"]}, "test_after": LOSS}
    card |= {"test_metrics": {"accuracy": accuracy}, "val_loss": 1.0}
    RunFiles(old).card.write_text(json.dumps(card))
    head, *rows = (line.partition(",") for line in RunFiles(old).metrics.read_text().splitlines(keepends=True))
    rows = [f"{int(step) - 1},{cells}" for step, _, cells in rows]  # 0.4 counted from 0
    RunFiles(old).metrics.write_text("".join(["".join(head), *rows]))
    settings = yaml.safe_load(RunFiles(old).settings.read_text())
    module = settings.pop("system")
    settings["model"] |= module
    del settings["system_name"]
    RunFiles(old).settings.write_text(yaml.safe_dump(settings))

    read, expected = (vars(read_run(folder)) for folder in (old, of_today))
    differing = {name for name in read if read[name] != expected[name]}
    assert {name for name in differing if repr(read[name]) != repr(expected[name])} == {"folder", "card"}  # NaN, too


@pytest.mark.parametrize(
    "card", [{"objective": {"key": "val_loss", "better": "min", "value": 0.0}}, {"format_version": 1, "val_loss": 0}]
)
def test_an_objective_of_zero_is_a_number(write_run, card):
    assert read_run(write_run("CoBa", 1, LOSS, card=card)).objective.value == 0.0


@pytest.fixture
def two_phases(tmp_path):
    """Write a run of a system without tasks that searched, and is retraining."""
    files = RunFiles(tmp_path / "toy")
    files.folder.mkdir()
    search = {"status": "finished", "results": {"test_r2": result({"all": 0.5}, "max")}}
    card = {"format_version": 2, "status": "running", "system": "toy", "method": "Toy", "tasks": [], "seed": 1}
    card |= {"phases": {"search": search, "retrain": {"status": "running"}}}
    card["objective"] = {"key": "val_r2", "better": "max", "value": None}
    files.card.write_text(json.dumps(card))
    for phase, values in (("search", (0.1, 0.5, 0.3)), ("retrain", ())):
        logger = MetricsCSV(files.phase(phase).folder)
        for step, value in enumerate(values):
            logger.log_metrics({"val_r2": value}, step)
        logger.save()
    return files


def test_the_curves_of_several_fits_are_those_of_the_last_that_has_any(two_phases):
    run = read_run(two_phases.folder)
    assert run.phases == {"search": "finished", "retrain": "running"}
    assert run.fits == [two_phases.phase("search"), two_phases.phase("retrain")]
    assert run.last_fit_with(lambda fit: fit.metrics) == run.fits[0]
    assert run.curves == {"all": {1: 0.1, 2: 0.5, 3: 0.3}}
    assert run.best_step("all") == 2  # higher is better
    assert "resume=auto" in run.error
    logger = MetricsCSV(two_phases.phase("retrain").folder)
    logger.log_metrics({"val_r2": 0.7}, 0)
    logger.save()
    assert read_run(two_phases.folder).curves == {"all": {1: 0.7}}


def test_a_result_without_parts_completes_a_run_without_tasks(two_phases):
    card = json.loads(two_phases.card.read_text())
    card |= {"status": "finished", "results": {"test_r2": result({"all": 0.6}, "max")}}
    two_phases.card.write_text(json.dumps(card))
    run = read_run(two_phases.folder)
    assert run.is_complete
    assert (run.primary, run.tasks, run.after.values) == ("test_r2", ["all"], {"all": 0.6})


@pytest.mark.parametrize(
    ("card", "why"),
    [
        ({"status": "running"}, "resume=auto"),
        ({"status": "failed", "error": "ValueError: no memory"}, "ValueError: no memory"),
        ({"status": "failed"}, "no reason"),
        ({"results": {"test_loss": result({"a": 1.0, "b": math.nan})}}, "no finite test loss for b"),
        ({"results": {"test_loss": result({"a": 1.0})}}, "no finite test loss for b"),
        ({"results": None}, "no finite test loss for a, b"),
    ],
)
def test_a_run_without_results_says_why(write_run, card, why):
    run = read_run(write_run("CoBa", 1, LOSS, card=card))
    assert not run.is_complete
    assert why in run.error


@pytest.mark.parametrize("content", ["", '{"status": "fin', "[1, 2]", "null", "\x00"])
def test_a_half_written_card_is_a_run_that_cannot_be_read(write_run, content):
    folder = write_run("CoBa", 1, LOSS)
    (folder / "run.json").write_text(content)
    run = read_run(folder)
    assert run.status == "unreadable"
    assert "run.json" in run.error


@pytest.mark.parametrize(
    "card", [{"timing": "fast"}, {"results_before": [1]}, {"objective": 2}, {"phases": []}, {"tasks": "ab"}]
)
def test_a_card_with_strange_entries_is_read_without_them(write_run, card):
    assert read_run(write_run("CoBa", 1, LOSS, card=card)).after.values == LOSS


def test_a_metrics_file_cut_at_any_byte_loses_its_last_line_only(write_run):
    folder = write_run("CoBa", 1, LOSS, best={"a": 30})
    file = folder / "metrics.csv"
    whole = file.read_bytes()
    complete = read_run(folder).curves["a"]
    for end in range(len(whole)):
        file.write_bytes(whole[:end])
        curve = read_run(folder).curves.get("a", {})
        assert curve.items() <= complete.items()
        assert len(curve) == sum(whole[:end].count(b"\n") > step for step in complete)


def test_broken_files_beside_the_card_cost_nothing_else(write_run):
    folder = write_run("CoBa", 1, LOSS)
    (folder / "config.yaml").write_text("a: [1,")
    (folder / "metrics.csv").write_bytes(b"step,val_loss/a\n0,\xff\xfe\n1,2,3\nx,1\n9,oops\n")
    run = read_run(folder)
    assert run.is_complete
    assert run.settings is None
    assert math.isnan(run.best_step("a"))
