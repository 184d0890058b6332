"""Validation losses from tables: CSV and its kin, long and wide, as people and tools write them."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from lightning_coba.reports import read_losses

LOSSES = [[2.0, 3.0], [1.5, 2.5], [1.25, 2.75]]
STEPS = [50, 100, 150]


@pytest.fixture
def write(tmp_path):
    def to_file(text, name="log.csv"):
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return to_file


def lines(*rows):
    return "\n".join([*rows, ""])


def check(table, tasks=("code", "qa"), steps=STEPS, losses=LOSSES):
    assert table.tasks == list(tasks)
    assert table.steps.tolist() == list(steps)
    np.testing.assert_array_equal(table.losses, losses)


WIDE = [
    {"step": step, "val_loss/code": code, "val_loss/qa": qa, "train_loss/code": 9.0, "lr": 0.1}
    for step, (code, qa) in zip(STEPS, LOSSES, strict=True)
]


def as_csv(rows, separator=","):
    return lines(separator.join(rows[0]), *(separator.join(map(str, row.values())) for row in rows))


NESTED = [{"step": step, "val_loss": {"code": code, "qa": qa}} for step, (code, qa) in zip(STEPS, LOSSES, strict=True)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log.csv", as_csv(WIDE)),
        ("log.csv", "\ufeff" + as_csv(WIDE).replace("\n", "\r\n")),  # as a spreadsheet saves it
        ("log.csv", as_csv(WIDE, ";")),
        ("log.tsv", as_csv(WIDE, "\t")),
        ("log.jsonl", lines(*map(json.dumps, WIDE))),
        ("log.jsonl", lines(*map(json.dumps, NESTED))),
        ("log.json", json.dumps(WIDE)),
        ("log.json", json.dumps({name: [row[name] for row in WIDE] for name in WIDE[0]})),
        ("log.json", json.dumps({name: {str(i): row[name] for i, row in enumerate(WIDE)} for name in WIDE[0]})),
    ],
)
def test_wide_tables_of_every_format_read_alike(write, name, text):
    check(read_losses(write(text, name)))


def test_parquet(tmp_path):
    parquet.write_table(pa.Table.from_pylist(WIDE), tmp_path / "log.parquet")
    check(read_losses(tmp_path / "log.parquet"))


def test_it_says_what_was_read_and_what_was_left_out(write):
    notes = " ".join(read_losses(write(as_csv(WIDE))).notes)
    assert "Steps: `step`" in notes
    assert "Left out: train_loss/code, lr" in notes


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("val_loss/code", "val_loss/qa"),
        ("eval_code_loss", "eval_qa_loss"),
        ("eval/code_loss", "eval/qa_loss"),
        ("code/val_loss", "qa/val_loss"),
        ("val/code/loss", "val/qa/loss"),
        ("loss/valid/code", "loss/valid/qa"),
        ("validation.loss.code", "validation.loss.qa"),
        ("code", "qa"),
    ],
)
def test_the_usual_names_are_known(write, first, second):
    rows = (f"{step},{code},{qa},0.1" for step, (code, qa) in zip(STEPS, LOSSES, strict=True))
    check(read_losses(write(lines(f"step,{first},{second},learning_rate", *rows))))


def test_rows_that_hold_one_task_each_at_the_same_step_are_merged(write):
    text = lines(
        "step,val_loss/code,val_loss/qa", "50,2.0,", "50,,3.0", "100,1.5,", "100,,2.5", "150,1.25,", "150,,2.75"
    )
    check(read_losses(write(text)))


def test_tasks_that_are_logged_at_steps_of_their_own_make_rounds(write):
    # W&B counts its own calls: three tasks logged one after the other are three steps.
    text = lines("_step,val_loss/code,val_loss/qa", "7,2.0,", "8,,3.0", "17,1.5,", "18,,2.5", "27,1.25,", "28,,2.75")
    table = read_losses(write(text))
    check(table, steps=[8, 18, 28])  # at the last of which all were known
    assert "6 steps were joined into 3 records" in " ".join(table.notes)


def test_a_task_that_is_validated_less_often_is_absent_and_not_moved(write):
    text = lines("step,val_loss/code,val_loss/qa", "1,2.0,", "2,1.9,", "3,1.8,", "4,,3.0")
    check(read_losses(write(text)), steps=[1, 2, 3, 4], losses=[[2, np.nan], [1.9, np.nan], [1.8, np.nan], [np.nan, 3]])


def test_of_two_values_at_a_step_the_last_counts_and_it_says_so(write):
    table = read_losses(
        write(lines("step,val_loss/code,val_loss/qa", "50,9,9", "50,2,3", "100,1.5,2.5", "150,1.25,2.75"))
    )
    check(table)
    assert "2 losses were logged twice" in " ".join(table.notes)


def test_steps_are_put_in_order_after_a_resume(write):
    rows = ["100,9,9", "150,1.25,2.75", "50,2,3", "100,1.5,2.5"]
    check(read_losses(write(lines("step,val_loss/code,val_loss/qa", *rows))))


@pytest.mark.parametrize("cell", ["", "nan", "NaN", "None", " ", "-", "inf"])
def test_what_is_no_loss_is_absent(write, cell):
    table = read_losses(write(lines("step,val_loss/code,val_loss/qa", "50,2.0,3.0", f"100,1.5,{cell}")))
    check(table, steps=[50, 100], losses=[[2, 3], [1.5, np.nan]])


@pytest.mark.parametrize(
    ("header", "chosen"),
    [("_step,trainer/global_step,epoch", "trainer/global_step"), ("epoch,step", "step"), ("epoch", "epoch")],
)
def test_the_surest_counter_is_the_step(write, header, chosen):
    counts = header.count(",") + 1
    rows = (",".join([str(i + 10 * k) for k in range(counts)]) + ",2.0,3.0" for i in range(3))
    table = read_losses(write(lines(f"{header},val_loss/code,val_loss/qa", *rows)))
    start = 10 * header.split(",").index(chosen)
    assert table.steps.tolist() == [start, start + 1, start + 2]


def test_without_a_counter_rows_are_numbered(write):
    table = read_losses(write(lines("code,qa", "2.0,3.0", "1.5,2.5", "1.25,2.75")))
    check(table, steps=[1, 2, 3])
    assert "rows are numbered" in " ".join(table.notes)


def test_fractions_of_epochs_number_the_records(write):
    table = read_losses(write(lines("epoch,val_loss/code,val_loss/qa", "0.5,2.0,3.0", "1.0,1.5,2.5", "1.5,1.25,2.75")))
    check(table, steps=[1, 2, 3])


# ---------------------------------------------------------------- long tables

LONG = [
    (step, task, loss)
    for step, row in zip(STEPS, LOSSES, strict=True)
    for task, loss in zip(("code", "qa"), row, strict=True)
]


def test_a_row_a_task_and_step(write):
    check(read_losses(write(lines("task,step,loss", *(f"{task},{step},{loss}" for step, task, loss in LONG)))))


def test_the_csv_of_a_chart_in_the_mlflow_page(write):
    rows = [f"1b2c,val_loss/{task},{loss},{step},1700000000000" for step, task, loss in LONG]
    noise = [f"1b2c,train_loss,{step},{step},1700000000000" for step in range(9)]
    check(read_losses(write(lines("run_id,key,value,step,timestamp", *noise, *rows))))


def test_what_get_metric_history_returns_as_a_table(write):
    rows = [f"val_loss/{task},{loss},1700000000000,{step}" for step, task, loss in LONG]
    check(read_losses(write(lines("_key,_value,_timestamp,_step", *rows))))


def test_several_runs_in_a_long_table_are_a_choice(write):
    rows = [f"{run},val_loss/{task},{loss},{step}" for run in ("1b2c", "9f8e") for step, task, loss in LONG]
    file = write(lines("run_id,key,value,step", *rows))
    with pytest.raises(ValueError, match=r"2 runs: '1b2c', '9f8e'. Choose one: --run '1b2c'"):
        read_losses(file)
    check(read_losses(file, run="9f"))
    with pytest.raises(ValueError, match="The runs are: '1b2c', '9f8e'"):
        read_losses(file, run="x")


def test_last_values_of_runs_are_no_history(write):
    file = write(lines("run_id,metrics.val_loss/code,metrics.val_loss/qa,params.lr", "1b2c,1.0,2.0,0.1"))
    with pytest.raises(ValueError, match="not its history"):
        read_losses(file)


# ---------------------------------------------------------------- W&B


def chart(*runs):
    columns = [
        f'"{run} - val_loss/{task}{end}"' for run in runs for task in ("code", "qa") for end in ("", "__MIN", "__MAX")
    ]
    rows = [
        ",".join([f'"{step}"', *(f'"{loss}"' for _ in runs for loss in row for _ in range(3))])
        for step, row in zip(STEPS, LOSSES, strict=True)
    ]
    return lines(",".join(['"Step"', *columns]), *rows)


def test_a_chart_exported_from_the_wandb_page(write):
    check(read_losses(write(chart("blue-sky - 7"))))


def test_a_chart_of_two_runs_is_a_choice(write):
    file = write(chart("blue-sky-7", "red-sea-8"))
    with pytest.raises(ValueError, match="--run 'blue-sky-7'"):
        read_losses(file)
    check(read_losses(file, run="red"))


def test_a_chart_without_limits_and_over_another_axis(write):
    text = lines(
        '"trainer/global_step","sky - val_loss/code","sky - val_loss/qa"', "50,2,3", "100,1.5,2.5", "150,1.25,2.75"
    )
    check(read_losses(write(text)))


def test_one_metric_of_the_tensorboard_page_is_too_little(write):
    with pytest.raises(ValueError, match="Give the folder of the event files"):
        read_losses(write(lines("Wall time,Step,Value", "1.7e9,50,2.0")))


def test_the_history_of_a_wandb_run(write):
    rows = []
    for step, row in zip(STEPS, LOSSES, strict=True):
        rows.append(f"{step * 2},{step},0.5,NaN,NaN,170")
        rows.append(f"{step * 2 + 1},{step},NaN,{row[0]},{row[1]},170")
    check(read_losses(write(lines("_step,trainer/global_step,train_loss,val_loss/code,val_loss/qa,_runtime", *rows))))


# ---------------------------------------------------------------- transformers


def trainer_state():
    history = [{"loss": 3.0, "learning_rate": 0.1, "epoch": 0.1, "step": 10}]
    for step, row in zip(STEPS, LOSSES, strict=True):
        for task, loss in zip(("code", "qa"), row, strict=True):
            history.append({f"eval_{task}_loss": loss, f"eval_{task}_runtime": 1.0, "epoch": 1.0, "step": step})
    return json.dumps({"global_step": 150, "log_history": history})


def test_trainer_state_of_transformers(write):
    check(read_losses(write(trainer_state(), "trainer_state.json")))


def test_the_last_checkpoint_of_a_transformers_run(tmp_path):
    for step, text in (("100", '{"log_history": []}'), ("150", trainer_state())):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(text, encoding="utf-8")
    check(read_losses(tmp_path))


# ---------------------------------------------------------------- choosing, and what is refused


def test_tasks_are_taken_in_the_order_given(write):
    check(read_losses(write(as_csv(WIDE)), tasks=["qa"]), tasks=["qa"], losses=[[row[1]] for row in LOSSES])
    check(read_losses(write(as_csv(WIDE)), tasks=["qa", "code"]), ["qa", "code"], losses=[row[::-1] for row in LOSSES])
    with pytest.raises(ValueError, match=r"has no math. The tasks are: code, qa"):
        read_losses(write(as_csv(WIDE)), tasks=["math"])


def test_whole_columns_may_be_named(write):
    table = read_losses(write(as_csv(WIDE)), tasks=["train_loss/code", "val_loss/qa"])
    check(table, ["train_loss/code", "val_loss/qa"], losses=[[9.0, row[1]] for row in LOSSES])


def test_a_pattern_says_how_losses_are_called(write):
    text = as_csv(WIDE).replace("val_loss/code", "held/code/x").replace("val_loss/qa", "held/qa/x")
    check(read_losses(write(text), pattern="held/{task}/x"))
    with pytest.raises(ValueError, match=r"such as held/\{task\}/y. .* names are: step, held/code/x, held/qa/x"):
        read_losses(write(text), pattern="held/{task}/y")
    with pytest.raises(ValueError, match=r"must hold \{task\} once"):
        read_losses(write(text), pattern="held")


def test_two_kinds_of_losses_are_a_choice(write):
    file = write(lines("step,val_loss/code,val_loss/qa,val_nll/code,val_nll/qa", "1,2,3,4,5"))
    with pytest.raises(ValueError, match="2 kinds") as error:
        read_losses(file)
    assert "--pattern 'val_nll/{task}'   tasks: code, qa" in str(error.value)
    assert read_losses(file, pattern="val_nll/{task}").losses.tolist() == [[4, 5]]


def test_training_losses_are_not_taken_for_validation_losses(write):
    file = write(lines("step,train_loss/code,train_loss/qa", "1,2,3"))
    with pytest.raises(ValueError, match=r"holds training losses .*--pattern"):
        read_losses(file)
    assert read_losses(file, pattern="train_loss/{task}").losses.tolist() == [[2, 3]]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("log.csv", "step,val_loss/code,val_loss/qa\n1,2,3\n2,oops,4\n", r"log.csv:3: column `val_loss/code` .*'oops'"),
        ("log.csv", "step,code,qa\n1,2,3\n2,3\n", r"log.csv:3: .* 3; got 2"),
        ("log.csv", "step,code,code\n1,2,3\n", r"log.csv:1: .*'code' is there twice"),
        ("log.csv", "step,code\n", "no row"),
        ("log.csv", "", "no row"),
        ("log.csv", "step,lr\n1,0.1\n", "no held-out losses"),
        ("log.csv", "task,step,loss\ncode,1,2\n,2,3\n", "log.csv:3: column `task` must name"),
        ("log.jsonl", '{"step": 1, "val_loss/a": 2}\n{"step"\n', "log.jsonl:2: the line is not valid JSON"),
        ("log.jsonl", "3\n", "log.jsonl:1: a line must be a JSON object"),
        ("log.json", '"text"', "list of rows"),
        ("log.yaml", "a: 1", "must end in one of .csv"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(write, name, text, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_losses(write(text, name))


# ---------------------------------------------------------------- columns beside the losses, and other spellings


@pytest.mark.parametrize(
    ("names", "extra", "tasks"),
    [
        (("code", "qa"), ("accuracy", "code_acc"), ("code", "qa")),
        (("code_loss", "qa_loss"), ("code_f1", "other"), ("code_loss", "qa_loss")),
        (("code val loss", "qa val loss"), ("code val accuracy",), ("code val loss", "qa val loss")),
        (("val_loss/code/dataloader_idx_0", "val_loss/qa/dataloader_idx_1"), ("epoch",), ("code", "qa")),
        (("val_loss/code_epoch", "val_loss/qa_epoch"), ("val_loss/code_step", "val_loss/qa_step"), ("code", "qa")),
    ],
)
def test_what_is_no_loss_of_a_task_is_left_out(write, names, extra, tasks):
    rows = [
        {"step": s, names[0]: a, names[1]: b} | dict.fromkeys(extra, 0.5)
        for s, (a, b) in zip(STEPS, LOSSES, strict=True)
    ]
    table = read_losses(write(as_csv(rows)))
    check(table, tasks)
    assert any("Left out:" in note and extra[-1] in note for note in table.notes)


@pytest.mark.parametrize("prefix", ["", "val_loss/"])
def test_what_is_named_like_an_aggregate_is_a_task_on_request_alone(write, prefix):
    columns = ("step", "other", *(prefix + name for name in ("code", "qa", "mean", "total")))
    rows = [f"{s},x,{a},{b},{(a + b) / 2:.4f},{a + b}" for s, (a, b) in zip(STEPS, LOSSES, strict=True)]
    log = write(lines(",".join(columns), *rows))
    table = read_losses(log)
    check(table)
    [note] = [note for note in table.notes if "Left out" in note]
    assert {"other", f"{prefix}mean", f"{prefix}total"} == set(note.partition(": ")[2].partition(";")[0].split(", "))
    assert "--tasks" in note
    asked = read_losses(log, ["code", "qa", "total"])
    check(asked, ("code", "qa", "total"), losses=[[a, b, a + b] for a, b in LOSSES])
    with pytest.raises(ValueError, match=r"it has no nope. The tasks are: code, qa, mean, total\."):
        read_losses(log, ["code", "nope"])


def test_a_wrong_task_is_answered_with_every_column_of_losses(write):
    names = [f"val_loss/t{k}" for k in range(60)]
    log = write(lines(",".join(["step", *names, "odd_loss", "train_loss"]), ",".join("1" * 63)))
    with pytest.raises(ValueError, match=r"t58, t59\. Whole columns .* are: odd_loss\."):
        read_losses(log, ["nope"])


def test_a_sum_over_tasks_can_be_asked_for(write):
    rows = [{"step": s, "val_loss/code": a, "val_loss/mean": b} for s, (a, b) in zip(STEPS, LOSSES, strict=True)]
    check(read_losses(write(as_csv(rows))), ("code", "mean"))  # two tasks, one of which may well be called that
    rows = [row | {"val_loss/qa": 1.0} for row in rows]
    check(read_losses(write(as_csv(rows)), ["code", "mean"]), ("code", "mean"))


def test_decimal_commas_between_semicolons(write):
    rows = [f"{step};{code};{qa}".replace(".", ",") for step, (code, qa) in zip(STEPS, LOSSES, strict=True)]
    check(read_losses(write(lines("step;code;qa", *rows))))


def test_text_that_is_not_utf8_is_refused_by_name(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text("step,modèle,qa\n1,2,3\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"log.csv:1: the line is not UTF-8 .*Save the file as UTF-8"):
        read_losses(file)


def test_several_passes_in_an_epoch_are_all_kept(write):
    rows = [f"0,{code},{qa}" for code, qa in LOSSES]
    table = read_losses(write(lines("epoch,code,qa", *rows)))
    check(table, steps=[1, 2, 3])
    once = [f"{epoch},{code},{qa}" for epoch, (code, qa) in enumerate(LOSSES)]
    check(read_losses(write(lines("epoch,code,qa", *once))), steps=[0, 1, 2])


def test_rows_of_training_are_left_out_of_a_long_table(write):
    rows = [
        f"{task},{split},{step},{loss + (split == 'train')}"
        for step, losses in zip(STEPS, LOSSES, strict=True)
        for task, loss in zip(("code", "qa"), losses, strict=True)
        for split in ("valid", "train")  # the last of two values at a step would count
    ]
    table = read_losses(write(lines("task,split,step,loss", *rows)))
    check(table)
    assert "6 rows left out whose `split` is not of validation." in table.notes


def test_one_loss_of_all_tasks_is_called_that(write):
    with pytest.raises(ValueError, match="`eval_loss` is one loss of all tasks together; each task needs one"):
        read_losses(write(lines("step,loss,eval_loss", "1,2,3")))
