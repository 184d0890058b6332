"""The verdict of a replay in sentences."""

from collections.abc import Mapping, Sequence

import numpy as np

from lightning_coba.balancers import Balancer, CoBa
from lightning_coba.reports.formats import listed
from lightning_coba.reports.past_runs.loss_table import LossTable
from lightning_coba.reports.replay.findings import NOTICEABLE, TOLERANCE, SettingFinding, TaskFinding
from lightning_coba.reports.statistics import best_step_spread
from lightning_coba.simplex.records import BalanceTable

CAUTION = (
    "A replay shows the weights that a balancer chooses on these losses, not what training under them would have "
    "given: other weights would have made other losses. To know, train again, and keep a run with uniform "
    "weights beside it."
)
#: Weights that differ by less than this are those that the run had.
SAME = 1e-6
#: Tasks whose best records lie closer than this share of the run converge together.
TOGETHER = 0.2


def verdict(
    table: LossTable,
    found: Sequence[TaskFinding],
    settings: Sequence[SettingFinding],
    result: BalanceTable,
    balancer: Balancer | None = None,
) -> list[str]:
    """Return the answer to "would it have helped?" as far as a replay can give it, the most important sentence first.

    Args:
        table: the losses.
        found: how each task fared.
        settings: what each setting did; the sentences are about the first.
        result: the records of the first.
        balancer: the first; where the run had it, and these weights, they are told as what happened.
    """
    first, ran = settings[0], _difference_from_run(table, result, balancer) < SAME
    sentences = [_headline(found, first, result, ran), _tasks(found), _spread(table, found)]
    sentences += [*_answer(first, result, ran), _reactions(found, result), _mixture(result), _agreement(settings)]
    return [sentence for sentence in sentences if sentence]


def notes(table: LossTable, results: Mapping[str, BalanceTable], settings: Mapping[str, Balancer]) -> list[str]:
    """Return what to know before trusting a replay."""
    said = []
    name, balancer = next(iter(settings.items()))
    if isinstance(balancer, CoBa) and (few := _too_few(table.num_records, balancer)):
        said.append(few)
    if not table.is_measured:
        said.append(
            "V(0), which every loss is divided by, is each task's first record: nothing was measured before training. "
            "--initial gives it."
        )
    stand_ins = [name for name, balancer in settings.items() if balancer.needs == {"train_losses"}]
    if stand_ins:
        said.append(f"{listed(stand_ins, 4)}: made for training losses; validation losses stand in for them.")
    difference = _difference_from_run(table, results[name], balancer)
    if np.isfinite(difference):
        if difference < SAME:
            said.append(f"Replaying the run's own setting, {name}, gives the weights that the run had.")
        else:
            said.append(
                f"Replaying the run's own setting, {name}, gives weights up to {difference:.2g} from those that the "
                "run had: a prior, a floor under the weights or another version shaped these."
            )
    return [*said, CAUTION]


def _difference_from_run(table: LossTable, result: BalanceTable, balancer: Balancer | None) -> float:
    """Return how far the weights of the run's own setting lie from those that it had; NaN for another setting."""
    if table.balancer is None or table.weights is None or repr(balancer) != repr(table.balancer):
        return np.nan
    return float(np.nanmax(np.abs(result.weight - table.weights)))


def _too_few(num_records: int, balancer: CoBa) -> str:
    enough = balancer.window_records + 2
    if num_records >= enough:
        return ""
    start = max(balancer.warmup_records, 2)
    begins = f"moves from record {start} on" if num_records >= start else f"would not move before record {start}"
    records = f"{num_records} record{'s' * (num_records > 1)}"
    return (
        f"Only {records}: CoBa {begins}, and its window of {balancer.window_records} was never full. "
        f"Validate more often, so that there are {enough} and more (trainer.val_check_interval of Lightning and "
        "coba-train, eval_steps of transformers), or replay a shorter window: --set window_records=3,5."
    )


def _headline(found: Sequence[TaskFinding], setting: SettingFinding, result: BalanceTable, ran: bool) -> str:
    turned = [one for one in found if one.has_turned]
    if all(one.state == "unknown" for one in found):
        return "Too few records to say where the tasks were heading."
    if turned:
        caught = [one.task for one in turned if _is_damped_after_its_best(one, result)]
        does = (
            f"{setting.name} {'then took' if ran else 'would then have taken'} weight from {listed(caught)}."
            if caught
            else f"{setting.name} {'did not take' if ran else 'would not have taken'} weight from "
            f"{'it' if len(turned) == 1 else 'them'}."
        )
        verb = "ended above its lowest loss" if len(turned) == 1 else "ended above their lowest losses"
        return f"There was something to balance: {listed(one.task for one in turned)} {verb}. {does}"
    if all(one.is_noise for one in found):
        return (
            "Nothing to balance: no task's loss changed by more than it scatters from record to record. Weights that "
            "move on such losses follow noise."
        )
    if setting.raised or setting.damped:
        why = ", because the tasks learn at different speeds" if np.isfinite(setting.divergence_factor) else ""
        changed = "changed" if ran else "would have changed"
        return f"No task overfitted; {setting.name} {changed} the shares all the same{why}."
    kept = "kept" if ran else "would have kept"
    return f"Little to balance: no task overfitted, and {setting.name} {kept} the weights near equal."


