"""Generation in batches is generation one by one, and leaves the model as it was."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lightning_coba.models.generation import Decoding, budgets_of, generate, generated_batches, plan_batches

PROMPTS = [list(range(40, 40 + n)) for n in (3, 17, 1, 9, 9, 30, 5)]
END = 256


def by_hand(model, prompt, count):
    """Greedy decoding without padding, masks, cache or library: the definition."""
    ids = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token == END:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.fixture
def llama(talkative_llama):
    return talkative_llama


def test_a_padded_batch_is_one_prompt_at_a_time(llama):
    model = llama()
    together = generate(model, PROMPTS, END, 12)
    assert [samples[0] for samples in together] == [by_hand(model, prompt, 12) for prompt in PROMPTS]
    assert len({tuple(samples[0]) for samples in together}) > 3  # the model does not say the same to all
    assert generate(model, PROMPTS, END, 12, batch_tokens=60) == together


def test_answers_stop_at_the_end_token(llama):
    model = llama()
    [[answer]] = generate(model, PROMPTS[:1], END, 12)
    stop = answer[4]
    [[shorter]] = generate(model, PROMPTS[:1], stop, 12)
    assert shorter == answer[: answer.index(stop)]


def test_nothing_is_written_beyond_the_context(llama):
    model = llama(max_position_embeddings=32)
    answers = generate(model, PROMPTS, END, 20)
    assert [samples[0] for samples in answers] == [by_hand(model, p, min(20, 32 - len(p))) for p in PROMPTS]
    assert len(answers[5][0]) == 2
    assert budgets_of([10, 40], 20, None) == [20, 20]


def test_adapters_answer_and_the_model_is_as_it_was(llama):
    model = get_peft_model(llama(), LoraConfig(target_modules="all-linear", r=4, init_lora_weights=False))
    model.train()
    model.get_base_model().model.layers[0].eval()
    flags = [module.training for module in model.modules()]
    settings = [model.generation_config, model.get_base_model().generation_config]
    state = torch.random.get_rng_state()
    answers = generate(model, PROMPTS, END, 6, decoding=Decoding(temperature=1.0))
    assert [module.training for module in model.modules()] == flags
    now = (model.generation_config, model.get_base_model().generation_config)
    assert all(a is b for a, b in zip(settings, now, strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert answers != generate(model, PROMPTS, END, 6)
    with model.disable_adapter():
        plain = generate(model, PROMPTS, END, 6)
    assert plain == generate(llama(), PROMPTS, END, 6) != generate(model, PROMPTS, END, 6)


def test_whoever_takes_a_batch_finds_the_model_as_it_was(llama):
    model = llama().train()
    settings, state = model.generation_config, torch.random.get_rng_state()
    for _ in generated_batches(model, PROMPTS, END, 2, 60, Decoding(temperature=1.0)):
        assert model.generation_config is settings
        assert model.training
        assert torch.equal(torch.random.get_rng_state(), state)
        torch.rand(3)  # the consumer's own draws stay
        assert not torch.equal(torch.random.get_rng_state(), state)
        state = torch.random.get_rng_state()


def test_settings_of_the_models_page_do_not_leak_in(llama):
    model = llama()
    expected = generate(model, PROMPTS, END, 8)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.min_new_tokens = 8
    assert generate(model, PROMPTS, END, 8) == expected


def test_draws_depend_on_the_seed_and_go_on_after_an_interruption(llama):
    model, drawn = llama(), Decoding(1.0, 3, seed=1)
    first = generate(model, PROMPTS, END, 6, 120, drawn)
    assert [len(samples) for samples in first] == [3] * len(PROMPTS)
    assert len({tuple(sample) for sample in first[0]}) > 1
    assert generate(model, PROMPTS, END, 6, 120, drawn) == first
    assert generate(model, PROMPTS, END, 6, 120, drawn._replace(seed=2)) != first
    done = frozenset({0, 5})
    again = list(generated_batches(model, PROMPTS, END, 6, 120, drawn, done))
    assert not any(set(batch.rows) <= done for batch, _ in again)
    for batch, found in again:
        assert found == [first[row] for row in batch.rows]


def test_batches_keep_to_their_budget_and_hold_every_prompt_once():
    lengths = [5, 90, 7, 40, 41, 3, 90, 300]
    budgets = budgets_of(lengths, 50, 320)
    batches = plan_batches(lengths, budgets, batch_tokens=300)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(lengths)))
    for batch in batches:
        assert {budgets[row] for row in batch.rows} == {batch.budget}
        size = len(batch.rows) * (max(lengths[row] for row in batch.rows) + batch.budget)
        assert size <= 300 or len(batch.rows) == 1
    assert batches[0].rows == [1, 6]  # the longest of the full budget first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": [[1], []]}, "prompt 1 has none"),
        ({"batch_tokens": 0}, r"`generate.batch_tokens` must be at least 1; got 0"),
        ({"max_new_tokens": 0}, r"`generate.max_new_tokens` must be"),
        ({"decoding": Decoding(0.0, 2)}, r"temperature above 0 for 2 samples; got 0"),
        ({"decoding": Decoding(-1.0)}, r"temperature of at least 0"),
        ({"decoding": Decoding(float("nan"))}, r"finite temperature of at least 0.*got nan and 1"),
    ],
)
def test_what_is_no_generation_is_refused(llama, change, message):
    arguments = {"prompts": [[1]], "end_token": END, "max_new_tokens": 4} | change
    with pytest.raises(ValueError, match=message):
        generate(llama(), **arguments)
