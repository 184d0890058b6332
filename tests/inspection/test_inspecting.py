"""What an inspection finds in rows that were made to have one fault each."""

import json
import re
import shlex
from dataclasses import replace

import numpy as np
import pytest

from lightning_coba.data import MultitaskDataModule, Task
from lightning_coba.inspection import RunLength, inspect_data
from lightning_coba.inspection.forecast import Forecast, Measured


def rows(count, start=0, prompt="{} is:\n", completion="c{}"):
    return [{"prompt": prompt.format(i), "completion": completion.format(i)} for i in range(start, start + count)]


def clean(count=40, prompt="{} is:\n"):
    return {
        "train": rows(count, 0, prompt),
        "validation": rows(32, 1000, prompt, "v{}"),
        "test": rows(32, 2000, prompt, "t{}"),
    }


@pytest.fixture
def inspect(tokenizer):
    def run(*tasks, length=None, context=None, **options):
        settings = {"batch_size": 4, "max_length": 64, **options}
        return inspect_data(MultitaskDataModule(list(tasks), tokenizer=tokenizer, **settings), length, context)

    return run


def told(inspection, level=None):
    return [f"{f.task}: {f.what}" for f in inspection.findings if level in (None, f.level)]


def one(inspection, words):
    [found] = [finding for finding in inspection.findings if words in finding.what]
    return found


def test_clean_data_has_no_findings(inspect):
    found = inspect(Task("a", **clean(400)), length=RunLength(max_steps=400, val_check_interval=20))
    assert told(found) == []
    assert not found.stops_training


def test_what_is_not_read_and_what_is_renamed_is_found(tmp_path, tokenizer):
    for split, own in clean().items():
        (tmp_path / "my task").mkdir(exist_ok=True)
        (tmp_path / "my task" / f"{split}.json").write_text(json.dumps(own))
    (tmp_path / "my task" / "more.xlsx").touch()
    with pytest.warns(UserWarning, match="Not read|Renamed"):
        data = MultitaskDataModule(root=tmp_path, tokenizer=tokenizer, batch_size=4, max_length=64)
    found = inspect_data(data, RunLength(max_steps=40, val_check_interval=2))
    assert one(found, "not read").what == f"not read: {tmp_path}/my task/more.xlsx"
    assert one(found, "renamed").what.endswith("renamed: 'my task' to 'my_task'")
    assert one(found, "validation takes")
    assert len(found.findings) == 3


def test_sizes_and_lengths_are_those_of_the_rows(inspect):
    [task] = inspect(Task("a", **clean(40, "{:04d}\n")), validation_rows=8).tasks
    assert {split: len(rows) for split, rows in task.kept.items()} == {"train": 40, "validation": 32, "test": 32}
    assert task.shown == {"train": 40, "validation": 8, "test": 32}
    assert task.carved == set()
    # A byte per token: prompts of 5 bytes, completions "c0" to "c39" and the end token.
    assert task.prompt_tokens[task.kept["train"]].tolist() == [5] * 40
    assert sorted(set(task.completion_tokens[task.kept["train"]].tolist())) == [3, 4]


def test_rows_that_do_not_fit_are_named_with_their_whole_length(inspect):
    splits = clean()
    splits["train"] += [
        {"prompt": "p" * 99 + "\n", "completion": "c"},
        {"prompt": "q\n", "completion": "c" * 80},
    ]
    found = inspect(Task("a", **splits))
    over = one(found, "does not fit")
    assert (over.level, over.place) == ("error", "task 'a', train item 41")
    assert "data.max_length=128" in over.cure
    assert "(83)" in over.cure
    cut = one(found, "lose the beginning")
    assert (cut.level, cut.place) == ("note", "task 'a', train item 40")
    assert "up to 38 tokens" in cut.what  # 100 + 1 + the end token, of which 64 stay
    [task] = found.tasks
    assert task.prompt_tokens.max() == 100
    assert task.counts("train") == {"cut": 1, "too long": 1, "dropped": 0}
    assert len(task.kept["train"]) == 41
    assert found.stops_training
    dropped = inspect(Task("a", **splits), overlong="drop")
    assert one(dropped, "does not fit").level == "warning"
    assert not dropped.stops_training


def test_rows_beyond_the_context_stop_the_training(inspect):
    splits = clean()
    splits["train"] += [{"prompt": "p" * 40 + "\n", "completion": "c"}, {"prompt": "q\n", "completion": "c" * 50}]
    found = one(inspect(Task("a", **splits), context=32), "the model's context of 32 tokens (up to 53)")
    assert (found.level, found.place) == ("error", "task 'a', train item 40")
    assert found.what.startswith("2 rows longer")
    assert "Set data.max_length=32" in found.cure
    assert "1 of them, whose completion does not fit, need data.overlong=drop" in found.cure
    assert not inspect(Task("a", **splits), context=53).stops_training
    cut = inspect(Task("a", **splits), context=32, max_length=32, overlong="drop")
    assert not cut.stops_training
    assert one(cut, "lose the beginning").cure == "Shorten them: the model's context is 32."


