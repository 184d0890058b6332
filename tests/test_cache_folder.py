import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_coba.cache_folder import cache_folder, only_maker


def test_own_variable_comes_before_the_common_one_and_the_home(monkeypatch):
    monkeypatch.setenv("LIGHTNING_COBA_CACHE", "~/mine")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path.home() / "mine"
    monkeypatch.delenv("LIGHTNING_COBA_CACHE")
    assert cache_folder() == Path("/caches/lightning_coba")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "lightning_coba"


# Makes an item, which takes as long as stdin is open; says what it does, and counts what was made.
MAKER = """
import pathlib, sys
from lightning_coba.cache_folder import cache_folder, only_maker
item = cache_folder() / sys.argv[1]
print("starts", flush=True)
with only_maker("rows", sys.argv[1], f"the item {sys.argv[1]}"):
    if not item.exists():
        print("makes", flush=True)
        sys.stdin.read()
        item.write_text("made")
print("ends", flush=True)
"""


@pytest.fixture
def maker(tmp_path, monkeypatch):
    """Start a process that makes an item of a cache of the test's own."""
    monkeypatch.setenv("LIGHTNING_COBA_CACHE", str(tmp_path))
    started = []

    def start(item):
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen([sys.executable, "-c", MAKER, item], text=True, **pipes)
        started.append(process)
        assert process.stdout.readline() == "starts\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def says(process):
    return process.stdout.readline().strip()


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")
def test_an_item_is_made_once_and_who_waits_is_told_of_whom(maker, tmp_path):
    first = maker("a")
    assert says(first) == "makes"
    second = maker("a")
    told = second.stderr.readline()  # it comes while the first is still at work
    assert "the item a" in told
    assert str(first.pid) in told
    first.communicate(timeout=60)
    assert second.communicate(timeout=60) == ("ends\n", "")
    assert [path.name for path in (tmp_path / "locks").iterdir()] == []


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")
def test_other_items_are_made_meanwhile(maker):
    first, second = maker("a"), maker("b")
    assert [says(first), says(second)] == ["makes", "makes"]
    for process in (second, first):
        assert process.communicate(timeout=60) == ("ends\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")
def test_a_maker_that_is_killed_lets_go(maker):
    first = maker("a")
    assert says(first) == "makes"
    first.kill()
    first.wait()
    second = maker("a")
    assert says(second) == "makes"
    assert second.communicate(timeout=60) == ("ends\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked there")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_that_outlives_the_maker_does_not_hold_the_item(monkeypatch, tmp_path):
    """As a pool's processes do, whose parent is killed while they tokenise."""
    monkeypatch.setenv("LIGHTNING_COBA_CACHE", str(tmp_path))
    with only_maker("rows", "a", "the item a"):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
    try:
        with only_maker("rows", "a", "the item a"):  # waits for ever otherwise
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
