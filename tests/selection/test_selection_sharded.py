"""A selection of a model that FSDP2 shards over two processes, against the same steps in one."""

from __future__ import annotations

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import transformers

from simu.optim import BuildSophia
from simu.selection.core import apply_tensors
from simu.selection.select import select_parameters


def build(family: str, dtype: torch.dtype):
    torch.manual_seed(0)
    if family == "gpt2":  # Conv1D: neurons are columns, sharding is by rows
        config = transformers.GPT2Config(
            vocab_size=61,
            n_embd=16,
            n_inner=24,
            n_layer=2,
            n_head=4,
            n_positions=32,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
        return transformers.GPT2LMHeadModel(config).to(dtype)
    config = transformers.LlamaConfig(
        vocab_size=61,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        mlp_bias=True,
    )
    return transformers.LlamaForCausalLM(config).to(dtype)


def steps(model, selection, world: int) -> dict[str, torch.Tensor]:
    optimizer = BuildSophia(lr=1e-3)(selection.named_parameters())
    for step in range(4):
        ids = torch.randint(61, (2, 9), generator=torch.Generator().manual_seed(step))
        own = ids if world == 1 else ids[dist.get_rank() : dist.get_rank() + 1]
        model(input_ids=own, labels=own).loss.backward()
        for p in selection.parameters():  # sharded gradients are means over processes already
            if world > 1 and not hasattr(p.grad, "placements"):
                dist.all_reduce(p.grad)
                p.grad /= world
        optimizer.step()
        optimizer.zero_grad()
    return selection.trained_tensors()


def soft_mask(unit: str) -> torch.Tensor:
    mask = torch.zeros(2, {"row": 16, "hidden": 24}[unit])
    mask[0, [1, 7, 8, 15]] = torch.tensor([1.0, 0.5, 1.0, 0.25])
    return mask


def worker(rank: int, port: int, folder: str, family: str, unit: str, dtype: torch.dtype) -> None:
    from torch.distributed.fsdp import fully_shard

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model = build(family, dtype)
    for block in model.transformer.h if family == "gpt2" else model.model.layers:
        fully_shard(block)
    fully_shard(model)
    selection = select_parameters(model, soft_mask(unit), unit=unit)
    tensors = steps(model, selection, world=2)
    selection.merge()
    assert all(torch.equal(t, tensors[n]) for n, t in selection.trained_tensors().items())
    if rank == 0:
        torch.save(tensors, f"{folder}/tensors.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "unit", "dtype", "atol"),
    [
        ("llama", "row", torch.float32, 1e-5),
        ("gpt2", "row", torch.float32, 1e-5),
        ("llama", "row", torch.bfloat16, 4e-3),
        ("llama", "hidden", torch.float32, 1e-5),
        ("gpt2", "hidden", torch.float32, 1e-5),
    ],
)
def test_two_processes_give_the_weights_of_one(family, unit, dtype, atol, tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(worker, args=(port, str(tmp_path), family, unit, dtype), nprocs=2)
    sharded = torch.load(tmp_path / "tensors.pt", weights_only=True)

    model = build(family, dtype)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    selection = select_parameters(model, soft_mask(unit), unit=unit)
    expected = steps(model, selection, world=1)
    assert set(sharded) == set(expected)
    moved = 0.0
    for name, tensor in expected.items():
        if "c_attn.bias" not in name:  # the gradient of a key's bias is but rounding, and its sign is a step
            torch.testing.assert_close(sharded[name], tensor, rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
        moved = max(moved, (tensor.float() - before[name].float()).abs().max().item())
    assert moved > 2e-3
    down = "transformer.h.0.mlp.c_proj.weight" if family == "gpt2" else "model.layers.0.mlp.down_proj.weight"
    kept = soft_mask(unit)[0] == 0
    at = (slice(None), kept) if (family == "gpt2") == (unit == "row") else (kept,)
    assert torch.equal(sharded[down][at], before[down][at])
    apply_tensors(build(family, dtype), sharded)