@pytest.mark.parametrize(
    ("context", "cure"),
    [
        (1000, "Set data.max_length=128, which holds the longest (83), or data.overlong=drop."),
        (100, "Set data.max_length=100, which holds the longest (83), or data.overlong=drop."),
        (82, "Set data.max_length=82, the model's context, or data.overlong=drop."),
        (70, "Set data.overlong=drop, or shorten them: the model's context is 70."),
    ],
)
def test_no_length_beyond_the_context_is_advised(inspect, context, cure):
    splits = clean()
    splits["train"].append({"prompt": "q\n", "completion": "c" * 80})
    assert one(inspect(Task("a", **splits), context=context), "does not fit").cure == cure


@pytest.mark.parametrize(
    ("changed", "level", "words"),
    [
        ({"prompt": ""}, "warning", "1 row with an empty prompt"),
        ({"prompt": "how much"}, "warning", "1 row with a prompt that ends without a space or line break"),
        ({"completion": " c"}, "note", "1 row with a completion that begins with white space although"),
        ({"completion": "c\n"}, "note", "1 row with a completion that ends with white space"),
        ({"completion": "a\ufffd"}, "warning", "1 row with \ufffd (U+FFFD)"),
        ({"prompt": "caf\u00c3\u00a9\n"}, "warning", "1 row with mojibake"),
        ({"prompt": "a\x07b\n"}, "warning", "1 row with control characters"),
    ],
)
def test_a_faulty_text_is_found_and_placed(inspect, changed, level, words):
    splits = clean()
    splits["test"][3] |= changed
    found = one(inspect(Task("a", **splits)), words)
    assert (found.level, found.task, found.place) == (level, "a", "task 'a', test item 3")


def test_the_cure_of_a_prompt_without_an_end_can_be_typed(inspect):
    splits = clean()
    for split in splits.values():
        for row in split:
            row["prompt"] = row["prompt"].strip()
    found = one(inspect(Task("a", **splits, prompt="It's\n{prompt}")), "ends without a space")
    typed = shlex.split(re.search(r"Set (.*) \(where", found.cure)[1])
    assert typed == ["data.prompt=It's\\n{prompt}\\n"]


@pytest.mark.parametrize(
    "changed", [{"completion": "    return 1"}, {"prompt": "caf\u00e9\u2003"}, {"prompt": "\u65e5\n"}]
)
def test_indentation_accents_and_wide_spaces_are_no_faults(inspect, changed):
    splits = clean(400)
    splits["test"][3] |= changed
    found = inspect(Task("a", **splits), length=RunLength(max_steps=400, val_check_interval=20))
    assert told(found) == []


def test_duplicates_and_contradictions_are_counted_within_a_split(inspect):
    splits = clean(50)
    splits["train"] += [splits["train"][0], splits["train"][0], {**splits["train"][1], "completion": "other"}]
    found = inspect(Task("a", **splits))
    again = one(found, "repeat an earlier row")
    assert again.what.startswith("2 rows of train")
    assert again.place == "task 'a', train item 50"
    several = one(found, "with different completions")
    assert several.what.startswith("1 prompt of train")
    assert several.place == "task 'a', train item 1 and task 'a', train item 52"


def test_contradictions_in_carved_splits_are_placed(inspect):
    train = [row for i in range(60) for row in (*rows(1, i), *rows(1, i, "{} IS:\n", "other{}"))]
    found = inspect(Task("a", train))
    several = [finding for finding in found.findings if "with different completions" in finding.what]
    assert len(several) == 3
    for finding in several:
        assert "(case and spaces apart)" in finding.what
        first, other = map(int, re.findall(r"item (\d+)", finding.place))
        assert (first % 2, other) == (0, first + 1)


def test_steps_without_a_task_are_a_warning(inspect):
    found = inspect(Task("a", **clean(400)), Task("b", **clean(4, "b {}:\n")))
    assert one(found, "fewer than half of the steps hold a row of b").level == "warning"


def test_prompts_in_two_splits_or_tasks_are_found_with_what_training_does(inspect):
    a, b = clean(), clean(40, "b {}:\n")
    a["train"].append(a["test"][5])
    b["train"].append(a["validation"][2])
    b["train"] += a["train"][:3]
    found = inspect(Task("a", **a), Task("b", **b))
    assert one(found, "of train with a prompt of test").task == "a"
    across = one(found, "of train with a prompt of a/validation")
    assert (across.task, across.place) == ("b", "task 'b', train item 40 and task 'a', validation item 2")
    assert "dropped from train" in across.what
    assert one(found, "3 training prompts are also those of b").level == "warning"
    assert {task.name: task.counts("train")["dropped"] for task in found.tasks} == {"a": 1, "b": 1}
    strict = inspect(Task("a", **a), Task("b", **b), overlap="error")
    assert one(strict, "of train with a prompt of test").level == "error"


