"""Answers of a language model to many prompts: batched by length, the same as one prompt at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, PreTrainedModel

from lightning_coba.errors import UserError
from lightning_coba.functional import seed_of, set_seed, undisturbed


class Batch(NamedTuple):
    """Prompts that are answered together.

    Attributes:
        rows: their numbers.
        budget: new tokens that each may get.
    """

    rows: list[int]
    budget: int


class Decoding(NamedTuple):
    """How a token is chosen.

    Attributes:
        temperature: 0 takes the likeliest token; above, tokens are drawn from the whole distribution at it.
        num_samples: answers to each prompt; more than one needs a temperature.
        seed: of the draws.
    """

    temperature: float = 0.0
    num_samples: int = 1
    seed: int = 0


GREEDY = Decoding()


def plan_batches(
    lengths: Sequence[int], budgets: Sequence[int], batch_tokens: int, num_samples: int = 1
) -> list[Batch]:
    """Put prompts of similar length together, the longest first, so that what does not fit into memory fails at once.

    Args:
        lengths: tokens of each prompt.
        budgets: new tokens that each may get; only prompts of the same budget share a batch.
        batch_tokens: of a batch at its end, padding and new tokens counted; one prompt may take more.
        num_samples: answers to each prompt.

    Example:
        >>> plan_batches([3, 9, 4], [10, 10, 10], batch_tokens=40)
        [Batch(rows=[1, 2], budget=10), Batch(rows=[0], budget=10)]
    """
    order = sorted(range(len(lengths)), key=lambda row: (-budgets[row], -lengths[row]))
    batches: list[Batch] = []
    for row in order:
        last = batches[-1] if batches else None
        if last is not None and last.budget == budgets[row]:
            size = (lengths[last.rows[0]] + last.budget) * num_samples
            if (len(last.rows) + 1) * size <= batch_tokens:
                last.rows.append(row)
                continue
        batches.append(Batch([row], budgets[row]))
    return batches


def budgets_of(lengths: Sequence[int], max_new_tokens: int, context: int | None) -> list[int]:
    """Return the new tokens that each prompt may get: as many as are wanted, and as fit into the model's context."""
    return [max(1, min(max_new_tokens, context - length)) if context else max_new_tokens for length in lengths]


def generate(
    model: PreTrainedModel | Any,
    prompts: Sequence[Sequence[int]],
    end_token: int,
    max_new_tokens: int,
    batch_tokens: int = 8192,
    decoding: Decoding = GREEDY,
) -> list[list[list[int]]]:
    """Let a model answer prompts.

    Use it with token ids of your own; `evaluate` does all that a run needs. Prompts are sorted by length, padded on the
    left and masked; the keys and values of earlier tokens are kept; what goes beyond the model's context is not
    written. In float32 a prompt gets the tokens that it gets alone, but for ties that rounding decides. Afterwards the
    model is as it was: training flags, random state, generation settings.

    Args:
        model: a causal language model, with or without a PEFT adapter.
        prompts: token ids, none empty.
        end_token: the token that ends an answer; also fills up the shorter prompts, where it is masked.
        max_new_tokens: most tokens of an answer.
        batch_tokens: of a batch at its end, padding and new tokens counted.
        decoding: how tokens are chosen; greedy by default.

    Returns:
        For each prompt `decoding.num_samples` answers, as token ids without the end token.

    Raises:
        ValueError: a prompt is empty, or a number is outside its domain.
    """
    answers: list[list[list[int]]] = [[] for _ in prompts]
    for batch, found in generated_batches(model, prompts, end_token, max_new_tokens, batch_tokens, decoding):
        for row, samples in zip(batch.rows, found, strict=True):
            answers[row] = samples
    return answers


