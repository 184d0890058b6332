"""What a configuration will cost: the length of its run, and the time and memory of its steps."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lightning_coba.cli.composing import composed
from lightning_coba.cli.rehearsal import GROUPS, NotTimedError, OutOfMemoryError, rehearsed
from lightning_coba.cli.resolving import resolved
from lightning_coba.runs.own_balancer import coba_of_passes

if TYPE_CHECKING:
    from lightning_coba.inspection import Inspection, RunLength
    from lightning_coba.inspection.forecast import Forecast
    from lightning_coba.inspection.run_draft import RunDraft


def settings_of(config: Any) -> dict[str, Any]:
    """Return what a composed configuration says of a run's steps, in plain dicts and lists."""
    return resolved(config, [*GROUPS, "seed", "test_before"])


def run_length(settings: Mapping[str, Any]) -> "RunLength":
    """Return the length of a run, and what its balancer makes of validation passes."""
    from lightning_coba.inspection import RunLength

    trainer = {
        name: settings["trainer"][name] for name in RunLength.__dataclass_fields__ if name in settings["trainer"]
    }
    coba = coba_of_passes(settings["balancer"] or {})
    window, warmup = (None, None) if coba is None else (coba.window_records, coba.warmup_records)
    return RunLength(**trainer, window_records=window, warmup_records=warmup)


def timed(found: "Inspection", settings: Mapping[str, Any], is_own: bool = True) -> "Inspection":
    """Return an inspection with what the run will cost; where that cannot be measured, say why and return it as it is.

    Args:
        found: What was found in the data.
        settings: Of `settings_of`.
        is_own: See `rehearsed`.
    """
    _announce(settings)
    try:
        with _shown():
            measured = rehearsed(settings, is_own)
    except NotTimedError as error:
        _say_unknown(error)
        return found
    return found.timed(measured, **_around(settings))


def timed_draft(
    draft: "RunDraft", out: Path, write: Callable[["RunDraft"], None]
) -> "tuple[RunDraft, Forecast | None]":
    """Time a draft, with smaller batches where memory does not suffice and fewer passes where they take too long.

    Args:
        draft: What was written to `out`.
        out: The experiment.
        write: Replaces it with another draft.

    Returns:
        The draft that is written now, and what its run will cost; None where that cannot be measured.
    """
    from lightning_coba.inspection.forecast import Forecast

    _announce(settings_of(composed(str(out))))
    while True:
        settings = settings_of(composed(str(out)))
        try:
            with _shown():
                measured = rehearsed(settings)
        except OutOfMemoryError as error:
            if draft.batch_size == 1:
                _say_unknown(error)
                return draft, None
            write(draft := draft.with_smaller_batches())
        except NotTimedError as error:
            _say_unknown(error)
            return draft, None
        else:
            if not measured.is_tight or draft.batch_size == 1:
                break
            write(draft := draft.with_smaller_batches())
    forecast = Forecast(measured, draft.max_steps, draft.passes, **_around(settings))
    cheaper = draft.with_share(forecast.validation_share)
    if cheaper is not draft:
        write(cheaper)
    return cheaper, forecast._replace(passes=cheaper.passes)


def _announce(settings: Mapping[str, Any]) -> None:
    model = (settings["model"] or {}).get("model")
    _say(f"Loading {model} and timing a few steps, a minute or more; --no-timing skips this.")


def _shown() -> Progress:
    """Return a line that says, in a terminal, how long the rehearsal has taken so far."""
    line = Progress(
        SpinnerColumn(), TextColumn("timing a few steps"), TimeElapsedColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    line.add_task("")
    return line


def _say_unknown(error: NotTimedError) -> None:
    _say(f"Time and memory are not known: {error.what} {error.cure}".rstrip())


def _say(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def _around(settings: Mapping[str, Any]) -> dict[str, int]:
    """Return how often a run validates before training, and tests."""
    baseline = bool(settings["trainer"].get("num_sanity_val_steps", 2))
    return {"baseline_passes": int(baseline), "tests": 1 + bool(settings["test_before"])}
