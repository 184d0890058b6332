"""Evaluate a model or a run: answer the rows of each task, measure the answers, write what was found."""

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lightning_coba.data import MultitaskDataModule
from lightning_coba.errors import UserError
from lightning_coba.evaluation.answering import Answerer, answer_tasks
from lightning_coba.evaluation.choice import checked_metrics, planned
from lightning_coba.evaluation.code_execution import isolation, run_tests
from lightning_coba.evaluation.measuring import measure
from lightning_coba.evaluation.results import Evaluation
from lightning_coba.evaluation.samples import write_samples
from lightning_coba.models.generation import GREEDY, Decoding
from lightning_coba.runs.files import EvaluationFiles
from lightning_coba.runs.trained_run import TrainedRun

SPLITS = ("test", "validation")


def evaluate(
    run: TrainedRun | str | os.PathLike[str],
    split: str = "test",
    rows: int | None = None,
    tasks: Sequence[str] | None = None,
    checkpoint: str = "final",
    base: bool = False,
    data: str | os.PathLike[str] | None = None,
    device: str = "auto",
    dtype: str | None = None,
    out: str | os.PathLike[str] | None = None,
    decoding: Decoding = GREEDY,
    batch_tokens: int = 8192,
    fresh: bool = False,
    **options: Any,
) -> Evaluation:
    """Let the model of a run answer the rows of each task, and measure the answers.

    Use it after training, beside the losses: a loss says how well the right answer is predicted token by token, a
    metric how good the answers are that the model writes. Answers are kept in the run's folder row by row, so an
    evaluation that was interrupted goes on, and other metrics of the same answers cost nothing.

    Args:
        run: a run of ``coba-train``, or its folder.
        split: ``"test"``, or ``"validation"``, which chose the checkpoint.
        rows: rows of each task, a fixed subset; None = those that the run itself evaluates.
        tasks: names; None = all of the run.
        checkpoint: which weights; see `TrainedRun.load_model`.
        base: whether the model before training answers too, for a paired difference.
        data: where the data is now, if it has moved.
        device: ``"auto"`` (a GPU where there is one), ``"cpu"``, ``"cuda"`` or one of torch's names.
        dtype: of the weights, such as ``"bfloat16"``; None = that of the training.
        out: folder to write to; None = ``evaluation`` (of the validation split ``evaluation-validation``) in the run's.
        decoding: how tokens are chosen; greedy by default.
        batch_tokens: tokens of a batch, padding and new tokens counted: lower it where memory runs out.
        fresh: whether kept answers are thrown away.
        **options: ``metrics``, ``max_new_tokens``, ``run_code``, ``allow_network``, ``k``, ``progress``: see
            `evaluate_model`.

    Returns:
        The metrics of each task. Written: ``metrics.csv``, ``metrics.json``, ``samples.html`` and
        ``predictions/<task>.jsonl``.

    Raises:
        FileNotFoundError: the run, its weights or its data are not where they should be.
        ValueError: an argument is outside its domain, or the run is of a system other than multitask.
    """
    _check_split(split)
    _check_count("rows", rows)
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    _check_device(chosen)
    _check_dtype(dtype)
    run = run if isinstance(run, TrainedRun) else TrainedRun.open(run)
    run.require_system("coba-evaluate")
    changes: dict[str, Any] = {} if data is None else {"root": os.fspath(data)}
    datamodule = run.load_datamodule(**changes | ({} if rows is None else {f"{split}_rows": rows}))
    files = run.files.evaluation(split) if out is None else EvaluationFiles(Path(out))

    dtype = dtype or run.settings["model"].get("dtype")

    def answerer(name: str, which: str, place: Path) -> Answerer:
        identity = {"weights": _weights(run, which), "dtype": dtype}
        load = partial(run.load_model, which, chosen, dtype)
        return Answerer(name, load, run.tokenizer, identity, place, decoding, batch_tokens, fresh)

    ours = answerer(run.name if checkpoint == "final" else f"{run.name} ({checkpoint})", checkpoint, files.predictions)
    theirs = answerer("base model", "base", files.base_predictions) if base else None
    settings = {"run": str(run.path), "checkpoint": checkpoint, "dtype": dtype}
    return _evaluate(ours, theirs, datamodule, files, split, tasks, settings, **options)


