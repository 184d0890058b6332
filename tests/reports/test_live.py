"""A run followed from a notebook beside it: drawn in place, until it is over."""

import json
import threading

import pytest
from test_run_page import CURVES, SLOPES, WEIGHTS, write

from lightning_coba.reports import follow, live


class Cell:
    """An output that remembers what was shown: this is no notebook."""

    shown: list[str] = []  # noqa: RUF012

    def show(self, html):
        self.shown.append(html)


@pytest.fixture
def shown(monkeypatch):
    monkeypatch.setattr(live, "NotebookOutput", Cell)
    monkeypatch.setattr(Cell, "shown", [])
    return Cell.shown


def test_finished_run_is_shown_once(shown, tmp_path):
    follow(write(tmp_path / "run", CURVES, weights=WEIGHTS, slopes=SLOPES))
    (html,) = shown
    assert html.count("<img") == 2
    assert "overfit" in html
    assert "finished" in html


def test_a_run_is_followed_from_before_its_beginning_to_its_end(shown, tmp_path):
    folder = tmp_path / "run"
    watcher = threading.Thread(target=follow, args=(folder, 0.01), daemon=True)
    watcher.start()

    def wait_for(text):
        for _ in range(2000):
            if shown and text in shown[-1]:
                return
            watcher.join(0.01)
        raise AssertionError(f"never shown: {text}; last {shown[-1:]}")

    wait_for("there is no run yet")
    write(tmp_path / "written", CURVES, weights=WEIGHTS, status="running").rename(folder)
    wait_for("running")
    wait_for("<img")
    card = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(card | {"status": "failed", "error": "x"}))
    watcher.join(20)
    assert not watcher.is_alive()
    assert "failed" in shown[-1]


def test_interrupting_the_cell_ends_the_watch_alone(shown, tmp_path, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(live.time, "sleep", interrupt)
    follow(write(tmp_path / "run", CURVES, status="running"))
    assert len(shown) == 1


def test_arguments_and_a_missing_notebook_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"`follow.every_n_seconds` must be > 0; got 0"):
        follow(tmp_path, every_n_seconds=0)
    monkeypatch.setitem(__import__("sys").modules, "IPython.display", None)
    with pytest.raises(ModuleNotFoundError, match=r"lightning-coba\[notebook\]"):
        follow(tmp_path)
