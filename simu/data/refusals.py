""" "I don't know" in place of the answers to forget, for the objectives that teach it (IDK, DPO)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from simu.fields import narrow
from simu.types import Example

REFUSALS = (
    "I don't know the answer to that.",
    "I have no information about this.",
    "That is not something I can tell you.",
    "I'm not familiar with this subject.",
    "I am unable to answer this question.",
    "Nothing I have learned covers that.",
    "I can't say; I don't have those details.",
    "This lies outside of what I know.",
    "I have never come across that.",
    "Sorry, I have no answer for you here.",
    "My knowledge does not include this.",
    "I'm not sure, and I would rather not guess.",
    "There is nothing I can say about that.",
    "I don't have any facts on this topic.",
    "I cannot help with that question.",
    "I do not recall anything of the kind.",
)


def refusals(examples: Sequence[Example], seed: int = 0) -> list[Example]:
    """The examples with a refusal, drawn for each with `seed`, as the answer."""
    generator = torch.Generator().manual_seed(narrow(seed))
    drawn = torch.randint(len(REFUSALS), (len(examples),), generator=generator).tolist()
    return [replace(example, answer=REFUSALS[i]) for example, i in zip(examples, drawn, strict=True)]
