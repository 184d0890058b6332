"""Multitask fine-tuning: one model on several tasks, whose loss weights a balancer moves.

Paper: Gong et al., "CoBa: Convergence Balancer for Multitask Finetuning of Large Language Models", EMNLP 2024.
Needs: tasks with training, validation and test rows; a causal language model.
Gives: the fine-tuned model or adapter, and each task's test loss, accuracy and exact match.
Differs from the paper: weights act from the step after a validation pass on; see the docstring of each balancer.
"""

import lazy_loader

# Loaded when a name of the .pyi is first asked for: transformers and peft take seconds to import.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
