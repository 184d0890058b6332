import re

import pytest
import yaml

from lightning_coba.data import MultitaskDataModule, Task, tasks_at
from lightning_coba.inspection.column_guess import rules_of
from lightning_coba.inspection.run_draft import draft_run, draft_yaml, write_draft


def rows(count, width=3, **more):
    return [{"question": f"{i:0{width}d}", "answer": "yes", **more} for i in range(count)]


@pytest.fixture
def draft(tokenizer):
    """Draft a run: its settings by name, each with its comment."""

    def make(*tasks, context=None):
        text = draft_yaml(draft_run(tasks, rules_of(tasks), tokenizer, context), "mine", "mine", ".", None)
        settings = yaml.safe_load(text)
        return {
            name: (value, re.search(rf"^  {name}: .*?# (.*)$", text, re.MULTILINE)[1])
            for group in ("data", "trainer")
            for name, value in settings[group].items()
            if name not in ("root", "tasks", "prompt", "completion")
        }

    return make


def test_lengths_hold_nearly_all_rows_of_each_task(draft):
    many, long = rows(300), rows(1, width=700)
    # 3 characters, the line break of the template, "yes" and the end token.
    assert draft(Task("a", many + long))["max_length"][0] == 64
    assert draft(Task("a", many + rows(1, width=100)))["max_length"][0] == 64
    assert draft(Task("a", rows(300, width=58) + rows(1, width=90)))["max_length"][0] == 128  # nearly as long
    assert draft(Task("a", rows(300, width=90)))["max_length"][0] == 128
    few = rows(30, width=200)
    assert draft(Task("a", rows(9000, width=4)), Task("b", few))["max_length"][0] == 256
    assert "overlong" not in draft(Task("a", many))


def test_an_outlier_is_dropped_and_told(draft):
    found = draft(Task("a", [*rows(300), {"question": "x", "answer": "y" * 3000}]))
    assert (found["max_length"][0], found["batch_size"][0]) == (64, 16)
    assert found["overlong"][0] == "drop"
    assert "drops 1 of the 301 rows, whose completion does not fit" in found["overlong"][1]


def test_no_row_is_longer_than_the_context(draft):
    found = draft(Task("a", rows(300, width=90)), context=50)
    assert found["max_length"][0] == 50
    assert found["max_length"][1].startswith("the model's context")


def test_long_rows_share_a_step_over_several_batches(draft):
    found = draft(Task("a", rows(200, width=4000)))
    assert found["batch_size"][0] * found["accumulate_grad_batches"][0] == 16
    assert found["batch_size"][0] < 16
    interval, steps = (found[name][0] for name in ("val_check_interval", "max_steps"))
    assert interval % found["accumulate_grad_batches"][0] == 0
    assert 26 <= steps // (interval // found["accumulate_grad_batches"][0]) <= 40


@pytest.mark.parametrize(("count", "steps"), [(20, 10), (4000, 600), (21_000, 3000)])
def test_a_run_is_neither_learning_by_heart_nor_endless(draft, count, steps):
    assert draft(Task("a", rows(count)))["max_steps"][0] == steps


def test_unequal_tasks_are_mixed_by_temperature(draft):
    assert draft(Task("a", rows(90)), Task("b", rows(30)))["mixing"][0] == "proportional"
    mixing, why = draft(Task("a", rows(400)), Task("b", rows(30)))["mixing"]
    assert mixing == "temperature"
    assert "a has 13 times the rows of b" in why


def test_tasks_of_other_lengths_are_in_every_step(draft):
    mixing, why = draft(Task("long", rows(300, width=90)), Task("short", rows(60)))["mixing"]
    assert mixing == "stratified"
    assert "every step holds every task" in why


@pytest.mark.parametrize(("num_tasks", "count", "rows_a_task"), [(2, 4000, 64), (8, 600, 64), (8, 80, 30)])
def test_validation_takes_less_than_a_quarter(tokenizer, num_tasks, count, rows_a_task):
    held_out = [{"question": f"v{i}", "answer": "yes"} for i in range(100)]
    tasks = [Task(f"task{i}", rows(count), held_out, held_out) for i in range(num_tasks)]
    found = draft_run(tasks, rules_of(tasks), tokenizer)
    assert found.validation_rows <= rows_a_task
    assert found.passes >= 13  # the warm-up and the window of CoBa
    assert found.passes * num_tasks * found.validation_rows < found.max_steps * 16  # a row is learned for three


def test_passes_that_were_measured_to_be_slow_become_fewer(tokenizer):
    tasks = [Task("a", rows(4000))]
    found = draft_run(tasks, rules_of(tasks), tokenizer)
    assert found.with_share(0.2) is found
    assert found.with_share(0.4).passes == pytest.approx(found.passes / 2, abs=1)
    assert found.with_share(0.99).passes == 13


def test_carved_rows_are_not_counted(tokenizer):
    held_out = [{"question": f"v{i}", "answer": "yes"} for i in range(5)]
    tasks = [Task("a", rows(100)), Task("b", rows(100), held_out, held_out)]
    assert draft_run(tasks, rules_of(tasks), tokenizer).sizes == {"a": 80, "b": 100}


def written(folder, contents):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.csv").write_text(contents)


def test_the_yaml_reads_the_data_that_was_looked_at(tmp_path, tokenizer):
    root = tmp_path / "mine"
    written(root / "a", "question,answer\n" + "".join(f"q{i},no: {i}\n" for i in range(30)))
    tasks = tasks_at(root)
    text = draft_yaml(draft_run(tasks, rules_of(tasks), tokenizer), str(root), "mine", "conf", "some/model")
    assert "# coba-train --config-dir conf experiment=mine" in text
    settings = yaml.safe_load(text)
    assert settings["model"]["model"] == "some/model"
    assert settings["data"]["prompt"] == "{question}\n"
    MultitaskDataModule(tokenizer=tokenizer, **settings["data"]).setup()


def test_tasks_with_other_columns_are_named_one_by_one(tmp_path, tokenizer):
    root = tmp_path / "mine"
    written(root / "a", "question,answer\n" + "".join(f"q{i},no\n" for i in range(30)))
    written(root / "b", "prompt,completion\n" + "".join(f"{i} ,no\n" for i in range(30)))
    tasks = tasks_at(root)
    settings = yaml.safe_load(draft_yaml(draft_run(tasks, rules_of(tasks), tokenizer), str(root), "mine", ".", None))
    named = [{key: value for key, value in task.items() if key != "_target_"} for task in settings["data"].pop("tasks")]
    assert [task["name"] for task in named] == ["a", "b"]
    assert [task.get("completion") for task in named] == ["answer", None]
    data = MultitaskDataModule([Task(**task) for task in named], tokenizer=tokenizer, **settings["data"])
    data.setup()
    assert data.sizes["train"] == {"a": 24, "b": 24}


def test_a_file_is_replaced_on_request_alone(tmp_path):
    file = tmp_path / "experiment" / "x.yaml"
    write_draft(file, "one")
    with pytest.raises(FileExistsError, match="Add --force"):
        write_draft(file, "two")
    assert file.read_text() == "one"
    write_draft(file, "two", force=True)
    assert file.read_text() == "two"


def test_a_folder_of_another_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "experiment" / "x.yaml"))):
        write_draft(tmp_path / "x.yaml", "text")
    assert not list(tmp_path.iterdir())
