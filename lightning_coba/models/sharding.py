"""Cut a language model into shards, one on each rank (FSDP2), and put together again what is saved."""

from typing import Any

from peft import PeftModel
from torch import nn

from lightning_coba.errors import UserError


def shard(model: nn.Module, mesh: Any) -> None:
    """Leave each rank its part of every parameter; a layer is whole only while it computes.

    Args:
        model: a transformers model, with or without an adapter, alike on all ranks.
        mesh: `torch.distributed.DeviceMesh` with the dimensions ``data_parallel`` and ``tensor_parallel``.

    Raises:
        ValueError: the mesh asks for tensor parallelism.
    """
    from torch.distributed.fsdp import fully_shard

    if mesh["tensor_parallel"].size() > 1:
        raise UserError(
            f"`ModelParallelStrategy.tensor_parallel_size` must be 1; got {mesh['tensor_parallel'].size()}.",
            "Set trainer.strategy.tensor_parallel_size=1 and data_parallel_size to the number of GPUs.",
        )
    ranks = mesh["data_parallel"]
    for layer in _layers(model):
        fully_shard(layer, mesh=ranks)
    fully_shard(model, mesh=ranks)


def _layers(model: nn.Module) -> list[nn.Module]:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    names = set(getattr(base, "_no_split_modules", None) or ())
    return [module for module in base.modules() if type(module).__name__ in names]


def whole_state_dict(model: nn.Module, trained_only: bool) -> dict[str, Any]:
    """Return what the shards of all ranks make up, on the CPU of rank 0 and empty elsewhere; every rank has to ask."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=trained_only)
    return get_model_state_dict(model, options=options)


def load_whole_state_dict(model: nn.Module, state: dict[str, Any]) -> None:
    """Cut a state dict that every rank has into the shards of a model; what it lacks stays."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True, strict=False))
