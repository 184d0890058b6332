"""Multitask fine-tuning: one model on several tasks, whose loss weights a balancer moves.

Paper: Gong et al., "CoBa: Convergence Balancer for Multitask Finetuning of Large Language Models", EMNLP 2024.
Needs: tasks with training, validation and test rows; a causal language model.
Gives: the fine-tuned model or adapter, and each task's test loss, accuracy and exact match.
Differs from the paper: weights act from the step after a validation pass on; see the docstring of each balancer.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_coba.systems.multitask.lm import MultitaskLM

__all__ = ["MultitaskLM"]


def __getattr__(name: str) -> Any:
    # transformers and peft take seconds to import.
    if name == "MultitaskLM":
        from lightning_coba.systems.multitask.lm import MultitaskLM

        return MultitaskLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