def test_a_split_of_which_nothing_is_left_is_an_error_and_the_rest_is_still_shown(inspect):
    splits = clean()
    splits["validation"] = splits["test"]
    found = inspect(Task("a", **splits))
    assert one(found, "nothing is left of validation").level == "error"
    assert found.steps is not None


def test_known_long_answers_are_found_after_other_prompts(inspect):
    splits = clean()
    splits["train"][7]["completion"] = splits["test"][4]["completion"] = "a whole function body, " * 2
    found = one(inspect(Task("a", **splits)), "characters or more are in train")
    assert found.place == "task 'a', test item 4"


def test_labels_are_counted_and_unseen_ones_named(inspect):
    splits = {name: [{**row, "completion": "ny"[i % 5 == 0]} for i, row in enumerate(given)]
              for name, given in clean(50).items()}  # fmt: skip
    splits["test"][0]["completion"] = "maybe"
    found = inspect(Task("a", **splits))
    [task] = found.tasks
    assert task.labels == {"n": 40, "y": 10}
    assert task.unseen_labels == ["maybe"]
    assert "'maybe'" in one(found, "of test that train lacks").what
    assert one(found, "80% of the training rows").level == "warning"


def test_completions_that_differ_are_no_labels(inspect):
    assert inspect(Task("a", **clean())).tasks[0].labels == {}


def test_small_and_carved_splits_are_told_once_for_all_tasks(inspect):
    found = inspect(Task("a", rows(60)), Task("b", rows(50, 500)))
    small = one(found, "validation has fewer than 30 rows in a (6), b (5)")
    assert (small.level, small.task) == ("warning", "")
    assert one(found, "test has fewer than 30 rows").level == "note"
    assert one(found, "validation of a, b is carved from train").level == "note"


def test_everything_unreadable_is_listed_and_the_rest_inspected(inspect, tmp_path):
    good = tmp_path / "good.jsonl"
    good.write_text("".join(json.dumps(row) + "\n" for row in rows(60)))
    bad = tmp_path / "bad.jsonl"
    bad.write_text("".join(json.dumps(row) + "\n" for row in [*rows(60), {"prompt": "x"}, {"prompt": "y"}]))
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    found = inspect(
        Task("good", good), Task("bad", bad), Task("empty", empty), Task("none", tmp_path / "no.jsonl"),
        Task("few", rows(2)),
    )  # fmt: skip
    errors = {finding.task: finding for finding in found.findings if finding.level == "error"}
    assert errors.keys() == {"bad", "empty", "none", "few"}
    assert errors["bad"].what.startswith("2 rows: there is no column 'completion'")
    assert errors["bad"].place == f"{bad}:61"
    assert str(empty) in errors["empty"].what
    assert "there is no such file or folder" in errors["none"].what
    assert "too few to carve" in errors["few"].what
    assert found.steps.tasks == ("good", "bad")
    assert len(found.examples) == 2


def test_a_conversation_without_a_template_is_an_error(inspect):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    found = inspect(Task("a", [{"messages": [{**messages[0], "content": str(i)}, messages[1]]} for i in range(9)]))
    assert "needs a chat template" in one(found, "chat template").what
    assert found.stops_training
    assert found.tasks == ()


def test_an_example_tells_what_is_read_from_what_is_learned(inspect):
    [example] = inspect(Task("a", **clean())).examples
    read, learned, end = example.pieces
    assert (read.learned, learned.learned, end.learned) == (False, True, True)
    assert read.text.endswith(" is:\n")
    assert learned.text == "c" + read.text.split()[0]
    assert (end.text, end.special) == ("<eos>", True)


def test_steps_hold_what_the_loader_yields(tokenizer):
    tasks = [Task("a", **clean(40)), Task("b", **clean(14, "b {}:\n"))]
    data = MultitaskDataModule(tasks, tokenizer=tokenizer, batch_size=4, max_length=64)
    steps = inspect_data(data).steps
    data.setup("fit")
    batches = list(data.train_dataloader())
    seen = np.array([np.bincount(batch["row_tasks"], minlength=2) for batch in batches])
    assert steps.rows.tolist() == seen.tolist()
    assert steps.completion_tokens.sum(axis=1).tolist() == [len(batch["targets"]) for batch in batches]
    read = sum(int(batch["attention_mask"].sum()) for batch in batches)
    computed = sum(batch["attention_mask"].numel() for batch in batches)
    assert steps.tokens.sum() == read
    assert steps.padding == pytest.approx(1 - read / computed)
    assert steps.token_shares.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("length", "steps_an_epoch", "records"),
    [
        (RunLength(), 100, 30),  # ten passes an epoch
        (RunLength(), 5, 15),  # at most one a step
        (RunLength(max_steps=50, val_check_interval=8), 100, 6),
        (RunLength(max_steps=50, val_check_interval=8, accumulate_grad_batches=4), 100, 25),
        (RunLength(max_steps=150, val_check_interval=0.5), 100, 3),
        (RunLength(max_steps=93, val_check_interval=8), 31, 9),  # what is left of an epoch does not count on
        (RunLength(max_steps=93, val_check_interval=8, check_val_every_n_epoch=None), 31, 11),
        (RunLength(max_steps=93, val_check_interval=8, check_val_every_n_epoch=2), 31, 3),
    ],
)
def test_records_are_the_validation_passes(length, steps_an_epoch, records):
    assert length.records(steps_an_epoch) == records


