"""Opening a run folder that somebody else sent runs nothing in it, reads no secret, and writes nowhere else."""

import json
import os
import pickle
import shutil
import sys

import pytest
import torch
import yaml

from lightning_coba.cli import evaluate, export, report
from lightning_coba.errors import UserError
from lightning_coba.reports import write_run_page
from lightning_coba.runs import TrainedRun, find_runs, read_run
from lightning_coba.runs.building import BUILDABLE


class Touch:
    """Whoever unpickles it makes a file."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return os.mkdir, (self.file,)


@pytest.fixture
def canary(tmp_path):
    """Give a file that hostile folders try to make; nobody may have made it at the end."""
    file = tmp_path / "canary"
    yield file
    assert not file.exists()


@pytest.fixture
def received(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "received")


@pytest.fixture
def settings(received):
    """Give a function that changes entries of config.yaml, each named by its path."""

    def change(**entries):
        file = received / "config.yaml"
        whole = yaml.safe_load(file.read_text())
        for path, value in entries.items():
            *parents, last = path.split("__")
            node = whole
            for name in parents:
                node = node[name]
            node[last] = value
        file.write_text(yaml.safe_dump(whole))

    return change


def build_part(run, group):
    """Do something with a run for which a group of its configuration is built."""
    actions = {"data": run.load_datamodule, "model": lambda: run.load_model("base")}
    actions.get(group, lambda: run.load_model("best"))()


def hostile_nodes(canary, folder):
    """Return what would make the canary if it were built, by the name of its target."""
    folder.mkdir()
    touch = f"open({str(canary)!r}, 'w').close()"
    (folder / "evil.pkl").write_bytes(pickle.dumps(Touch(canary)))
    (folder / "hubconf.py").write_text(f"{touch}\ndef model(): pass\n")
    (folder / "evil_module.py").write_text(f"{touch}\ndef made(): pass\n")
    (folder / "evil.cpp").write_text("int x;")
    pickled, system = str(folder / "evil.pkl"), {"_target_": "os.system", "command": f"touch {canary}"}
    return {
        "builtins.eval": {"_args_": [touch]},
        "builtins.exec": {"_args_": [touch]},
        "os.system": {"command": f"touch {canary}"},
        "subprocess.Popen": {"args": ["touch", str(canary)]},
        "pandas.read_pickle": {"filepath_or_buffer": pickled},
        "numpy.load": {"file": pickled, "allow_pickle": True},
        "torch.load": {"f": pickled, "weights_only": False},
        "torch.hub.load": {"repo_or_dir": str(folder), "model": "model", "source": "local"},
        "torch.utils.cpp_extension.load": {"name": "evil", "sources": [str(folder / "evil.cpp")]},
        "hydra.utils.call": {"config": system},
        "hydra.utils.instantiate": {"config": system},
        "hydra.utils.get_method": {"path": "evil_module.made"},
        "importlib.import_module": {"name": "evil_module"},
        "evil_module.made": {},
        "runpy.run_path": {"path_name": str(folder / "evil_module.py")},
        "functools.partial": {"_args_": [system], "_partial_": True},
        "lightning_coba.data.tasks_at": {"root": "."},
        "lightning_coba.models.load_language_model": {"name_or_path": "."},
        "lightning_coba.TrainedRun.open": {"folder": ".", "trust_code": True},
        "lightning_coba.runs.building.build": {"group": "data", "settings": system, "trust_code": True},
        "lightning_coba.MultitaskLM.load_from_checkpoint": {"checkpoint_path": pickled},
        "peft.PeftModel.from_pretrained": {"model": None, "model_id": "."},
    }


PLACES = ("data", "data__tasks", "model", "model__model", "peft", "peft__r", "system", "system__optimizer")


@pytest.mark.parametrize("place", PLACES)
def test_a_configuration_builds_nothing_but_what_is_listed(received, settings, canary, tmp_path, monkeypatch, place):
    monkeypatch.syspath_prepend(tmp_path / "evil")
    for target, arguments in hostile_nodes(canary, tmp_path / "evil").items():
        settings(**{place: {"_target_": target, **arguments}})
        with pytest.raises(UserError) as error:
            build_part(TrainedRun.open(received), place.partition("__")[0])
        assert f"`{place.replace('__', '.')}." in error.value.what
        assert "--trust-code" in error.value.cure
        assert not canary.exists(), target
    assert "evil_module" not in sys.modules


def test_what_is_listed_for_one_group_is_not_for_another(received, settings):
    settings(model={"_target_": "lightning_coba.MultitaskLM"})
    with pytest.raises(UserError, match=r"`model\._target_` names 'lightning_coba\.MultitaskLM'"):
        TrainedRun.open(received).load_model()
    assert set(BUILDABLE) == {"data", "model", "peft", "system"}


@pytest.mark.parametrize("key", ["_partial_", "_args_", "_recursive_", "_convert_"])
def test_what_hydra_would_act_on_is_refused(received, settings, key):
    settings(**{f"data__{key}": True})
    with pytest.raises(UserError, match=rf"`data\.{key}`"):
        TrainedRun.open(received).load_datamodule()


def test_a_folder_that_is_trusted_is_built_freely(received, settings, tmp_path):
    file = tmp_path / "made"
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Touch(file)))
    settings(data={"_target_": "pandas.read_pickle", "filepath_or_buffer": str(tmp_path / "evil.pkl")})
    with pytest.raises(AttributeError):  # what it has made is no DataModule
        TrainedRun.open(received, trust_code=True).load_datamodule()
    assert file.exists()  # so the canaries of the other tests would have been made


def test_the_commands_refuse_in_one_sentence_what_python_refuses(received, settings, canary, capsys):
    settings(model={"_target_": "os.system", "command": f"touch {canary}", "model": "x"})
    for command in (evaluate, export):
        with pytest.raises(SystemExit) as end:
            command.main([str(received), *(["--merge"] if command is export else [])])
        said = capsys.readouterr().err
        assert end.value.code == 2
        assert "`model._target_` names 'os.system'" in said
        assert "Traceback" not in said


def test_a_configuration_looks_nothing_up(received, settings, monkeypatch):
    monkeypatch.setenv("COBA_SECRET", "hush-hush-hush")
    settings(data__root="${oc.env:COBA_SECRET}", data__seed=1)
    with pytest.raises(UserError) as error:
        TrainedRun.open(received).load_datamodule()
    assert "${oc.env:COBA_SECRET}" in str(error.value)
    assert "hush" not in str(error.value)


def test_tags_of_yaml_build_nothing(received, canary):
    (received / "config.yaml").write_text(f'data: !!python/object/apply:os.system ["touch {canary}"]\n')
    with pytest.raises(UserError):
        TrainedRun.open(received)
    assert read_run(received).settings is None  # a report goes on without


def test_code_beside_a_model_or_a_tokenizer_is_not_run(received, settings, model_folder, canary, tmp_path):
    base = shutil.copytree(model_folder, tmp_path / "base")
    for folder, file, classes in (
        (base, "config.json", {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"}),
        (received / "tokenizer", "tokenizer_config.json", {"AutoTokenizer": ["evil.C", "evil.C"]}),
    ):
        (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\nclass C: pass\n")
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | {"auto_map": classes}))
    settings(model__model=str(base))
    run = TrainedRun.open(received)
    run.load_model()
    assert run.tokenizer
    settings(model__trust_remote_code=True)
    run = TrainedRun.open(received)
    for action in (run.load_model, lambda: run.tokenizer):
        with pytest.raises(UserError, match=r"`model\.trust_remote_code` is True.*--trust-remote-code"):
            action()


def test_kernels_of_the_hub_are_not_loaded(received, settings, model_folder, tmp_path):
    settings(model__attn_implementation="somebody/kernel")
    with pytest.raises(UserError, match=r"`model\.attn_implementation` is 'somebody/kernel'.*--trust-remote-code"):
        TrainedRun.open(received).load_model()
    base = shutil.copytree(model_folder, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"attn_implementation": "somebody/kernel"}))
    settings(model__attn_implementation=None, model__model=str(base))
    with pytest.raises(UserError, match=r"names a kernel of the hub, 'somebody/kernel'"):
        TrainedRun.open(received).load_model()


def test_a_chat_template_runs_in_the_sandbox_of_jinja(received, canary):
    attack = "{{ cycler.__init__.__globals__.os.system('touch " + str(canary) + "') }}"
    (received / "tokenizer" / "chat_template.jinja").write_text(attack)
    tokenizer = TrainedRun.open(received).tokenizer
    assert tokenizer.chat_template == attack
    with pytest.raises(Exception, match="unsafe"):
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)


def test_pickled_weights_are_not_read(received, settings, model_folder, canary, tmp_path):
    torch.save(Touch(canary), received / "adapter" / "adapter_model.bin")
    (received / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"adapter has no adapter_model\.safetensors, and pickled"):
        TrainedRun.open(received).load_model()
    base = shutil.copytree(model_folder, tmp_path / "base")
    (base / "model.safetensors").unlink()
    torch.save(Touch(canary), base / "pytorch_model.bin")
    settings(model__model=str(base))
    with pytest.raises(UserError, match="no weights as safetensors"):
        TrainedRun.open(received).load_model("base")


def test_an_adapter_names_no_module_to_import(received, settings):
    file = received / "adapter" / "adapter_config.json"
    whole = json.loads(file.read_text())
    file.write_text(json.dumps(whole | {"megatron_config": {"a": 1}, "megatron_core": "megatron.core"}))
    with pytest.raises(UserError, match="`megatron_config` has a module imported"):
        TrainedRun.open(received).load_model()
    file.write_text(json.dumps(whole))
    settings(peft__megatron_config={"a": 1})
    with pytest.raises(UserError, match="`megatron_config` has a module imported"):
        TrainedRun.open(received).load_model("best")


@pytest.mark.parametrize(
    "changes",
    [
        {"attn_implementation": {"": "evil/kernel"}},
        {"_attn_implementation": "evil/kernel"},
        {"attn_implementation": "flash_attention_2"},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
    ],
)
def test_a_model_asks_for_no_kernels(received, settings, model_folder, tmp_path, changes):
    base = shutil.copytree(model_folder, tmp_path / "asking")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | changes))
    settings(model__model=str(base))
    with pytest.raises(UserError, match=next(iter(changes))):
        TrainedRun.open(received).load_model("base")


@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "tokenizer/tokenizer.json"])
def test_what_is_cut_off_is_one_sentence(received, name):
    (received / name).write_bytes((received / name).read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be loaded"):
        TrainedRun.open(received).load_model() if "adapter" in name else TrainedRun.open(received).tokenizer


@pytest.mark.parametrize(
    ("key", "value"),
    [("data__mixing_temperature", {"a": 2}), ("data__nothing", 1), ("model__dtype", "../../x")],
)
def test_a_value_of_another_kind_is_one_sentence(received, settings, key, value):
    settings(**{key: value})
    run = TrainedRun.open(received)
    with pytest.raises(UserError, match=r"config\.yaml|data"):
        run.load_datamodule() if key.startswith("data") else run.load_model("base")


def test_a_pickled_checkpoint_runs_nothing(received, canary):
    torch.save({"state_dict": Touch(canary)}, received / "checkpoints" / "best.ckpt")
    with pytest.raises(UserError, match=r"best\.ckpt: the file is damaged"):
        TrainedRun.open(received).load_model("best")
    assert not canary.exists()


def test_an_adapter_of_another_kind_or_of_another_model_is_no_way_in(received, canary):
    file = received / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"peft_type": "PROMPT_TUNING"}))
    with pytest.raises(UserError, match=r"`peft_type` in .* is PROMPT_TUNING"):
        TrainedRun.open(received).load_model()
    file.write_text(json.dumps(config | {"base_model_name_or_path": "/nowhere/else"}))
    assert TrainedRun.open(received).load_model()  # on the model of the configuration


@pytest.mark.parametrize(
    "name", ["export", "evaluation", "report.html", "figures/weights.png", "adapter/x.safetensors"]
)
def test_links_that_lead_out_of_the_folder_are_refused(received, tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    link = received / name
    link.unlink(missing_ok=True)
    link.symlink_to(outside)
    with pytest.raises(UserError, match=rf"{name} is a link to {outside}, outside"):
        TrainedRun.open(received)
    assert TrainedRun.open(received, trust_code=True)
    link.unlink()
    link.symlink_to(received / "run.json")  # within
    assert TrainedRun.open(received)


def test_a_page_is_not_written_through_a_link(received, tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    for name in ("report.html", "report.html.partial"):
        (received / name).unlink(missing_ok=True)
        (received / name).symlink_to(mine)
    report.main([str(received), "--out", str(tmp_path / "out")])
    assert mine.read_text() == "mine"
    assert "<html" in (received / "report.html").read_text()


@pytest.mark.parametrize("phase", ["../../other", "/etc", "..", ".", "a/b", ""])
def test_a_card_leads_to_no_other_folder(received, phase):
    card = json.loads((received / "run.json").read_text())
    (received / "run.json").write_text(json.dumps(card | {"phases": {phase: {"status": "finished"}}}))
    with pytest.raises(UserError, match=r"run\.json: a phase must have a name of letters"):
        TrainedRun.open(received).load_model()
    run = read_run(find_runs([received])[0])
    assert run.status == "unreadable"
    write_run_page(received)


@pytest.mark.parametrize("name", ["../../x", "..", "/x", "a/b", "-x", "x\n"])
def test_a_task_of_a_configuration_leads_to_no_other_folder(received, settings, name):
    rows = [{"prompt": "a", "completion": "b"}]
    settings(data={"_target_": "lightning_coba.MultitaskDataModule"})
    settings(data__tasks=[{"_target_": "lightning_coba.Task", "name": name, "train": rows}])
    with pytest.raises(UserError, match=r"`Task\.name` may hold letters"):
        TrainedRun.open(received).load_datamodule()
