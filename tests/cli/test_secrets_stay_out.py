"""No token of the environment is written into the folder of a run, whoever uses it on the way."""

import os

import pytest
import yaml

from lightning_coba.runs import TrainedRun
from lightning_coba.runs.redaction import without_secrets

#: Runs so short that nothing is balanced.
pytestmark = pytest.mark.filterwarnings("ignore:ConvergenceBalancer. about", "ignore:Checkpoint directory .* exists")

SECRETS = {
    "HF_TOKEN": "hf_canaryCanaryCanary",
    "WANDB_API_KEY": "wandbcanarywandbcanary",
    "AWS_SECRET_ACCESS_KEY": "aws/canary+canary",
    "MLFLOW_TRACKING_URI": "https://me:urlcanary@example.org",
}
#: A DataModule of the user's own that takes a token, and says it in an error.
MODULE = """
from lightning_coba import MultitaskDataModule

class Private(MultitaskDataModule):
    def __init__(self, token, fails=False, **options):
        super().__init__(**options)
        assert token.startswith("hf_canary")
        self.token, self.fails = token, fails

    def train_dataloader(self):
        if self.fails:
            raise ConnectionError(f"401 for the token {self.token}")
        return super().train_dataloader()
"""


@pytest.fixture
def private(overrides, tmp_path, monkeypatch):
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    (tmp_path / "private.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    own = ["data._target_=private.Private", "+data.token=${oc.env:HF_TOKEN}"]
    return [*overrides, *own, "trainer.max_epochs=1", "+suite_url=${oc.env:MLFLOW_TRACKING_URI}"]


def holders(folder):
    """Return the files that hold a secret."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert found
    return [path for path in found if any(secret.encode() in path.read_bytes() for secret in SECRETS.values())]


def test_of_a_run_that_finishes(here, private, tmp_path):
    here(tmp_path / "run", *private, "logger=tensorboard")
    assert holders(tmp_path / "run") == []
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["data"]["token"] == "${oc.env:HF_TOKEN}"
    assert TrainedRun.open(tmp_path / "run", trust_code=True).load_datamodule().token == SECRETS["HF_TOKEN"]
    here(tmp_path / "run", *private, "logger=tensorboard", "trainer.max_epochs=2", "resume=auto")  # the same settings


def test_of_a_run_that_fails(here, private, tmp_path, capsys):
    with pytest.raises(ConnectionError):
        here(tmp_path / "run", *private, "+data.fails=true")
    assert holders(tmp_path / "run") == []
    assert "401 for the token ${oc.env:HF_TOKEN}" in (tmp_path / "run" / "error.txt").read_text()
    assert "401 for the token ${oc.env:HF_TOKEN}" in (tmp_path / "run" / "run.json").read_text()


@pytest.mark.slow
def test_of_the_jobs_of_a_sweep(command, private, tmp_path):
    command(tmp_path, "-m", *private, "seed=1,2", "+data.fails=true", "name=swept", python_path=tmp_path, code=1)
    assert holders(tmp_path / "multirun") == []


def test_what_only_looks_like_a_secret_is_left_alone(monkeypatch):
    for name in [name for name in os.environ if any(part in name for part in ("KEY", "TOKEN", "SECRET", "AUTH"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false", "HF_TOKEN_PATH": "/home/me/token", "GIT_AUTHOR_NAME": "Ada Lovelace",
        "MAX_TOKENS": "1000000000", "DATA": "somewhere/far",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    said = {"a": ["false", "/home/me/token/x", "Ada Lovelace", "1000000000", "somewhere/far"], "b": 1.5, "c": None}
    assert without_secrets(said) == said