@pytest.mark.parametrize(("interval", "level"), [(20, "warning"), (5, "note"), (2, None)])
def test_too_few_validation_passes_are_found(inspect, interval, level):
    found = inspect(Task("a", **clean()), length=RunLength(max_steps=40, val_check_interval=interval))
    about = [finding for finding in found.findings if "validation passes" in finding.what]
    assert [finding.level for finding in about] == ([level] if level else [])
    if level:
        assert "trainer.val_check_interval=3 trainer.check_val_every_n_epoch=null" in about[0].cure


def share_of(inspection):
    return [finding for finding in inspection.findings if finding.what.startswith("validation takes")]


@pytest.mark.parametrize(("interval", "level"), [(1, "warning"), (5, "note"), (20, None)])
def test_validation_that_costs_too_much_is_found(inspect, interval, level):
    length = RunLength(max_steps=100, val_check_interval=interval, check_val_every_n_epoch=None)
    found = share_of(inspect(Task("a", **clean(400)), length=length))
    assert [finding.level for finding in found] == ([level] if level else [])
    if level:
        assert f"{100 // interval} passes over 32 rows" in found[0].what
        assert "beside 400" in found[0].what


def test_what_to_type_makes_validation_cheap(inspect):
    length = RunLength(max_steps=100, val_check_interval=4, accumulate_grad_batches=4, check_val_every_n_epoch=None)
    found = inspect(Task("a", **clean(400)), length=length, batch_size=1)
    [share] = share_of(found)
    typed = dict(re.findall(r"(\w+)=(\d+)", share.cure))
    assert int(typed["val_check_interval"]) % 4 == 0
    length = replace(length, val_check_interval=int(typed["val_check_interval"]))
    rows = int(typed["validation_rows"])
    assert share_of(inspect(Task("a", **clean(400)), length=length, batch_size=1, validation_rows=rows)) == []


def test_measured_times_say_more_than_counts(inspect):
    length = RunLength(max_steps=100, val_check_interval=1, check_val_every_n_epoch=None)
    found = inspect(Task("a", **clean(400)), length=length)
    of = {
        "test_seconds": 5.0,
        "timed_steps": 9,
        "peak_bytes": 2e9,
        "device": "CPU",
        "threads": 2,
        "precision": "32-true",
    }
    quick = found.timed(Measured(3.0, 1.0, load=0.0, cores=2, **of))
    assert [share.what[:21] for share in share_of(quick)] == []
    assert quick.forecast.seconds == 300 + 100 + 1 + 10
    assert quick.forecast.validation_share == 0.25
    [slow] = share_of(found.timed(Measured(1.0, 2.0, load=0.0, cores=2, **of)))
    assert slow.level == "warning"
    assert "67% of the time, as measured" in slow.what


@pytest.mark.parametrize(("held", "is_tight"), [(19e9, True), (12e9, False)])
def test_memory_that_may_not_suffice_is_said(held, is_tight):
    measured = Measured(3.0, 1.0, 1.0, 9, int(held), "CPU", 2, "32-true", 0.0, 2, total_bytes=int(25e9))
    said = " ".join(Forecast(measured, steps=100, passes=5).sentences())
    assert f"about {1.1 * held / 1e9:.1f} GB of memory of 25.0 GB" in said
    assert ("lower data.batch_size" in said) == is_tight


def test_a_datamodule_without_tokenizer_is_refused():
    with pytest.raises(ValueError, match=r"`inspect_data.datamodule` must have a tokenizer"):
        inspect_data(MultitaskDataModule([Task("a", rows(9))]))


def test_the_most_severe_come_first(inspect):
    splits = clean()
    splits["train"] += [{"prompt": "q\n", "completion": "c" * 80}, {"prompt": "", "completion": "c "}]
    levels = [finding.level for finding in inspect(Task("a", **splits)).findings]
    assert levels == sorted(levels, key=["error", "warning", "note"].index)
    assert set(levels) == {"error", "warning", "note"}
