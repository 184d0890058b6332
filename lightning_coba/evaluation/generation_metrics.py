"""Metrics of generated answers during training: what the model writes, beside how well it predicts."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lightning_coba.errors import UserError
from lightning_coba.evaluation.choice import TaskPlan, checked_metrics, planned, targets_of
from lightning_coba.evaluation.metrics import TextMetric
from lightning_coba.evaluation.rows import fewer_rows
from lightning_coba.log_keys import metric_key
from lightning_coba.models.generation import generate


class GenerationMetrics(L.Callback):
    """Let the model answer a few validation rows of each task in every n-th validation pass, and log the metrics.

    Use it to see when answers become usable, which losses do not say, or to stop by a metric. It logs
    ``val_<metric>/<task>``, such as ``val_chrf/code``, with the metrics that `evaluate` would choose. Every rank
    answers a part of the rows, and the sums are added up, so the numbers do not depend on the number of ranks, but for
    ties that rounding decides. Training goes on bit for bit as without it.

    Args:
        every_n_validations: 1 = every pass of a fit.
        rows: of each task, always the same part of its validation subset.
        metrics: task -> names of its metrics, instead of those that its rows suggest.
        max_new_tokens: of an answer; None = 1.5 times the longest completion of train and validation.
        batch_tokens: tokens of a batch, padding and new tokens counted.

    Raises:
        ValueError: a number is below 1; at the start of a fit: the module is no `MultitaskLM`, the data no
            `MultitaskDataModule`, or the strategy shards the model.

    Example:
        >>> trainer = L.Trainer(callbacks=[GenerationMetrics(every_n_validations=5, rows=16)])  # doctest: +SKIP
    """

    def __init__(
        self,
        every_n_validations: int = 1,
        rows: int = 32,
        metrics: Mapping[str, Sequence[str]] | None = None,
        max_new_tokens: int | None = None,
        batch_tokens: int = 8192,
    ) -> None:
        numbers = {"every_n_validations": every_n_validations, "rows": rows, "batch_tokens": batch_tokens}
        for name, value in {**numbers, "max_new_tokens": max_new_tokens}.items():
            if value is not None and value < 1:
                raise UserError(
                    f"`GenerationMetrics.{name}` must be at least 1; got {value}.", "Choose a larger number."
                )
        self.every_n_validations = every_n_validations
        self.rows = rows
        self.metrics = metrics
        self.max_new_tokens = max_new_tokens
        self.batch_tokens = batch_tokens
        self._num_validations = 0
        self._plans: list[TaskPlan] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse what cannot be measured before training begins; choose rows and metrics."""
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(datamodule, "corpus") or not hasattr(pl_module, "tokenizer"):
            raise UserError(
                "`GenerationMetrics` must be used with a MultitaskLM and a MultitaskDataModule, which has the "
                f"prompts; got {type(pl_module).__name__} and {type(datamodule).__name__}.",
                "Use these, or call lightning_coba.models.generate in a callback of your own.",
            )
        if isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy | ModelParallelStrategy):
            raise UserError(
                "`GenerationMetrics` must be used where every rank holds the whole model; got "
                f"{type(trainer.strategy).__name__}.",
                "Use strategy=ddp, or coba-evaluate after training.",
            )
        self._plans = self._planned(datamodule)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Answer, measure and log, where it is this pass's turn."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or not self._plans:
            return
        self._num_validations += 1
        if self._num_validations % self.every_n_validations:
            return
        with trainer.precision_plugin.val_step_context():
            totals = self._totals(pl_module, trainer.global_rank, trainer.world_size)
        totals = torch.as_tensor(trainer.strategy.reduce(totals.to(trainer.strategy.root_device), reduce_op="sum"))
        parts: list[Tensor] = list(torch.split(totals.cpu(), [metric.size for _, _, metric in self._all()]))
        values = {
            metric_key(name, task): m.score(part) for (task, name, m), part in zip(self._all(), parts, strict=True)
        }
        # All ranks hold the same numbers already; without sync_dist Lightning would warn that they may not.
        pl_module.log_dict({key: value.float() for key, value in values.items()}, sync_dist=True, batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        """Return how many passes there were, so that a resumed run keeps the rhythm."""
        return {"num_validations": self._num_validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the rhythm."""
        self._num_validations = state_dict["num_validations"]

    def _planned(self, datamodule: Any) -> list[TaskPlan]:
        names = datamodule.task_names
        plans = planned(
            datamodule, "validation", names, checked_metrics(self.metrics or {}, names), self.max_new_tokens
        )
        rows = [fewer_rows(datamodule, "validation", i, plan.rows, self.rows) for i, plan in enumerate(plans)]
        return [plan._replace(rows=fewer) for plan, fewer in zip(plans, rows, strict=True)]

    def _all(self) -> list[tuple[str, str, TextMetric]]:
        return [(plan.name, name, metric) for plan in self._plans for name, metric in plan.metrics.items()]

    def _totals(self, module: Any, rank: int, world_size: int) -> Tensor:
        """Return the sums of all metrics over this rank's rows, end to end, float64."""
        sums = []
        for plan in self._plans:
            rows = plan.rows[rank::world_size]
            prompts = [row.prompt_ids for row in rows]
            end = module.tokenizer.eos_token_id
            ids = generate(module.model, prompts, end, plan.max_new_tokens, self.batch_tokens)
            answers = [module.tokenizer.decode(samples[0], skip_special_tokens=True) for samples in ids]
            for metric in plan.metrics.values():
                metric.reset()
                metric.update(answers, [targets_of(row) for row in rows])
                sums.append(metric.totals.cpu())
        return torch.cat(sums)
