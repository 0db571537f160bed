"""One model over several processes: torch's FSDP2 on the processes that `accelerate launch` or `torchrun` starts.

accelerate launch --use_fsdp --fsdp_version 2 -m simu.run …   weights, gradients and moments sharded
torchrun --nproc-per-node 2 -m simu.run …                     each process holds all and does its share of the rows
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.fsdp import fully_shard

from simu.models.anatomy import anatomy

PATIENCE = timedelta(days=1)
"""How long a process waits for the others: one of them evaluates alone."""


def join() -> PartialState | None:
    """Join the process group that a launcher has set up, if one has; tells rank, number of processes and device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    cpu = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true"
    return PartialState(cpu=cpu, timeout=PATIENCE)


def is_sharded() -> bool:
    """Whether `accelerate launch --use_fsdp` has set this process up."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return several and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def shard(model: nn.Module) -> nn.Module:
    """Shard `model` in place, a decoder block at a time, where `accelerate launch --use_fsdp` asks for it.

    Before `select_parameters` and the optimizer. Every process must hold the same weights. Whether parameters are
    gathered anew in backward and whether they rest on the CPU follows accelerate's own options (FSDP_RESHARD_…,
    FSDP_OFFLOAD_PARAMS); what trains in bfloat16 has sharded float32 masters from the selection.
    """
    if join() is None or not is_sharded():
        return model
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    options: dict[str, Any] = {"reshard_after_forward": plugin.reshard_after_forward}
    if plugin.cpu_offload:
        options["offload_policy"] = plugin.cpu_offload
    for block in anatomy(model).blocks:
        fully_shard(block, **options)
    fully_shard(model, **options)
    return model
