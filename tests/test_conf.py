"""Every YAML file: composes, passes the check of the command, and shows the defaults of what it configures."""

import inspect
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf, flag_override

import lightning_coba
from lightning_coba import ConvergenceBalancer, MultitaskDataModule, TaskBalancing
from lightning_coba.cli import plugins, resolvers
from lightning_coba.cli.config_check import check_config
from lightning_coba.cli.config_folder import config_folder
from lightning_coba.cli.resolving import with_method_apart
from lightning_coba.models import LanguageModel

CONF = Path(config_folder())
GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and not folder.name.startswith("_"))
OPTIONS = sorted((f.parent.name, f.stem) for f in CONF.glob("*/*.yaml"))
NEEDED = {
    ("data", "files"): ["data.root=somewhere"],
    ("model", "causal_lm"): ["model.model=somewhere"],
    ("balancer", "fixed"): ["balancer.weights={code: 1, qa: 2}"],
}


@pytest.fixture
def settings(tmp_path):
    """Return a function: overrides -> the resolved configuration that `coba-train` works with."""

    def compose_all(*overrides):
        resolvers.register()
        plugins.register()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("train", list(overrides), return_hydra_config=True)
        config.hydra.runtime.output_dir = str(tmp_path)
        HydraConfig.instance().set_config(config)
        with flag_override(config, ["struct", "readonly"], False):
            del config["hydra"]
        found = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        return found | {"balancer": with_method_apart(found["balancer"])}

    yield compose_all
    HydraConfig.instance().cfg = None


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda value: value)
def test_every_option_composes_and_passes_the_check(settings, group, option):
    config = settings(f"{group}={option}", *NEEDED.get((group, option), []))
    check_config(config)
    assert group in config or group == "experiment"


def test_folder_is_found_and_every_group_is_in_the_list_of_defaults():
    assert len(OPTIONS) > 15
    defaults = yaml.safe_load((CONF / "train.yaml").read_text())["defaults"]
    named = {key.removeprefix("optional ") for entry in defaults if isinstance(entry, dict) for key in entry}
    assert {name for name in named if "/" not in name} == set(GROUPS)
    assert config_folder() == str(Path(lightning_coba.__file__).parents[1] / "conf")


def values_of(file):
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {}


@pytest.mark.parametrize(
    "option", [option for group, option in OPTIONS if (group, option != "none") == ("balancer", True)]
)
def test_balancers_list_every_argument_with_its_default(option):
    values = with_method_apart(values_of(CONF / "balancer" / f"{option}.yaml"))
    called = get_object(values.pop("_target_"))
    assert called in (ConvergenceBalancer, TaskBalancing)
    own = values.pop("balancer", None)
    defaults = {name: p.default for name, p in inspect.signature(called).parameters.items() if name != "balancer"}
    # Tasks, held-out rows and where weights and losses are found come from MultitaskLM and its data.
    for known in ("tasks", "held_out", "monitor", "attribute", "strict_tasks"):
        defaults.pop(known)
    if option == "coba":  # the classes are the paper's rule, for parity; a run is not to follow noise (docs/coba.md)
        defaults["significance"] = 0.01
    if own is not None:
        rule = get_object(own.pop("_target_"))
        starred = option.endswith("_star")
        assert rule.__name__.lower() == option.removesuffix("_star")
        needed = {name: p.default for name, p in inspect.signature(rule).parameters.items()}
        if starred:
            needed["source"] = "held_out"
        assert own.keys() == needed.keys()
        for name, default in needed.items():
            assert own[name] == ("???" if default is inspect.Parameter.empty else default), name
        balancer = rule(**own if option != "fixed" else {"weights": [1]})
        assert balancer.label.endswith("*") == starred
        # What has no effect on a method is not offered.
        if balancer.needs & {"grad_norms", "hypergradients"} == frozenset():
            defaults.pop("parameters")
        if balancer.needs and balancer.baseline_signal != "losses":
            defaults.pop("baseline")
    assert values == defaults


@pytest.mark.parametrize("name", lightning_coba.balancers.__all__)
def test_no_setting_of_a_method_is_called_as_one_of_the_callback(name):
    rule = getattr(lightning_coba.balancers, name)
    if inspect.isclass(rule) and is_dataclass(rule) and name != "CoBa":  # CoBa's are the callback's
        assert {field.name for field in fields(rule)}.isdisjoint(inspect.signature(TaskBalancing).parameters)


def test_a_setting_of_a_method_is_typed_as_one_of_coba_is(settings):
    found = settings("balancer=gradnorm", "balancer.alpha=2", "balancer.min_weight=0.1")["balancer"]
    assert (found["balancer"]["alpha"], found["min_weight"]) == (2, 0.1)
    assert "alpha" not in found
    in_yaml = {"_target_": "lightning_coba.TaskBalancing", "balancer": {"_target_": "x.Own", "alpha": 3}, "alpha": 1.5}
    assert with_method_apart(in_yaml)["balancer"] == {"_target_": "x.Own", "alpha": 3}  # beside the class: as in 0.4


