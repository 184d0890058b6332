"""The model card of an export: what was trained, on what, how, with what result, and how to load it."""

import shutil
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lightning_coba.export.base_model import BaseModel
from lightning_coba.export.card_tables import data_section, settings_section, weights_section
from lightning_coba.export.citations import citation
from lightning_coba.export.loading import loading_section
from lightning_coba.export.markdown import markdown_table
from lightning_coba.export.results import is_of, results_of_test, results_section, scores_of_text
from lightning_coba.export.run_data import RunData
from lightning_coba.runs.trained_run import TrainedRun

#: A tag on every card, by which an export is recognised as one.
MARK = "lightning_coba"
#: The card's figure, among those of the run.
WEIGHTS_FIGURE = "weights.png"


@dataclass(frozen=True)
class ModelCard:
    """Hold a card and the figures that it shows.

    Attributes:
        text: Markdown, with the front matter of the Hugging Face hub.
        figures: place beside the card -> the file to be copied there.
    """

    text: str
    figures: Mapping[str, Path]

    def write(self, folder: Path) -> None:
        """Write ``README.md`` and the figures into a folder."""
        for place, file in self.figures.items():
            (folder / place).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, folder / place)
        (folder / "README.md").write_text(self.text, encoding="utf-8")


def model_card(
    run: TrainedRun,
    whole: bool = True,
    checkpoint: str = "final",
    dtype: str | None = None,
    base: BaseModel | None = None,
    license: str | None = None,  # noqa: A002 - the card's own word
) -> ModelCard:
    """Return the model card of a run's export.

    Use it through :func:`export_run`, or to see what a card would say: ``print(model_card(run).text)``. It reads the
    run's data to count rows, and says so where the data is gone.

    Args:
        run: opened.
        whole: whether the export holds whole weights, not an adapter.
        checkpoint: whose weights they are.
        dtype: of whole weights; None = that of the training.
        base: of the adapter or of the weights; None = that of the run.
        license: identifier for the front matter; None = none.
    """
    base = base or BaseModel.of(run)
    dtype = dtype or str(run.settings["model"].get("dtype", "float32"))
    data = RunData.of(run)
    figure = run.files.figures / WEIGHTS_FIGURE
    place = f"{figure.parent.name}/{WEIGHTS_FIGURE}"
    figures = {place: figure} if figure.is_file() else {}
    versions = [(name, version) for name, version in run.card.get("packages", {}).items() if version]
    sections = {
        "How to load it": loading_section(run, whole, dtype, base, data.chat_tasks),
        "Tasks and data": data_section(run, data),
        "Results": results_section(run, checkpoint),
        "Balancing": weights_section(run, place if figures else None),
        "Training": settings_section(run),
        "Versions": markdown_table(("package", "version"), versions),
        "Limits": _limits(run, checkpoint),
        "Citation": f"```bibtex\n{citation(run)}\n```",
    }
    front = _front_matter(run, whole, checkpoint, base, data, license)
    head = f"---\n{front}\n---\n\n# {run.name}\n\n{_summary(run, whole, base)}"
    body = [f"## {title}\n\n{text}" for title, text in sections.items() if text]
    return ModelCard("\n\n".join([head, *body]) + "\n", figures)


def _front_matter(
    run: TrainedRun, whole: bool, checkpoint: str, base: BaseModel, data: RunData, license_: str | None
) -> str:
    # It imports requests, and nothing else here does.
    from huggingface_hub import EvalResult, ModelCardData

    measured = [] if checkpoint == "last" else results_of_test(run)
    if is_of(run, checkpoint):
        measured += scores_of_text(run)
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=str(run.card.get("suite") or run.name),
            dataset_name=one.task,
            # Results of one data set are written as one: the task has to be in what tells them apart.
            dataset_config=one.task,
            dataset_split=one.split,
            metric_type=one.metric,
            metric_name=f"{one.split} {one.metric.replace('_', ' ')}",
            metric_value=float(f"{one.value:.6g}"),
        )
        for one in measured
    ]
    tags = [MARK, "multitask", _method(run).lower(), *([_adapter(run).lower()] if run.has_adapter else [])]
    card = ModelCardData(
        base_model=base.hub_id,
        datasets=[*data.hub_ids] or None,
        library_name="transformers" if whole else "peft",
        license=license_,
        model_name=run.name,
        pipeline_tag="text-generation",
        tags=tags,
        eval_results=results or None,
    )
    return card.to_yaml()


def _method(run: TrainedRun) -> str:
    return str(run.card.get("method") or "unknown")


def _adapter(run: TrainedRun) -> str:
    """Return what kind of adapter was trained, such as ``Lora``."""
    return str(run.settings["peft"].get("_target_", "")).rpartition(".")[-1].removesuffix("Config")


def _summary(run: TrainedRun, whole: bool, base: BaseModel) -> str:
    came = f"the local model `{Path(base.name).name}`" if base.is_local else f"`{base.name}`"
    trained = f"with an adapter ({_adapter(run)})" if run.has_adapter else "in full"
    holds = "the adapter" if not whole else "the weights, adapter merged," if run.has_adapter else "the weights"
    weighed = f"were those of {_method(run)}" if run.settings.get("balancer") else "stayed equal"
    text = (
        f"A causal language model: {came}, fine-tuned {trained} on {len(run.tasks)} tasks together: "
        f"{', '.join(run.tasks)}. The weights of the tasks' losses {weighed}, by the package "
        f"lightning_coba. This folder holds {holds} and the tokenizer."
    )
    return textwrap.fill(text, 110, break_long_words=False, break_on_hyphens=False)


def _limits(run: TrainedRun, checkpoint: str) -> str:
    limits = [
        "- It was tested on the tasks above alone. What else the base model could do may have suffered.",
        "- Loss, accuracy and exact match are token by token, from the true tokens before. They are not scores of text "
        "that the model wrote.",
        "- The licences of the data and of the base model were not checked; they may restrict what this model may be "
        "used for.",
    ]
    if not run.is_finished:
        limits.append(f"- The run was not finished when its checkpoint '{checkpoint}' was exported.")
    return "\n".join(limits)
