import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any

import lightning as L
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightning_coba.functional import TaskLosses, task_losses
from lightning_coba.log_keys import TEST_LOSS, TRAIN_LOSS, VAL_LOSS, task_key, token_key
from lightning_coba.modules.completion_logits import CompletionLogits
from lightning_coba.modules.language_model import load_language_model
from lightning_coba.modules.task_weights import TaskWeights

#: Key of this module's own part of a checkpoint.
CHECKPOINT_KEY = "multitask_lm"
#: Used where no optimizer is given.
DEFAULT_OPTIMIZER = partial(torch.optim.AdamW, lr=2e-4, weight_decay=0.0)


class MultitaskLM(L.LightningModule):
    r"""Fine-tune one causal language model on several tasks with weighted per-task losses.

    The loss of a task is the mean cross-entropy of its completion tokens (end token counted); the head runs on those
    tokens only. Without a balancing callback the tasks weigh alike.

    Args:
        model: hub id, folder or GGUF file (see :func:`~lightning_coba.modules.load_language_model`), or a model.
        tokenizer: needed where ``model`` is an object.
        peft: adapter configuration, such as ``peft.LoraConfig``; None = full fine-tuning.
        optimizer: parameters -> optimizer; default AdamW(lr=2e-4), without weight decay.
        scheduler: optimizer -> scheduler, stepped every optimizer step. If it has an unset argument
            ``num_training_steps``, the Trainer's estimate is filled in.
        tasks: names; default: those of the datamodule.
        dtype: of the weights, when ``model`` is loaded here.
        attn_implementation: of transformers, such as ``"eager"`` or ``"sdpa"``; default: the model's own choice.
        trust_remote_code: whether code from a hub may run.
        seed: of the adapter's initial values and of dropout, which is a pure function of (seed, micro-batch number,
            rank): a resumed run needs no random state.

    Attributes:
        task_weights: the :class:`~lightning_coba.TaskWeights` that a balancer moves.
        tokenizer: of the model.

    Raises:
        ValueError: if a model object comes without a tokenizer.
        FileNotFoundError: if a GGUF file is not there.

    Example:
        >>> from functools import partial
        >>> optimizer = partial(torch.optim.AdamW, lr=5e-4)
        >>> module = MultitaskLM("HuggingFaceTB/SmolLM2-135M-Instruct", optimizer=optimizer)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        peft: PeftConfig | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = DEFAULT_OPTIMIZER,
        scheduler: Callable[..., LRScheduler] | None = None,
        tasks: Sequence[str] = (),
        dtype: str = "float32",
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(model, str):
            options = {"attn_implementation": attn_implementation} if attn_implementation else {}
            model, loaded = load_language_model(model, dtype, trust_remote_code, **options)
            tokenizer = tokenizer or loaded
        if tokenizer is None:
            raise ValueError("`MultitaskLM.tokenizer` must come with a model object; got None. Pass its tokenizer.")
        if peft is not None:
            model = _with_adapter(model, peft, seed)
        # from_pretrained hands out a model in evaluation mode, and Lightning leaves it there.
        self.model = model.train()
        self.tokenizer = tokenizer
        self.task_weights = TaskWeights(tasks)
        self.seed = seed
        # Frozen weights are not in the checkpoints.
        self.strict_loading = False
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._logits = CompletionLogits(self.model)
        self._train_totals: Tensor | None = None
        self._loss_total: Tensor | None = None

    def setup(self, stage: str) -> None:
        """Learn the task names from the datamodule, where they were not given; refuse rows beyond the context."""
        if not self.task_weights.tasks:
            names = getattr(getattr(self.trainer, "datamodule", None), "task_names", None)
            if not names:
                raise ValueError(
                    "`MultitaskLM.tasks` must name the tasks where there is no MultitaskDataModule; got none. Pass "
                    "tasks=[...] in the order of the task indices."
                )
            self.task_weights.bind(names)
        longest = getattr(getattr(self.trainer, "datamodule", None), "longest_row", 0)
        context = getattr(self.model.config, "max_position_embeddings", None)
        if context and longest > context:
            raise ValueError(
                f"The longest row has {longest} tokens and the model's context is {context}. Set data.max_length="
                f"{context} (`MultitaskDataModule.max_length`): longer prompts are then cut on the left."
            )

    def task_losses(self, batch: Mapping[str, Tensor]) -> TaskLosses:
        """Return each task's loss sum and token count on a batch of :func:`~lightning_coba.data.collate`."""
        logits = self._logits(batch)
        losses = nn.functional.cross_entropy(logits.float(), batch["targets"], reduction="none")
        return task_losses(losses, batch["token_tasks"], len(self.task_weights.tasks))

    # ------------------------------------------------------------------ training

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed dropout by (seed, micro-batch number, rank)."""
        number = self.trainer.fit_loop.epoch_loop.batch_progress.total.completed
        torch.manual_seed(hash((self.seed, number, self.global_rank)) % 2**63)
        self._step_before = self.trainer.global_step

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the weighted loss; sums for the logs stay on the device until they are due."""
        losses = self.task_losses(batch)
        loss = self.task_weights.combine(losses)
        self._train_totals = _add(self._train_totals, _detached(losses))
        value = _wide(loss.detach())
        self._loss_total = _add(self._loss_total, torch.stack([value, torch.ones_like(value)]))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the means since the last time, every ``log_every_n_steps`` optimizer steps."""
        step = self.trainer.global_step
        if step == self._step_before or step % self.trainer.log_every_n_steps:
            return
        assert self._train_totals is not None
        assert self._loss_total is not None
        means = self._train_totals[0] / self._train_totals[1]  # NaN where a task had no token
        values = {task_key(TRAIN_LOSS, task): means[i] for i, task in enumerate(self.task_weights.tasks)}
        self.log_dict({TRAIN_LOSS: self._loss_total[0] / self._loss_total[1], **values}, batch_size=1)
        self._train_totals = self._loss_total = None

    def configure_optimizers(self) -> Any:
        """Build the optimizer over the trainable parameters, and the scheduler."""
        optimizer = self._optimizer([p for p in self.parameters() if p.requires_grad])
        if self._scheduler is None:
            return optimizer
        options = {}
        if _lacks_argument(self._scheduler, "num_training_steps"):
            steps = self.trainer.estimated_stepping_batches
            if not math.isfinite(steps):
                raise ValueError(
                    "`Trainer.max_steps` or `Trainer.max_epochs` must be set where the scheduler needs the number of "
                    "training steps; got -1 for both. Set one, or use a scheduler without an end."
                )
            options["num_training_steps"] = int(steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self._scheduler(optimizer, **options), "interval": "step"},
        }

    # ------------------------------------------------------------------ validation and test

    def on_validation_epoch_start(self) -> None:
        """Start the pass's sums."""
        self._eval_totals: Tensor | None = None

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> TaskLosses:
        """Return sums and counts, which a balancing callback reads."""
        losses = self.task_losses(batch)
        self._eval_totals = _add(self._eval_totals, _detached(losses))
        return losses

    def on_validation_epoch_end(self) -> None:
        """Log the losses of the pass, over all ranks."""
        self._log_pass(VAL_LOSS)

    def on_test_epoch_start(self) -> None:
        """Start the pass's sums."""
        self.on_validation_epoch_start()

    def test_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> TaskLosses:
        """As :meth:`validation_step`, on the test split."""
        return self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log the losses of the pass, over all ranks."""
        self._log_pass(TEST_LOSS)

    def _log_pass(self, prefix: str) -> None:
        if self._eval_totals is None:
            return
        sums, counts = self.trainer.strategy.reduce(self._eval_totals, reduce_op="sum")
        means = sums / counts
        values = {task_key(prefix, task): means[i] for i, task in enumerate(self.task_weights.tasks)}
        # Over the tasks that are there; a loss that is really NaN makes the mean NaN, as it should.
        present = counts > 0
        values[prefix] = torch.where(present, means, 0.0).sum() / present.sum()
        values[token_key(prefix)] = sums.sum() / counts.sum()
        # All ranks hold the same numbers already; without sync_dist Lightning would warn that they may not.
        self.log_dict(values, sync_dist=True, batch_size=1)

    # ------------------------------------------------------------------ checkpoints and export

    def _frozen(self) -> set[str]:
        return {name for name, p in self.named_parameters(remove_duplicate=False) if not p.requires_grad}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave frozen weights out, and keep what the training logs have summed so far."""
        frozen = self._frozen()
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k not in frozen}
        checkpoint[CHECKPOINT_KEY] = {
            "tasks": list(self.task_weights.tasks),
            "peft": _peft_settings(self.model),
            "train_totals": self._train_totals,
            "loss_total": self._loss_total,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other tasks or other trainable weights."""
        own = checkpoint.get(CHECKPOINT_KEY, {})
        tasks, mine = own.get("tasks", []), list(self.task_weights.tasks)
        if tasks and mine and tasks != mine:
            raise ValueError(
                f"The checkpoint was written with the tasks {', '.join(tasks)}; this run has {', '.join(mine)}. Use "
                "the same data, or start a new run."
            )
        expected = set(self.state_dict()) - self._frozen()
        differing = sorted(expected ^ set(checkpoint["state_dict"]))
        if differing:
            raise ValueError(
                f"The checkpoint holds other trainable weights than this module: {len(differing)} names differ, the "
                f"first is {differing[0]!r}. Use the same model and the same `peft` settings."
            )
        settings, mine_now = own.get("peft", {}), _peft_settings(self.model)
        changed = [key for key in mine_now if settings.get(key, mine_now[key]) != mine_now[key]]
        if changed:
            raise ValueError(
                "The checkpoint was written with other `peft` settings: "
                + ", ".join(f"{key} {settings[key]}, now {mine_now[key]}" for key in changed)
                + ". Use the same settings, or start a new run."
            )
        self._train_totals, self._loss_total = own.get("train_totals"), own.get("loss_total")

    def save_pretrained(self, folder: str | PathLike[str]) -> None:
        """Write the adapter (PEFT) or, after full fine-tuning, the model, as safetensors."""
        self.model.save_pretrained(str(folder))

    @property
    def has_adapter(self) -> bool:
        """Whether a PEFT adapter is trained, and not the whole model."""
        return isinstance(self.model, PeftModel)


def _with_adapter(model: PreTrainedModel, peft: PeftConfig, seed: int) -> PeftModel:
    # Without the list, fork_rng warns on a machine with several GPUs.
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []), warnings.catch_warnings():
        # peft 0.21 asks transformers 5 under a name that will go.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        torch.manual_seed(seed)
        return get_peft_model(model, peft)


def _peft_settings(model: nn.Module) -> dict[str, str]:
    """Return an adapter's settings as text: a checkpoint may hold neither sets nor enums."""
    if not isinstance(model, PeftModel):
        return {}
    config = model.active_peft_config.to_dict()
    # Where the base model came from may differ between machines, and versions may move.
    names = config.keys() - {"base_model_name_or_path", "revision", "inference_mode", "peft_version"}
    return {
        key: str(sorted(map(str, config[key])) if isinstance(config[key], set | list) else config[key])
        for key in sorted(names)
    }


def _detached(losses: TaskLosses) -> Tensor:
    return torch.stack([_wide(losses.sums.detach()), _wide(losses.counts)])


def _wide(value: Tensor) -> Tensor:
    return value.float() if value.device.type == "mps" else value.double()  # MPS has no float64


def _add(total: Tensor | None, value: Tensor) -> Tensor:
    return value if total is None else total.to(value.device) + value


def _lacks_argument(factory: Callable[..., Any], name: str) -> bool:
    """Whether a function has an argument that nobody has set."""
    if isinstance(factory, partial):
        return name not in factory.keywords and _lacks_argument(factory.func, name)
    return name in inspect.signature(factory).parameters
