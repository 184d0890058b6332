"""Tasks in, planned batches out: the one class that connects the data with Lightning."""

from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from rich.table import Table
from torch.utils.data import DataLoader

from lightning_coba.data.collate import collate
from lightning_coba.data.corpus import Corpus, by_length, load_corpus
from lightning_coba.data.loader import PlannedLoader
from lightning_coba.data.planner import MIXING_RULES, epoch_length_of, epoch_order
from lightning_coba.data.splits import Overlap
from lightning_coba.data.task import Task, tasks_in_folder
from lightning_coba.data.tokenization import Overlong


class MultitaskDataModule(LightningDataModule):
    r"""Mix several tasks into one stream of batches that resumes exactly.

    Use it wherever a module trains on batches that hold rows of several tasks (see `collate` for what is in
    a batch). All rows are read and tokenised once, in memory. The order of the rows is a pure function of
    the seed and the number of micro-batches trained so far, so a resumed run goes on where it stopped, also
    in the middle of an epoch, without any sampler state; this holds as long as ``batch_size`` times the
    number of processes stays the same. It works without a trainer too.

    Args:
        tasks: the tasks, with different names; their order is the order of the task indices.
        root: instead of ``tasks``, a folder for `tasks_in_folder`.
        tokenizer: a Hugging Face tokenizer; ``None`` takes ``tokenizer`` of the LightningModule.
        batch_size: rows per process and micro-batch, at least 1.
        eval_batch_size: the same for validation and test; ``None`` = ``batch_size``.
        max_length: tokens per row, at least 3; a longer prompt is cut on the left.
        mixing: how the tasks share an epoch: ``"proportional"``, ``"uniform"`` or ``"stratified"``; see
            `epoch_order`.
        epoch_length: rows in an epoch; ``None`` = as many as there are.
        validation_rows: size of the fixed validation subset of each task; ``None`` = all rows.
        test_rows: the same for test.
        overlong: ``"error"`` or ``"drop"``: what to do with a completion that does not fit.
        overlap: ``"drop"`` or ``"error"``: what to do with a prompt that is in two splits, of any tasks.
        seed: of the order of the training rows; splits and subsets do not depend on it.

    Raises:
        ValueError: An argument is outside its domain.
        FileNotFoundError: ``root`` is missing or holds no task.

    Example:
        >>> rows = [{"prompt": f"{i} + {i} =\n", "completion": str(2 * i)} for i in range(20)]
        >>> MultitaskDataModule([Task("doubles", rows)], batch_size=4).task_names
        ['doubles']
    """

    def __init__(
        self,
        tasks: Sequence[Task] | None = None,
        root: str | PathLike[str] | None = None,
        tokenizer: Any = None,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        max_length: int = 1024,
        mixing: str = "proportional",
        epoch_length: int | None = None,
        validation_rows: int | None = 64,
        test_rows: int | None = None,
        overlong: Overlong = "error",
        overlap: Overlap = "drop",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.tasks = _checked_tasks(tasks, root)
        self.tokenizer = tokenizer
        self.batch_size = _checked_int("batch_size", batch_size)
        self.eval_batch_size = _checked_int("eval_batch_size", eval_batch_size, optional=True)
        self.max_length = _checked_int("max_length", max_length, lowest=3)
        self.mixing = _checked_choice("mixing", mixing, MIXING_RULES)
        self.epoch_length = _checked_int("epoch_length", epoch_length, optional=True)
        self.validation_rows = _checked_int("validation_rows", validation_rows, optional=True)
        self.test_rows = _checked_int("test_rows", test_rows, optional=True)
        self.overlong: Any = _checked_choice("overlong", overlong, ("error", "drop"))
        self.overlap: Any = _checked_choice("overlap", overlap, ("drop", "error"))
        self.seed = _checked_int("seed", seed, lowest=0)
        self._corpus: Corpus | None = None

    @property
    def task_names(self) -> list[str]:
        """Names of the tasks in the order of the task indices; known before `setup`."""
        return [task.name for task in self.tasks]

    @property
    def corpus(self) -> Corpus:
        """Everything that was read: rows as text and as tokens, per split and task.

        Raises:
            RuntimeError: `setup` has not run.
        """
        if self._corpus is None:
            raise RuntimeError('The data is not read yet. Call MultitaskDataModule.setup("fit") first.')
        return self._corpus

    @property
    def sizes(self) -> dict[str, dict[str, int]]:
        """Split -> task -> number of rows."""
        return self.corpus.sizes()

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row of any split; a model's context must hold them."""
        return max(int(rows.lengths.max()) for split in self.corpus.tokens.values() for rows in split)

    @property
    def test_tokens(self) -> dict[str, int]:
        """Task -> completion tokens of the test rows that are evaluated."""
        corpus = self.corpus
        return {
            task: sum(int(corpus.tokens["test"][i].completion_tokens[row]) for _, row in corpus.pairs("test", i))
            for i, task in enumerate(self.task_names)
        }

    def summary(self) -> Table:
        """Return a `rich` table, one line per task: rows, mean lengths, cut prompts, dropped rows."""
        return self.corpus.summary()

    def setup(self, stage: str | None = None) -> None:
        """Read, split and tokenise all tasks, once; every stage needs the same.

        Raises:
            ValueError: There is no tokenizer, or the data is not usable; see `load_corpus`.
        """
        if self._corpus is not None:
            return
        if self.tokenizer is None:
            self.tokenizer = self._tokenizer_of_module()
        self._corpus = load_corpus(
            self.tasks,
            self.tokenizer,
            self.max_length,
            self.validation_rows,
            self.test_rows,
            self.overlong,
            self.overlap,
        )

    def train_dataloader(self) -> CombinedLoader:
        """Return the planned training batches of this process, beginning where the trainer stands.

        Without a trainer that is the start. Like every ``CombinedLoader`` it yields (batch, its number, 0).
        """
        sizes = [len(rows) for rows in self.corpus.tokens["train"]]
        plan = {"rows_per_step": self._rows_per_step(), "epoch_length": self.epoch_length}
        loader = self._loader(
            "train",
            partial(epoch_order, sizes, self.mixing, self.seed, **plan),
            epoch_length_of(sizes, self.mixing, **plan),
            self.batch_size,
        )
        loader.position = partial(self._position, len(loader))
        # Lightning would wrap a bare loader in mode "max_size_cycle".
        return CombinedLoader(loader, mode="max_size")

    def val_dataloader(self) -> PlannedLoader:
        """Return the fixed validation subset of all tasks, longest rows first."""
        return self._fixed_loader("validation")

    def test_dataloader(self) -> PlannedLoader:
        """Return the test rows (or their fixed subset) of all tasks, longest rows first."""
        return self._fixed_loader("test")

    def held_out_dataloaders(self) -> dict[str, DataLoader]:
        """Return the fixed validation subset of each task as a map-style ``DataLoader``.

        Its dataset is a list of (task, row) pairs and its ``collate_fn`` turns any of them into a batch:
        ``loader.collate_fn([loader.dataset[i] for i in (3, 1)])``.
        """
        corpus = self.corpus
        batch = partial(collate, tasks=corpus.tokens["validation"], pad_token_id=self._pad_token_id())
        return {
            task: DataLoader(
                corpus.pairs("validation", index),  # type: ignore[arg-type]  # a list is a map-style dataset
                batch_size=self.batch_size,
                collate_fn=batch,
            )
            for index, task in enumerate(corpus.tasks)
        }

    def _fixed_loader(self, split: str) -> PlannedLoader:
        order = by_length(self.corpus.pairs(split), self.corpus.tokens[split])
        return self._loader(split, lambda epoch: order, len(order), self.eval_batch_size or self.batch_size)

    def _loader(self, split: str, order: Any, length: int, batch_size: int) -> PlannedLoader:
        loader = PlannedLoader(order, length, self.corpus.tokens[split], self._pad_token_id(), batch_size)
        if self.trainer is not None:
            loader.rank, loader.world_size = self.trainer.global_rank, self.trainer.world_size
        return loader

    def _position(self, num_micro_batches: int) -> tuple[int, int]:
        trainer = self.trainer
        if trainer is None or not trainer.training:
            return 0, 0
        progress = trainer.fit_loop.epoch_loop.batch_progress
        if getattr(trainer, "overfit_batches", 0):
            return 0, progress.current.completed
        # The total over all epochs, not (epoch, batch): Lightning calls an epoch done when max_steps ends it
        # early, and would go on with the next epoch's rows from that batch on, losing the rest of this one's.
        # "completed", because a batch that an exception cut off counts as "ready" and has to come again.
        return divmod(progress.total.completed, num_micro_batches)

    def _rows_per_step(self) -> int:
        trainer = self.trainer
        if trainer is None:
            return self.batch_size
        return self.batch_size * trainer.accumulate_grad_batches * trainer.world_size

    def _tokenizer_of_module(self) -> Any:
        module = None if self.trainer is None else self.trainer.lightning_module
        tokenizer = getattr(module, "tokenizer", None)
        if tokenizer is None:
            raise ValueError(
                "`MultitaskDataModule.tokenizer` must be a Hugging Face tokenizer; got None, and the "
                "LightningModule has no `tokenizer` attribute (it is read before the module's own setup). "
                "Pass tokenizer=AutoTokenizer.from_pretrained(...), or set self.tokenizer in its __init__."
            )
        return tokenizer

    def _pad_token_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad


def _checked_tasks(tasks: Sequence[Task] | None, root: str | PathLike[str] | None) -> list[Task]:
    if (tasks is None) == (root is None):
        got = "neither" if tasks is None else "both"
        raise ValueError(
            f"`MultitaskDataModule` must have exactly one of `tasks` and `root`; got {got}. "
            "Give tasks=[Task(...), ...], or root=<folder with one sub-folder per task>."
        )
    if root is not None:
        return tasks_in_folder(root)
    checked = list(tasks or ())
    if not checked or not all(isinstance(task, Task) for task in checked) or isinstance(tasks, Mapping):
        raise ValueError(
            f"`MultitaskDataModule.tasks` must be a list of at least one Task; got {tasks!r}. "
            'Write tasks=[Task("name", "train.jsonl"), ...].'
        )
    names = [task.name for task in checked]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"`MultitaskDataModule.tasks` must have different names; got {name!r} twice. Rename one of them."
            )
    return checked


def _checked_int(argument: str, value: Any, lowest: int = 1, optional: bool = False) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= lowest
    if not (whole or (optional and value is None)):
        raise ValueError(
            f"`MultitaskDataModule.{argument}` must be a whole number of at least {lowest}"
            f"{' or None' if optional else ''}; got {value!r}. Choose such a number."
        )
    return value


def _checked_choice(argument: str, value: Any, choices: Sequence[str]) -> Any:
    if value not in choices:
        raise ValueError(
            f"`MultitaskDataModule.{argument}` must be one of {', '.join(map(repr, choices))}; "
            f"got {value!r}. Choose one of them."
        )
    return value
