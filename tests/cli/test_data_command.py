"""`coba-data` from a folder of the user's to a trained run."""

import json
import shutil

import pytest

from lightning_coba.cli.data import main


def untimed(arguments):
    main([*arguments, "--no-timing"])


@pytest.fixture
def my_tasks(tmp_path, monkeypatch):
    """Two tasks with other columns, one as a CSV of Windows, in the folder one stands in."""
    monkeypatch.chdir(tmp_path)
    for task in ("qa", "chat"):
        (tmp_path / "my_tasks" / task).mkdir(parents=True)
    lines = "question,answer\r\n" + "".join(f'"how many, {i}?",{i}\r\n' for i in range(40))
    (tmp_path / "my_tasks" / "qa" / "train.csv").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    rows = [{"prompt": f"say {i}", "completion": f"{i}!"} for i in range(40)]
    (tmp_path / "my_tasks" / "chat" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "my_tasks"


def test_from_a_folder_to_a_trained_run(my_tasks, capsys, model_folder, command, tmp_path):
    main(["init", "my_tasks", "--model", str(model_folder)])
    printed = capsys.readouterr().out
    assert "The run will take about" in printed
    written = (tmp_path / "experiment" / "my_tasks.yaml").read_text()
    (tmp_path / "experiment" / "my_tasks.yaml").write_text(written.replace("bf16-mixed", "32-true"))  # of any machine
    for line in ("coba-data check experiment/my_tasks.yaml", "coba-train --config-dir . experiment=my_tasks"):
        assert f"  {line}\n" in printed
    main(["check", "experiment/my_tasks.yaml", "trainer.accelerator=cpu", "--trust-code"])
    assert {path.name for path in tmp_path.iterdir()} == {"my_tasks", "experiment", "data_report"}
    shown = capsys.readouterr().out
    assert "Training would run" in shown
    assert "how many, " in shown
    for part in ("The run will take about", "of validation", "GB of memory", "CPU, 32-true"):
        assert part in " ".join(shown.split())
    assert (tmp_path / "data_report" / "data.html").is_file()
    small = ["trainer.max_steps=2", "trainer.val_check_interval=1", "trainer.accelerator=cpu", "peft.r=2"]
    out = command(tmp_path, "--config-dir", ".", "experiment=my_tasks", *small)
    assert "Everything is in" in out
    card = json.loads((tmp_path / "runs" / "my_tasks-coba-seed1" / "run.json").read_text())
    assert (card["tasks"], card["suite"], card["status"]) == (["chat", "qa"], "my_tasks", "finished")


def test_several_places_are_drafted_as_a_list_that_check_reads(my_tasks, capsys, model_folder):
    (my_tasks / "chat").rename(my_tasks.parent / "chat")
    (my_tasks.parent / "other" / "qa (2)").mkdir(parents=True)
    rows = [{"question": f"who, {i}?", "answer": str(i)} for i in range(40)]
    (my_tasks.parent / "other" / "qa (2)" / "train.json").write_text(json.dumps(rows))
    with pytest.warns(UserWarning, match=r"'qa \(2\)' to 'qa_2'"):
        main(["init", "[my_tasks, other]", "--model", str(model_folder)])
    assert 'root: ["my_tasks", "other"]' in capsys.readouterr().out
    main(["check", "experiment/my_tasks_other.yaml"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "Training would run" in shown
    assert "renamed: 'qa (2)' to 'qa_2'" in shown


def test_errors_end_with_code_1_and_everything_named(my_tasks, capsys, model_folder):
    with (my_tasks / "chat" / "train.jsonl").open("a") as stream:
        stream.write('{"prompt": "x"}\n')
    with pytest.raises(SystemExit) as end:
        untimed(["check", "my_tasks", f"model.model={model_folder}", "--out", "seen"])
    assert end.value.code == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "Training would stop" in shown
    assert "my_tasks/chat/train.jsonl:41" in shown
    assert "'question', 'answer'" in shown
    assert "let coba-data init my_tasks find them" in shown
    assert "there is no column" in (my_tasks.parent / "seen" / "data.html").read_text()


def test_options_reach_the_reading(my_tasks, capsys, model_folder):
    options = ["data.prompt={question}\\n", "data.completion=answer", "data.max_length=32", "data.batch_size=4"]
    (my_tasks / "chat" / "train.jsonl").unlink()
    (my_tasks / "chat").rmdir()
    untimed(["check", "my_tasks", f"model.model={model_folder}", *options])
    shown = capsys.readouterr().out
    assert "An epoch has 8 optimizer steps" in shown
    assert "?↵" in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check", "nowhere"], "There is no folder or file 'nowhere'"),
        (["check", "org/name"], "write hf:org/name."),
        (["check", "experiment/no.yaml"], "Write one with coba-data init DIR"),
        (["init", "my_tasks", "--out", "here.yaml"], "in a folder named 'experiment'"),
        (["check", "my_tasks", "model.model=./nowhere"], "a folder of save_pretrained, or a .gguf file"),
        (["check", "my_tasks", "data.max_lenght=9"], "Did you mean data.max_length=...?"),
        (["check", "my_tasks", "--out", "there", "data.max_lenght=9"], "Did you mean data.max_length=...?"),
        (["check", "my_tasks", "data.max_length=long"], "`data.max_length` must be a whole number; got 'long'"),
        (["check", "my_tasks", "data=quickstart"], "data.root"),
    ],
)
def test_wrong_usage_is_one_plain_message(my_tasks, capsys, model_folder, arguments, says):
    given = [*arguments, "--model", str(model_folder)] if arguments[0] == "init" else arguments
    with pytest.raises(SystemExit) as end:
        untimed(given)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("coba-data: ")
    assert says in error


def test_unsure_columns_are_asked_for(my_tasks, capsys, model_folder):
    (my_tasks / "qa" / "train.csv").write_text("en,de\nyes,ja\n")
    with pytest.raises(SystemExit) as end:
        untimed(["init", "my_tasks", "--model", str(model_folder)])
    assert end.value.code == 2
    assert r"--columns '{en}\n' de" in capsys.readouterr().err
    assert not (my_tasks.parent / "experiment").exists()


def test_what_is_asked_for_can_be_typed(my_tasks, capsys, model_folder):
    lines = "en,de\n" + "".join(f"number {i},Nummer {i}\n" for i in range(40))
    (my_tasks / "qa" / "train.csv").write_text(lines)
    untimed(["init", "my_tasks", "--model", str(model_folder), "--columns", "{en}\\n", "de"])
    untimed(["check", "experiment/my_tasks.yaml"])
    shown = capsys.readouterr().out
    assert "Training would run" in shown
    assert "Nummer " in shown


def test_a_bad_row_leads_to_the_list_of_all(my_tasks, capsys, model_folder):
    with (my_tasks / "chat" / "train.jsonl").open("a") as stream:
        stream.write('{"prompt": "x", "completion": " "}\n' * 2)
    with pytest.raises(SystemExit):
        untimed(["init", "my_tasks", "--model", str(model_folder)])
    error = capsys.readouterr().err
    assert "train.jsonl:41: the completion is empty" in error
    assert error.rstrip().endswith(
        "All that cannot be used: my_tasks/chat/train.jsonl:41, my_tasks/chat/train.jsonl:42."
    )


def test_rows_beyond_the_context_of_the_model_are_errors(my_tasks, capsys, model_folder):
    row = {"prompt": "x " * 200, "completion": "y"}
    with (my_tasks / "chat" / "train.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    (my_tasks / "qa" / "train.csv").unlink()
    (my_tasks / "qa").rmdir()
    with pytest.raises(SystemExit) as end:
        untimed(["check", "my_tasks", f"model.model={model_folder}"])
    assert end.value.code == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "model's context of 256 tokens" in shown
    untimed(["check", "my_tasks", f"model.model={model_folder}", "data.max_length=256"])
    assert "Training would run" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["init", "--help"]])
