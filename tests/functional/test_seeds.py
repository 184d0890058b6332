"""A key gives one seed, everywhere."""

import os
import subprocess
import sys

import numpy as np
import torch

from lightning_coba.functional import seed_of, set_seed


def test_another_key_has_another_seed():
    keys = [(0, "train"), (1, "train"), (0, "test"), ("0", "train"), (0, "train", 0), (0, "train0")]
    assert len({seed_of(*key) for key in keys}) == len(keys)


def test_the_seed_is_the_same_in_every_process():
    code = "from lightning_coba.functional import seed_of; print(hash('code'), seed_of(3, 'code'))"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    hashed, seed = map(int, done.stdout.split())
    assert hashed != hash("code")  # it did hash otherwise
    assert seed == seed_of(3, "code")


def test_generators_take_every_seed():
    seeds = [seed_of(i) for i in range(64)]
    assert max(seeds) >= 2**63  # beyond int64, too
    assert len({torch.rand(1, generator=torch.Generator().manual_seed(seed)).item() for seed in seeds}) == 64
    assert len({np.random.default_rng(seed).random() for seed in seeds}) == 64


def test_set_seed_is_what_torch_does_on_the_cpu():
    with torch.random.fork_rng(devices=[]):
        set_seed(5)
        ours = torch.rand(3)
        torch.manual_seed(5)
        assert torch.rand(3).equal(ours)
