"""FSDP2 on two forked processes (gloo): losses and gradients of shards are those of the whole model."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from lightning_coba.models.completion_losses import CompletionLosses
from lightning_coba.models.sharding import load_whole_state_dict, whole_state_dict

pytestmark = [
    pytest.mark.skipif(not distributed.is_available(), reason="torch without torch.distributed"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
PAIRS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def gradients(model):
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: g.full_tensor() if isinstance(g, DTensor) else g for name, g in found.items()}


def compute(model, batches):
    """Return the sums of each batch, and leave the mean of their gradients."""
    losses = CompletionLosses(model)
    sums = [losses(batch, 2).sums for batch in batches]
    (torch.stack(sums).sum() / len(batches)).backward()
    return torch.stack(sums).detach()


def on_rank(rank, folder, make, batches):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = make()
    losses = CompletionLosses(model)
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    losses.shard(mesh)
    losses.shard(mesh)  # each stage of a Trainer asks
    assert all(isinstance(p, DTensor) for p in model.parameters())
    sums = losses(batches[rank], 2).sums
    metrics = losses.metrics(batches[rank], 2).losses.sums
    sums.sum().backward()
    found = {"sums": sums.detach(), "metrics": metrics, "gradients": gradients(model)}
    found["whole"] = whole_state_dict(model, trained_only=False)
    doubled = {name: 2 * p.full_tensor() for name, p in model.named_parameters()}
    load_whole_state_dict(model, doubled)
    found["doubled"] = whole_state_dict(model, trained_only=True)
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["adapter", "whole model", "tied embeddings"])
def test_shards_compute_what_the_whole_model_does(kind, llama, make_datamodule, batch_of, tmp_path):
    def make():
        if kind == "adapter":
            return get_peft_model(llama(), LoraConfig(r=4, task_type="CAUSAL_LM", init_lora_weights=False))
        return llama(tie_word_embeddings=kind == "tied embeddings")

    torch.manual_seed(0)
    initial = make().state_dict()

    def same():
        model = make()
        model.load_state_dict(initial)
        return model

    datamodule = make_datamodule()
    batches = [batch_of(datamodule, torch.tensor(pairs).numpy()) for pairs in (PAIRS[:2], PAIRS[1:])]
    whole = same()
    sums = compute(whole, batches)
    torch.multiprocessing.start_processes(on_rank, (tmp_path, same, batches), nprocs=2, start_method="fork")
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for rank, expected in zip(ranks, sums, strict=True):
        torch.testing.assert_close(rank["sums"], expected)
        torch.testing.assert_close(rank["metrics"], expected)
        assert rank["gradients"].keys() == gradients(whole).keys()
        for name, gradient in gradients(whole).items():
            torch.testing.assert_close(rank["gradients"][name], gradient, rtol=1e-4, atol=1e-6)
    # What is saved, on rank 0 alone.
    assert ranks[1]["whole"] == ranks[1]["doubled"] == {}
    assert {name: value.tolist() for name, value in ranks[0]["whole"].items()} == {
        name: value.tolist() for name, value in initial.items() if name in ranks[0]["whole"]
    }
    trained = {name: p for name, p in whole.named_parameters() if p.requires_grad}
    assert ranks[0]["doubled"].keys() >= trained.keys()
    assert all(torch.equal(ranks[0]["doubled"][name], 2 * p.detach()) for name, p in trained.items())
