"""The model card of an export: what was trained, on what, how, with what result, and how to load it."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2

from lightning_coba.export.base_model import BaseModel
from lightning_coba.export.card_tables import (
    balancer_table,
    data_table,
    results_table,
    scores_table,
    settings_table,
    weights_table,
)
from lightning_coba.export.citations import citation
from lightning_coba.export.loading import export_notes, prompt_templates
from lightning_coba.export.markdown import code_span, markdown_table
from lightning_coba.export.results import results_of_test, scores_of_text
from lightning_coba.export.run_data import RunData
from lightning_coba.runs.card import mapping, number
from lightning_coba.runs.trained_run import TrainedRun
from lightning_coba.simplex.records import BalanceTable, read_balance

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
    text = _template().render(
        run=run,
        whole=whole,
        checkpoint=checkpoint,
        dtype=dtype,
        base=base,
        data=data,
        figure=place if figures else None,
        front_matter=_front_matter(run, whole, checkpoint, base, data, license),
        method=_method(run),
        adapter=_adapter(run),
        length=_length(run),
        scores=scores_of_text(run),
        balance=_balance(run),
    )
    return ModelCard(re.sub(r"\n{3,}", "\n\n", text), figures)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    functions = (
        export_notes, prompt_templates, citation, markdown_table,
        data_table, results_table, scores_table, balancer_table, weights_table, settings_table,
    )  # fmt: skip
    environment.globals |= {function.__name__: function for function in functions}
    environment.filters |= {
        "code_span": code_span,
        "paragraph": lambda text: " ".join(line.strip() for line in text.strip().splitlines()) + "\n",
    }
    return environment.get_template("model_card.md")


def _balance(run: TrainedRun) -> BalanceTable | None:
    try:
        return read_balance(run.files.balance)
    except (FileNotFoundError, ValueError):
        return None


def _length(run: TrainedRun) -> str:
    """Return how long the run was; if it was not timed, how long it was to be."""
    if (steps := number(mapping(run.card.get("timing")).get("steps"))) > 0:
        return f"{steps:g} optimizer steps"
    trainer = run.settings.get("trainer") or {}
    most = {"optimizer steps": trainer.get("max_steps"), "epochs": trainer.get("max_epochs")}
    planned = [f"{limit} {what}" for what, limit in most.items() if number(limit) >= 0]
    return f"At most {' and '.join(planned) or 'unlimited steps'}"


def _front_matter(
    run: TrainedRun, whole: bool, checkpoint: str, base: BaseModel, data: RunData, license_: str | None
) -> str:
    # It imports requests, and nothing else here does.
    from huggingface_hub import EvalResult, ModelCardData

    measured = [
        one
        for one in (*results_of_test(run), *scores_of_text(run))
        if one.weights == checkpoint or {one.weights, checkpoint} == {"best", "final"}
    ]
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=str(run.card.get("suite") or run.name),
            dataset_name=one.task,
            # Results of one data set are written as one: the task has to be in what tells them apart.
            dataset_config=one.task,
            dataset_split=one.split,
            metric_type=one.metric,
            metric_name=f"{one.split} {one.name}",
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
