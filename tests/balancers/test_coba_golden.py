import json
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import FORMS

from lightning_coba.balancers import CoBa, replay

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [
    pytest.param(case, id=case["name"])
    for name in ("coba_reference.json", "coba_reference_missing.json")
    for case in json.loads((GOLDEN / name).read_text())["cases"]
]
#: (form, field of the golden file, row of `replay` that holds its first entry, counted from the warm-up)
FORM_FIELDS = [("paper", "weights_paper", -1), ("mftcoder", "weights", -2)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("form", "field", "offset"), FORM_FIELDS, ids=["paper", "mftcoder"])
def test_replay_gives_the_golden_weights(case, form, field, offset):
    losses = torch.tensor(case["losses"], dtype=torch.float64)
    balancer = CoBa(case["history_length"], case["warmup"], case["tau"], form)
    weights = replay(balancer, losses, initial=case["initial"], present=losses != 0)

    golden = torch.tensor(case[field], dtype=torch.float64)
    first = case["warmup"] + offset
    ours = weights[first : first + len(golden)]
    assert ours.shape == golden.shape
    assert (ours - golden).abs().max() < 1e-8
    assert torch.equal(weights[:first], torch.full_like(weights[:first], 1 / case["num_tasks"]))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("form", "field", "offset"), FORM_FIELDS, ids=["paper", "mftcoder"])
def test_the_second_derivation_gives_the_golden_weights_too(case, form, field, offset):
    losses = np.array(case["losses"])
    weights, factors = FORMS[form](
        losses, case["history_length"], case["warmup"], case["tau"], case["initial"], losses != 0
    )
    first = case["warmup"] + offset
    golden = np.array(case[field])
    np.testing.assert_allclose(weights[first : first + len(golden)], golden, rtol=0, atol=1e-8)
    if form == "paper":
        np.testing.assert_allclose(factors[first:], case["df_paper"], rtol=0, atol=1e-8)
