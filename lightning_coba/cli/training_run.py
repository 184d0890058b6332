"""One run: its fits one after the other."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from lightning_coba.cli.fit_folder import complete_page, write_end
from lightning_coba.cli.one_fit import make_fit
from lightning_coba.cli.outcome import outcome_of
from lightning_coba.cli.phases import Fit
from lightning_coba.cli.ranks import end_other_ranks, write_when_stuck
from lightning_coba.cli.resumption import refuse_shorter, start_of
from lightning_coba.cli.stopping import stop_behind
from lightning_coba.cli.trainers import in_sweep
from lightning_coba.errors import UserError
from lightning_coba.lightning_internals import retire_observer
from lightning_coba.loggers.wandb import finish_wandb
from lightning_coba.runs.card import objective_of as objective_on_card
from lightning_coba.runs.run_folder import RunFolder


def run(fits: Sequence[Fit], folder: RunFolder, resume: Any) -> float:
    """Make the fits of a run that are not finished yet, and write the run's results.

    Args:
        fits: in their order.
        folder: of the run, held by this process.
        resume: false, or "auto".

    Returns:
        What a sweep minimises: the objective of the last fit, negative where higher is better; NaN where there is none.

    Raises:
        UserError: A fit would become longer after a later one had begun, which rests on it, or shorter than it is.
    """
    parts = [RunFolder(folder.path, fit.phase) for fit in fits]
    _refuse_outdated(fits, parts)
    checkpoints = [part.claim(resume, fit.settings) for fit, part in zip(fits, parts, strict=True)]
    if all(part.is_finished(fit.settings) for fit, part in zip(fits, parts, strict=True)):
        complete_page(folder)
        print(
            f"The run in {folder.path} is finished; its results are there. Train it longer with a larger "
            "trainer.max_steps or trainer.max_epochs, or start another with name=..."
        )
        return _to_minimise(folder.card.get("objective"))
    starts = [start_of(checkpoint) for checkpoint in checkpoints]
    for fit, start in zip(fits, starts, strict=True):
        refuse_shorter(fit.settings, start, folder.path)
    exit_code = 1
    part = parts[0]
    write_when_stuck(lambda error: write_end(part, outcome_of(error).status, error, in_sweep()))
    try:
        for fit, part, start in zip(fits, parts, starts, strict=True):
            if not part.is_finished(fit.settings):
                objective = make_fit(fit, part, start, is_last=fit is fits[-1])
                finish_wandb(0)  # the next phase would be logged to the same W&B run
            if fit.settings["trainer"].get("fast_dev_run"):
                break  # it leaves nothing that a later phase could read
        exit_code = 0
        return _to_minimise(objective)
    except BaseException as error:
        retire_observer()
        with suppress(OSError):  # a full disk: the run stays as it was, which resume=auto accepts
            write_end(part, outcome_of(error).status, error, in_sweep())
        end_other_ranks()
        if stop := stop_behind(error):
            stop.folder = folder.path if folder.card else None
            raise stop from error
        raise
    finally:
        finish_wandb(exit_code)


def _refuse_outdated(fits: Sequence[Fit], parts: Sequence[RunFolder]) -> None:
    for i, (fit, part) in enumerate(zip(fits, parts, strict=True)):
        begun = [later.phase for later in parts[i + 1 :] if later.entries]
        if begun and part.entries.get("status") == "finished" and not part.is_finished(fit.settings):
            raise UserError(
                f"`{part.phase}` cannot be trained longer, since {', '.join(map(str, begun))} began with its result.",
                f"Start another run with name=..., or delete {parts[i + 1].files.folder} to train that again.",
            )


def _to_minimise(entry: Mapping[str, Any] | None) -> float:
    objective = objective_on_card(entry)
    return objective.value if objective.better == "min" else -objective.value
