"""Small models to select from, and the dense simulation of Eq. 5–7 that a selection is held against."""

from __future__ import annotations

import torch
import transformers
from float64 import true_float64
from torch import nn
from transformers.pytorch_utils import Conv1D

from simu.models.anatomy import anatomy
from simu.optim import BuildSophia

V = 61
WIDTHS = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": V,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "llama": ("Llama", {"num_key_value_heads": 2}),
    "olmo": ("Olmo", {"clip_qkv": 8.0}),
    "qwen2": ("Qwen2", {"num_key_value_heads": 2}),  # q, k, v have biases
    "phi": ("Phi", {}),  # every projection has a bias, the down-projection too
    "gpt2": (
        "GPT2",
        {
            "n_embd": 16,
            "n_inner": 24,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 64,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        },
    ),
}


def build(family: str, dtype=torch.float32):
    name, extra = FAMILIES[family]
    widths = {"vocab_size": V, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} if family == "gpt2" else WIDTHS
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**widths, **extra)
    config._attn_implementation = "eager"
    model = getattr(transformers, "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")(config)
    for parameter in model.parameters():  # biases and norms start at constants
        nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else parameter.data.add_(
            0.1 * torch.randn_like(parameter)
        )
    model = true_float64(model) if dtype == torch.float64 else model.to(dtype)
    return model.train()


def mask_of(model) -> torch.Tensor:
    """Few rows in layer 0, none in layer 1, most in layer 2."""
    mask = torch.zeros(3, 16, dtype=torch.bool)
    mask[0, [1, 7, 8]] = True
    mask[2] = True
    mask[2, [0, 5]] = False
    return mask


def ids(seed: int) -> torch.Tensor:
    return torch.randint(3, V, (2, 9), generator=torch.Generator().manual_seed(seed))


def loss_of(model, seed: int) -> torch.Tensor:
    """Next-token cross-entropy (transformers' own rounds logits to float32)."""
    logits = model(input_ids=ids(seed)).logits[:, :-1]
    return nn.functional.cross_entropy(logits.flatten(0, 1), ids(seed)[:, 1:].flatten())


def hidden_mask_of(model) -> torch.Tensor:
    """As `mask_of`, of hidden neurons."""
    mask = torch.zeros(3, 24, dtype=torch.bool)
    mask[0, [2, 9, 23]] = True
    mask[2] = True
    mask[2, [0, 17]] = False
    return mask


MASKS = {"row": mask_of, "hidden": hidden_mask_of}


def weight_masks(model, mask: torch.Tensor, unit: str = "row") -> dict[str, torch.Tensor]:
    """What trains, as a weight (0 to 1) for every coordinate of every parameter: written from Eq. 5-7."""
    weights = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in model.named_parameters()}
    parts = anatomy(model)
    for layer in parts.attention:
        for name, module in layer:
            for attribute, _ in module.named_parameters(recurse=False):
                weights[f"{name}.{attribute}"].fill_(1.0)
    for name, module, row in zip(parts.down_names, parts.down_projections, mask.double(), strict=True):
        weight = weights[f"{name}.weight"]
        stored_by_row = isinstance(module, Conv1D) == (unit == "hidden")
        weight.copy_(row[:, None].expand_as(weight) if stored_by_row else row.expand_as(weight))
        if module.bias is not None and unit == "row":
            weights[f"{name}.bias"].copy_(row)
    return weights


def dense_sophia(model, mask, steps: int, lr: float, clip: float = 1.0, unit: str = "row") -> dict[str, torch.Tensor]:
    """Eq. 3–7 on the whole model, in place: everything masked, nothing compact. Moments in float64.

    NaN where a gradient is but rounding (biases of keys that no rotation reaches: softmax does not see them).
    """
    weights = weight_masks(model, mask, unit)
    moments = {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in weights.items()}
    rounding = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in weights.items()}
    for step in range(steps):
        model.zero_grad()
        loss_of(model, step).backward()
        grads = {n: p.grad.double() * (weights[n] > 0) for n, p in model.named_parameters()}
        for name, g in grads.items():
            if "k_proj.bias" in name or "c_attn.bias" in name:
                rounding[name] |= g.abs() < 1e-13
        norm = sum((g**2).sum() for g in grads.values()).sqrt()
        with torch.no_grad():
            for name, p in model.named_parameters():
                g = grads[name] * min(1.0, clip / (norm.item() + 1e-6))  # as clip_grad_norm_ has it
                m, h = moments[name]
                m.mul_(0.9).add_(0.1 * g)
                h.mul_(0.95).add_(0.05 * g * g)
                decay = 0.1 if p.ndim > 1 else 0.0
                new = p.double() * (1 - lr * decay) - lr * (m / (204.8 * h).clamp(min=1e-15)).clamp(-1, 1)
                p.copy_(torch.where(weights[name] > 0, p.double() + weights[name] * (new - p.double()), p.double()))
    return {name: p.detach().masked_fill(rounding[name], float("nan")) for name, p in model.named_parameters()}


def assert_equal_where_known(actual, expected, atol: float, name: str) -> None:
    known = ~expected.isnan()
    assert known.float().mean() > 0.3
    torch.testing.assert_close(actual[known], expected[known], rtol=0, atol=atol, msg=lambda m: f"{name}: {m}")


def compact_sophia(model, selection, steps: int, lr: float, first: int = 0, optimizer=None):
    optimizer = optimizer or BuildSophia(lr=lr)(selection.named_parameters())
    for step in range(first, first + steps):
        loss_of(model, step).backward()
        nn.utils.clip_grad_norm_(list(selection.parameters()), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return optimizer
