"""The weights of a run, loaded: those it began with, those it ended with, and those of its checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_coba.errors import MissingFileError, UserError
from lightning_coba.runs.building import build
from lightning_coba.runs.files import RunFiles
from lightning_coba.runs.received import (
    refuse_megatron,
    refuse_remote_code,
    require_plain_adapter,
    require_plain_model,
)
from lightning_coba.user_files import refusals

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RESTORE = "Restore it, or take another checkpoint."


@dataclass(frozen=True)
class RunWeights:
    """Load the weights of a multitask run; each call loads them again.

    Args:
        path: The run folder.
        files: Where its results lie.
        settings: The resolved configuration.
        has_diverged: Whether the run ended so.
        trust_code: Whether the configuration may build anything, and the folder may hold pickled weights.
        trust_remote_code: Whether code that comes with the model may run.
    """

    path: Path
    files: RunFiles
    settings: Mapping[str, Any]
    has_diverged: bool = False
    trust_code: bool = False
    trust_remote_code: bool = False

    @property
    def base_model(self) -> str:
        """Name or path of the model that the run began with."""
        return str(self.settings["model"]["model"])

    @property
    def has_adapter(self) -> bool:
        """Whether it trained a PEFT adapter, and not the whole model."""
        return bool(self.settings.get("peft"))

    def remote_code(self) -> bool:
        """Return whether code that comes with the model runs; refuse a configuration that wants what is not trusted."""
        refuse_remote_code(self.settings["model"], self.trust_remote_code)
        return bool(self.settings["model"].get("trust_remote_code"))

    def base(self, dtype: str | None = None) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """Load the model before training, and its tokenizer."""
        self.remote_code()
        model = build("model", self.settings["model"] | ({"dtype": dtype} if dtype else {}), self.trust_code)
        options = {} if self.trust_code else {"use_safetensors": True}
        if not self.trust_code and (folder := Path(self.base_model).expanduser()).is_dir():
            require_plain_model(folder)
        with refusals(f"the model {self.base_model!r} cannot be loaded", RESTORE, self.files.settings):
            return model.load(**options)

    def final(self, dtype: str | None) -> "PreTrainedModel | PeftModel":
        """Load what the run ended with."""
        folder = self.files.adapter if self.has_adapter else self.files.model
        if not folder.is_dir() and self.has_diverged:
            raise MissingFileError(
                f"The run in {self.path} diverged before its first good checkpoint, so it has no {folder.name}/.",
                "Start another with a lower optimizer.lr or trainer.gradient_clip_val.",
            )
        if not folder.is_dir():
            raise MissingFileError(
                f"The run in {self.path} did not finish, so it has no {folder.name}/.",
                "Continue it with resume=auto, or take the checkpoint 'best' or 'last'.",
            )
        if not self.trust_code:
            (require_plain_adapter if self.has_adapter else require_plain_model)(folder)
        if self.has_adapter:
            from peft import PeftModel

            base = self.base(dtype)[0]
            with refusals("the adapter cannot be loaded", RESTORE, folder):
                return PeftModel.from_pretrained(base, str(folder))
        from transformers import AutoModelForCausalLM

        dtype = dtype or self.settings["model"].get("dtype", "float32")
        options = {"dtype": dtype, "trust_remote_code": self.remote_code()}
        if not self.trust_code:
            options["use_safetensors"] = True
        with refusals("the model cannot be loaded", RESTORE, folder):
            return AutoModelForCausalLM.from_pretrained(folder, **options)

    def of_checkpoint(self, name: str, dtype: str | None) -> "PreTrainedModel | PeftModel":
        """Load the weights of ``"best"`` or ``"last"``."""
        from lightning_coba.runs.checkpoint_file import checkpoint_to_resume, load_checkpoint  # imports torch

        file = self.files.checkpoint(name)
        if name == "last":
            file = checkpoint_to_resume(self.files) or file
        if not file.is_file():
            raise MissingFileError(
                f"The run in {self.path} has no {file.name} yet.", "Wait for its first validation pass."
            )
        model, tokenizer = self.base(dtype)
        objects = {"model": model, "tokenizer": tokenizer}
        if self.has_adapter:
            if not self.trust_code:
                refuse_megatron(self.settings["peft"], str(self.files.settings))
            objects["peft"] = build("peft", self.settings["peft"], self.trust_code)
        module = build("system", self.settings["system"], self.trust_code, **objects)
        saved = load_checkpoint(file)["state_dict"]
        left = module.load_state_dict(saved, strict=False).unexpected_keys
        if left:
            raise UserError(
                f"{file} holds {len(left)} weights that the model of this run does not have, the first is {left[0]!r}.",
                "Give the model that it was trained from.",
            )
        return module.model
