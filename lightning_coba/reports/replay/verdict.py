"""The verdict of a replay in sentences."""

from collections.abc import Mapping, Sequence

import numpy as np

from lightning_coba.balancers import Balancer, CoBa
from lightning_coba.reports.findings import TOLERANCE, TaskFinding, having
from lightning_coba.reports.formats import count, listed
from lightning_coba.reports.past_runs.loss_table import LossTable
from lightning_coba.reports.replay.setting_findings import NOTICEABLE, SettingFinding
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
) -> list[str]:
    """Return the answer to "would it have helped?" as far as a replay can give it, the most important sentence first.

    Args:
        table: The losses.
        found: How each task fared.
        settings: What each setting did; the sentences are about the first.
        result: The records of the first; where the run had these weights, they are told as what happened.
    """
    first = settings[0]
    would = "" if _difference_from_run(table, result) < SAME else "would have "
    sentences = [_headline(found, first, result, would), _tasks(found), _spread(table, found)]
    sentences += [_answer(first, result, would), _agreement(settings)]
    return [sentence for sentence in sentences if sentence]


def notes(table: LossTable, results: Mapping[str, BalanceTable], settings: Mapping[str, Balancer]) -> list[str]:
    """Return what to know before trusting a replay."""
    said = []
    name, balancer = next(iter(settings.items()))
    if isinstance(balancer, CoBa) and table.num_records < (enough := balancer.window_records + 2):
        start = max(balancer.warmup_records, 2)
        moves = "moves from record" if table.num_records >= start else "would not move before record"
        said.append(
            f"Only {count(table.num_records, 'record')}: CoBa {moves} {start}, and its window of "
            f"{balancer.window_records} was never full. Validate more often, so that there are {enough} and more "
            "(trainer.val_check_interval of Lightning and coba-train, eval_steps of transformers), or replay a "
            "shorter window: --set window_records=3,5."
        )
    if not table.is_measured:
        said.append(
            "V(0), which every loss is divided by, is each task's first record: nothing was measured before training. "
            "--initial gives it."
        )
    stand_ins = [name for name, balancer in settings.items() if balancer.needs == {"train_losses"}]
    if stand_ins:
        said.append(f"{listed(stand_ins, 4)}: made for training losses; validation losses stand in for them.")
    difference = _difference_from_run(table, results[name])
    if balancer == table.balancer and np.isfinite(difference):
        why = "from those that the run had: a prior, a floor under the weights or another version shaped these"
        gives = "the weights that the run had" if difference < SAME else f"weights up to {difference:.2g} {why}"
        said.append(f"Replaying the run's own setting, {name}, gives {gives}.")
    return [*said, CAUTION]


def _difference_from_run(table: LossTable, result: BalanceTable) -> float:
    """Return how far the weights of a replay lie from those that the run had; NaN where these are not known."""
    if table.balancer is None or table.weights is None:
        return np.nan
    return float(np.nanmax(np.abs(result.weight - table.weights)))


def _headline(found: Sequence[TaskFinding], setting: SettingFinding, result: BalanceTable, would: str) -> str:
    if len(having(found, "unknown")) == len(found):
        return "Too few records to say where the tasks were heading."
    if turned := [one for one in found if one.has_turned]:
        after = {one.task: result.weight[one.best_record :, result.tasks.index(one.task)] for one in turned}
        damped = [task for task, weights in after.items() if weights.mean() < (1 - NOTICEABLE) / len(result.tasks)]
        return (
            f"There was something to balance: {listed(after)} overfitted. After the lowest loss, {setting.name} "
            f"{would}damped {listed(damped) or 'none of them'}."
        )
    if all(one.is_noise for one in found):
        return (
            "Nothing to balance: no task's loss changed by more than it scatters from record to record. Weights that "
            "move on such losses follow noise."
        )
    if setting.raised or setting.damped:
        why = ", because the tasks learn at different speeds" if np.isfinite(setting.divergence_factor) else ""
        return f"No task overfitted; {setting.name} {would}changed the shares all the same{why}."
    return f"Little to balance: no task overfitted, and {setting.name} {would}kept the weights near equal."


