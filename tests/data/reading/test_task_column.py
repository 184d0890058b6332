import pytest

from lightning_coba.data.reading import task_column
from lightning_coba.data.reading.task_column import values_in_column


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_COBA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "columns"


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "all.jsonl"
    file.write_text('{"task": "b"}\n{"task": 3}\n{"task": "b"}\n{"task": "a"}\n')
    return file


def test_values_come_in_order_of_appearance(file):
    assert values_in_column(file, "task") == ["b", 3, "a"]


def test_file_is_read_again_only_when_it_changes(file, monkeypatch):
    values_in_column(file, "task")
    with monkeypatch.context() as patch:
        patch.setattr(task_column, "read_file", lambda file: pytest.fail("read again"))
        assert values_in_column(file, "task") == ["b", 3, "a"]
    file.write_text('{"task": "new one"}\n')
    assert values_in_column(file, "task") == ["new one"]


@pytest.mark.parametrize("row", ['{"name": "x"}', '{"task": null}', '{"task": ""}', '{"task": ["x"]}'])
def test_row_that_names_no_task_is_named(tmp_path, row, cache):
    (tmp_path / "all.jsonl").write_text(f'{{"task": "a"}}\n{row}\n')
    with pytest.raises(
        ValueError, match=r"all\.jsonl:2: column 'task' must name the row's task; got .*The columns are"
    ):
        values_in_column(tmp_path / "all.jsonl", "task")
    assert not cache.exists()
