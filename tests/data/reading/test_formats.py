import gzip
import json
import pickle
import re
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from lightning_coba.data.reading.formats import data_suffix, is_data_file, origin_prefix, read_file
from lightning_coba.errors import UserError

GOOD = '{"prompt": "p", "completion": "c"}'
ROWS = [{"prompt": "a,b", "completion": 'say "x"\ny'}, {"prompt": "ü\u2028", "completion": "d"}]


def write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines) + b"\n")
    return path


def test_lines_are_numbered_and_blank_ones_skipped(tmp_path):
    file = write(tmp_path / "a.jsonl", GOOD, "", "  ", GOOD.replace('c"}', 'd"}'))
    assert list(read_file(file)) == [
        (1, {"prompt": "p", "completion": "c"}),
        (4, {"prompt": "p", "completion": "d"}),
    ]


def test_byte_order_mark_and_line_separators_inside_strings_are_tolerated(tmp_path):
    file = write(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + GOOD.encode(), '{"prompt": "a\u2028b"}')
    assert [fields["prompt"] for _, fields in read_file(file)] == ["p", "a\u2028b"]


@pytest.mark.parametrize("name", ["a.ndjson", "a.json-lines", "a.JSONL", "a.txt", "rows"])
def test_json_lines_may_have_other_names(tmp_path, name):
    assert list(read_file(write(tmp_path / name, GOOD))) == [(1, {"prompt": "p", "completion": "c"})]


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t"), ("a.csv.gz", ",")])
def test_csv_numbers_the_line_where_a_record_begins(tmp_path, name, delimiter):
    text = delimiter.join(("prompt", "completion")) + "\n"
    text += f'"a,b"{delimiter}"say ""x""\ny"\n\nü\u2028{delimiter}d\n'
    content = b"\xef\xbb\xbf" + text.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert list(read_file(tmp_path / name)) == [(2, ROWS[0]), (5, ROWS[1])]


def test_csv_cells_may_be_longer_than_pythons_limit(tmp_path):
    file = write(tmp_path / "a.csv", "prompt", "x" * 200_000)
    assert [len(fields["prompt"]) for _, fields in read_file(file)] == [200_000]


def test_compressed_lines_keep_their_numbers(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(f"{GOOD}\n\n[]\n".encode()))
    records = read_file(tmp_path / "a.jsonl.gz")
    assert next(records)[0] == 1
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz:3: the line must be a JSON object"):
        next(records)


def test_parquet_rows_count_from_0_and_nested_columns_become_dicts(tmp_path):
    rows = [{"messages": [{"role": "user", "content": str(i)}], "n": i} for i in range(3000)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert list(read_file(tmp_path / "a.parquet")) == list(enumerate(rows))
    assert origin_prefix(tmp_path / "a.parquet") == f"{tmp_path}/a.parquet row "


BAD = [
    ("a.jsonl", [GOOD, "", '{"prompt": "p",}'], ":3: the line is not valid JSON (", "Write one JSON object per line"),
    ("a.jsonl", [GOOD, "", '["p", "c"]'], ":3: the line must be a JSON object; got list", 'Write {"prompt"'),
    ("a.json", ["{", '"data": []}'], ":1: the line is not valid JSON (", "or one array of objects: [{...}, {...}]"),
    ("a.json", [f"[{GOOD},", '"p"]'], " row 1: the row must be a JSON object; got str", 'Write {"prompt"'),
    (
        "a.json",
        [f"[{GOOD},", GOOD],
        ": the file is not valid JSON (Expecting ',' delimiter, line 3",
        "one array of obj",
    ),
    ("a.json", [f"[{GOOD},", b'"\xff"]'], ":2: the line is not UTF-8", "Save the file as UTF-8"),
    ("a.jsonl", [b'{"prompt": "\xff"}'], ":1: the line is not UTF-8", "Save the file as UTF-8"),
    ("a.csv", ["prompt", "a", b"\xff"], ":3: the line is not UTF-8", "Save the file as UTF-8"),
    ("a.csv", ["prompt", "a", "b,c"], ":3: the row has 2 cells and the header 1", "Put cells that hold ','"),
    ("a.csv", ["prompt", "a", '"b', "c"], ":3: the line is not valid CSV (", "Repair the row"),
    ("a.parquet", [GOOD], ": the file is not readable Parquet (", "Write it again"),
]


@pytest.mark.parametrize(("name", "lines", "complaint", "cure"), BAD)
def test_bad_line_is_named_with_its_cure(tmp_path, name, lines, complaint, cure):
    file = write(tmp_path / name, *lines)
    with pytest.raises(ValueError, match=re.escape(f"{file}{complaint}")) as caught:
        list(read_file(file))
    assert cure in str(caught.value)


def test_error_tells_origin_and_message_apart_in_every_process(tmp_path):
    file = write(tmp_path / "a.jsonl", GOOD, "[]")
    with pytest.raises(UserError) as caught:
        list(read_file(file))
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.where == f"{file}:2"
    assert str(again) == f"{file}:2: {again.what} {again.cure}" == str(caught.value)


def test_only_names_of_data_files_are_data():
    assert data_suffix("train.jsonl.gz") == ".jsonl.gz"
    assert not any(data_suffix(name) for name in ("README.md", "a.txt", "x.gz"))


ALPACA = [{"instruction": "Add.", "input": "", "output": "3"}, {"instruction": "é\u2028", "input": "x", "output": "4"}]


@pytest.mark.parametrize(("name", "indent"), [("a.json", 4), ("a.json", None), ("a.jsonl", 1), ("a.json.gz", 2)])
def test_an_array_of_objects_is_read_and_its_rows_count_from_0(tmp_path, name, indent):
    text = "\ufeff" + json.dumps(ALPACA, indent=indent, ensure_ascii=False)
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    assert list(read_file(tmp_path / name)) == list(enumerate(ALPACA))
    assert origin_prefix(tmp_path / name) == f"{tmp_path / name} row "


def test_json_lines_may_be_called_json_and_keep_their_lines(tmp_path):
    file = write(tmp_path / "a.json", "", GOOD, GOOD)
    assert [number for number, _ in read_file(file)] == [2, 3]
    assert origin_prefix(file) == f"{file}:"


def test_an_object_that_is_no_list_of_rows_is_no_data_file(tmp_path):
    info = {"alpaca": {"file_name": "alpaca.json"}}
    assert not is_data_file(write(tmp_path / "dataset_info.json", json.dumps(info)))
    assert not is_data_file(write(tmp_path / "dataset_info.json", json.dumps(info, indent=2)))
    assert not is_data_file(write(tmp_path / "empty.json"))
    assert all(is_data_file(write(tmp_path / "a.json", *lines)) for lines in (["[]"], ["[", "{}]"], [GOOD, GOOD]))
    (tmp_path / "a.json.gz").write_bytes(b"damaged")
    assert is_data_file(tmp_path / "a.json.gz")  # so that reading it says what is wrong