def _tasks(found: Sequence[TaskFinding]) -> str:
    words = {"improving": "still improving", "flat": "flat", "diverging": "diverging", "unknown": "too few records"}
    groups = {said: listed(map(_with_rise, having(found, state))) for state, said in words.items()}  # type: ignore[arg-type]
    return f"At the end of the run, {'; '.join(f'{said}: {tasks}' for said, tasks in groups.items() if tasks)}."


def _with_rise(one: TaskFinding) -> str:
    rise = f"{one.rise:+.0%}" if np.isfinite(one.rise) else "up"
    return f"{one.task} ({rise} since its lowest, at step {one.best_step})" if one.has_turned else one.task


def _spread(table: LossTable, found: Sequence[TaskFinding]) -> str:
    """Say how far apart the tasks were at their best, and what a single checkpoint costs."""
    there = sorted((one for one in found if one.best_record), key=lambda one: one.best_record)
    spread = best_step_spread([one.best_record for one in there], table.num_records)
    if not np.isfinite(spread):
        return ""
    early, late = there[0], there[-1]
    if spread <= TOGETHER:
        between = f"s {early.best_record} to" if early.best_record < late.best_record else ""
        return f"All tasks were at their best at record{between} {late.best_record} of {table.num_records}."
    apart = (
        f"The tasks were at their best {spread:.0%} of the run apart: {early.task} at record {early.best_record}, "
        f"{late.task} at record {late.best_record} of {table.num_records}."
    )
    losses = table.losses[:, np.isfinite(table.losses).any(axis=0)]
    lowest = np.nanmin(losses, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):  # NaN where a task is absent
        lost = np.where(losses == lowest, 0.0, (losses - lowest) / np.abs(lowest)).max(axis=1)
    if not np.isfinite(lost).any():
        return apart
    least, record = np.nanmin(lost), int(np.nanargmin(lost)) + 1
    if least <= TOLERANCE:
        return f"{apart} Still, record {record} is within {TOLERANCE:.0%} of the best of every task."
    return (
        f"{apart} No single checkpoint is best for all: record {record} comes closest, at most {least:.1%} above each "
        "task's lowest."
    )


def _answer(setting: SettingFinding, result: BalanceTable, would: str) -> str:
    """Say when the setting would have begun, or began, and whom it raised and damped."""
    if not setting.first_record:
        return f"{setting.name} {would}kept all weights equal throughout."
    begins = (
        f"{setting.name} {would}moved the weights from record {setting.first_record} (step {setting.first_step}) on"
    )
    times = dict(zip(result.tasks, setting.mean * len(result.tasks), strict=True))
    moved = [
        f"{verb} {listed(f'{task} ({times[task]:.2f} times)' for task in tasks)}"
        for verb, tasks in (("raised", setting.raised), ("damped", setting.damped))
        if tasks
    ]
    if not moved:
        return f"{begins}, but by less than {NOTICEABLE:.0%} of the equal share on average."
    return f"{begins}; averaged over these records, relative to the equal share, it {' and '.join(moved)}."


def _agreement(settings: Sequence[SettingFinding]) -> str:
    """Say what holds whatever the setting of CoBa."""
    moving = [one for one in settings if one.first_record and np.isfinite(one.divergence_factor)]
    if len(moving) < 2 or settings[0] not in moving:
        return ""
    if not any(one.raised or one.damped for one in moving):
        return f"None of the {len(moving)} settings of CoBa moves a weight by {NOTICEABLE:.0%} on average."
    always = {
        "raise": [task for task in moving[0].raised if all(task in one.raised for one in moving)],
        "damp": [task for task in moving[0].damped if all(task in one.damped for one in moving)],
    }
    parts = [f"{verb} {listed(tasks)}" for verb, tasks in always.items() if tasks]
    if not parts:
        return f"There is no task that all {len(moving)} settings of CoBa raise or damp: the choice of setting matters."
    return f"All {len(moving)} settings of CoBa {' and '.join(parts)}."
