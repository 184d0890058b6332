import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import accumulate
from os import PathLike
from typing import Any

import lightning as L
import torch
from peft import PeftConfig, PeftModel, get_peft_config
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightning_coba.balancing.publish import is_log_step, publish
from lightning_coba.balancing.task_weights import TaskWeights
from lightning_coba.errors import UserError
from lightning_coba.functional import StepTotals, TaskLosses, seed_of, set_seed
from lightning_coba.lightning_internals import num_batches_done
from lightning_coba.log_keys import (
    TEST_EXACT_MATCH,
    TEST_LOSS,
    TEST_TOKEN_ACCURACY,
    TRAIN_LOSS,
    VAL_LOSS,
    task_key,
    token_key,
)
from lightning_coba.models.adapters import adapter_settings, plain_peft, with_adapter
from lightning_coba.models.completion_losses import CompletionLosses
from lightning_coba.models.language_model import LanguageModel, checkpoint_activations
from lightning_coba.models.sharding import whole_state_dict
from lightning_coba.systems.multitask.loss_totals import LossTotals
from lightning_coba.systems.protocol import Better, Result
from lightning_coba.user_files import refused_setting

#: Key of this module's own part of a checkpoint.
CHECKPOINT_KEY = "multitask_lm"
#: What a test pass logs: the fields of `TaskMetrics`.
TEST_METRICS = (TEST_LOSS, TEST_TOKEN_ACCURACY, TEST_EXACT_MATCH)
#: Used where no optimizer is given.
DEFAULT_OPTIMIZER = partial(torch.optim.AdamW, lr=2e-4, weight_decay=0.0)


