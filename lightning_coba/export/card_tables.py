"""The tables of a model card."""

import re
from collections.abc import Mapping
from typing import Any

from lightning_coba.export.markdown import markdown_table
from lightning_coba.export.run_data import RunData
from lightning_coba.runs.own_balancer import own_balancer
from lightning_coba.runs.settings import flat
from lightning_coba.runs.trained_run import TrainedRun
from lightning_coba.simplex.records import BalanceTable, read_balance

#: Groups of settings that say how the run was trained; the others say where it was and what watched it.
GROUPS = ("peft", "optimizer", "scheduler", "trainer", "data")
_LEFT_OUT = re.compile(r".*(_target_|default_root_dir|_partial_|num_proc)|data\.(root|tasks.*|seed)|trainer\.enable_.*")


def data_section(run: TrainedRun, data: RunData) -> str:
    """Say where the rows came from and how many there were."""
    said = f"Rows from {data.place}. Their origin and licences are not known to this card."
    if not data.sizes:
        return f"{said} The data of the run was not at hand when it was written, so rows are not counted."
    columns = ("task", *(f"{split} rows" for split in data.sizes))
    rows = [(task, *(f"{sizes.get(task, 0):,}" for sizes in data.sizes.values())) for task in run.tasks]
    return f"{said}\n\n{markdown_table(columns, rows)}"


def weights_section(run: TrainedRun, figure: str | None) -> str:
    """Say which balancer moved the weights, with which settings, and where they went."""
    settings = run.settings.get("balancer")
    if not settings:
        return "No balancer moved weights: each task had the same share in the training loss."
    balancer = settings.get("balancer", settings).get("_target_", "")
    method = f"{run.card.get('method', '')} (`{balancer}`)."
    try:
        table = read_balance(run.files.balance)
    except (FileNotFoundError, ValueError):
        shown = markdown_table(("setting", "value"), _used(settings, None))
        return "\n\n".join(filter(None, (f"{method} No record of its weights was kept.", shown)))
    shown = markdown_table(("setting", "value"), _used(settings, table))
    sizes = "the sizes of all" if (table.weight < 0).any() else "they"
    parts = [
        f"{method} A weight is a task's share in the training loss; {sizes} sum to 1.",
        shown,
        markdown_table(("record", "step", *table.tasks), _quartiles(table)),
        f"![The tasks' weights over the run]({figure})" if figure else "",
    ]
    return "\n\n".join(filter(None, parts))


def _used(settings: Mapping[str, Any], table: BalanceTable | None) -> list[tuple[str, Any]]:
    """Return a balancer's settings; what was left to CoBa as its records show it."""
    listed = {key: value for key, value in flat(settings).items() if "_target_" not in key}
    left = [name for name in ("window_records", "warmup_records") if name in listed and listed[name] is None]
    coba = own_balancer(settings, table) if left and table is not None else None
    listed |= {name: getattr(coba, name, "chosen at the start") for name in left}
    return list(listed.items())


def _quartiles(table: BalanceTable) -> list[list[Any]]:
    last = len(table.records) - 1
    chosen = sorted({round(last * quarter / 4) for quarter in range(5)})
    return [[int(table.records[t]), int(table.steps[t]), *map(float, table.weight[t])] for t in chosen]


def settings_section(run: TrainedRun) -> str:
    """Say how the run was trained; where its files lay is nobody's concern."""
    shown = {group: run.settings.get(group) or {} for group in GROUPS}
    rows = [(key, value) for key, value in flat(shown).items() if not _LEFT_OUT.fullmatch(key) and value != {}]
    named = [(group, shown[group]["_target_"]) for group in GROUPS if "_target_" in shown[group]]
    seed = [("seed", run.settings.get("seed"))]
    table = markdown_table(("setting", "value"), [*seed, *named, *rows])
    return f"{_in_short(run)}\n\n<details><summary>All settings</summary>\n\n{table}\n\n</details>"


def _in_short(run: TrainedRun) -> str:
    """Return the settings that a reader asks for first, as a sentence."""
    data, trainer, optimizer = (run.settings.get(group) or {} for group in ("data", "trainer", "optimizer"))
    steps = (run.card.get("timing") or {}).get("steps")
    most = {"optimizer steps": trainer.get("max_steps"), "epochs": trainer.get("max_epochs")}
    planned = [f"{number} {what}" for what, number in most.items() if number is not None and number >= 0]
    length = f"{steps:g} optimizer steps" if steps else f"At most {' and '.join(planned) or 'unlimited steps'}"
    rows = f"{data['batch_tokens']} tokens" if data.get("batch_tokens") else f"{data.get('batch_size')} rows"
    many = trainer.get("accumulate_grad_batches", 1)
    name = str(optimizer.get("_target_", "AdamW")).rpartition(".")[-1]
    parts = [
        f"{length} of {f'{many} x ' if many != 1 else ''}{rows}",
        f"{name} with learning rate {optimizer.get('lr', 'as by default')}",
        f"precision {trainer.get('precision', '32-true')}",
    ]
    return ", ".join(parts) + "."
