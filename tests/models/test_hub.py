"""A model of the hub that is not to be had is refused in a sentence, at once."""

from unittest.mock import Mock

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from lightning_coba.models.hub import require_model
from lightning_coba.models.tokenizer import model_source

NAME = "somebody/some-model"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return a function: what the hub answers, an exception or a model; the cache is empty."""
    require_model.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")

    def answers(answer):
        def model_info(*_, **__):
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)

    yield answers
    require_model.cache_clear()


def test_an_unreachable_hub_is_asked_once(hub, tmp_path):
    hub(ConnectionError("Name or service not known"))
    with pytest.raises(FileNotFoundError, match=f"cannot be reached, and its cache does not have the model '{NAME}'"):
        model_source(NAME)
    assert huggingface_hub.is_offline_mode()


def test_what_the_cache_has_is_used_without_the_hub(hub, tmp_path):
    snapshot = tmp_path / "models--somebody--some-model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    hub(ConnectionError())
    assert model_source(NAME) == NAME
    assert huggingface_hub.is_offline_mode()


def test_a_name_that_nobody_has_is_told(hub):
    error = huggingface_hub.errors.RepositoryNotFoundError("404", response=Mock(headers={}))
    hub(error)
    with pytest.raises(FileNotFoundError, match=rf"no model '{NAME}'.*a folder, or a \.gguf file"):
        model_source(NAME)


def test_a_hub_that_answers_is_left_to_transformers(hub):
    for answer in (object(), HfHubHTTPError("500", response=Mock(headers={}))):
        hub(answer)
        require_model.cache_clear()
        assert model_source(NAME) == NAME
        assert not huggingface_hub.is_offline_mode()
