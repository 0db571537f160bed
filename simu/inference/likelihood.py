"""One forward a unique (prompt, answer) row, from which every likelihood metric is a reduction.

Shapes: B rows, T tokens, N labelled tokens of a batch, n labelled tokens of one row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from simu.data.batching import Encoded, collate, length_buckets
from simu.inference.modes import device_of, evaluating, pad_id
from simu.models.forward import labelled_logits
from simu.progress import track

CHUNK_ELEMENTS = 2**24
"""Largest fp32 softmax held at once, in elements (64 MiB): the [N, V] logits are reduced in chunks of rows."""


@dataclass(frozen=True, kw_only=True)
class TokenScores:
    """What a model thinks of one row's answer tokens, EOS included. CPU tensors [n], softmax in float32."""

    log_prob: Tensor
    """log p of the token itself, nats; float32."""
    mean_log_prob: Tensor
    """Σ_v p_v log p_v: what log_prob is expected to be under the model (min-k++'s μ); float32."""
    var_log_prob: Tensor
    """Σ_v p_v log² p_v − mean², never negative (min-k++'s σ²); float32."""
    hit: Tensor
    """Whether the token is the most likely one; bool."""

    @property
    def nll(self) -> float:
        """−Σ log p over the row, nats; 0 for a row without labelled tokens."""
        return -float(self.log_prob.double().sum())

    @property
    def mean_nll(self) -> float:
        """Token mean of −log p, nats; nan for a row without labelled tokens."""
        return self.nll / len(self.log_prob) if len(self.log_prob) else float("nan")

    def __len__(self) -> int:
        return len(self.log_prob)


def token_scores(logits: Tensor, target: Tensor, chunk: int | None = None) -> TokenScores:
    """Reduce logits [N, V] of any float dtype and targets [N] to TokenScores of N tokens, `chunk` rows at a time."""
    size = chunk or max(1, CHUNK_ELEMENTS // logits.shape[-1])
    parts = [_reduce(a, b) for a, b in zip(logits.split(size), target.split(size), strict=True)]
    log_prob, mean, var, hit = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    return TokenScores(log_prob=log_prob, mean_log_prob=mean, var_log_prob=var, hit=hit)


def _reduce(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    log_p = torch.log_softmax(logits.float(), dim=-1)
    p = log_p.exp()
    finite = log_p.masked_fill(p == 0, 0.0)  # a token ruled out by the model (logit −inf) adds 0, not nan
    mean = (p * finite).sum(-1)
    var = (p * (finite - mean.unsqueeze(-1)) ** 2).sum(-1)  # = Σ p log² p − mean², without its cancellation
    log_prob = log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return log_prob, mean, var, logits.argmax(-1) == target


def windows(ids: Sequence[int], limit: int) -> list[Encoded]:
    """A text as rows of at most `limit` tokens of which each token but the first is scored exactly once.

    The first row is scored from its second token on. Each further one scores the next `stride(limit)` tokens (the last
    one: what is left) behind as much of the text before them as `limit` allows, at least limit − stride tokens of it.
    No BOS is put before a row that begins within the text.
    """
    ids = tuple(ids)
    end = min(limit, len(ids))
    rows = [Encoded(ids[:1], ids[1:end])]
    while end < len(ids):
        start, end = end, min(end + stride(limit), len(ids))
        rows.append(Encoded(ids[end - limit : start], ids[start:end]))
    return rows


def stride(limit: int) -> int:
    """Tokens that a further window scores: half of it, so that each is read behind half a window at least."""
    return max(1, limit // 2)


def joined(parts: Sequence[TokenScores]) -> TokenScores:
    """The scores of windows of one text as those of the text."""
    if len(parts) == 1:
        return parts[0]
    names = [f.name for f in fields(TokenScores)]
    return TokenScores(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


@torch.no_grad()
def score(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Encoded],
    *,
    max_batch_tokens: int,
    what: str = "likelihood",
) -> list[TokenScores]:
    """Teacher-forced scores of every row's answer tokens, in the order of `rows`.

    Equal rows are computed once; the rest go in length-sorted, right-padded batches of rows × longest ≤
    `max_batch_tokens` tokens (one row at least). A row whose prompt is empty cannot score its first token, which has
    no prediction: that row's tensors are one shorter than its answer.
    """
    unique = list(dict.fromkeys((r.prompt, r.answer) for r in rows))
    plan = [Encoded(*key) for key in unique]
    buckets = list(length_buckets([len(r) for r in plan], max_batch_tokens))
    found: dict[int, TokenScores] = {}
    with evaluating(model):
        for bucket in track(buckets, what, total=len(buckets), unit="batch"):
            batch = [plan[i] for i in bucket]
            logits, where = labelled_logits(model, collate(batch, pad_id(tokenizer), device_of(model)))
            scores = token_scores(logits, where.target)
            counts = where.counts(len(batch))
            columns = (scores.log_prob, scores.mean_log_prob, scores.var_log_prob, scores.hit)
            for i, parts in zip(bucket, zip(*(c.split(counts) for c in columns), strict=True), strict=True):
                log_prob, mean, var, hit = (part.clone() for part in parts)
                found[i] = TokenScores(log_prob=log_prob, mean_log_prob=mean, var_log_prob=var, hit=hit)
    position = {key: i for i, key in enumerate(unique)}
    return [found[position[r.prompt, r.answer]] for r in rows]