@pytest.mark.parametrize(
    ("file", "called", "left_out"),
    [
        ("data/files.yaml", MultitaskDataModule, {"tasks", "tokenizer"}),
        (
            "data/quickstart.yaml",
            MultitaskDataModule,
            {"root", "prompt", "completion", "messages", "chat", "tokenizer"},
        ),
        ("model/causal_lm.yaml", LanguageModel, set()),
    ],
)
def test_data_and_model_list_every_argument(file, called, left_out):
    values = values_of(CONF / file)
    assert get_object(values.pop("_target_")) is called
    parameters = inspect.signature(called).parameters
    assert values.keys() == parameters.keys() - left_out
    special = {"root": "???", "model": "???", "seed": "${seed}", "tasks": values.get("tasks")}
    for name, value in values.items():
        assert value == special.get(name, parameters[name].default), name


def test_options_that_need_a_value_say_so(settings):
    for (group, option), needed in NEEDED.items():
        [key] = [override.partition("=")[0] for override in needed]
        with pytest.raises(Exception, match=rf"(?s)Missing mandatory value.*full_key: {re.escape(key)}"):
            settings(f"{group}={option}")


def test_experiments_begin_with_the_command_that_runs_them():
    experiments = list((CONF / "experiment").glob("*.yaml"))
    assert experiments
    for file in experiments:
        lines = file.read_text().splitlines()
        assert lines[0] == "# @package _global_"
        assert lines[1].startswith("# coba-train ")
        assert f"experiment={file.stem}" in lines[1]


def test_experiment_wins_over_the_groups_and_the_command_line_over_it(settings):
    assert settings("experiment=demo")["data"]["batch_size"] == 8
    assert settings("experiment=demo", "data.batch_size=3")["data"]["batch_size"] == 3
    assert settings("experiment=demo", "balancer=uniform")["balancer"]["_target_"].endswith("TaskBalancing")
    assert settings("experiment=demo")["trainer"]["precision"] in ("bf16-mixed", "32-true")


def test_name_tells_the_runs_of_a_suite_apart(settings):
    names = [settings(f"balancer={b}", f"seed={s}")["name"] for b in ("coba", "uniform") for s in (1, 2)]
    assert names == [f"quickstart-{b}-seed{s}" for b in ("coba", "uniform") for s in (1, 2)]
    assert settings("experiment=demo", "seed=2")["name"] == "demo-coba-seed2"
    assert settings("name=mine")["name"] == "mine"


@pytest.mark.parametrize("experiment", ["", "experiment=demo"])
def test_name_in_a_sweep_is_that_of_no_single_job(settings, experiment):
    jobs = [
        settings(*filter(None, [experiment, f"balancer={b}", f"seed={s}"]), "hydra.mode=MULTIRUN")["name"]
        for b in ("coba", "uniform")
        for s in (1, 2)
    ]
    assert set(jobs) == {"demo" if experiment else "quickstart"}


def test_folder_of_a_job_is_one_folder():
    plain = "balancer=coba,seed=1"
    assert resolvers._as_folder(plain) == plain
    assert resolvers._as_folder("data.root=/a/b,seed=1") == "data.root=_a_b,seed=1"
    assert resolvers._as_folder("data.prompt=Is `{a}` so? <b>\n,seed=1") == "data.prompt=Isasob,seed=1"
    long = [resolvers._as_folder("x" * 300 + f",seed={seed}") for seed in (1, 2)]
    assert long[0] != long[1]
    assert all(len(name) < 255 for name in long)
    assert len(resolvers._as_folder("é" * 300).encode()) < 255


def test_optimizers_schedulers_and_adapters_can_be_built(settings):
    parameter = torch.nn.Parameter(torch.zeros(2))
    for optimizer in ("adamw", "sgd"):
        for scheduler in ("cosine", "linear"):
            config = settings(f"optimizer={optimizer}", f"scheduler={scheduler}")
            built = instantiate(config["optimizer"])([parameter])
            assert built.param_groups[0]["lr"] > 0
            schedule = instantiate(config["scheduler"])(built, num_training_steps=20)
            assert schedule.get_last_lr() == [0]
    for name, group in (("scheduler", "none"), ("peft", "none")):
        assert not settings(f"{name}={group}")[name]
    assert instantiate(settings("peft=lora")["peft"], _convert_="all").r == 16
    assert instantiate(settings("peft=ia3")["peft"], _convert_="all").target_modules == {
        "k_proj", "v_proj", "down_proj",
    }  # fmt: skip
