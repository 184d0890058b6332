"""`coba-export` as a user types it."""

import pytest

from lightning_coba.cli.export import main


def test_it_writes_a_folder_and_says_where_and_what_to_know(finished_run, tmp_path, capsys):
    main([str(finished_run), "--out", str(tmp_path / "adapter"), "--license", "apache-2.0"])
    printed = capsys.readouterr().out
    assert "The adapter needs the model that it was trained on" in printed
    assert str(tmp_path / "adapter" / "README.md") in printed
    assert "license: apache-2.0" in (tmp_path / "adapter" / "README.md").read_text()

    main(
        [str(finished_run), "--out", str(tmp_path / "merged"), "--merge", "--dtype", "float16", "--checkpoint", "best"]
    )
    assert capsys.readouterr().out.startswith(f"The model is in {tmp_path / 'merged'}.")
    assert '"dtype": "float16"' in (tmp_path / "merged" / "config.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "must be the folder of a run"),
        (["--dtype", "float16"], "`export_run.dtype` must be left out for an adapter"),
        (["--checkpoint", "first"], "invalid choice: 'first'"),
    ],
)
def test_what_it_refuses_is_one_plain_message(finished_run, tmp_path, capsys, arguments, says):
    run = finished_run if arguments else finished_run.parent
    with pytest.raises(SystemExit) as end:
        main([str(run), "--out", str(tmp_path / "out"), *arguments])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
    if not arguments:
        assert str(finished_run) in error  # the runs that there are


def test_an_earlier_export_is_replaced_when_asked(finished_run, tmp_path, capsys):
    line = [str(finished_run), "--out", str(tmp_path / "out")]
    main(line)
    with pytest.raises(SystemExit):
        main(line)
    assert "--force" in capsys.readouterr().err
    main([*line, "--force"])
