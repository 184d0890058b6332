"""The folders of a sweep's jobs are named by what varies."""

import pytest
from omegaconf import OmegaConf

from lightning_coba.cli.job_names import name_by_what_varies


@pytest.mark.parametrize(
    ("typed", "params", "left_out"),
    [
        (["data=files", "data.root=x", "balancer=a,b", "seed=1"], None, ["resume", "name", "data", "data.root"]),
        (["optimizer.lr=0.1", "seed=1,2", "optimizer.lr=1,2"], None, ["resume", "name"]),  # the last one counts
        (["+callbacks.x={a: 1}", "peft.r=choice(4,8)"], None, ["resume", "name", "callbacks.x"]),
        (["data.root=x"], {"optimizer.lr": "interval(0, 1)"}, ["resume", "name", "data.root"]),
        (["data.root=x", "seed=3"], None, None),  # nothing varies: everything stays in
    ],
)
def test_what_is_the_same_for_all_jobs_is_left_out(typed, params, left_out):
    hydra = {
        "overrides": {"task": typed, "hydra": []},
        "sweeper": {"params": params},
        "job": {"config": {"override_dirname": {"exclude_keys": ["resume", "name"]}}},
    }
    config = OmegaConf.create({"hydra": hydra})
    name_by_what_varies(config)
    wanted = [] if left_out is None else [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(left_out)}]"]
    assert list(config.hydra.overrides.hydra) == wanted
