import inspect
import os
import subprocess
import sys

import pytest
import torch

from lightning_coba.functional import permutation_stream

KEY = (3, "train", "code")


@pytest.mark.parametrize("num_rows", [1, 2, 7, 100])
def test_each_cycle_shows_every_row_once(num_rows):
    stream = permutation_stream(num_rows, KEY, start=0, count=5 * num_rows)
    for cycle in stream.split(num_rows):
        assert cycle.sort().values.tolist() == list(range(num_rows))


def test_cycles_and_keys_differ():
    stream = permutation_stream(50, KEY, start=0, count=100)
    assert not torch.equal(stream[:50], stream[50:])
    for other in ((4, "train", "code"), (3, "validation", "code"), (3, "train", "qa"), (3, "train")):
        assert not torch.equal(stream, permutation_stream(50, other, start=0, count=100))


@pytest.mark.parametrize("chunk", [1, 3, 7, 10, 64])
def test_any_cut_gives_the_same_stream(chunk):
    whole = permutation_stream(7, KEY, start=0, count=64)
    parts = [permutation_stream(7, KEY, start, min(chunk, 64 - start)) for start in range(0, 64, chunk)]
    assert torch.equal(whole, torch.cat(parts))


def test_nothing_is_an_empty_stream():
    stream = permutation_stream(7, KEY, start=10, count=0)
    assert stream.shape == (0,)
    assert stream.dtype == torch.int64


def test_the_stream_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    permutation_stream(10, KEY, start=0, count=30)
    assert torch.equal(before, torch.get_rng_state())


def test_the_stream_is_the_same_in_every_process():
    path = inspect.getsourcefile(permutation_stream)  # alone: the whole package takes seconds to import
    code = (
        f"import runpy; stream = runpy.run_path({path!r})['permutation_stream'];"
        f"print(hash('code'), stream(20, {KEY!r}, 15, 40).tolist())"
    )
    wanted = str(permutation_stream(20, KEY, 15, 40).tolist())
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert hash("code") != int(done.stdout.split()[0])  # it did hash otherwise
    assert done.stdout.split(maxsplit=1)[1].strip() == wanted


@pytest.mark.parametrize("arguments", [(0, 0, 1), (5, -1, 1), (5, 0, -1)])
def test_arguments_outside_their_domain_are_refused(arguments):
    num_rows, start, count = arguments
    with pytest.raises(ValueError, match=f"num_rows={num_rows}, start={start}, count={count}"):
        permutation_stream(num_rows, KEY, start, count)
