"""The one place where logits and labels are shifted and masked against each other.

Shapes: B rows, T tokens, N labelled tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simu.models.reference import Reference
from simu.types import IGNORE, Batch

CHUNK = 128
"""Labelled tokens whose float32 logits exist at one time: 16 MiB at a vocabulary of 32 000."""


@dataclass(frozen=True)
class Labelled:
    """The labelled tokens of a batch, row by row: LongTensors [N]."""

    row: Tensor
    position: Tensor
    """Where the token is predicted: one before where it stands."""
    target: Tensor

    def counts(self, rows: int) -> list[int]:
        """Labelled tokens of each of the `rows` rows."""
        return self.row.bincount(minlength=rows).tolist()

    def by_row(self, values: Tensor, rows: int) -> list[Tensor]:
        """[N, …] values as one tensor [n, …] for each of the `rows` rows."""
        return list(values.split(self.counts(rows)))


def labelled(batch: Batch) -> Labelled:
    """Labels at t are predicted at t - 1; a label at position 0 has no prediction and is not scored."""
    labels = batch["labels"][:, 1:]
    row, position = torch.nonzero(labels != IGNORE, as_tuple=True)
    return Labelled(row, position, labels[row, position])


@contextmanager
def head_sees(head: nn.Module, where: Labelled, beside: Reference | None = None) -> Iterator[list[Tensor]]:
    """In this context the head gets the hidden states of the labelled positions alone, [1, N, D], so that no [B, T, V]
    logits ever exist while the model's own tail (soft-capping, scaling) still runs on what the head gives.

    Yields a list that receives these hidden states. With `beside`, the untouched head's logits of the hidden states
    remembered there follow the model's own: [1, 2·N, V].
    """
    seen: list[Tensor] = []

    def gather(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(args[0][where.row, where.position])
        return (seen[0].unsqueeze(0), *args[1:])

    def append(_: nn.Module, __: tuple[Tensor, ...], logits: Tensor) -> Tensor | None:
        if beside is None:
            return None
        with torch.no_grad():  # .forward, not a call: the untouched head may be this very module, with this hook
            untouched = beside.head.forward(beside.values.unsqueeze(0))
        return torch.cat([logits, untouched], dim=1)

    handles = head.register_forward_pre_hook(gather), head.register_forward_hook(append)
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def forward(model: nn.Module, batch: Batch) -> Any:
    """The model's output.

    Without an attention mask where the padding is on the right: a causal model never looks at it from a real token, and
    attention without an explicit mask is faster. What comes out at padded positions means nothing.
    """
    mask = batch["attention_mask"]
    padded_left = not bool(mask[:, 0].all())
    return model(input_ids=batch["input_ids"], attention_mask=mask if padded_left else None, use_cache=False)


def labelled_logits(model: nn.Module, batch: Batch) -> tuple[Tensor, Labelled]:
    """Logits [N, V] in the model's dtype at labelled positions only, and their labels."""
    where = labelled(batch)
    with head_sees(model.get_output_embeddings(), where):  # type: ignore[operator]
        return forward(model, batch).logits.squeeze(0), where


def logits_beside(model: nn.Module, batch: Batch, reference: Reference) -> tuple[Tensor, Tensor, Labelled]:
    """`labelled_logits` of the model and, without gradient, of the untouched model whose hidden states (what
    `labelled_hidden` gave of the same rows then) are `reference.values`."""
    where = labelled(batch)
    with head_sees(model.get_output_embeddings(), where, reference):  # type: ignore[operator]
        own, untouched = forward(model, batch).logits.squeeze(0).chunk(2)
    return own, untouched.detach(), where


def labelled_hidden(model: nn.Module, batch: Batch) -> tuple[Tensor, Labelled]:
    """What the head sees at labelled positions [N, D]: with the head, a compact form of the logits."""
    where = labelled(batch)
    with head_sees(model.get_output_embeddings(), where) as seen:  # type: ignore[operator]
        forward(model, batch)
    return seen[0], where


def hidden_by_row(model: nn.Module, batch: Batch) -> list[Tensor]:
    """`labelled_hidden` of each row: [n, D]. What a loss remembers that needs the untouched model's logits."""
    hidden, where = labelled_hidden(model, batch)
    return where.by_row(hidden, len(batch["labels"]))


class _Reached(Exception):
    """The forward has come to the block that was asked for."""


def block_output(model: nn.Module, block: nn.Module, batch: Batch) -> Tensor:
    """[B, T, D] that comes out of a decoder block; what stands above it does not run."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)
        raise _Reached

    handle = block.register_forward_hook(keep)
    try:
        forward(model, batch)
    except _Reached:
        pass
    finally:
        handle.remove()
    return seen[0]


def by_chunks(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """`function` of CHUNK rows of the `tensors` [N, …] at a time, giving [N]; backward recomputes each chunk, so what
    it needs inside (float32 logits, probabilities) never exists for all rows at once."""
    parts = zip(*(t.split(CHUNK) for t in tensors), strict=True)
    return torch.cat([checkpoint(function, *p, use_reentrant=False, preserve_rng_state=False) for p in parts])


def device_of(model: nn.Module) -> torch.device:
    """Where the model's inputs belong."""
    return next(model.parameters()).device


def wide(logits: Tensor) -> Tensor:
    """In float32; float64 stays."""
    return logits if logits.dtype == torch.float64 else logits.float()
