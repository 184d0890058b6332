"""A run folder gives back the very model, tokenizer and data that were trained."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lightning_coba.evaluation import evaluate
from lightning_coba.export import export_run
from lightning_coba.runs.trained_run import TrainedRun


@pytest.fixture(scope="module")
def run(finished_run):
    return TrainedRun.open(finished_run)


@pytest.fixture
def copy(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "copy")


def losses(model, run):
    """The test losses of a model, as the run's own test pass computes them."""
    from lightning_coba.systems.multitask import MultitaskLM

    datamodule = run.load_datamodule()
    datamodule.setup("test")
    module = MultitaskLM(model, run.tokenizer, tasks=run.tasks).eval()
    sums = counts = 0
    with torch.no_grad():
        for batch in datamodule.test_dataloader():
            part = module.task_losses(batch)
            sums, counts = sums + part.sums, counts + part.counts
    return dict(zip(run.tasks, (sums / counts).tolist(), strict=True))


def test_it_knows_the_run(run, model_folder):
    assert (run.tasks, run.is_finished, run.has_adapter) == (["cubes", "squares"], True, True)
    assert run.base_model == str(model_folder)


def test_the_final_model_has_the_loss_that_the_run_reported(run):
    model = run.load_model()
    assert not model.training
    assert losses(model, run) == pytest.approx(run.results["test_loss"].values, rel=1e-5)


def test_the_base_model_has_the_loss_from_before(run):
    assert losses(run.load_model("base"), run) == pytest.approx(run.results_before["test_loss"].values, rel=1e-5)


def test_a_checkpoint_is_the_adapter_that_was_saved_of_it(run):
    saved = load_file(run.path / "adapter" / "adapter_model.safetensors")
    best = run.load_model("best").state_dict()
    named = {name.replace(".default.", "."): value for name, value in best.items()}
    assert saved
    assert all(torch.equal(named[name], value) for name, value in saved.items())


def test_a_fully_fine_tuned_model_is_loaded_too(here, overrides, tmp_path):
    here(
        tmp_path / "full",
        *(o for o in overrides if not o.startswith(("peft.", "balancer."))),
        "peft=none",
        "balancer=uniform",
    )
    full = TrainedRun.open(tmp_path / "full")
    assert not full.has_adapter
    expected = pytest.approx(full.results["test_loss"].values, rel=1e-5)
    assert losses(full.load_model(), full) == expected
    assert losses(full.load_model("best"), full) == expected


def test_an_unfinished_run_has_its_checkpoints(copy):
    shutil.rmtree(copy / "adapter")
    shutil.rmtree(copy / "tokenizer")
    card = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(card | {"status": "running"}))
    run = TrainedRun.open(copy)
    with pytest.raises(FileNotFoundError, match=r"resume=auto.*'best' or 'last'"):
        run.load_model()
    assert losses(run.load_model("best"), run) == pytest.approx(card["results"]["test_loss"]["values"], rel=1e-5)
    for name in ("last", "previous"):
        (copy / "checkpoints" / f"{name}.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no last\.ckpt yet"):
        run.load_model("last")


def test_what_is_no_run_is_refused_with_the_runs_below(finished_run, tmp_path, run):
    with pytest.raises(FileNotFoundError, match=r"^RUN must be .* no run\.json\. There is no such folder"):
        TrainedRun.open(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=f"Give one of the runs in it: {finished_run}"):
        TrainedRun.open(finished_run.parent)
    with pytest.raises(ValueError, match="one of final, best, last, base; got 'newest'"):
        run.load_model("newest")


def test_data_that_has_moved_can_be_named(copy, data_folder, tmp_path):
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace(str(data_folder), "my_tasks"))
    run = TrainedRun.open(copy)
    with pytest.raises(FileNotFoundError, match="The data of the run is not at 'my_tasks', seen from"):
        run.load_datamodule()
    assert run.load_datamodule(root=str(data_folder), test_rows=2).test_rows == 2


def test_a_run_of_0_4_gives_back_its_model_too(copy, run):
    card, settings = (json.loads((copy / "run.json").read_text()), yaml.safe_load((copy / "config.yaml").read_text()))
    card |= {"format_version": 1, "test_after": card.pop("results")["test_loss"]["values"]}
    (copy / "run.json").write_text(json.dumps({key: card[key] for key in ("format_version", "tasks", "test_after")}))
    settings["model"] |= settings.pop("system")  # the module was described in one node
    (copy / "config.yaml").write_text(yaml.safe_dump(settings))
    old = TrainedRun.open(copy)
    assert old.system == "multitask"
    assert old.results["test_loss"] == run.results["test_loss"]
    assert losses(old.load_model("best"), old) == pytest.approx(old.results["test_loss"].values, rel=1e-5)


def test_a_run_of_another_system_is_refused_with_the_place_of_its_results(copy):
    card = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(card | {"system": "toy"}))
    (copy / "model").mkdir()
    run = TrainedRun.open(copy)
    said = rf"system=multitask; the run in {copy} is of system=toy\. .*coba-report {copy}; its model: {copy}/model"
    with pytest.raises(ValueError, match=said):
        run.load_model()
    for command, name in ((evaluate, "coba-evaluate"), (export_run, "coba-export")):
        with pytest.raises(ValueError, match=f"^{name} serves runs of {said}"):
            command(copy)


def test_the_results_of_several_fits_are_those_of_the_last(copy):
    (copy / "sft").mkdir()
    for name in ("adapter", "tokenizer", "checkpoints"):
        (copy / name).rename(copy / "sft" / name)
    card = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(card | {"phases": {"before": {}, "sft": {"status": "finished"}}}))
    run = TrainedRun.open(copy)
    assert run.files.folder == copy / "sft"
    assert losses(run.load_model(), run) == pytest.approx(run.results["test_loss"].values, rel=1e-5)
