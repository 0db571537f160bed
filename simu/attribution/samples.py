"""Which tokens of a batch are scored. B rows, T tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from simu.data.batches import Tokens
from simu.types import IGNORE, UserError, require

Batches = Iterable[Mapping[str, Tensor]]
Side = Batches | None
"""The other side's batches, of what compares with them."""
Kept = str | Path | None
"""A folder for what a killed call goes on from."""


def scored_labels(batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
    """LongTensor [B, T]: the token where it is scored, else -100. Raises UserError for left padding."""
    mask, labels = batch["attention_mask"].bool(), batch["labels"]
    if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        raise UserError("attention_mask: a row is padded on the left or has holes; allowed is padding on the right")
    if tokens == "template":
        if "template" not in batch:
            raise UserError(
                "attribution.tokens='template': a batch has no 'template' (LongTensor [B, T], 1 where a "
                "token belongs to the template); allowed without it is 'answer'"
            )
        labels = torch.where(batch["template"].bool(), batch["input_ids"], labels)
    return labels.masked_fill(~mask, IGNORE)


def scored_batches(batches: Batches, tokens: Tokens) -> list[dict[str, Tensor]]:
    """The batches, with the labels of what is scored."""
    return [{**batch, "labels": scored_labels(batch, tokens)} for batch in batches]


def count_samples(batches: Batches, tokens: Tokens = "answer") -> int:
    """Next-token samples |D|: scored tokens that something predicts (not a row's first)."""
    return sum(int((scored_labels(batch, tokens)[:, 1:] != IGNORE).sum()) for batch in batches)


def require_groups(batch: Mapping[str, Tensor], groups: int) -> None:
    """Raise UserError unless batch["group"] (LongTensor [B]) is there and in range."""
    if "group" not in batch:
        raise UserError(
            "groups: a batch has no 'group' (LongTensor [B], the group of each row); allowed without it is groups=None"
        )
    low, high = int(batch["group"].min()), int(batch["group"].max())
    require(0 <= low <= high < groups, "batch['group']", (low, high), f"0 ≤ group < groups={groups}")


def require_against(against: Batches | None, name: str) -> Batches:
    """The other side's batches. Raises UserError where there are none."""
    if against is None:
        raise UserError(f"{name}: it compares with rows of the other side; allowed is against=their batches")
    return against
