"""Per-task losses of completion tokens: the head is the widest layer, and prompts need none of it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeGuard

import torch
from lightning.pytorch.utilities import rank_zero_info
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.nn.functional import cross_entropy, linear
from transformers import PreTrainedModel

from lightning_coba.errors import UserError
from lightning_coba.functional import (
    TaskLosses,
    TaskMetrics,
    checkpointed_task_losses,
    chunked_task_losses,
    chunked_task_metrics,
    task_losses,
    tokens_per_chunk,
)
from lightning_coba.functional.chunked_loss import autocast_once
from lightning_coba.models.forward_checks import head_of_backbone, packed_sequences
from lightning_coba.models.liger import liger_loss
from lightning_coba.models.sharding import shard


class CompletionLosses:
    """Compute per-task losses: backbone, selection of the positions before completion tokens, head in chunks.

    Once, at the first call, head and backbone are compared with the model's own logits; where the model does more than
    these two (soft caps, scaled logits, prompt tuning) every call goes through its own forward instead. Once, at the
    first packed batch, two packed sequences are compared with what they are alone.

    Args:
        model: a causal language model, with or without a PEFT adapter.
        compile: whether ``torch.compile`` compiles what runs before the head, at the first call.

    Attributes:
        plain_head: whether logits are head(backbone); None before the first call.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, compile: bool = False) -> None:  # noqa: A002 - torch's word
        self.model = model
        self.compile = compile
        self.plain_head: bool | None = None
        self._packs = False
        self._is_sharded = False
        # Outside of the module tree, so that the names in checkpoints stay as they are.
        self._compiled: Any = None

    def shard(self, mesh: Any) -> None:
        """Cut the model into shards, one per rank of a device mesh; a second call does nothing."""
        if self._is_sharded:
            return
        self.plain_head = self._check_head()  # while its parts can still be called one by one
        shard(self.model, mesh)
        self.model.call_inside = lambda function, *arguments: function(*arguments)
        register_fsdp_forward_method(self.model, "call_inside")
        self._is_sharded = True

    def _inside_forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function as the model's own forward, in which the parameters of sharded models are whole."""
        if self._is_sharded and self.plain_head:
            return self.model.call_inside(function, *arguments)
        return function(*arguments)

    def __call__(self, batch: Mapping[str, Tensor], num_tasks: int) -> TaskLosses:
        """Return sums and counts of K tasks on a batch of `data.planning.collate`, padded or packed.

        Raises:
            ValueError: if the batch is packed and the model mixes packed sequences.
        """
        return self._inside_forward(self._task_losses, batch, num_tasks)

    def _task_losses(self, batch: Mapping[str, Tensor], num_tasks: int) -> TaskLosses:
        outputs, targets, tasks = self._at_completions(batch), batch["targets"], batch["token_tasks"]
        if self.plain_head:
            return self._through_head(outputs, targets, tasks, num_tasks)
        return task_losses(cross_entropy(outputs.float(), targets, reduction="none"), tasks, num_tasks)

    @torch.no_grad()
    def metrics(self, batch: Mapping[str, Tensor], num_tasks: int) -> TaskMetrics:
        """Return losses, accuracy and exact match of K tasks on such a batch, at the price of the losses.

        Every token is predicted from the true ones before it. So a row matches where greedy decoding would write its
        completion, end token included, but for ties and for kernels that round otherwise. A conversation matches where
        all its answers do, each after the true ones before.

        Raises:
            ValueError: if the batch is packed and the model mixes packed sequences.
        """
        return self._inside_forward(self._task_metrics, batch, num_tasks)

    def _task_metrics(self, batch: Mapping[str, Tensor], num_tasks: int) -> TaskMetrics:
        outputs = self._at_completions(batch)
        head, outputs = self._head_without_gradients(outputs)
        return chunked_task_metrics(
            head,
            outputs,
            batch["targets"],
            batch["token_tasks"],
            _token_rows(batch),
            num_tasks,
            batch["input_ids"].numel(),
            tokens_per_chunk(self._vocabulary),
        )

    def _at_completions(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return what predicts the completion tokens, ``[n, ...]``: see `_outputs`."""
        if self.plain_head is None:
            self.plain_head = self._check_head()
        if "position_ids" in batch and not self._packs:
            self._packs = self._check_packing()
        return self._outputs(self._run, self._inputs(batch)).flatten(0, 1).index_select(0, batch["token_index"])

    def _outputs(self, run: Any, inputs: Mapping[str, Any]) -> Tensor:
        """Return hidden states, or logits where the head cannot be told apart, of the shape of the ids."""
        if self.plain_head:
            return run(**inputs).last_hidden_state
        # Prompt tuning returns logits for its virtual tokens too, in front.
        return run(**inputs).logits[:, -inputs["input_ids"].shape[1] :]

    def _inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        ids = batch["input_ids"]
        if "position_ids" not in batch:
            return {"input_ids": ids, "attention_mask": batch["attention_mask"], "use_cache": False}
        positions = batch["position_ids"]
        # transformers tells sequences apart by their positions, and for flash attention only within one row.
        if (self._base.config._attn_implementation or "").startswith("flash"):
            ids, positions = ids.reshape(1, -1), positions.reshape(1, -1)
        return {"input_ids": ids, "position_ids": positions, "attention_mask": None, "use_cache": False}

    def _through_head(self, hidden: Tensor, targets: Tensor, tasks: Tensor, num_tasks: int) -> TaskLosses:
        head = self._head
        trained = torch.is_grad_enabled() and any(p.requires_grad for p in head.parameters())
        if _is_plain_linear(head):
            if not trained:
                return chunked_task_losses(hidden, head.weight, head.bias, targets, tasks, num_tasks)
            # Its kernels cannot start on no tokens at all.
            fused = liger_loss() if hidden.is_cuda and len(hidden) else None
            if fused is not None:
                losses = fused(hidden, head.weight, targets, head.bias, reduction="none", accum_dtype=torch.float32)
                return task_losses(losses, tasks, num_tasks)
        size = tokens_per_chunk(self._vocabulary)
        return checkpointed_task_losses(head, hidden, targets, tasks, num_tasks, size)

    def _head_without_gradients(self, outputs: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Return what makes logits of the second value."""
        if not self.plain_head:
            return lambda logits: logits, outputs
        head = self._head
        if not _is_plain_linear(head):
            return head, outputs
        outputs, weight, bias = autocast_once(outputs, head.weight, head.bias)
        return partial(linear, weight=weight, bias=bias), outputs

    @property
    def _base(self) -> PreTrainedModel:
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def _backbone(self) -> nn.Module:
        return self._base.get_decoder()

    @property
    def _head(self) -> nn.Module:
        return self._base.get_output_embeddings()

    @property
    def _before_head(self) -> nn.Module:
        return self._backbone if self.plain_head else self.model

    @property
    def _run(self) -> Any:
        if not self.compile:
            return self._before_head
        if self._compiled is None:
            self._compiled = torch.compile(self._before_head, dynamic=True)  # batches differ in length
        return self._compiled

    @property
    def _vocabulary(self) -> int:
        return self._base.config.get_text_config().vocab_size

    def _check_head(self) -> bool:
        fault = head_of_backbone(self.model, lambda: (self._backbone, self._head), self._vocabulary)
        if fault:
            rank_zero_info(
                f"{type(self._base).__name__} {fault}: logits are computed for all tokens, which is slower and takes "
                "more memory."
            )
        return not fault

    def _check_packing(self) -> bool:
        def outputs(ids: Tensor, positions: Tensor) -> Tensor:
            return self._outputs(self._before_head, self._inputs({"input_ids": ids, "position_ids": positions}))

        fault = packed_sequences(self.model, outputs, self._vocabulary)
        if fault:
            raise UserError(
                f"{type(self._base).__name__} {fault}.",
                "Set data.batching=grouped (`MultitaskDataModule.batching`), which pads instead.",
            )
        return True


def _is_plain_linear(head: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a head is the product alone: a subclass (4-bit), an adapter or a hook may do more."""
    return type(head) is nn.Linear and not (head._forward_hooks or head._forward_pre_hooks)


def _token_rows(batch: Mapping[str, Tensor]) -> Tensor:
    """Return a number for the row of each completion token, below that of the positions, ``[n]``."""
    index = batch["token_index"]
    if "position_ids" not in batch:
        return index // batch["input_ids"].shape[1]
    # Positions start at 0 in every row.
    return (batch["position_ids"].flatten() == 0).cumsum(0)[index] - 1