def test_help_is_something_to_act_on(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert f"\n  coba-data {'check' if len(arguments) == 1 else arguments[0]} my_tasks" in text
    assert "experiment" in text


@pytest.mark.parametrize(("settings", "steps"), [([], 6), (["trainer.max_epochs=1", "data.batch_size=8"], 4)])
def test_the_length_of_the_run_is_that_of_training(my_tasks, capsys, model_folder, settings, steps):
    untimed(["check", "my_tasks", f"model.model={model_folder}", "data.only=[chat]", *settings])
    said = " ".join(capsys.readouterr().out.split())
    assert f"The run has {steps} steps and {steps} validation passes" in said


@pytest.mark.parametrize("verb", ["check", "init"])
def test_the_folder_of_a_run_is_no_data(finished_run, capsys, verb):
    with pytest.raises(SystemExit) as end:
        untimed([verb, str(finished_run)])
    assert end.value.code == 2
    assert f"{finished_run} is the folder of a run. Give the data" in capsys.readouterr().err


def test_an_experiment_of_another_system_is_refused(tmp_path, capsys):
    file = tmp_path / "experiment" / "other.yaml"
    file.parent.mkdir()
    file.write_text("# @package _global_\nsystem_name: other\n")
    with pytest.raises(SystemExit) as end:
        untimed(["check", str(file)])
    assert end.value.code == 2
    assert "serves system=multitask; " in (said := capsys.readouterr().err)
    assert "of system=other, whose data coba-train reads" in said


@pytest.mark.parametrize(
    ("balancer", "says"),
    [
        (
            ["balancer.window_records=5", "balancer.warmup_records=2"],
            "move from pass 2 on at the earliest, and its slopes look back on 5.",
        ),
        (["balancer=uniform"], "6 validation passes."),
        (["balancer.every_n_steps=2"], "6 validation passes."),
    ],
)
def test_passes_are_judged_by_the_balancer_that_is_configured(my_tasks, capsys, model_folder, balancer, says):
    untimed(["check", "my_tasks", f"model.model={model_folder}", "data.only=[chat]", *balancer])
    said = " ".join(capsys.readouterr().out.split())
    assert says in said
    assert ("for CoBa" in said or "CoBa's slopes" in said) == ("pass 2" in says)


def test_a_model_that_is_not_there_is_not_timed(my_tasks, capsys, model_folder, tmp_path):
    model = shutil.copytree(model_folder, tmp_path / "model")
    next(model.glob("*.safetensors")).unlink()
    main(["check", "my_tasks", f"model.model={model}", "data.only=[chat]"])
    shown = capsys.readouterr()
    assert "Time and memory are not known: " in shown.err
    assert "Training would run" in shown.out


def test_an_experiment_that_is_not_trusted_is_not_timed(my_tasks, capsys, model_folder):
    untimed(["init", "my_tasks", "--model", str(model_folder)])
    main(["check", "experiment/my_tasks.yaml"])
    assert "add --trust-code" in capsys.readouterr().err