def evaluate_model(
    model: Any,
    datamodule: MultitaskDataModule,
    out: str | os.PathLike[str],
    split: str = "test",
    tasks: Sequence[str] | None = None,
    base: bool = False,
    decoding: Decoding = GREEDY,
    batch_tokens: int = 8192,
    **options: Any,
) -> Evaluation:
    """Do what `evaluate` does with a model that is in memory, such as in a notebook after training.

    Args:
        model: a `MultitaskLM`, or a causal language model with or without a PEFT adapter.
        datamodule: whose rows are answered, with a tokenizer.
        out: folder to write to; answers in it are replaced, since a model in memory has no name to know it by.
        split: ``"test"`` or ``"validation"``.
        tasks: names; None = all of the datamodule.
        base: whether the model without its adapter answers too.
        decoding: how tokens are chosen; greedy by default.
        batch_tokens: tokens of a batch.
        **options: for both functions:
            ``metrics``: task -> names of its metrics, instead of those that its rows suggest;
            ``max_new_tokens``: of an answer; None = 1.5 times the longest completion of train and validation;
            ``run_code``: whether answers with tests are run, shut in;
            ``allow_network``: whether they are run where they cannot be shut in;
            ``k``: of pass@k; needs as many samples;
            ``progress``: whether a bar is shown.

    Raises:
        ValueError: an argument is outside its domain.
    """
    _check_split(split)
    inner = getattr(model, "model", None)
    if hasattr(model, "task_weights") and inner is not None:  # a MultitaskLM
        datamodule.tokenizer = datamodule.tokenizer or model.tokenizer
        model = inner
    if base and not hasattr(model, "disable_adapter"):
        raise UserError(
            "`evaluate_model.base` must be False for a model without an adapter, since its weights before training "
            f"are gone; got a {type(model).__name__}.",
            "Evaluate the base model by itself.",
        )
    files = EvaluationFiles(Path(out))
    ours = Answerer(
        "model", lambda: model, datamodule.tokenizer, uuid.uuid4().hex, files.predictions, decoding, batch_tokens
    )
    theirs = (
        replace(ours, name="base model", folder=files.base_predictions, answering=model.disable_adapter)
        if base
        else None
    )
    settings = {"run": None, "checkpoint": None, "dtype": str(model.dtype)}
    return _evaluate(ours, theirs, datamodule, files, split, tasks, settings, **options)


def _evaluate(
    ours: Answerer,
    theirs: Answerer | None,
    datamodule: MultitaskDataModule,
    files: EvaluationFiles,
    split: str,
    tasks: Sequence[str] | None,
    settings: Mapping[str, Any],
    metrics: Mapping[str, Sequence[str]] | None = None,
    max_new_tokens: int | None = None,
    run_code: bool = False,
    allow_network: bool = False,
    k: int = 1,
    progress: bool = False,
) -> Evaluation:
    _check_count("max_new_tokens", max_new_tokens)
    if not 1 <= k <= max(1, ours.decoding.num_samples):
        raise UserError(
            f"`evaluate.k` must be from 1 to the number of samples, {ours.decoding.num_samples}; got {k}.",
            "Take more samples (--samples), or a smaller k.",
        )
    tests = partial(run_tests, isolate=isolation(allow_network), progress=progress) if run_code else None
    wanted = checked_metrics(metrics or {}, datamodule.task_names)
    names = _checked_tasks(tasks, datamodule.task_names)
    datamodule.setup("test")
    plans = planned(datamodule, split, names, wanted, max_new_tokens)
    answers, seconds, replaced = answer_tasks(ours, plans, progress)
    ours.forget()  # before the other one is loaded
    base = answer_tasks(theirs, plans, progress)[0] if theirs else {}
    results = {
        plan.name: measure(plan, answers[plan.name], base.get(plan.name, []), seconds[plan.name], tests, k)
        for plan in plans
    }
    made = {
        **settings,
        "model": ours.name,
        "folder": str(files.folder),
        **ours.decoding._asdict(),
        "max_new_tokens": {plan.name: plan.max_new_tokens for plan in plans},
        "replaced": replaced,
    }
    evaluation = Evaluation(results, split, made)
    evaluation.write(files)
    write_samples(evaluation, files.samples)
    return evaluation


def _weights(run: TrainedRun, checkpoint: str) -> Any:
    """Return what changes when the weights of a run do: names, sizes and times of their files."""
    base = dict(run.settings["model"])
    if checkpoint == "base":
        return base
    if checkpoint == "final":
        folder = run.files.adapter if run.has_adapter else run.files.model
        files = sorted(folder.glob("*.safetensors"))
    else:
        files = [run.files.checkpoint(checkpoint)]
    return [
        base,
        checkpoint,
        *([file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()),
    ]


def _checked_tasks(tasks: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    unknown = [task for task in tasks or () if task not in known]
    if unknown or (tasks is not None and not tasks):
        raise UserError(
            f"`evaluate.tasks` must name tasks of the run ({', '.join(known)}); got {', '.join(unknown) or 'none'}.",
            "Correct the names, or leave it out for all.",
        )
    return [task for task in known if tasks is None or task in tasks]


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise UserError(f"`evaluate.split` must be one of {', '.join(SPLITS)}; got {split!r}.", "Choose one.")


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # a name that torch does not know, and one that is not here
        known = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        raise UserError(
            f"`evaluate.device` must be auto or a device of this machine ({', '.join(known)}); got {name!r}.",
            "Choose one.",
        ) from error


def _check_dtype(name: str | None) -> None:
    found = None if name is None else getattr(torch, name, None)
    if name is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise UserError(
            "`evaluate.dtype` must be one of torch's types of floating-point numbers, such as float32, bfloat16 or "
            f"float16, or None; got {name!r}.",
            "Choose one.",
        )


def _check_count(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UserError(f"`evaluate.{name}` must be at least 1, or None; got {value}.", "Choose a larger number.")
