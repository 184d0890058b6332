import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
from matplotlib import image
from rich.console import Console
from written_runs import result

from lightning_coba.reports import write_comparison_report
from lightning_coba.reports.page import Cell, PageTable

NASTY = '<script>alert("x")</script> & |*[_a_](b)`'
BASE = {"a": 1.0, "b": 2.0, "c": 0.5}


class Page(HTMLParser):
    """What a browser would see: tags, links, and the tables as text with bold cells starred."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.tables, self.text, self.in_cell = [], [], [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.in_cell = True
        elif tag == "strong" and self.in_cell:
            self.tables[-1][-1][-1] += "*"

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.in_cell:
            self.tables[-1][-1][-1] += data


def times(factor, loss=BASE):
    return {task: factor * value for task, value in loss.items()}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, write_run_at):
    """Three methods with three seeds, one run that failed."""
    root = tmp_path_factory.mktemp("sweep")
    for seed in (1, 2, 3):
        for method, factor, seconds in (("Uniform", 1.0, 0.2), ("CoBa", 0.9, 0.3), ("FAMO", 1.2, 0.2)):
            others = {"test_token_accuracy": times(0.4 / factor), "test_exact_match": times(0.1 * seed)}
            options = {"seconds": seconds, "others": others, "best": {"a": 10, "b": 20}}
            write_run_at(root / f"{method}{seed}", method, seed, times(factor), **options)
    write_run_at(root / "failed", "LBTW", 1, BASE, card={"status": "failed", "error": f"ValueError: {NASTY}"})
    return root


@pytest.fixture(scope="module")
def report(tmp_path_factory, sweep):
    return write_comparison_report([sweep], tmp_path_factory.mktemp("written") / "deep" / "report")


@pytest.fixture
def html(report):
    return Page((report.folder / "report.html").read_text())


def test_everything_is_written_and_the_page_answers_at_once(report, html):
    assert report.num_runs == 10
    names = {str(path.relative_to(report.folder)) for path in report.folder.rglob("*") if path.is_file()}
    figures = {f"figures/suite-{name}.png" for name in ("change", "curves", "best-steps")}
    assert names == {"runs.csv", "report.md", "report.html"} | figures
    assert all(image.imread(report.folder / name).std() > 0.05 for name in figures)
    answer = "CoBa is better than Uniform: test loss 10.0 % lower than that of Uniform (mean over 3 tasks and 3 seeds"
    assert answer in html.text
    assert html.text.index(answer) < html.text.index("mean rank")
    assert answer in (report.folder / "report.md").read_text()
    with (report.folder / "runs.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 10 * 3


def test_the_page_is_one_file_without_scripts_or_network(html):
    assert not {"script", "link", "iframe", "object"} & set(html.tags)
    sources = [value for name, value in html.attributes if name in ("src", "href", "style")]
    assert len(sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert ("name", "viewport") in html.attributes


def test_what_a_person_needs_first_is_five_columns_and_bold_where_a_difference_is_shown(html):
    methods, losses, accuracy, _, more, _ = html.tables
    assert methods == [
        ["method", "mean test loss", "vs uniform", "96 % interval", "difference"],
        ["CoBa", "1.050 ± 0.000", "*-10.0 %", "*-10.0 .. -10.0 %", "*better"],
        ["Uniform", "1.167 ± 0.000", "—", "—", "—"],
        ["FAMO", "1.400 ± 0.000", "*+20.0 %", "*+20.0 .. +20.0 %", "*worse"],
    ]
    column = {name: [row[i] for row in more[1:]] for i, name in enumerate(more[0])}
    assert column["tasks lower"] == ["3 of 3", "—", "0 of 3"]
    assert column["mean rank"] == ["1.00", "2.00", "3.00"]
    assert column["time vs uniform"] == ["1.50x", "—", "about equal"]
    assert column["time per step"] == ["300 ms", "200 ms", "200 ms"]
    assert column["best-step spread"] == ["75.0 %"] * 3
    assert column["exact match: difference"] == ["the same", "—", "the same"]
    assert column["token accuracy: difference"][1] == "—"
    assert losses[0] == ["task", "CoBa", "Uniform", "FAMO", "before training"]
    assert losses[1] == ["a", "0.900 ± 0.000", "1.000 ± 0.000", "1.200 ± 0.000", "2.067"]
    assert not any("*" in cell for table in (losses, accuracy) for row in table for cell in row)


def test_failed_runs_are_listed_with_their_error_and_in_no_number(report, html):
    assert "LBTW" not in str(html.tables[:-1])
    assert html.tables[-1][1][:4] == ["LBTW", "1", "failed", f"ValueError: {NASTY}"]
    assert any("1 run left out" in note for note in report.sections[0].notes)


def test_nothing_from_a_file_becomes_markup(tmp_path, write_run):
    for method in ("Uniform", NASTY):
        write_run(method, 1, {NASTY: 1.0, "b": 2.0}, card={"suite": NASTY}, balancer={"temperature": NASTY})
    report = write_comparison_report([tmp_path / "runs"], tmp_path / "report")
    html = Page((report.folder / "report.html").read_text())
    assert "script" not in html.tags
    assert NASTY in html.text
    markdown = (report.folder / "report.md").read_text()
    assert "<script" not in markdown
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in tables[:4]}
    assert len(cells) == 1  # a bar in a name ends no cell
    assert all(path.parent == report.folder / "figures" for path in report.folder.rglob("*.png"))
    screen = Console(file=io.StringIO(), width=200)
    screen.print(report)  # no markup of rich either
    assert NASTY in screen.file.getvalue()


def test_other_settings_are_sections_of_their_own_that_say_so(tmp_path, write_run):
    write_run("CoBa", 1, BASE, optimizer={"lr": 0.5})
    for seed in (1, 2):
        write_run("CoBa", seed, BASE)
    large, small = write_comparison_report([tmp_path / "runs"], tmp_path / "report").sections
    assert large.title == "suite, optimizer.lr=0.001"
    assert small.title == "suite, optimizer.lr=0.5"
    for section in (large, small):
        assert any("differ also in optimizer.lr (0.001, 0.5): not comparable" in note for note in section.notes)
    page = (tmp_path / "report" / "report.html").read_text()
    assert [f'href="#{section.anchor}"' in page for section in (large, small)] == [True, True]
    assert large.anchor != small.anchor


def test_suites_of_like_names_have_files_of_their_own(tmp_path, write_run):
    for suite in ("my tasks", "my-tasks", "My/Tasks"):
        write_run("CoBa", 1, BASE, card={"suite": suite})
    sections = write_comparison_report([tmp_path / "runs"], tmp_path / "report").sections
    assert len({section.anchor for section in sections}) == 3
    assert len(list((tmp_path / "report" / "figures").glob("*-curves.png"))) == 3


def test_a_suite_without_any_finished_run_and_an_unreadable_card_come_last(tmp_path, write_run):
    write_run("Uniform", 1, BASE)
    (write_run("CoBa", 1, BASE) / "run.json").write_text("{")
    write_run("CoBa", 1, BASE, card={"suite": "a first", "status": "running"})
    sections = write_comparison_report([tmp_path / "runs"], tmp_path / "report").sections
    assert [section.title for section in sections] == ["suite", "(unknown)", "a first"]
    assert [section.headline for section in sections[1:]] == [["No run has finished yet."]] * 2


def test_no_common_task_is_said(tmp_path, write_run):
    write_run("CoBa", 1, {"a": 1.0, "b": 1.0})
    write_run("Uniform", 1, {"c": 1.0, "d": 1.0})
    [section] = write_comparison_report([tmp_path / "runs"], tmp_path / "report").sections
    assert "no task in common" in section.headline[0]


@pytest.mark.parametrize("tasks", [1, 2, 25])
def test_old_runs_of_any_number_of_tasks_have_a_report(tmp_path, write_run, tasks):
    loss = {f"a_task_with_a_rather_long_name_{k}": 1.0 + k for k in range(tasks)}
    folders = [write_run(method, 1, loss) for method in ("CoBa", "Uniform")]
    for folder in folders:
        (folder / "metrics.csv").unlink()
        card = json.loads((folder / "run.json").read_text()) | {"results_before": None}
        (folder / "run.json").write_text(json.dumps(card))
    report = write_comparison_report(folders, tmp_path / "report")
    assert {path.name for path in report.folder.rglob("*.png")} == {"suite-change.png"}
    columns = [name for table in Page((report.folder / "report.html").read_text()).tables for name in table[0]]
    assert not {"time per step", "time vs uniform", "best-step spread", "worst task"} & {*columns}  # not known


def test_runs_of_another_system_have_a_section_and_words_of_their_own(tmp_path, write_run):
    write_run("CoBa", 1, BASE)
    for width, score in ((8, 0.25), (16, 0.75)):
        card = {"system": "toy", "tasks": [], "results_before": {}}
        card["results"] = {"test_r2": result({"all": score}, "max"), "test_mse": result({"all": 1 - score})}
        write_run("Toy", 1, {}, card=card, system={"width": width}, seconds=0.5)
    config = "balancer: null\nsystem: {_target_: toy.Toy, width: %d}\nsystem_name: toy\n"
    for folder, width in zip(sorted((tmp_path / "runs").iterdir())[1:], (8, 16), strict=True):
        (folder / "config.yaml").write_text(config % width)
    sections = write_comparison_report([tmp_path / "runs"], tmp_path / "report").sections
    assert [section.title for section in sections] == ["suite, system=multitask", "suite, system=toy"]
    assert sections[1].headline[0] == "Highest test_r2 of the 2 methods: Toy (system.width=16) (0.750)."
    assert "uniform" not in " ".join(sections[1].headline)
    summary, more = (block for block in sections[1].blocks if isinstance(block, PageTable))
    assert summary.columns == ["method", "test_r2"]
    assert [row[1] for row in summary.rows] == [Cell("0.750"), Cell("0.250")]  # nothing to compare with: none is bold
    column = {name: [row[i] for row in more.rows] for i, name in enumerate(more.columns)}
    assert column["test_mse"] == [Cell("0.250"), Cell("0.750")]


def test_parts_that_are_no_tasks_are_shown_by_their_names_and_have_no_mean(tmp_path, write_run):
    for seed in (1, 2):
        card = {"system": "toy", "tasks": ["a", "b"], "results_before": {}}
        card["results"] = {
            "rate": result({"clean": 0.9, "attacked": 0.1 * seed}, "max"),
            "f1": result({"a": 0.5, "b": 0.7}, "max"),
        }
        (write_run("Toy", seed, {}, card=card) / "config.yaml").write_text("balancer: null\nsystem_name: toy\n")
    [section] = write_comparison_report([tmp_path / "runs"], tmp_path / "report").sections
    assert section.headline == ["rate/clean: Toy (0.900 ± 0.000 over 2 seeds)."]
    summary, f1, more = (block for block in section.blocks if isinstance(block, PageTable))
    columns = [*summary.columns, *more.columns[1:]]
    row = dict(zip(columns, [cell.text for cell in [*summary.rows[0], *more.rows[0][1:]]], strict=True))
    assert [row[name] for name in ("rate/clean", "rate/attacked", "f1")] == [
        "0.900 ± 0.000", "0.150 ± 0.071", "0.600 ± 0.000",
    ]  # fmt: skip
    assert not any(name.startswith("mean rate") for name in row)
    assert [[cell.text for cell in line] for line in f1.rows] == [
        ["a", "0.500 ± 0.000"], ["b", "0.700 ± 0.000"], ["mean", "0.600 ± 0.000"],
    ]  # fmt: skip


def test_no_run_at_all_is_an_error_that_says_where_runs_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="must hold runs"):
        write_comparison_report([tmp_path], tmp_path / "report")
    assert not (tmp_path / "report").exists()
