import csv
import math

import numpy as np
import pytest
import torch

from lightning_coba.balancers import CoBa
from lightning_coba.balancing.recorder import Recorder, Shown
from lightning_coba.log_keys import BALANCE_COLUMNS
from lightning_coba.simplex import BalanceTable, Simplex, Trajectory, read_balance
from lightning_coba.simplex.csv_file import write_records

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
    for header in ("step,loss", "record,step,task,loss", "record,step,weight,loss"):
        path.write_text(f"{header}\n1,2\n")
        with pytest.raises(ValueError, match=rf"balance\.csv:1: the header must be record,step,task.*{header}"):
            read_balance(path)


def test_columns_that_a_file_lacks_are_nan_and_columns_that_no_table_knows_are_left_alone(tmp_path):
    path = tmp_path / "balance-objectives.csv"
    path.write_text("record,step,objective,gain,weight,note\n1,5,size,2,0.25,x\n1,5,speed,3,0.75,y\n")
    table = read_balance(path)
    assert (table.thing, table.tasks) == ("objective", ["size", "speed"])
    assert table.weight.tolist() == [[0.25, 0.75]]
    assert np.isnan(table.loss).all()
    assert np.isnan(table.divergence_factor).all()
    path.write_text("record,step,objective,weight\n1,5,size,1\n1,5,size,1\n")
    with pytest.raises(ValueError, match="each objective once"):
        read_balance(path)


def test_no_file_and_no_record_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        read_balance(tmp_path)
    with pytest.raises(ValueError, match="holds no record yet"):
        read_balance(write(tmp_path / "balance.csv"))


def recorded(num_records):
    """Return the trajectory of a balancer after some records of two tasks, one of them absent once."""
    recorder = Recorder(CoBa(window_records=4, warmup_records=2), ["code", "qa"], torch.device("cpu"))
    losses = torch.rand(num_records, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    for t in range(num_records):
        recorder.record(Shown(10 * (t + 1), {"losses": losses[t]}, torch.tensor([True, t != 3])))
    return recorder.trajectory


def test_a_history_makes_the_same_table_as_its_file(tmp_path):
    simplex = Simplex("balance", ("code", "qa"), recorded(6))
    assert write_records(simplex, tmp_path / "balance.csv") == 6
    assert (tmp_path / "balance.csv").read_text().splitlines()[0] == HEADER
    there, read = simplex.table(), read_balance(tmp_path)
    assert there.tasks == read.tasks == ["code", "qa"]
    for name in ("records", "steps", "divergence_factor", *PER_TASK):
        np.testing.assert_array_equal(getattr(there, name), getattr(read, name), strict=True)
    assert np.isnan(there.loss[3, 1])
    assert np.isfinite(there.rcs[-1]).all()


def test_a_history_without_records_or_with_other_tasks_is_refused():
    with pytest.raises(ValueError, match="must hold a record"):
        BalanceTable.from_history(recorded(0).columns(), ["code", "qa"])
    with pytest.raises(ValueError, match="must name the 2 tasks"):
        BalanceTable.from_history(recorded(3).columns(), ["code"])


def test_any_simplex_is_written_with_its_own_columns_and_read_back(tmp_path):
    trajectory = Trajectory(2, columns=("gain", "weight"), scalars=("sharpness",), unwritten=("inner",))
    simplex = Simplex("objectives", ("size", "speed"), trajectory, thing="objective")
    path = tmp_path / "objectives.csv"
    written = None
    for t in range(100):  # more than are kept on the device
        weight = torch.tensor([0.25 + t / 400, 0.75 - t / 400], dtype=torch.float64)
        trajectory.append(3 * t, {"weight": weight, "inner": weight}, {"sharpness": torch.tensor(t / 2)})
        if t % 40 == 0:
            written = write_records(simplex, path, written)
    assert write_records(simplex, path, written) == 100
    lines = path.read_text().splitlines()
    assert lines[:3] == ["record,step,objective,gain,sharpness,weight", "1,0,size,,0.0,0.25", "1,0,speed,,0.0,0.75"]
    read = read_balance(path)
    assert (read.thing, read.tasks) == ("objective", ["size", "speed"])
    np.testing.assert_array_equal(read.weight, simplex.table().weight, strict=True)
    assert read.steps.tolist() == [3 * t for t in range(100)]
