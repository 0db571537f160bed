"""The logit lens: what each layer would say if it were the last."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from simu.data.batching import collate, encode_examples, length_buckets, pad_id
from simu.fields import Count, component
from simu.models.anatomy import anatomy
from simu.models.forward import device_of
from simu.robustness.victim import Victim
from simu.types import IGNORE, Batch


@component
class Lens:
    """The answer's tokens read out of every layer through the final norm and the head.

    `ATTACK/layer_K/forget/probability` (of a row: geometric mean over tokens) and `…/rank` (1 is best), means over
    rows. Source: nostalgebraist 2020; Patil et al. 2023, arXiv 2309.17410.
    """

    batch_tokens: Count = 4096
    """A forward pass, with padding."""

    def __call__(self, victim: Victim) -> None:
        model, tokenizer = victim.load()
        model.eval()
        for split in ("forget", "retain"):
            rows = victim.evaluation.get(split, ())
            encoded = encode_examples(tokenizer, victim.template, rows, victim.max_length)
            buckets = length_buckets([len(row) for row in encoded], self.batch_tokens)
            parts = [
                read(model, collate([encoded[i] for i in bucket], pad_id(tokenizer), device_of(model)))
                for bucket in buckets
            ]
            if not parts:
                continue
            log_prob, rank = (torch.cat([part[i] for part in parts], 1) for i in (0, 1))
            for layer, (p, r) in enumerate(zip(log_prob.exp().mean(1), rank.mean(1), strict=True), 1):
                victim.note(f"layer_{layer}", {f"{split}/probability": float(p), f"{split}/rank": float(r)})


@torch.no_grad()
def read(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """(mean log-probability, mean rank) of a row's answer tokens after each block: float64 [L, B] both."""
    parts = anatomy(model)
    hidden: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _, __, out: hidden.append(out[0] if isinstance(out, tuple) else out))
        for block in parts.blocks
    ]
    try:
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    labels = batch["labels"][:, 1:]
    scored = labels != IGNORE
    row, _ = scored.nonzero(as_tuple=True)
    target = labels[scored]
    counts = torch.zeros(len(labels), dtype=torch.float64, device=labels.device).index_add_(
        0, row, torch.ones_like(row).double()
    )
    found: list[list[Tensor]] = [[], []]
    for states in hidden:
        at = states[:, :-1][scored]
        logits = parts.head(at if parts.final_norm is None else parts.final_norm(at)).float()
        own = logits.gather(1, target[:, None])
        values = (own[:, 0].double() - logits.double().logsumexp(1), 1.0 + (logits > own).sum(1).double())
        for column, value in zip(found, values, strict=True):
            column.append(torch.zeros_like(counts).index_add_(0, row, value) / counts)
    return torch.stack(found[0]).cpu(), torch.stack(found[1]).cpu()
