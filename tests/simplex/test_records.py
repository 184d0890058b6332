import csv
import math

import numpy as np
import pytest
import torch

from lightning_coba.balancers import CoBa
from lightning_coba.balancing.recorder import Recorder
from lightning_coba.simplex import BALANCE_COLUMNS, BalanceTable, read_balance
from lightning_coba.simplex.trajectory import csv_rows, write_csv

HEADER = ",".join(BALANCE_COLUMNS)
PER_TASK = ("loss", "ratio", "slope", "rcs", "acs", "weight")


def write(path, *lines):
    path.write_text("\n".join([HEADER, *lines, ""]))
    return path


def row(record, step, task, rest="1,1,,,,,0.5"):
    return f"{record},{step},{task},{rest}"


def test_a_written_table_reads_back_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    tasks, steps = ["code", "qa", "nlu"], [40, 80, 80, 120]
    wanted = {name: rng.random((4, 3)) for name in PER_TASK}
    wanted["loss"][1, 2] = wanted["ratio"][1, 2] = math.nan
    for name in ("slope", "rcs", "acs"):
        wanted[name][:2] = math.nan
    factor = np.array([math.nan, math.nan, 1.0, 3e-17])

    with (tmp_path / "balance.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, BALANCE_COLUMNS)
        writer.writeheader()
        for t, step in enumerate(steps):
            for k, task in enumerate(tasks):
                cells = {name: wanted[name][t, k] for name in PER_TASK} | {"divergence_factor": factor[t]}
                cells = {name: "" if math.isnan(value) else repr(float(value)) for name, value in cells.items()}
                writer.writerow({"record": t + 1, "step": step, "task": task} | cells)

    balance = read_balance(tmp_path)
    assert balance.tasks == tasks
    assert balance.records.tolist() == [1, 2, 3, 4]
    assert balance.steps.tolist() == steps
    for name in PER_TASK:
        np.testing.assert_array_equal(getattr(balance, name), wanted[name])
    np.testing.assert_array_equal(balance.divergence_factor, factor)


def test_a_task_added_on_resume_is_nan_before(tmp_path):
    lines = [row(1, 10, "a"), row(2, 20, "a"), row(2, 20, "b")]
    balance = read_balance(write(tmp_path / "balance.csv", *lines))
    assert balance.tasks == ["a", "b"]
    np.testing.assert_array_equal(np.isnan(balance.weight), [[False, True], [False, False]])


def test_steps_may_start_over_in_a_second_fit(tmp_path):
    balance = read_balance(write(tmp_path / "balance.csv", row(1, 20, "a"), row(2, 10, "a")))
    assert balance.steps.tolist() == [20, 10]


@pytest.mark.parametrize(
    ("lines", "line", "complaint"),
    [
        ([row(1, 10, "a"), "1,10,b,1"], 3, "10 cells"),
        ([row(1, 10, "a"), row(1, 10, "b", "x,1,,,,,0.5")], 3, "`loss` must be a number"),
        ([row(1, 10, "a"), row("1.5", 10, "b")], 3, "`record` must be a whole number"),
        ([row(1, 10, "a"), row(1, "", "b")], 3, "`step` must be a whole number"),
        ([row(1, 10, "a"), row(1, 11, "b")], 3, "must have one step"),
        ([row(1, 10, "a"), row(1, 10, "a")], 2, "each task once"),
        ([row(1, 10, "a"), row(1, 10, "b"), row(2, 20, "b"), row(2, 20, "a")], 4, "in the order"),
        ([row(1, 10, "a"), row(1, 10, "b"), row(2, 20, "a")], 4, "in the order"),
        ([row(2, 20, "a"), row(1, 30, "a")], 3, "must increase"),
    ],
)
def test_a_malformed_row_is_named_with_file_and_line(tmp_path, lines, line, complaint):
    path = write(tmp_path / "balance.csv", *lines)
    with pytest.raises(ValueError, match=complaint) as error:
        read_balance(path)
    assert str(error.value).startswith(f"{path}:{line}: ")


def test_a_foreign_header_is_refused(tmp_path):
    path = tmp_path / "balance.csv"
    path.write_text("step,loss\n1,2\n")
    with pytest.raises(ValueError, match=r"balance\.csv:1: the header must be record,step,task"):
        read_balance(path)


def test_no_file_and_no_record_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        read_balance(tmp_path)
    with pytest.raises(ValueError, match="holds no record yet"):
        read_balance(write(tmp_path / "balance.csv"))


def recorded(num_records):
    """Return what `callback.history` holds after some records of two tasks, one of them absent once."""
    recorder = Recorder(CoBa(window_records=4, warmup_records=2), ["code", "qa"], torch.device("cpu"))
    losses = torch.rand(num_records, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    for t in range(num_records):
        recorder.record(10 * (t + 1), {"losses": losses[t]}, torch.tensor([True, t != 3]))
    return recorder.trajectory.columns()


def test_a_history_makes_the_same_table_as_its_file(tmp_path):
    history = recorded(6)
    write_csv(tmp_path / "balance.csv", csv_rows(history, ["code", "qa"]), append=False)
    there, read = BalanceTable.from_history(history, ("code", "qa")), read_balance(tmp_path)
    assert there.tasks == read.tasks == ["code", "qa"]
    for name in ("records", "steps", "divergence_factor", *PER_TASK):
        np.testing.assert_array_equal(getattr(there, name), getattr(read, name), strict=True)
    assert np.isnan(there.loss[3, 1])
    assert np.isfinite(there.rcs[-1]).all()


def test_a_history_without_records_or_with_other_tasks_is_refused():
    with pytest.raises(ValueError, match="must hold a record"):
        BalanceTable.from_history(recorded(0), ["code", "qa"])
    with pytest.raises(ValueError, match="must name the 2 tasks"):
        BalanceTable.from_history(recorded(3), ["code"])