class MultitaskLM(L.LightningModule):
    r"""Fine-tune one causal language model on several tasks with weighted per-task losses.

    The loss of a task is the mean cross-entropy of its completion tokens (end token counted); the head runs on those
    tokens only. Without a balancing callback the tasks weigh alike.

    Args:
        model: hub id, folder or GGUF file (see :func:`~lightning_coba.models.load_language_model`); a
            :class:`~lightning_coba.models.LanguageModel`, which brings the settings about loading with it; or a model.
        tokenizer: needed where ``model`` is an object.
        peft: adapter configuration, such as ``peft.LoraConfig``, or its fields as a mapping; None = full fine-tuning.
        optimizer: parameters -> optimizer; default AdamW(lr=2e-4), without weight decay.
        scheduler: optimizer -> scheduler, stepped every optimizer step. If it has an unset argument
            ``num_training_steps``, the Trainer's estimate is filled in.
        tasks: names; default: those of the datamodule.
        dtype: of the weights, when ``model`` is loaded here.
        attn_implementation: of transformers, such as ``"eager"`` or ``"sdpa"``; default: the model's own choice.
        trust_remote_code: whether code from a hub may run.
        gradient_checkpointing: whether layers are computed a second time in the backward pass, which keeps one layer's
            activations instead of all: less memory, about 1.4 times the time, the same gradients.
        load_in_4bit: whether frozen weights are kept in 4 bits (NF4, by bitsandbytes); needs ``peft``, and a
            ``model`` that is loaded here. The head and the embeddings stay in ``dtype``.
        compile: whether ``torch.compile`` compiles the model without its head: minutes at the first batch, worth it in
            long runs on a GPU. Checkpoints stay the same.
        seed: of the adapter's initial values and of dropout, which is a pure function of (seed, micro-batch number,
            rank): a resumed run needs no random state.

    Attributes:
        task_weights: the :class:`~lightning_coba.TaskWeights` that a balancer moves.
        tokenizer: of the model.

    Raises:
        ValueError: if a model object comes without a tokenizer, or ``load_in_4bit`` with one or without ``peft``.
        ImportError: if bitsandbytes is missing for ``load_in_4bit``.
        FileNotFoundError: if a GGUF file is not there.

    Example:
        >>> from functools import partial
        >>> optimizer = partial(torch.optim.AdamW, lr=5e-4)
        >>> module = MultitaskLM("HuggingFaceTB/SmolLM2-135M-Instruct", optimizer=optimizer)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | LanguageModel | PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        peft: PeftConfig | Mapping[str, Any] | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = DEFAULT_OPTIMIZER,
        scheduler: Callable[..., LRScheduler] | None = None,
        tasks: Sequence[str] = (),
        dtype: str = "float32",
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        gradient_checkpointing: bool = False,
        load_in_4bit: bool = False,
        compile: bool = False,  # noqa: A002 - torch's own word
        seed: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(model, str):
            model = LanguageModel(
                model, dtype, attn_implementation, trust_remote_code, gradient_checkpointing, load_in_4bit, compile
            )
        if isinstance(peft, Mapping):
            peft = get_peft_config(plain_peft(peft))
        assert peft is None or isinstance(peft, PeftConfig)
        # What `load_from_checkpoint` needs to build the module again; a model object is for the caller to give.
        described = asdict(model) if isinstance(model, LanguageModel) else {}
        adapter = {} if peft is None else {"peft": plain_peft(peft)}
        self.save_hyperparameters(described | adapter | {"seed": seed}, logger=False)
        if isinstance(model, LanguageModel):
            gradient_checkpointing, load_in_4bit = model.gradient_checkpointing, model.load_in_4bit
            compile = model.compile  # noqa: A001
        if load_in_4bit and (peft is None or not isinstance(model, LanguageModel)):
            raise UserError(
                "`MultitaskLM.load_in_4bit` must come with `peft` and the name or path of a model: weights in 4 bits "
                f"are frozen, and are made while loading; got peft={peft and peft.peft_type.value} and "
                f"{type(model).__name__}.",
                "Choose an adapter such as peft.LoraConfig, or leave load_in_4bit out.",
            )
        loaded, own_tokenizer = model.load() if isinstance(model, LanguageModel) else (model, None)
        if loaded is None:
            raise UserError(
                "`MultitaskLM.model` must be a hub id, a path or a model; got None.",
                "A checkpoint of a module that was made from a model object needs it: load_from_checkpoint(path, "
                "model=..., tokenizer=...).",
            )
        tokenizer = tokenizer or own_tokenizer
        if tokenizer is None:
            raise UserError("`MultitaskLM.tokenizer` must come with a model object; got None.", "Pass its tokenizer.")
        trained = loaded if peft is None else with_adapter(loaded, peft, seed)
        if gradient_checkpointing:
            checkpoint_activations(trained)
        # from_pretrained hands out a model in evaluation mode, and Lightning leaves it there.
        self.model = trained.train()
        self.tokenizer = tokenizer
        self.task_weights = TaskWeights(tasks)
        self.seed = seed
        # Frozen weights are not in the checkpoints.
        self.strict_loading = False
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._losses = CompletionLosses(self.model, compile)
        self._train_totals: LossTotals | None = None  # since the last time they were logged
        self._num_losses = 0
        self._whole: dict[str, Tensor] | None = None  # weights of sharded models, to be saved

    def setup(self, stage: str) -> None:
        """Learn the task names from the datamodule, where they were not given; refuse rows beyond the context."""
        if not self.task_weights.tasks:
            names = getattr(getattr(self.trainer, "datamodule", None), "task_names", None)
            if not names:
                raise UserError(
                    "`MultitaskLM.tasks` must name the tasks where there is no MultitaskDataModule; got none.",
                    "Pass tasks=[...] in the order of the task indices.",
                )
            self.task_weights.bind(names)
        longest = getattr(getattr(self.trainer, "datamodule", None), "longest_row", 0)
        context = getattr(self.model.config, "max_position_embeddings", None)
        if context and longest > context:
            raise UserError(
                f"The longest row has {longest} tokens and the model's context is {context}.",
                f"Set data.max_length={context} (`MultitaskDataModule.max_length`): longer prompts are then cut on the "
                "left.",
            )

    def configure_model(self) -> None:
        """Cut the model into shards where the strategy has a device mesh (``ModelParallelStrategy``)."""
        if self.device_mesh is None:
            return
        if self.hparams.get("compile") or self.hparams.get("load_in_4bit"):
            raise UserError(
                "`MultitaskLM.compile` and `load_in_4bit` must be off where ModelParallelStrategy shards the model.",
                "Leave them out, or set trainer.strategy=ddp.",
            )
        self._losses.shard(self.device_mesh)

    def task_losses(self, batch: Mapping[str, Tensor]) -> TaskLosses:
        """Return each task's loss sum and token count on a batch of :func:`~lightning_coba.data.planning.collate`."""
        return self._losses(batch, len(self.task_weights.tasks))

    # ------------------------------------------------------------------ training

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed dropout by (seed, micro-batch number, rank)."""
        self.seed_forward(num_batches_done(self.trainer))
        self._step_before = self.trainer.global_step

    def seed_forward(self, micro_batch: int) -> None:
        """Seed dropout for a micro-batch of the run; see :class:`~lightning_coba.balancing.protocol.SeedsForward`."""
        set_seed(seed_of(self.seed, "dropout", micro_batch, self.trainer.global_rank), self.device)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the weighted loss; sums for the logs stay on the device until they are due.

        Where the batch knows the counts of its optimizer step, the micro-batches of the step and of all ranks add up to
        the loss of one big batch; otherwise each micro-batch is a step of its own, and their means are averaged.
        """
        losses = self.task_losses(batch)
        counts = batch.get("step_counts")
        totals = None if counts is None else StepTotals.of(counts)
        loss = self.task_weights.combine(losses, totals=totals)
        if counts is None:
            self._num_losses += 1
        if self._train_totals is None:
            self._train_totals = self._no_totals()
        self._train_totals.add(losses, loss)
        # Lightning divides by the accumulation (also in a short last window), and the ranks' gradients are averaged.
        return loss if counts is None else loss * (self.trainer.accumulate_grad_batches * self._num_replicas)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the means since the last time, every ``log_every_n_steps`` optimizer steps."""
        trainer = self.trainer
        step = trainer.global_step
        if step == self._step_before:
            return
        exact = "step_counts" in batch
        self._num_losses += exact
        if not is_log_step(trainer, step):
            return
        assert self._train_totals is not None
        totals = self._over_ranks(self._train_totals).cpu()  # one transfer
        means = totals[0, :-1] / totals[1, :-1]
        present = (totals[1, :-1] > 0).tolist()  # a task without a row since the last time has no loss
        values = {task_key(TRAIN_LOSS, task): means[i] for i, task in enumerate(self.task_weights.tasks) if present[i]}
        values[TRAIN_LOSS] = totals[0, -1] / (self._num_losses * (1 if exact else self._num_replicas))
        publish(trainer, values, on_bar=(TRAIN_LOSS,))
        self._train_totals, self._num_losses = None, 0

    def _no_totals(self, num_measures: int = 1) -> LossTotals:
        return LossTotals(num_measures * len(self.task_weights.tasks), self.device)

    def _over_ranks(self, totals: LossTotals) -> Tensor:
        # A copy: the reduction writes in place.
        return self.trainer.strategy.reduce(totals.values.clone(), reduce_op="sum")  # type: ignore[return-value]

    @property
    def _num_replicas(self) -> int:
        """Ranks that read different rows."""
        ranks = self.trainer.distributed_sampler_kwargs
        return ranks["num_replicas"] if ranks else 1

    def configure_optimizers(self) -> Any:
        """Build the optimizer over the trainable parameters, and the scheduler."""
        with refused_setting("optimizer"):
            optimizer = self._optimizer([p for p in self.parameters() if p.requires_grad])
        if self._scheduler is None:
            return optimizer
        options = {}
        if _lacks_argument(self._scheduler, "num_training_steps"):
            steps = self.trainer.estimated_stepping_batches
            if not math.isfinite(steps):
                raise UserError(
                    "`Trainer.max_steps` or `Trainer.max_epochs` must be set where the scheduler needs the number of "
                    "training steps; got -1 for both.",
                    "Set one, or use a scheduler without an end.",
                )
            options["num_training_steps"] = int(steps)
        with refused_setting("scheduler"):
            scheduler = self._scheduler(optimizer, **options)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    # ------------------------------------------------------------------ validation and test

    def on_validation_epoch_start(self) -> None:
        """Start the pass's sums."""
        self._eval_totals = self._no_totals()

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> TaskLosses:
        """Return sums and counts, which a balancing callback reads."""
        losses = self.task_losses(batch)
        self._eval_totals.add(losses)
        return losses

    def on_validation_epoch_end(self) -> None:
        """Log the losses of the pass, over all ranks."""
        self._log_pass(VAL_LOSS)

    def on_test_epoch_start(self) -> None:
        """Start the pass's sums."""
        self._eval_totals = self._no_totals(len(TEST_METRICS))

    def test_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> TaskLosses:
        """As :meth:`validation_step`, on the test split, and measure what greedy decoding would get right.

        No text is generated: ``test_token_accuracy`` is the share of completion tokens predicted rightly from the true
        ones before them, ``test_exact_match`` the share of rows in which all are, the end token included.
        """
        metrics = self._losses.metrics(batch, len(self.task_weights.tasks))
        sums, counts = (torch.cat(parts) for parts in zip(*((m.sums, m.counts) for m in metrics), strict=True))
        self._eval_totals.add(TaskLosses(sums, counts))
        return metrics.losses

    def on_test_epoch_end(self) -> None:
        """Log losses, accuracy and exact match of the pass, over all ranks."""
        self._log_pass(*TEST_METRICS)

    def _log_pass(self, *prefixes: str) -> None:
        sums, counts = self._over_ranks(self._eval_totals)[:, :-1].unflatten(1, (len(prefixes), -1))
        values: dict[str, Tensor] = {}
        for i, prefix in enumerate(prefixes):
            means, present = sums[i] / counts[i], counts[i] > 0
            # A task without a token in this pass has no loss; one whose loss is really NaN is logged as such.
            there = zip(self.task_weights.tasks, means, present.tolist(), strict=True)
            values |= {task_key(prefix, task): mean for task, mean, is_there in there if is_there}
            values[prefix] = torch.where(present, means, 0.0).sum() / present.sum()
        values[token_key(prefixes[0])] = sums[0].sum() / counts[0].sum()
        # All ranks hold the same numbers already; without sync_dist Lightning would warn that they may not.
        self.log_dict(values, sync_dist=True, batch_size=1)

    # ------------------------------------------------------------------ checkpoints and export

    def _frozen(self) -> set[str]:
        frozen = {name for name, p in self.named_parameters(remove_duplicate=False) if not p.requires_grad}
        # A 4-bit weight has entries of its own under its name, such as `weight.absmax`.
        return {key for key in self.state_dict() if not frozen.isdisjoint(accumulate(key.split("."), "{}.{}".format))}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave frozen weights out, and keep what the training logs have summed so far."""
        frozen = self._frozen()
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k not in frozen}
        checkpoint[CHECKPOINT_KEY] = {
            "tasks": list(self.task_weights.tasks),
            "peft": adapter_settings(self.model),
            # Of all ranks: every rank is asked for a checkpoint, and one of them writes it.
            "train_totals": None if self._train_totals is None else self._over_ranks(self._train_totals),
            "num_losses": self._num_losses,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other tasks or other trainable weights."""
        own = checkpoint.get(CHECKPOINT_KEY, {})
        tasks, mine = own.get("tasks", []), list(self.task_weights.tasks)
        if tasks and not mine and self._trainer is None:  # `load_from_checkpoint`: there is no data to name them
            self.task_weights.bind(tasks)
        if tasks and mine and tasks != mine:
            raise UserError(
                f"The checkpoint was written with the tasks {', '.join(tasks)}; this run has {', '.join(mine)}.",
                "Use the same data, or start a new run.",
            )
        expected = set(self.state_dict()) - self._frozen()
        # A strategy that shards has loaded the weights already, and taken them out.
        differing = sorted(expected ^ set(checkpoint.get("state_dict", expected)))
        if differing:
            raise UserError(
                f"The checkpoint holds other trainable weights than this module: {len(differing)} names differ, the "
                f"first is {differing[0]!r}.",
                "Use the same model and the same `peft` settings.",
            )
        settings, mine_now = own.get("peft", {}), adapter_settings(self.model)
        changed = [key for key in mine_now if settings.get(key, mine_now[key]) != mine_now[key]]
        if changed:
            listed = ", ".join(f"{key} {settings[key]}, now {mine_now[key]}" for key in changed)
            raise UserError(
                f"The checkpoint was written with other `peft` settings: {listed}.",
                "Use the same settings, or start a new run.",
            )
        if self._trainer is None:  # `load_from_checkpoint` would warn that frozen weights are missing
            mine_frozen = {name: value for name, value in self.state_dict().items() if name not in expected}
            checkpoint["state_dict"] = mine_frozen | checkpoint["state_dict"]
        if own.get("train_totals") is not None:
            self._train_totals = self._no_totals()
            self._train_totals.values.add_(own["train_totals"].to(self.device) * (self.global_rank == 0))
        self._num_losses = own.get("num_losses", 0)

    # ------------------------------------------------------------------ what coba-train asks

    def card(self) -> dict[str, Any]:
        """Return the task names, where they are known already."""
        return {"tasks": list(self.task_weights.tasks)} if self.task_weights.tasks else {}

    def results(self) -> dict[str, Result]:
        """Return the test loss, accuracy and exact match of every task, as the last test pass logged them."""
        values: dict[str, dict[str, float]] = {key: {} for key in TEST_METRICS}
        for name, value in self.trainer.callback_metrics.items():
            key, _, task = name.partition("/")
            if task and key in values:
                values[key][task] = float(value)
        return {key: Result(values[key], "min" if key == TEST_LOSS else "max") for key in TEST_METRICS if values[key]}

    def objective(self) -> tuple[str, Better]:
        """Return the unweighted mean of the tasks' validation losses."""
        return VAL_LOSS, "min"

    def assemble(self) -> None:
        """Bring the shards of all ranks together on rank 0, which is going to save them."""
        if self.device_mesh is not None:
            self._whole = whole_state_dict(self.model, trained_only=self.has_adapter)

    def save_pretrained(self, folder: str | PathLike[str]) -> None:
        """Write the adapter (PEFT) or, after full fine-tuning, the model, as safetensors."""
        options = {} if self._whole is None else {"state_dict": self._whole}
        self.model.save_pretrained(str(folder), **options)

    @property
    def has_adapter(self) -> bool:
        """Whether a PEFT adapter is trained, and not the whole model."""
        return isinstance(self.model, PeftModel)


def _lacks_argument(factory: Callable[..., Any], name: str) -> bool:
    """Whether a function has an argument that nobody has set."""
    if isinstance(factory, partial):
        return name not in factory.keywords and _lacks_argument(factory.func, name)
    return name in inspect.signature(factory).parameters
