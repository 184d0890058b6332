"""What is exported loads without this package and is the model of the run; what is refused leaves nothing."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import yaml

from lightning_coba.export import export_run
from lightning_coba.runs.trained_run import TrainedRun

PROMPT = [99, 117, 98, 101, 115, 32, 52, 32, 61]
#: Loads each folder as its card says, without this package, and writes logits and generated tokens.
STRANGER = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
ids = torch.tensor([json.loads(sys.argv[1])])
for folder in sys.argv[2:]:
    if folder.endswith("adapter"):
        from peft import AutoPeftModelForCausalLM
        model = AutoPeftModelForCausalLM.from_pretrained(folder).eval()
    else:
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(ids).logits.float()
        tokens = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    text = tokenizer.decode(tokens[0], skip_special_tokens=True)
    torch.save({"logits": logits, "tokens": tokens, "text": text, "dtype": str(model.dtype)}, folder + ".pt")
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.fixture(scope="module")
def run(finished_run):
    return TrainedRun.open(finished_run)


@pytest.fixture
def copy(finished_run, tmp_path):
    """A run of one's own, whose files may be changed."""
    return shutil.copytree(finished_run, tmp_path / "copy")


def change_settings(folder, **groups):
    file = folder / "config.yaml"
    settings = yaml.safe_load(file.read_text())
    for group, changed in groups.items():
        settings[group].update(changed)
    file.write_text(yaml.safe_dump(settings))


@pytest.fixture(scope="module")
def full_run(overrides, tmp_path_factory):
    """A run that trained all weights."""
    from tiny_runs import training_here

    folder = tmp_path_factory.mktemp("full") / "run"
    own = [o for o in overrides if not o.startswith(("peft.", "scheduler.", "balancer.", "trainer.max_epochs"))]
    with training_here() as train:
        train(folder, *own, "peft=none", "scheduler=none", "balancer=uniform", "trainer.max_epochs=1")
    return TrainedRun.open(folder)


@pytest.fixture(scope="module")
def outcomes(run, full_run, tmp_path_factory):
    """Export in every way, and let a process that knows nothing of this package load it all."""
    root = tmp_path_factory.mktemp("exports")
    export_run(run, root / "merged", merge=True)
    export_run(run, root / "half", merge=True, dtype="bfloat16")
    export_run(run, root / "last", merge=True, checkpoint="last")
    export_run(run, root / "adapter")
    export_run(full_run, root / "full")
    folders = [str(root / name) for name in ("merged", "half", "last", "adapter", "full")]
    line = [sys.executable, "-c", STRANGER, json.dumps(PROMPT), *folders]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=root, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "lightning_coba" not in done.stdout.split()
    assert "transformers" in done.stdout.split()
    return {folder.rpartition("/")[2]: torch.load(f"{folder}.pt", weights_only=True) for folder in folders} | {
        "root": root
    }


@torch.no_grad()
def own(run, checkpoint="final"):
    """Logits and tokens of the run's own model."""
    model, ids = run.load_model(checkpoint), torch.tensor([PROMPT])
    tokens = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    return model(ids).logits, tokens


@pytest.mark.parametrize(("name", "checkpoint"), [("merged", "final"), ("adapter", "final"), ("last", "last")])
def test_the_export_of_an_adapter_is_the_model_of_the_run(run, outcomes, name, checkpoint):
    logits, tokens = own(run, checkpoint)
    torch.testing.assert_close(outcomes[name]["logits"], logits, atol=1e-4, rtol=0)
    assert torch.equal(outcomes[name]["tokens"], tokens)
    assert outcomes[name]["text"] == run.tokenizer.decode(tokens[0], skip_special_tokens=True)
    assert outcomes[name]["dtype"] == "torch.float32"


def test_the_export_of_full_fine_tuning_is_its_model(full_run, outcomes):
    logits, tokens = own(full_run)
    torch.testing.assert_close(outcomes["full"]["logits"], logits, atol=1e-4, rtol=0)
    assert torch.equal(outcomes["full"]["tokens"], tokens)


def test_the_models_are_different_ones(run, outcomes):
    base, _ = own(run, "base")
    assert not torch.allclose(outcomes["merged"]["logits"], base, atol=1e-3)
    assert not torch.allclose(outcomes["merged"]["logits"], outcomes["full"]["logits"], atol=1e-3)


def test_weights_are_rounded_after_the_sum(run, outcomes):
    assert outcomes["half"]["dtype"] == "torch.bfloat16"
    torch.testing.assert_close(outcomes["half"]["logits"], own(run)[0], atol=3e-2, rtol=0)


def test_a_folder_holds_what_others_need_and_nothing_else(outcomes):
    names = {
        "merged": {"model.safetensors", "config.json", "generation_config.json"},
        "adapter": {"adapter_model.safetensors", "adapter_config.json"},
        "full": {"model.safetensors", "config.json", "generation_config.json"},
    }
    for name, own_files in names.items():
        found = {path.name for path in (outcomes["root"] / name).iterdir()}
        tokenizer = {"tokenizer.json", "tokenizer_config.json"}
        assert found == own_files | tokenizer | {"README.md", "figures"}
    assert not [path for path in outcomes["root"].iterdir() if path.name.startswith(".")]


def test_files_of_a_run_and_of_an_export_have_the_mode_that_the_umask_says(run, outcomes):
    umask = os.umask(0)
    os.umask(umask)
    files = [file for folder in (run.files.folder, outcomes["root"]) for file in folder.rglob("*") if file.is_file()]
    assert {".safetensors", ".json", ".md"} <= {file.suffix for file in files}
    assert {file.name for file in files if file.stat().st_mode & 0o777 != 0o666 & ~umask} == set()


def test_the_usual_place_is_inside_the_run(copy):
    change_settings(copy, model={"model": "nobody/has-this"})  # the base model is not needed for an adapter
    folder = export_run(copy)
    assert folder == copy / "export" / "adapter"
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "nobody/has-this"
    folder = export_run(copy, copy / "named", base="some/other")
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "some/other"


def test_the_chat_template_travels(copy, tmp_path):
    file = copy / "tokenizer" / "chat_template.jinja"
    file.write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(export_run(copy, tmp_path / "out", merge=True))
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<user>hi"


def test_a_base_model_in_4_bits_is_loaded_whole_and_the_card_says_so(copy, run, tmp_path):
    change_settings(copy, model={"load_in_4bit": True})
    folder = export_run(copy, tmp_path / "out", merge=True)
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(folder).eval()(torch.tensor([PROMPT])).logits
    torch.testing.assert_close(logits, own(run)[0], atol=1e-4, rtol=0)
    assert "in 4 bits" in (folder / "README.md").read_text()


def test_what_is_there_is_not_overwritten(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    export_run(run, out)  # an empty folder is as good as none
    before = (out / "README.md").stat().st_mtime_ns
    with pytest.raises(FileExistsError, match=r"an export in .*out\. Replace it with --force"):
        export_run(run, out)
    assert (out / "README.md").stat().st_mtime_ns == before
    export_run(run, out, merge=True, force=True)
    assert (out / "config.json").is_file()
    assert not (out / "adapter_config.json").exists()

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("My thesis.")
    for force in (False, True):
        with pytest.raises(FileExistsError, match="holds something else"):
            export_run(run, tmp_path / "mine", force=force)
    assert (tmp_path / "mine" / "README.md").read_text() == "My thesis."


def test_an_export_that_fails_leaves_nothing_and_keeps_the_one_before(run, copy, tmp_path):
    out = export_run(run, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    (copy / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(OSError, match="adapter_config"):
        export_run(copy, out, force=True)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"copy", "out"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"checkpoint": "base"}, r"`export_run\.checkpoint` must be one of final, best, last; got 'base'"),
        (
            {"dtype": "int8", "merge": True},
            r"`export_run\.dtype` must be one of float32, bfloat16, float16; got 'int8'",
        ),
        ({"dtype": "float16"}, r"`export_run\.dtype` must be left out for an adapter"),
        ({"base": "a/b", "merge": True}, r"`export_run\.base` must be left out where whole weights"),
    ],
)
def test_arguments_outside_their_domain_are_refused(run, tmp_path, arguments, says):
    with pytest.raises(ValueError, match=says):
        export_run(run, tmp_path / "out", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_run_names_the_checkpoints(copy, tmp_path):
    shutil.rmtree(copy / "adapter")
    for merge in (True, False):
        with pytest.raises(FileNotFoundError, match=r"take the checkpoint 'best' or 'last'"):
            export_run(copy, tmp_path / "out", merge=merge)
    assert (export_run(copy, tmp_path / "out", checkpoint="best") / "adapter_model.safetensors").is_file()
