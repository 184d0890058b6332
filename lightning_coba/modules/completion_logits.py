"""Next-token logits of completion tokens only: the head is the widest layer, and prompts need none of it."""

from collections.abc import Mapping

import torch
from lightning.pytorch.utilities import rank_zero_info
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

#: Hidden states are scaled up for the comparison, so that a soft cap on small logits cannot hide.
PROBE_SCALE = 1000.0


class CompletionLogits:
    """Compute logits at given positions: backbone, selection, head.

    Once, at the first call, the result is compared with the model's own logits; where the model does more than
    backbone and head (soft caps, scaled logits, prompt tuning) every call goes through its own forward instead.

    Args:
        model: a causal language model, with or without a PEFT adapter.
    """

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        self.model = model
        self.plain_head: bool | None = None

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return logits ``[n, V]`` at the flat positions ``batch["token_index"]`` of a ``[B, T]`` batch."""
        if self.plain_head is None:
            self.plain_head = self._head_is_plain(batch["input_ids"].device)
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
        if self.plain_head:
            hidden = self._backbone(**inputs).last_hidden_state
            return self._head(hidden.flatten(0, 1).index_select(0, batch["token_index"]))
        # Prompt tuning returns logits for its virtual tokens too, in front.
        logits = self.model(**inputs).logits[:, -batch["input_ids"].shape[1] :]
        return logits.flatten(0, 1).index_select(0, batch["token_index"])

    @property
    def _base(self) -> PreTrainedModel:
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def _backbone(self) -> nn.Module:
        return self._base.get_decoder()

    @property
    def _head(self) -> nn.Module:
        return self._base.get_output_embeddings()

    @torch.no_grad()
    def _head_is_plain(self, device: torch.device) -> bool:
        training = {module: module.training for module in self.model.modules()}
        ids = torch.arange(min(8, self._base.config.vocab_size), device=device)[None]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
        self.model.eval()
        try:
            backbone, head = self._backbone, self._head
            hook = backbone.register_forward_hook(_scale_hidden)
            try:
                own = self.model(**inputs).logits.float()
                ours = head(backbone(**inputs).last_hidden_state).float()
            finally:
                hook.remove()
            same = own.shape == ours.shape and bool((own - ours).abs().max() <= 0.02 * own.abs().max())
        except Exception as error:  # any model may fail in its own way once its parts are called alone
            rank_zero_info(f"The language model's parts cannot be called one by one ({error}).")
            same = False
        finally:
            for module, flag in training.items():
                module.training = flag
        if not same:
            rank_zero_info(
                f"{type(self._base).__name__} does more than backbone and head on the way to its logits (a soft cap, a "
                "scale, virtual tokens): logits are computed for all tokens, which is slower and takes more memory."
            )
        return same


def _scale_hidden(module: nn.Module, inputs: tuple, output: object) -> object:
    output.last_hidden_state = output.last_hidden_state * PROBE_SCALE  # type: ignore[attr-defined]
    return output
