"""Whatever a file looks like, it is read, or refused with a `UserError`: no exception of a library, no endless wait."""

import contextlib
import os
import random
import shutil
import signal
import warnings
from collections import Counter

import pytest
from fuzz_mutators import mutated
from fuzz_seeds import make_seeds

from lightning_coba.errors import UserError

SEED = int(os.environ.get("COBA_FUZZ_SEED", "0"))
NUM = int(os.environ.get("COBA_FUZZ_NUM", "10000"))
#: A file takes milliseconds.
PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    return make_seeds(tmp_path_factory.mktemp("seeds"))


def fault_of(read, folder):
    """Return the exception that whoever reads the folder gets, and is not told what to do by; None if there is none."""
    signal.alarm(PATIENCE_SECONDS)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            read(folder)
    except UserError as error:
        return ValueError(f"not one line: {error}") if "\n" in f"{error.where}{error.what}" else None
    except SystemExit as end:  # with its sentence printed
        return None if end.code == 2 else end
    except Exception as error:
        return error
    finally:
        signal.alarm(0)
    return None


def faults(seeds, home, num, seed):
    """Return what went wrong with so many damaged files."""
    contents = [file.read_bytes() for one in seeds for file in one.folder.rglob("*") if file.is_file()]
    found = []
    folder = home / "damaged"
    for number in range(num):
        rng = random.Random(f"{seed}-{number}")
        one = rng.choices(seeds, [seed.weight for seed in seeds])[0]
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(one.folder, folder)
        file = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
        file.write_bytes(mutated(rng, file.read_bytes(), rng.choice(contents)))
        if (error := fault_of(one.read, folder)) is not None:
            said = " ".join(str(error).split())
            found.append(
                f"{seed}-{number} {one.folder.name}/{file.relative_to(folder)}: {type(error).__name__}: {said}"
            )
    return found


def check(seeds, tmp_path, monkeypatch, num):
    def alarm(*_):
        raise TimeoutError("it hangs")

    monkeypatch.setenv("LIGHTNING_COBA_CACHE", str(tmp_path / "cache"))
    before = signal.signal(signal.SIGALRM, alarm)
    try:
        found = faults(seeds, tmp_path, num, SEED)
    finally:
        signal.signal(signal.SIGALRM, before)
    kinds = Counter(fault.split(" ")[1].split("/")[0] for fault in found)
    shown = "\n".join(fault[:300] for fault in found[:400])
    assert not found, f"{len(found)} of {num} (COBA_FUZZ_SEED={SEED}): {dict(kinds)}\n{shown}"


def test_undamaged_files_are_read(seeds, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_COBA_CACHE", str(tmp_path / "cache"))
    for seed in seeds:
        seed.read(seed.folder)


def test_some_damaged_files_are_read_or_refused(seeds, tmp_path, monkeypatch):
    check(seeds, tmp_path, monkeypatch, 200)


@pytest.mark.slow
def test_many_damaged_files_are_read_or_refused(seeds, tmp_path, monkeypatch):
    check(seeds, tmp_path, monkeypatch, NUM)
