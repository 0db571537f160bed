"""The reference: brute force, one prefix, one layer, one path point at a time; nothing of simu.attribution in it."""

from __future__ import annotations

import pytest
import torch
from float64 import true_float64
from scipy.special import roots_legendre
from small import SMALL
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

DOWN = {"phi": "fc2", "opt": "fc2", "gpt_neox": "dense_4h_to_h", "gpt2": "mlp.c_proj"}
LOSS = {"log_prob": lambda lp: lp, "nll": lambda lp: -lp, "prob": torch.exp}


def random_model(model_type: str, **kwargs) -> nn.Module:
    """A model that is float64 throughout, with weights large enough for every part to matter."""
    torch.manual_seed(0)
    model = true_float64(AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **kwargs)))
    for p in model.parameters():
        if p.dim() > 1:
            p.data.normal_(0, 0.3)
        else:
            p.data.add_(0.1 * torch.randn_like(p))
    return model


def down_projections(model: nn.Module) -> list[nn.Module]:
    suffix = DOWN.get(model.config.model_type, "down_proj")
    return [m for name, m in model.named_modules() if name.endswith(suffix)]


def replaced(rows: slice, vector: Tensor):
    """A forward hook that puts `vector` in `rows` of a down-projection's output (one sequence, maybe flattened)."""

    def hook(_: nn.Module, __: object, out: Tensor) -> Tensor:
        flat = out.reshape(-1, out.shape[-1])
        where = torch.zeros(len(flat), dtype=torch.bool)
        where[rows] = True
        return torch.where(where[:, None], torch.zeros_like(flat).index_put((where,), vector), flat).view(out.shape)

    return hook


def log_probs(model: nn.Module, ids: Tensor, hooks: list[tuple[nn.Module, object]]) -> Tensor:
    """log P(ids[t + 1] | ids[: t + 1]) and log P(. | all ids): [T, V] log-probabilities of one unpadded row."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return torch.log_softmax(logits, -1)


def clean_vectors(model: nn.Module, ids: Tensor) -> list[Tensor]:
    """β of every layer on one unpadded row: L × [T, D]."""
    seen: list[Tensor] = []
    hooks = [
        (m, lambda _, __, out: seen.append(out.detach().reshape(-1, out.shape[-1]))) for m in down_projections(model)
    ]
    with torch.no_grad():
        log_probs(model, ids, hooks)
    return seen


def rows_of(batch: dict[str, Tensor]):
    for b in range(len(batch["input_ids"])):
        n = int(batch["attention_mask"][b].sum())
        labels = batch["labels"][b, :n]
        yield b, batch["input_ids"][b, :n], [t for t in range(1, n) if labels[t] != -100]


def path_points(m: int, path: str | list[tuple[float, float]]) -> list[tuple[float, float]]:
    """(node, weight) by the rule's name, or as they are given."""
    if not isinstance(path, str):
        return path
    if path == "gauss":
        nodes, weights = roots_legendre(m)
        return [((1 + x) / 2, w * m / 2) for x, w in zip(nodes, weights, strict=True)]
    return [({"right": j, "left": j - 1, "midpoint": j - 0.5}[path] / m, 1.0) for j in range(1, m + 1)]


def brute_force(model, batch, m, objective="log_prob", layers="single", path="gauss") -> list[Tensor]:
    """Per sample (row, token): float64 [L, D]. A prefix, a layer and a path point each have their own forward pass."""
    down, samples = down_projections(model), []
    for b, ids, scored in rows_of(batch):
        for t in scored:
            beta = [x[-1] for x in clean_vectors(model, ids[:t])]
            att = torch.zeros(len(down), len(beta[0]), dtype=torch.float64)
            for f, w in path_points(m, path):
                together = [range(len(down))] if layers == "all" else [[i] for i in range(len(down))]
                for chosen in together:
                    a = {i: (f * beta[i]).requires_grad_() for i in chosen}
                    hooks = [(down[i], replaced(slice(t - 1, t), a[i][None])) for i in chosen]
                    loss = LOSS[objective](log_probs(model, ids[:t], hooks)[-1, ids[t]])
                    for i, g in zip(chosen, torch.autograd.grad(loss, list(a.values())), strict=True):
                        att[i] += w * beta[i] * g / m
            samples.append((b, att))
    return samples


def brute_force_sequence(model, batch, m, objective="log_prob", layers="single", path="gauss") -> list[Tensor]:
    """The `sequence` definition: all predicting positions of one teacher-forced pass are scaled at once."""
    down, samples = down_projections(model), []
    for b, ids, scored in rows_of(batch):
        at = torch.tensor(scored) - 1
        beta = [x[at] for x in clean_vectors(model, ids)]
        att = torch.zeros(len(scored), len(down), beta[0].shape[-1], dtype=torch.float64)
        for f, w in path_points(m, path):
            for chosen in [range(len(down))] if layers == "all" else [[i] for i in range(len(down))]:
                a = {i: (f * beta[i]).requires_grad_() for i in chosen}
                lp = log_probs(model, ids, [(down[i], replaced(at, a[i])) for i in chosen])
                loss = LOSS[objective](lp[at, ids[at + 1]]).sum()
                for i, g in zip(chosen, torch.autograd.grad(loss, list(a.values())), strict=True):
                    att[:, i] += w * beta[i] * g / m
        samples += [(b, one) for one in att]
    return samples


def batch_of(lengths: list[tuple[int, int]], vocab: int = 61, seed: int = 0) -> dict[str, Tensor]:
    """Random rows of (prompt, answer) tokens, padded on the right with token 0."""
    generator = torch.Generator().manual_seed(seed)
    width = max(p + a for p, a in lengths)
    ids = torch.zeros(len(lengths), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for b, (p, a) in enumerate(lengths):
        ids[b, : p + a] = torch.randint(3, vocab, (p + a,), generator=generator)
        mask[b, : p + a] = 1
        labels[b, p : p + a] = ids[b, p : p + a]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.fixture
def reference():
    """The helpers above, for test modules (which import nothing from each other)."""

    class Reference:
        small, model, batch = SMALL, staticmethod(random_model), staticmethod(batch_of)
        samples, sequence = staticmethod(brute_force), staticmethod(brute_force_sequence)
        down = staticmethod(down_projections)

        @staticmethod
        def total(samples, absolute=False):
            return sum(att.abs() if absolute else att for _, att in samples)

        @staticmethod
        def error(got, expected):
            return float((got - expected).abs().max() / expected.abs().max())

    return Reference


@pytest.fixture
def batch():
    """Rows of 3 + 4 and 2 + 6 tokens."""
    return batch_of([(3, 4), (2, 6)])
