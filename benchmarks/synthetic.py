"""Inputs that need no download: random batches, a tiny random model, a tokenizer of bytes."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def random_batch(rows: int, length: int, share: float, num_tasks: int, vocabulary: int) -> dict[str, Tensor]:
    """Return a batch with `collate`'s keys whose rows end in ``share`` of completion tokens."""
    input_ids = torch.randint(vocabulary, (rows, length))
    learned = torch.zeros(rows, length, dtype=torch.bool)
    learned[:, length - round(share * length) :] = True
    index = learned.flatten().nonzero().squeeze(1)
    # Different tasks in one batch, as far as there are.
    row_tasks = torch.randperm(num_tasks).repeat(-(-rows // num_tasks))[:rows]
    token_tasks = row_tasks[index // length]
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "token_index": index - 1,
        "targets": input_ids.flatten()[index],
        "token_tasks": token_tasks,
        "row_tasks": row_tasks,
        "row_ids": torch.arange(rows),
        "step_counts": token_tasks.bincount(minlength=num_tasks),
    }


def tiny_llama(seed: int, vocabulary: int = 257, hidden: int = 32, layers: int = 2) -> LlamaForCausalLM:
    """Return a random Llama in float32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        bos_token_id=vocabulary - 1,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    return LlamaForCausalLM(config)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token a byte and an end token, id 256."""
    vocabulary = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary["<eos>"] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