def _is_damped_after_its_best(one: TaskFinding, result: BalanceTable) -> bool:
    weights = result.weight[one.best_record :, result.tasks.index(one.task)]
    return bool(weights.mean() < (1 - NOTICEABLE) / len(result.tasks))


def _tasks(found: Sequence[TaskFinding]) -> str:
    groups = {
        state: [one for one in found if one.state == state] for state in ("improving", "flat", "diverging", "unknown")
    }
    words = {"improving": "still improving", "unknown": "too few records to tell"}
    parts = [
        f"{words.get(state, state)}: {listed(_with_rise(one) for one in group)}"
        for state, group in groups.items()
        if group
    ]
    return f"At the end of the run, {'; '.join(parts)}."


def _with_rise(one: TaskFinding) -> str:
    if not one.has_turned:
        return one.task
    rise = f"{one.rise:+.0%}" if np.isfinite(one.rise) else "up"
    return f"{one.task} ({rise} since its lowest, at step {one.best_step})"


def _spread(table: LossTable, found: Sequence[TaskFinding]) -> str:
    records = [one.best_record for one in found if one.best_record]
    spread = best_step_spread(records, table.num_records)
    if not np.isfinite(spread):
        return ""
    early = min((one for one in found if one.best_record), key=lambda one: one.best_record)
    late = max(found, key=lambda one: one.best_record)
    if early.best_record == late.best_record:
        return f"All tasks were at their best at one record, {late.best_record} of {table.num_records}."
    if spread <= TOGETHER:
        return f"The tasks were at their best together, within {spread:.0%} of the run."
    return (
        f"The tasks were at their best {spread:.0%} of the run apart: {early.task} at record {early.best_record}, "
        f"{late.task} at record {late.best_record} of {table.num_records}.{_one_checkpoint(table)}"
    )


def _one_checkpoint(table: LossTable) -> str:
    """Say what the checkpoint costs that loses least on the task that it is worst for."""
    losses = table.losses[:, np.isfinite(table.losses).any(axis=0)]
    lowest = np.nanmin(losses, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        lost = np.where(losses == lowest, 0.0, (losses - lowest) / np.abs(lowest)).max(
            axis=1
        )  # NaN where a task is absent
    if not np.isfinite(lost).any():
        return ""
    least = np.nanmin(lost)
    record = f"record {int(np.nanargmin(lost)) + 1}" + " of those with every task" * bool(np.isnan(lost).any())
    if least <= TOLERANCE:
        return f" Still, {record} is within {TOLERANCE:.0%} of the best of every task."
    return (
        f" No single checkpoint is best for all: {record} comes closest, at most {least:.1%} above each task's lowest."
    )


def _answer(setting: SettingFinding, result: BalanceTable, ran: bool) -> list[str]:
    """Say when the setting would have begun, or began, and whom it raised and damped."""
    would = "" if ran else "would have "
    if not setting.first_record:
        return [f"{setting.name} {would}kept all weights equal throughout."]
    step = int(result.steps[setting.first_record - 1])
    begins = f"{setting.name} {would}moved the weights from record {setting.first_record} (step {step}) on"
    times = dict(zip(result.tasks, setting.mean * len(result.tasks), strict=True))
    moved = [
        f"{verb} {listed(f'{task} ({times[task]:.2f} times)' for task in tasks)}"
        for verb, tasks in (("raised", setting.raised), ("damped", setting.damped))
        if tasks
    ]
    if not moved:
        return [f"{begins}, but by less than {NOTICEABLE:.0%} of the equal share on average."]
    return [f"{begins}; averaged over these records, relative to the equal share, it {' and '.join(moved)}."]


def _reactions(found: Sequence[TaskFinding], result: BalanceTable) -> str:
    """Say how soon after a task turned its weight was halved."""
    parts = []
    for one in found:
        if not one.has_turned:
            continue
        weights = result.weight[one.best_record :, result.tasks.index(one.task)]
        below = np.flatnonzero(weights < 0.5 / len(result.tasks))
        records = f"{below[0] + 1} record{'s' * bool(below[0])} after" if below.size else "never after"
        parts.append(f"{one.task} {records} record {one.best_record}")
    return (
        f"How soon a weight fell below half the equal share, after the lowest loss: {'; '.join(parts)}."
        if parts
        else ""
    )


def _mixture(result: BalanceTable) -> str:
    low = result.divergence_factor < 0.5
    if not low.any():
        return ""
    return (
        f"Its divergence factor fell below one half at record {int(low.argmax()) + 1}: CoBa then judges each task by "
        "its own past (ACS) more than against the others (RCS)."
    )


def _agreement(settings: Sequence[SettingFinding]) -> str:
    """Say what holds whatever the setting of CoBa."""
    moving = [one for one in settings if one.first_record and np.isfinite(one.divergence_factor)]
    if len(moving) < 2 or settings[0] not in moving:
        return ""
    parts = []
    for verb, lists in (("raise", [one.raised for one in moving]), ("damp", [one.damped for one in moving])):
        always = [task for task in lists[0] if all(task in tasks for tasks in lists)]
        parts += [f"{verb} {listed(always)}"] if always else []
    if not any(one.raised or one.damped for one in moving):
        return f"None of the {len(moving)} settings of CoBa moves a weight by {NOTICEABLE:.0%} on average."
    if not parts:
        return f"There is no task that all {len(moving)} settings of CoBa raise or damp: the choice of setting matters."
    return f"All {len(moving)} settings of CoBa {' and '.join(parts)}."
