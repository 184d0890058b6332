import json
import re
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
from rich.console import Console

from lightning_coba.data import MultitaskDataModule, Task

SIZES = [23, 11, 5]  # as in conftest.py
TASK = Task("a", "train.jsonl")


def pairs(batch):
    return list(zip(batch["row_tasks"].tolist(), batch["row_ids"].tolist(), strict=True))


def trainer_stub(rank=0, world_size=1, accumulate=1, module=None):
    return SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        accumulate_grad_batches=accumulate,
        training=False,
        lightning_module=module,
        _checkpoint_connector=SimpleNamespace(_loaded_checkpoint={}),
        distributed_sampler_kwargs={"rank": rank, "num_replicas": world_size} if world_size > 1 else None,
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, "exactly one of `tasks` and `root`; got neither"),
        ({"tasks": [TASK], "root": "."}, "exactly one of `tasks` and `root`; got both"),
        (
            {"tasks": [TASK], "prompt": "question"},
            "prompt` must be left out where `tasks` are listed, since each has its",
        ),
        ({"tasks": []}, "`MultitaskDataModule.tasks` must be a list of at least one Task; got []"),
        ({"tasks": ["a"]}, "`MultitaskDataModule.tasks` must be a list of at least one Task; got ['a']"),
        ({"tasks": [TASK, Task("b", "x"), TASK]}, "must have different names; got 'a' twice"),
        (
            {"tasks": [TASK], "batch_size": 0},
            "`MultitaskDataModule.batch_size` must be a whole number of at least 1; got 0",
        ),
        ({"tasks": [TASK], "batch_size": True}, "`MultitaskDataModule.batch_size` must be a whole number"),
        (
            {"tasks": [TASK], "eval_batch_size": 0},
            "eval_batch_size` must be a whole number of at least 1 or None; got 0",
        ),
        ({"tasks": [TASK], "max_length": 2}, "max_length` must be a whole number of at least 3; got 2"),
        (
            {"tasks": [TASK], "mixing": "random"},
            "`mixing` must be one of proportional, temperature, uniform, weighted, round_robin, stratified; got 'rand",
        ),
        (
            {"tasks": [TASK], "batching": "sorted"},
            "batching` must be one of 'grouped', 'packed', 'random'; got 'sorted'",
        ),
        ({"tasks": [TASK], "epoch": "huge"}, "'smallest' or a number of optimizer steps of at least 1; got 'huge'"),
        (
            {"tasks": [TASK], "batching": "packed", "mixing": "stratified"},
            "`mixing` must be proportional, temperature, uniform or weighted with batching='packed'",
        ),
        (
            {"tasks": [TASK], "batch_tokens": 0},
            "batch_tokens` must be a whole number of at least 1 or None; got 0",
        ),
        (
            {"tasks": [TASK], "batch_tokens": 64, "batching": "packed"},
            "batch_tokens` must be None with batching='packed'; got 64",
        ),
        (
            {"tasks": [TASK], "mixing": "weighted", "sampling_weights": {"b": 1.0}},
            "sampling_weights` must have one weight for each of a; got b",
        ),
        (
            {"tasks": [TASK, Task("b", "x")], "only": ["b", "c"]},
            "`MultitaskDataModule.only` must be a list of at least one of a, b, or None for all; got ['b', 'c']",
        ),
        ({"tasks": [TASK], "only": "a"}, "or None for all; got 'a'. Write only=['a'], on the command line data.only=a"),
        ({"tasks": [TASK], "only": []}, "`MultitaskDataModule.only` must be a list of at least one of a"),
        (
            {"tasks": [TASK], "only": ["a"], "mixing": "weighted", "sampling_weights": {"a": 1.0, "b": 1.0}},
            "sampling_weights` must have one weight for each of a; got a, b",
        ),
        ({"tasks": [TASK], "num_proc": 0}, "num_proc` must be a whole number of at least 1 or None; got 0"),
        (
            {"tasks": [TASK], "validation_rows": 0},
            "validation_rows` must be a whole number of at least 1 or None",
        ),
        (
            {"tasks": [TASK], "test_rows": "all"},
            "test_rows` must be a whole number of at least 1 or None; got 'all'",
        ),
        ({"tasks": [TASK], "overlong": "cut"}, "overlong` must be one of 'error', 'drop'; got 'cut'"),
        ({"tasks": [TASK], "overlap": None}, "overlap` must be one of 'drop', 'error'; got None"),
        ({"tasks": [TASK], "seed": -1}, "seed` must be a whole number of at least 0; got -1"),
    ],
)
def test_arguments_are_checked(arguments, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        MultitaskDataModule(**arguments)


def test_names_are_known_before_setup_and_data_only_after(make_datamodule):
    dm = make_datamodule()
    assert dm.task_names == ["a", "b", "c"]
    with pytest.raises(RuntimeError, match=r"Call MultitaskDataModule.setup"):
        dm.train_dataloader()
    dm.setup("fit")
    corpus = dm.corpus
    dm.setup("test")
    assert dm.corpus is corpus
    assert dm.sizes["train"] == {"a": 23, "b": 11, "c": 5}


def test_folder_is_read(tmp_path, tokenizer):
    (tmp_path / "qa").mkdir()
    lines = [f'{{"prompt": "{i}", "completion": "c"}}' for i in range(10)]
    (tmp_path / "qa" / "train.jsonl").write_text("\n".join(lines))
    dm = MultitaskDataModule(root=tmp_path, tokenizer=tokenizer)
    dm.setup("fit")
    assert dm.sizes == {"train": {"qa": 8}, "validation": {"qa": 1}, "test": {"qa": 1}}


def test_tokenizer_comes_from_the_module(make_datamodule, tokenizer):
    dm = make_datamodule(tokenizer=None)
    with pytest.raises(ValueError, match=r"`MultitaskDataModule.tokenizer` must be.*Pass tokenizer="):
        dm.setup("fit")
    dm.trainer = trainer_stub(module=SimpleNamespace(tokenizer=tokenizer))
    dm.setup("fit")
    assert dm.tokenizer is tokenizer


def test_without_a_trainer_an_epoch_is_every_row_once(make_datamodule):
    dm = make_datamodule()
    dm.setup("fit")
    batches = list(dm.train_dataloader())
    assert len(batches) == 10
    seen = [pair for batch in batches for pair in pairs(batch)]
    assert sorted(seen) == [(task, row) for task, size in enumerate(SIZES) for row in range(size)]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_shows_the_fixed_subset_once_over_all_ranks(make_datamodule, world_size, split):
    seen, lengths = [], []
    for rank in range(world_size):
        dm = make_datamodule(validation_rows=4, test_rows=2, eval_batch_size=3, seed=rank)
        dm.setup("validate")
        dm.trainer = trainer_stub(rank, world_size)
        batches = list(dm.val_dataloader() if split == "val" else dm.test_dataloader())
        lengths.append(len(batches))
        seen += [pair for batch in batches if len(batch["targets"]) for pair in pairs(batch)]
    shown = dm.corpus.pairs("validation" if split == "val" else "test")
    assert sorted(seen) == sorted(map(tuple, np.asarray(shown).tolist()))
    assert [int(task) for task, _ in shown] == sorted([0, 1, 2] * (4 if split == "val" else 2))
    assert len(set(lengths)) == 1


def test_evaluation_batches_hold_rows_of_similar_length(make_datamodule):
    dm = make_datamodule(validation_rows=None, eval_batch_size=3)
    dm.setup("validate")
    lengths = [length for batch in dm.val_dataloader() for length in batch["attention_mask"].sum(1).tolist()]
    assert len(lengths) == 18
    assert lengths == sorted(lengths, reverse=True)


def test_row_ids_lead_back_to_the_text(make_datamodule, tokenizer):
    dm = make_datamodule()
    dm.setup("test")
    for batch in dm.test_dataloader():
        for ids, mask, (task, row) in zip(batch["input_ids"], batch["attention_mask"], pairs(batch), strict=True):
            prompt, completion = dm.corpus.text("test", task, row)
            assert tokenizer.decode(ids[mask.bool()]) == prompt + completion + tokenizer.eos_token


def test_held_out_loaders_are_map_style_and_collate_any_rows(make_datamodule):
    dm = make_datamodule(validation_rows=4)
    dm.setup("fit")
    loaders = dm.held_out_dataloaders()
    assert list(loaders) == dm.task_names
    for task, loader in enumerate(loaders.values()):
        assert isinstance(loader, torch.utils.data.DataLoader)
        assert (len(loader.dataset), loader.batch_size) == (4, 4)
        batch = loader.collate_fn([loader.dataset[i] for i in (3, 1)])
        assert pairs(batch) == [(task, dm.corpus.shown["validation"][task][i]) for i in (3, 1)]
        assert set(batch["token_tasks"].tolist()) == {task}
        assert next(iter(loader)).keys() == next(iter(dm.val_dataloader())).keys()


def test_overlong_rows_are_dropped_everywhere(tokenizer):
    rows = [{"prompt": str(i), "completion": "x" * (1 + 20 * (i % 4 == 0))} for i in range(80)]
    dm = MultitaskDataModule([Task("t", rows)], tokenizer=tokenizer, max_length=8, overlong="drop", batch_size=4)
    with pytest.warns(UserWarning, match="rows were dropped"):
        dm.setup("fit")
    for split in ("train", "validation", "test"):
        tokens = dm.corpus.tokens[split][0]
        assert {dm.corpus.text(split, 0, row)[1] for row in range(len(tokens))} == {"x"}
    assert sum(dm.sizes[split]["t"] for split in dm.sizes) == 60


def test_stratified_counts_the_whole_optimizer_step(make_datamodule):
    dm = make_datamodule(batch_size=1, mixing="stratified")
    dm.setup("fit")
    with pytest.raises(ValueError, match="3 tasks; it has 1"):
        dm.train_dataloader()
    dm.trainer = trainer_stub(accumulate=2, world_size=2)
    loader = dm.train_dataloader()
    assert loader.planner.num_rows == 40  # 39 rows in whole steps of 4
    assert len(loader) == 20


def test_test_tokens_are_those_that_are_evaluated(make_datamodule):
    dm = make_datamodule(test_rows=2)
    dm.setup("fit")
    counted = dict.fromkeys(dm.task_names, 0)
    for batch in dm.test_dataloader():
        for task in batch["token_tasks"].tolist():
            counted[dm.task_names[task]] += 1
    assert dm.test_tokens == counted


@pytest.mark.filterwarnings("ignore:.*lose the beginning of their prompt")
def test_summary_shows_each_task(make_datamodule):
    dm = make_datamodule(validation_rows=4, max_length=6)
    dm.setup("fit")
    console = Console(width=200, record=True)
    console.print(dm.summary())
    (line,) = [line for line in console.export_text().splitlines() if line.startswith("\u2502 c ")]
    assert [cell.strip() for cell in line.strip("\u2502").split("\u2502")] == [
        "c",
        "5",
        "4/6",
        "3",
        f"{(4 + 3 + 2 + 1 + 4) / 5:.1f}",  # prompts of 5 tokens cut to what 6 - completion - end leave
        f"{(2 + 3 + 4 + 5 + 2) / 5:.1f}",
        "14",
        "0",
    ]


def test_the_seed_orders_training_and_nothing_else(make_datamodule):
    first, second = make_datamodule(seed=0), make_datamodule(seed=1)
    for dm in (first, second):
        dm.setup("fit")
    assert pairs(next(iter(first.train_dataloader()))) != pairs(next(iter(second.train_dataloader())))
    assert [pairs(batch) for batch in first.val_dataloader()] == [pairs(batch) for batch in second.val_dataloader()]


def test_rows_that_come_once_are_read_in_the_preparation(tokenizer):
    rows = [{"prompt": f"{i}", "completion": "c"} for i in range(10)]
    dm = MultitaskDataModule(
        [Task("stream", iter(rows)), Task("list", [{**row, "prompt": f"q{row['prompt']}"} for row in rows])],
        tokenizer=tokenizer,
    )
    dm.prepare_data()
    dm.setup("fit")
    assert dm.sizes["train"] == {"stream": 8, "list": 8}


def test_it_is_a_datamodule_for_lightning(make_datamodule):
    assert isinstance(make_datamodule(), lightning.LightningDataModule)


def train_pairs(dm):
    dm.setup("fit")
    return [pairs(batch) for batch in dm.train_dataloader()]


def test_batches_of_similar_length_unless_told_otherwise(make_datamodule):
    def width(dm):
        dm.setup("fit")
        return sum(batch["input_ids"].numel() for batch in dm.train_dataloader())

    assert width(make_datamodule()) < width(make_datamodule(batching="random"))


def test_packed_sequences_have_the_length_that_is_allowed(make_datamodule):
    dm = make_datamodule(batching="packed", batch_size=2, max_length=40)
    dm.setup("fit")
    batches = list(dm.train_dataloader())
    assert {tuple(batch["input_ids"].shape) for batch in batches[:-1]} <= {(2, width) for width in range(34, 41)}
    assert sum(len(batch["row_ids"]) for batch in batches) == sum(SIZES)
    assert "attention_mask" in next(iter(dm.val_dataloader()))


def test_token_budget_takes_the_place_of_the_batch_size(make_datamodule):
    dm = make_datamodule(batch_tokens=60)
    dm.setup("fit")
    batches = list(dm.train_dataloader())
    assert max(batch["input_ids"].numel() for batch in batches) <= 60
    assert sum(len(batch["row_ids"]) for batch in batches) == sum(SIZES)


def test_caps_repeats_and_weights_reach_the_plan(tokenizer):
    rows = [{"prompt": f"{i}", "completion": "c"} for i in range(100)]

    def counts(mixing="proportional", weights=None, **of_first):
        first = Task("a", rows[:20], rows[70:75], rows[75:80], **of_first)
        second = Task("b", rows[30:60], rows[80:85], rows[85:90])
        dm = MultitaskDataModule(
            [first, second], tokenizer=tokenizer, mixing=mixing, sampling_weights=weights, batch_size=5
        )
        return np.bincount([task for batch in train_pairs(dm) for task, _ in batch]).tolist()

    assert counts() == [20, 30]
    assert counts(max_rows=12) == [12, 30]
    assert counts(repeats=2) == [40, 30]
    assert counts("weighted", {"b": 1, "a": 4}) == [40, 10]


def test_epoch_may_be_a_number_of_steps(make_datamodule):
    for options in ({}, {"batching": "packed", "max_length": 40}, {"batch_tokens": 60}):
        dm = make_datamodule(epoch=3, **options)
        assert len(train_pairs(dm)) == 3
    assert len(train_pairs(make_datamodule(epoch="smallest", mixing="uniform"))) == 4  # 15 rows


def test_step_of_a_resumed_run_keeps_its_size(make_datamodule):
    dm = make_datamodule(batch_size=4)
    dm.setup("fit")
    dm.trainer = trainer_stub(accumulate=2, world_size=2)
    dm.train_dataloader()
    state = dm.state_dict()
    assert state == {"size": 16, "accumulate": 2}
    resumed = make_datamodule(batch_size=4)
    resumed.setup("fit")
    resumed.trainer = trainer_stub(accumulate=2)
    resumed.load_state_dict(state)
    complaint = r"optimizer steps of 16 rows .* reads 8 rows per micro-batch.*so that their product is 16"
    with pytest.warns(UserWarning, match=complaint):
        loader = resumed.train_dataloader()
    assert loader.planner.step_size == 16
    assert resumed.state_dict() == state
    resumed.teardown("fit")
    assert resumed.train_dataloader().planner.step_size == 8


# ------------------------------------------------------------------ some tasks of a suite


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """Three tasks as files, of which one is tested on prompts that another has in train and validation."""
    monkeypatch.setenv("LIGHTNING_COBA_CACHE", str(tmp_path / "cache"))
    numbers = {"a": range(30), "b": range(100, 125), "c": range(300, 312)}
    taken = {"b": {"test": [3, 7, 11, 20]}, "c": {"validation": [5], "test": [303, 304, 305]}}
    for task in numbers:
        (tmp_path / "suite" / task).mkdir(parents=True)
        for split, rows in {"train": numbers[task], **taken.get(task, {})}.items():
            lines = [json.dumps({"prompt": f"{i}:", "completion": task + "x" * (i % 3)}) for i in rows]
            (tmp_path / "suite" / task / f"{split}.jsonl").write_text("\n".join(lines))
    return tmp_path / "suite"


def texts(dm, task):
    """Split -> prompts and completions of a task; those that are evaluated apart."""
    corpus, k = dm.corpus, dm.task_names.index(task)
    rows = {split: [corpus.text(split, k, row) for row in range(size[task])] for split, size in dm.sizes.items()}
    shown = {split: [corpus.text(split, k, row) for _, row in corpus.pairs(split, k)] for split in rows}
    return rows, shown


@pytest.mark.filterwarnings("ignore:Task .* rows were dropped")
def test_task_alone_has_the_rows_that_it_has_among_all(suite, tokenizer):
    options = {"root": suite, "tokenizer": tokenizer, "validation_rows": 2, "test_rows": 2, "batch_size": 4}
    whole = MultitaskDataModule(**options)
    whole.setup("fit")
    kept = sorted((suite.parent / "cache").rglob("*"))
    assert whole.corpus.num_overlapping["a"] >= 3  # else nothing depends on the other tasks
    for names in (["a"], ["b"], ["c", "a"]):
        dm = MultitaskDataModule(**options, only=names)
        assert dm.task_names == sorted(names)
        dm.prepare_data()
        dm.setup("fit")
        for task in names:
            assert texts(dm, task) == texts(whole, task)
            assert dm.corpus.num_overlapping[task] == whole.corpus.num_overlapping[task]
            assert dm.test_tokens[task] == whole.test_tokens[task]
        seen = [pair for batch in dm.train_dataloader() for pair in pairs(batch)]
        expected = [(k, row) for k, task in enumerate(dm.task_names) for row in range(dm.sizes["train"][task])]
        assert sorted(seen) == expected
        tested = [pair for batch in dm.test_dataloader() for pair in pairs(batch)]
        assert sorted({task for task, _ in tested}) == list(range(len(names)))
        assert len(dm.summary().rows) == len(names)
    assert sorted((suite.parent / "cache").rglob("*")) == kept


@pytest.mark.filterwarnings("ignore:Task .* rows were dropped")
def test_settings_of_the_whole_suite_do_for_a_part_of_it(suite, tokenizer):
    weights = {"a": 1.0, "b": 4.0, "c": 2.0}
    dm = MultitaskDataModule(
        root=suite, tokenizer=tokenizer, mixing="weighted", sampling_weights=weights, only=["b", "c"], batch_size=5
    )
    assert dm.mixing.sampling_weights == (4.0, 2.0)
    assert {task for batch in train_pairs(dm) for task, _ in batch} == {0, 1}
