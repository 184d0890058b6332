"""Tasks in, planned batches out: the one class that connects the data with Lightning."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from rich.table import Table
from torch.utils.data import DataLoader

from lightning_coba.data.arguments import (
    checked_choice,
    checked_int,
    checked_mixing,
    checked_only,
    checked_tasks,
)
from lightning_coba.data.planning.collate import collate
from lightning_coba.data.planning.loader import EvaluationLoader, PlannedLoader, rank_of
from lightning_coba.data.planning.mixing import check_epoch
from lightning_coba.data.planning.planner import BATCHINGS, Batching, Planner, check_turns
from lightning_coba.data.planning.resumed_steps import kept_size, rescale_progress
from lightning_coba.data.reading.root import Root
from lightning_coba.data.reading.task import Task
from lightning_coba.data.tokens.corpus import Corpus, load_corpus
from lightning_coba.data.tokens.splits import Overlap
from lightning_coba.data.tokens.tokenization import Overlong
from lightning_coba.errors import UserError, WrongUseError


class MultitaskDataModule(LightningDataModule):
    r"""Mix several tasks into one stream of batches that is planned by whole optimizer steps and resumes exactly.

    Use it wherever a module trains on batches that hold rows of several tasks (see `collate` for what is in
    a batch). All rows are tokenised once and lie in a memory map. Which rows an optimizer step reads is a pure function
    of (data, seed, size of the step), so neither accumulation nor the number of processes changes an update, and a
    resumed run goes on where it stopped, also in the middle of an epoch: also with another number of processes or
    another accumulation, since the step keeps the size it had. It works without a trainer too.

    Args:
        tasks: the tasks, with different names; their order is the order of the task indices.
        root: instead of ``tasks``, a folder with one sub-folder or file per task, one file with a column ``task``, or
            ``"hf:org/name"`` of the Hugging Face hub, or a list of these; see `tasks_at`.
        only: names of the tasks that are trained and evaluated, as for a baseline of one task; ``None`` = all. The
            others are still read, compared and tokenised, so that those named have the rows they have among all.
        prompt: of tasks at ``root``: the column that holds the prompt, or a template; see `Task`.
        completion: the same for the text that is learned.
        messages: of tasks at ``root``: the column that holds conversations.
        chat: of tasks at ``root``: whether the model's chat template renders the rows; see `Task`.
        tokenizer: a Hugging Face tokenizer; ``None`` takes ``tokenizer`` of the LightningModule.
        batch_size: rows per process and micro-batch, at least 1; with ``packed``, sequences of ``max_length`` tokens.
        batch_tokens: instead, a token budget per process and micro-batch, padding counted.
        eval_batch_size: rows per process and batch in validation and test; ``None`` = ``batch_size``.
        max_length: tokens per row, at least 3; a longer prompt is cut on the left.
        batching: ``"grouped"``: rows of similar length share a step, which saves the padding. ``"packed"``: rows end to
            end in sequences of ``max_length`` tokens, which do not see each other. ``"random"``: as they come.
        mixing: how the tasks share an epoch: ``"proportional"``, ``"temperature"``, ``"uniform"``, ``"weighted"``,
            ``"round_robin"`` or ``"stratified"``; see `Mixing`. These are sampling weights; loss weights are the
            balancer's.
        mixing_temperature: of ``"temperature"``; above 0.
        sampling_weights: task -> weight, for ``"weighted"``; those of tasks not in ``only`` are ignored.
        epoch: length of an epoch: ``"all"`` rows, until the ``"largest"`` or ``"smallest"`` task has been seen once, or
            a number of optimizer steps.
        validation_rows: size of the fixed validation subset of each task; ``None`` = all rows.
        test_rows: the same for test.
        overlong: ``"error"`` or ``"drop"``: what to do with a completion that does not fit.
        overlap: ``"drop"`` or ``"error"``: what to do with a prompt that is in two splits, of any tasks.
        num_proc: processes that tokenise; ``None`` = this one, with the tokenizer's own threads.
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
        root: Root | None = None,
        only: Sequence[str] | None = None,
        prompt: str = "prompt",
        completion: str = "completion",
        messages: str = "messages",
        chat: bool | None = None,
        tokenizer: Any = None,
        batch_size: int = 16,
        batch_tokens: int | None = None,
        eval_batch_size: int | None = None,
        max_length: int = 1024,
        batching: Batching = "grouped",
        mixing: str = "proportional",
        mixing_temperature: float = 2.0,
        sampling_weights: Mapping[str, float] | None = None,
        epoch: str | int = "all",
        validation_rows: int | None = 64,
        test_rows: int | None = None,
        overlong: Overlong = "error",
        overlap: Overlap = "drop",
        num_proc: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.found = checked_tasks(tasks, root, prompt=prompt, completion=completion, messages=messages, chat=chat)
        self.suite = self.found.tasks
        self.tasks = checked_only(only, self.suite)
        self.tokenizer = tokenizer
        self.batch_size = checked_int("batch_size", batch_size)
        self.batch_tokens = checked_int("batch_tokens", batch_tokens, optional=True)
        self.eval_batch_size = checked_int("eval_batch_size", eval_batch_size, optional=True)
        self.max_length = checked_int("max_length", max_length, lowest=3)
        self.batching: Any = checked_choice("batching", batching, BATCHINGS)
        self.mixing = checked_mixing(mixing, mixing_temperature, sampling_weights, self.tasks, self.suite)
        check_epoch(epoch)
        self.epoch = epoch
        self.validation_rows = checked_int("validation_rows", validation_rows, optional=True)
        self.test_rows = checked_int("test_rows", test_rows, optional=True)
        self.overlong: Any = checked_choice("overlong", overlong, ("error", "drop"))
        self.overlap: Any = checked_choice("overlap", overlap, ("drop", "error"))
        self.num_proc = checked_int("num_proc", num_proc, optional=True)
        self.seed = checked_int("seed", seed, lowest=0)
        check_turns(self.mixing, self.batching, batch_tokens)
        if self.batching == "packed" and batch_tokens is not None:
            raise UserError(
                f"`MultitaskDataModule.batch_tokens` must be None with batching='packed'; got {batch_tokens}.",
                "A packed micro-batch has batch_size * max_length tokens: set these.",
            )
        self._corpus: Corpus | None = None
        self._resumed_size: int | None = None  # of an optimizer step
        self._loader: PlannedLoader | None = None

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
            raise WrongUseError("The data is not read yet.", 'Call MultitaskDataModule.setup("fit") first.')
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
            task: int(tokens.completion_tokens[shown].sum())
            for task, tokens, shown in zip(corpus.tasks, corpus.tokens["test"], corpus.shown["test"], strict=True)
        }

    def prepare_for(self, module: LightningModule) -> None:
        """Read the data as a module needs it: with its tokenizer, where it has one."""
        self.tokenizer = getattr(module, "tokenizer", self.tokenizer)

    def summary(self) -> Table:
        """Return a `rich` table, one line per task: rows, mean lengths, cut prompts, dropped rows."""
        return self.corpus.summary()

    def prepare_data(self) -> None:
        """Do as `setup` does: in one process, before the others start and find the rows and tokens in the cache."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Read, split and tokenise all tasks, once; every stage needs the same.

        Raises:
            ValueError: There is no tokenizer, or the data is not usable; see `load_corpus`.
        """
        if self._corpus is not None:
            return
        self._settle_tokenizer()
        self._corpus = load_corpus(
            self.suite,
            self.tokenizer,
            self.max_length,
            self.validation_rows,
            self.test_rows,
            self.overlong,
            self.overlap,
            self.num_proc,
            self.task_names,
        )

    def train_dataloader(self) -> PlannedLoader:
        """Return the planned training batches of this process, beginning where the trainer stands.

        Without a trainer every pass begins at the start.
        """
        num_parts = rank_of(self.trainer)[1] * (1 if self.trainer is None else self.trainer.accumulate_grad_batches)
        tokens = self.corpus.tokens["train"]
        planner = Planner(
            [task.lengths for task in tokens],
            self.mixing,
            self.epoch,
            kept_size(self._resumed_size, None if self.batch_tokens else self.batch_size, num_parts),
            self.batching,
            self.max_length,
            self.batch_tokens,
            self.seed,
        )
        fixed_steps = self.epoch if isinstance(self.epoch, int) else None
        self._loader = PlannedLoader(planner, tokens, self._pad_token_id(), fixed_steps, self.trainer)
        return self._loader

    def val_dataloader(self) -> EvaluationLoader:
        """Return the fixed validation subset of all tasks, longest rows first."""
        return self._evaluation_loader("validation")

    def test_dataloader(self) -> EvaluationLoader:
        """Return the test rows (or their fixed subset) of all tasks, longest rows first."""
        return self._evaluation_loader("test")

    def held_out_dataloaders(self) -> dict[str, DataLoader]:
        """Return the fixed validation subset of each task as a map-style ``DataLoader``.

        Its dataset is a list of (task, row) pairs and its ``collate_fn`` turns any of them into a batch:
        ``loader.collate_fn([loader.dataset[i] for i in (3, 1)])``.
        """
        corpus = self.corpus
        batch = partial(collate, tasks=corpus.tokens["validation"], pad_token_id=self._pad_token_id())
        # Every token of a batch knows its task, so a held-out draw of all tasks is one forward pass.
        batch.mixes_tasks = True  # type: ignore[attr-defined]
        return {
            task: DataLoader(
                corpus.pairs("validation", index),  # type: ignore[arg-type]  # a list is a map-style dataset
                batch_size=self.batch_size,
                collate_fn=batch,
            )
            for index, task in enumerate(corpus.tasks)
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the size of the planned steps, which a resumed run keeps whatever its processes."""
        if self.trainer is None or self._loader is None:
            return {}
        return {"size": self._loader.planner.step_size, "accumulate": self.trainer.accumulate_grad_batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the size of the steps of the run that is resumed."""
        if not state_dict:
            return
        self._resumed_size = state_dict["size"]
        loader = self._loader if self._loader is not None and self._loader.trainer is self.trainer else None
        if loader is not None and loader.planner.step_size != state_dict["size"]:
            raise UserError(
                f"The run was started with optimizer steps of {state_dict['size']} rows, and now they have "
                f"{loader.planner.step_size}: {type(self.trainer.strategy).__name__} plans the steps before it reads "  # type: ignore[union-attr]
                "the checkpoint.",
                "Resume with the same product of trainer.devices, data.batch_size and accumulate_grad_batches.",
            )
        if self.trainer is not None and self.trainer.accumulate_grad_batches != state_dict["accumulate"]:
            rescale_progress(self.trainer, state_dict["accumulate"], self.trainer.accumulate_grad_batches)

    def teardown(self, stage: str) -> None:
        """Forget the run that was resumed: a fit without a checkpoint begins one of its own."""
        if stage == "fit":
            self._resumed_size = None

    def _evaluation_loader(self, split: str) -> EvaluationLoader:
        corpus, batch_size = self.corpus, self.eval_batch_size or self.batch_size
        pairs = corpus.longest_first(split)
        return EvaluationLoader(pairs, corpus.tokens[split], self._pad_token_id(), batch_size, self.trainer)

    def _settle_tokenizer(self) -> None:
        if self.tokenizer is not None:
            return
        module = None if self.trainer is None else self.trainer.lightning_module
        self.tokenizer = getattr(module, "tokenizer", None)
        if self.tokenizer is None:
            raise UserError(
                "`MultitaskDataModule.tokenizer` must be a Hugging Face tokenizer; got None, and the LightningModule "
                "has no `tokenizer` attribute (it is read before the module's own setup).",
                "Pass tokenizer=AutoTokenizer.from_pretrained(...), or set self.tokenizer in its __init__; where the "
                "system has data of its own, override /data: none in its YAML.",
            )

    def _pad_token_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad
