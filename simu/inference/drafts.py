"""What a row has generated, what may come next (drafts), and when it is done. Plain Python: no tensor enters.

A draft is a guess that one forward verifies: the tokens that agree with the model's own argmax are kept, the first that
does not is replaced by it (speculative decoding; Leviathan et al. 2023, arXiv 2211.17192, greedy case). Guesses come
from the reference answer and, after that, from the last place where the row's final n-gram stood before (prompt lookup;
in the prompt, the reference or the row's own output), which catches names taken from the question, a return to the
reference and the loops of a collapsed model.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

NGRAMS = (3, 2)
"""Lengths of the final n-gram looked up, longest first."""
MEMORY = 5
"""Guessed tokens over which `trust` is averaged, roughly."""
WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Input tokens of a row in a step: one that is known and up to 31 guessed."""


@dataclass(kw_only=True)
class Row:
    """One prompt on its way to its answer."""

    index: int
    prompt: list[int]
    reference: list[int]
    """Draft of the whole answer, without EOS; may be empty."""
    budget: int
    """New tokens allowed, EOS included."""
    ids: list[int] = field(default_factory=list)
    """New tokens, without EOS."""
    finished: bool = False
    """EOS was chosen."""
    truncated: bool = False
    """Ended because it can no longer equal its reference."""
    doubt: int = 0
    """Tokens (EOS counts) up to the last one that was chosen by less than rounding may move; 0: none."""
    trust: float = 0.5
    """Running estimate of how likely a guessed token is right, whether the model was given it or not."""
    guessed: list[int] = field(default_factory=list, repr=False)
    """The last guess, until it is judged."""
    text: list[int] = field(default_factory=list, repr=False)
    """Prompt, reference, the prompt's end and the output, in which n-grams are looked up."""
    before: int = 0
    """Tokens of `text` that stand before the output."""
    seen: dict[tuple[int, ...], int] = field(default_factory=dict, repr=False)
    """Where each n-gram of `text` last ended."""
    entered: int = 0
    """Tokens of `text` whose n-grams are in `seen`."""

    @property
    def done(self) -> bool:
        return self.finished or self.truncated or len(self.ids) >= self.budget

    @property
    def last(self) -> int:
        """The newest token: chosen, but not yet read by the model."""
        return self.ids[-1] if self.ids else self.prompt[-1]

    @property
    def decisions(self) -> int:
        """Tokens chosen so far, EOS included: the forwards that one-token-at-a-time decoding takes."""
        return len(self.ids) + self.finished

    def accept(self, draft: Sequence[int], chosen: Sequence[int], close: Sequence[bool], eos: frozenset[int]) -> None:
        """Keep what the model chose at the draft's positions and the one behind it, as far as the draft agreed.

        `chosen` and `close` are one longer than `draft`; `close[j]`: the runner-up of chosen[j] was within rounding.
        """
        before = len(self.ids)
        for j, token in enumerate(chosen):
            if close[j]:
                self.doubt = self.decisions + 1
            if token in eos:
                self.finished = True
                break
            self.ids.append(token)
            if self.done or j == len(draft) or draft[j] != token:
                break
        self._judge(self.ids[before:])

    def _judge(self, new: Sequence[int]) -> None:
        """Move `trust` by how much of the last guess came true, as far as that is known."""
        tried = [a == b for a, b in zip(self.guessed, new, strict=False)]
        for right in tried:
            self.trust += (right - self.trust) / MEMORY
        self.guessed = []

    def guess(self, limit: int) -> list[int]:
        """At most `limit` tokens that may follow; never more than the budget still allows to be used."""
        limit = min(limit, self.budget - len(self.ids) - 1)
        self._index()
        ends = (self.seen.get(tuple(self.text[-n:]), 0) for n in NGRAMS)
        end = next((e for e in ends if e), 0)
        self.guessed = self._from(end, limit) if end and limit > 0 else []
        return self.guessed

    def _from(self, start: int, limit: int) -> list[int]:
        """`limit` tokens from `start` of the text on; where the text ends they go round: a loop goes on as it went."""
        piece = self.text[start : start + limit]
        period = len(self.text) - start
        return piece + [piece[i % period] for i in range(len(piece), limit)]

    def _index(self) -> None:
        """Bring text and n-grams up to date.

        An n-gram is entered once a token stands behind it, so that the final one finds an earlier place. Later places
        win: the row's own output comes first, and the reference before the prompt.
        """
        if not self.text:
            self.text = [*self.prompt, *self.reference, *self.prompt[-max(NGRAMS) :]]
            self.before = len(self.text)
        self.text += self.ids[len(self.text) - self.before :]
        for end in range(self.entered + 1, len(self.text)):
            for n in NGRAMS:
                if end >= n:
                    self.seen[tuple(self.text[end - n : end])] = end
        self.entered = max(self.entered, len(self.text) - 1)


def best_width(rows: Sequence[tuple[float, int]], pass_cost: float, row_cost: float = 0.0) -> int:
    """How many input tokens to give each row: the width of most expected tokens per cost.

    `rows`: trust and length of each row's guess. `pass_cost`, `row_cost`: what a pass costs once, and for each row,
    beside its input tokens; in tokens. A rule without a clock, so that a run repeats itself.
    """

    def rate(width: int) -> float:
        expected = sum(_expected(trust, min(length, width - 1)) for trust, length in rows)
        return expected / (pass_cost + (row_cost + width) * len(rows))

    longest = 1 + max(length for _, length in rows)
    return max((w for w in WIDTHS if w <= longest), key=lambda w: (rate(w), -w))


def _expected(trust: float, length: int) -> float:
    """Tokens gained by a guess of `length` of which each is right with probability `trust`: 1 + t + … + t^length."""
    return float(length + 1) if trust > 0.999 else (1 - trust ** (length + 1)) / (1 - trust)


def settled(text: str, reference: str) -> bool:
    """Whether what begins with `text` can no longer equal `reference` up to case, white space and normal form.

    White space is dropped altogether, as a tokenizer may still take some back; so are a character that is not whole
    yet, and accents at the end, which others may still come before.
    """
    begun = _bare(text.rstrip("\ufffd"))
    while begun and unicodedata.combining(begun[-1]):
        begun = begun[:-1]
    return not _bare(reference).startswith(begun)


def _bare(text: str) -> str:
    return unicodedata.normalize("NFD", "".join(text.lower().split()).casefold())