def generated_batches(
    model: PreTrainedModel | Any,
    prompts: Sequence[Sequence[int]],
    end_token: int,
    max_new_tokens: int,
    batch_tokens: int,
    decoding: Decoding = GREEDY,
    done: frozenset[int] = frozenset(),
) -> Iterator[tuple[Batch, list[list[list[int]]]]]:
    """Yield each batch with its answers as they come; see `generate`.

    Args:
        model: as for `generate`.
        prompts: as for `generate`.
        end_token: as for `generate`.
        max_new_tokens: as for `generate`.
        batch_tokens: as for `generate`.
        decoding: as for `generate`.
        done: rows that have their answers already. A batch of such rows is left out; the others stay what they were, so
            that an interrupted generation goes on with the same draws.

    Raises:
        ValueError: see `generate`.
    """
    _check(prompts, max_new_tokens, batch_tokens, decoding)
    lengths = [len(prompt) for prompt in prompts]
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    budgets = budgets_of(lengths, max_new_tokens, context)
    for batch in plan_batches(lengths, budgets, batch_tokens, decoding.num_samples):
        if done.issuperset(batch.rows):
            continue
        with undisturbed(model), _own_settings(model, _settings(batch.budget, end_token, decoding)):
            if decoding.temperature:
                set_seed(seed_of(decoding.seed, "answers", batch.rows[0]), model.device)
            found = _answers(model, [prompts[row] for row in batch.rows], end_token, decoding.num_samples)
        yield batch, found


def _check(prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_tokens: int, decoding: Decoding) -> None:
    empty = [row for row, prompt in enumerate(prompts) if not len(prompt)]
    if empty:
        raise UserError(
            f"`generate.prompts` must hold at least one token each; prompt {empty[0]} has none.",
            "Begin it with the tokenizer's start token.",
        )
    for name, number in {"max_new_tokens": max_new_tokens, "batch_tokens": batch_tokens}.items():
        if number < 1:
            raise UserError(f"`generate.{name}` must be at least 1; got {number}.", "Choose a larger number.")
    if not 0 <= decoding.temperature < inf or decoding.num_samples < 1:
        raise UserError(
            "`generate.decoding` must have a finite temperature of at least 0 and at least 1 sample; got "
            f"{decoding.temperature} and {decoding.num_samples}.",
            "Use temperature=0 for the likeliest tokens.",
        )
    if decoding.num_samples > 1 and not decoding.temperature:
        raise UserError(
            f"`generate.decoding` must have a temperature above 0 for {decoding.num_samples} samples; got 0, with "
            "which all are alike.",
            "Set temperature=0.8, or take one sample.",
        )


def _settings(budget: int, end_token: int, decoding: Decoding) -> GenerationConfig:
    drawn = {"temperature": decoding.temperature, "top_k": 0, "top_p": 1.0} if decoding.temperature else {}
    return GenerationConfig(
        do_sample=bool(decoding.temperature),
        num_return_sequences=decoding.num_samples,
        max_new_tokens=budget,
        eos_token_id=end_token,
        pad_token_id=end_token,
        use_cache=True,
        **drawn,
    )


@contextmanager
def _own_settings(model: Any, settings: GenerationConfig) -> Iterator[None]:
    """Replace a model's generation settings: those from its hub page would fill in whatever ours leave open."""
    holders = [model]
    if hasattr(model, "get_base_model"):  # PEFT copies the outer one's to the inner one for good
        holders.append(model.get_base_model())
    before = [holder.generation_config for holder in holders]
    for holder in holders:
        holder.generation_config = settings
    try:
        yield
    finally:
        for holder, kept in zip(holders, before, strict=True):
            holder.generation_config = kept


@torch.no_grad()
def _answers(model: Any, prompts: Sequence[Sequence[int]], end_token: int, num_samples: int) -> list[list[list[int]]]:
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), end_token)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.as_tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    written = model.generate(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))[:, width:].tolist()
    cut = [answer[: answer.index(end_token)] if end_token in answer else answer for answer in written]
    return [cut[row * num_samples : (row + 1) * num_samples] for row in range(len(prompts))]
