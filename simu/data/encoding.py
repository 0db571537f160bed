"""From texts to token ids, the template's told from the data's: a template may hold control tokens, data may not.

`</s>` in a template ends a turn; in an answer it is four characters that somebody wrote, and is read as these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from simu.types import Template

SHOT_END = "\n\n"
"""Behind an answer that is shown as an example; where the template has control tokens (a chat's turns), EOS."""
ANCHORS = ("\n", ":", "]", "a")  # tried in turn: a tokenizer may merge one of them with what follows


class Piece(NamedTuple):
    """Of a text that is to be read."""

    text: str
    is_data: bool
    """False: the template's own words, in which control tokens are such."""


class Token(NamedTuple):
    id: int
    start: int
    """First character that it was read from; 0 of a tokenizer that does not say (a slow one)."""
    end: int


@dataclass(frozen=True)
class Control:
    """Tokens that are no text: BOS, EOS, a chat's turns."""

    ids: Mapping[str, int]
    """By the way they are written."""
    no_text: frozenset[int]
    """The ids, but for that of what is unknown: any text may hold it."""
    texts: re.Pattern[str]
    """Any of them as it is written."""
    read: re.Pattern[str]
    """The same in a group, with the white space around that some tokenizers take in with it."""


Shots = tuple[tuple[str, str], ...]
"""Prompts with their answers that stand before a prompt."""


def prompt_ids(tokenizer: PreTrainedTokenizerBase, template: Template, prompt: str, shots: Shots = ()) -> list[int]:
    """Ids of a prompt, behind `shots` where there are any, with the tokenizer's own opening tokens (BOS) and never a
    closing one."""
    return [token.id for token in prompt_tokens(tokenizer, template, prompt, shots)]


def prompt_tokens(
    tokenizer: PreTrainedTokenizerBase, template: Template, prompt: str, shots: Shots = ()
) -> list[Token]:
    control = control_of(tokenizer, template)
    end = str(tokenizer.eos_token) if control.read.search(template.prompt) else SHOT_END
    pieces = [piece for shot in shots for piece in (*answered(template, *shot), Piece(end, False))]
    pieces += prompt_pieces(template, prompt)
    return opened(tokenizer, begun_once(pieces, template, tokenizer.bos_token), control)


def answered(template: Template, prompt: str, answer: str) -> list[Piece]:
    """A prompt and its answer, without what ends it."""
    return [*prompt_pieces(template, prompt), Piece(template.separator, False), Piece(answer, True)]


def begun_once(pieces: Sequence[Piece], template: Template, bos: object) -> list[Piece]:
    """Without the BOS that a template writes, but for the first."""
    if not bos or not template.prompt.startswith(str(bos)):
        return list(pieces)
    first = pieces[0]
    return [first, *(p if p.is_data else Piece(p.text.removeprefix(str(bos)), False) for p in pieces[1:])]


def answer_ids(tokenizer: PreTrainedTokenizerBase, template: Template, answer: str) -> list[int]:
    """Ids of separator and answer as they stand behind a prompt, without EOS."""
    pieces = [Piece(template.separator, False), Piece(answer, True)]
    return [token.id for token in continuation(tokenizer, pieces, control_of(tokenizer, template))]


def joint_ids(tokenizer: PreTrainedTokenizerBase, template: Template, prompt: str, answer: str) -> list[int]:
    """Ids of prompt and answer read as one text, across the seam, with the tokenizer's opening tokens."""
    pieces = [*prompt_pieces(template, prompt), Piece(template.separator, False), Piece(answer, True)]
    return [token.id for token in opened(tokenizer, pieces, control_of(tokenizer, template))]


def document_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a whole text of the data, with the tokenizer's opening tokens."""
    return prompt_ids(tokenizer, Template(), text)


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """What generated ids say: without control tokens, and with every space that the ids have."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def prompt_pieces(template: Template, prompt: str) -> list[Piece]:
    """The template with the prompt in its place, or places."""
    first, *others = template.prompt.split("{prompt}")
    return [Piece(first, False), *(p for text in others for p in (Piece(prompt, True), Piece(text, False)))]


def opened(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[Piece], control: Control) -> list[Token]:
    """The text's tokens behind the tokenizer's opening ones, unless the template has these itself: BOS once."""
    tokens, opening = read(tokenizer, pieces, control), opening_ids(tokenizer)
    first = pieces[0].text
    begun = bool(first) and [t.id for t in tokens[: len(opening)]] == list(opening)
    if begun or (tokenizer.bos_token and str(tokenizer.bos_token) in first):
        return tokens
    return [*(Token(i, 0, 0) for i in opening), *tokens]


@lru_cache(maxsize=8)
def opening_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What the tokenizer puts before any text: BOS, or nothing."""
    bare, whole = (list(tokenizer("a", add_special_tokens=add).input_ids) for add in (False, True))
    starts = (i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare)
    return tuple(whole[: next(starts, 0)])


def continuation(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[Piece], control: Control) -> list[Token]:
    """A text's tokens as it stands after other text.

    Some tokenizers put a space before whatever they are given first (SentencePiece; byte level with add_prefix_space).
    There the text is read behind an anchor that keeps its own tokens, and those are taken off again.
    """
    for anchor in ANCHORS if opens_with_space(tokenizer) else ():
        ahead = [Piece(anchor, False)]
        before, both = read(tokenizer, ahead, control), read(tokenizer, [*ahead, *pieces], control)
        kept = [t.id for t in both[: len(before)]] == [t.id for t in before]
        # An unknown anchor could be fused with an unknown beginning of the text.
        if kept and all(t.id != tokenizer.unk_token_id for t in before):
            return moved(both[len(before) :], -len(anchor))
    return read(tokenizer, pieces, control)


@lru_cache(maxsize=8)
def opens_with_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    opening = tokenizer.tokenize("a")
    return bool(opening) and opening[0].startswith(("▁", "Ġ"))


def read(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[Piece], control: Control) -> list[Token]:
    """The tokens of the pieces as one text, without opening ones.

    Where the data hold nothing that is written like a control token, this is what the tokenizer makes of the text.
    Where they do, the template's control tokens stand as they are, and what is between them is read as plain text.
    """
    text = "".join(piece.text for piece in pieces)
    own = sum(len(control.texts.findall(piece.text)) for piece in pieces if not piece.is_data)
    if len(control.texts.findall(text)) == own:
        return call(tokenizer, text)
    tokens: list[Token] = []
    run, at = "", 0
    for words, is_control in cut(pieces, control):
        if not is_control:
            run += words
            continue
        tokens += moved(plain(tokenizer, run, control, first=not tokens), at)
        start, at, run = at + len(run), at + len(run) + len(words), ""
        tokens.append(Token(control.ids[words.strip()], start, at))
    return [*tokens, *moved(plain(tokenizer, run, control, first=not tokens), at)]


def cut(pieces: Sequence[Piece], control: Control) -> list[tuple[str, bool]]:
    """The text in parts, each with whether it is a control token of the template."""
    parts: list[tuple[str, bool]] = []
    for piece in pieces:
        words = [piece.text] if piece.is_data else control.read.split(piece.text)
        parts += [(word, i % 2 == 1) for i, word in enumerate(words)]
    return parts


def plain(tokenizer: PreTrainedTokenizerBase, text: str, control: Control, first: bool) -> list[Token]:
    """The tokens of a text in which nothing is a control token. `first`: nothing stands before it."""
    if not text or not first:
        return continuation(tokenizer, [Piece(text, True)], control) if text else []
    tokens = call(tokenizer, text, split_special_tokens=True)
    written = next((m for m in control.texts.finditer(text) if len(m[0]) > 1), None)
    if written is None or not {token.id for token in tokens} & control.no_text:
        return tokens
    at = written.start() + 1  # its letters are a piece of the vocabulary as well (Unigram): read them apart
    rest = plain(tokenizer, text[at:], control, first=False)
    return [*plain(tokenizer, text[:at], control, first=True), *moved(rest, at)]


def call(tokenizer: PreTrainedTokenizerBase, text: str, **how: Any) -> list[Token]:
    made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast, **how)
    spans = made["offset_mapping"] if tokenizer.is_fast else [(0, 0)] * len(made.input_ids)
    return [Token(i, start, end) for i, (start, end) in zip(made.input_ids, spans, strict=True)]


def moved(tokens: Sequence[Token], by: int) -> list[Token]:
    return [Token(t.id, max(0, t.start + by), max(0, t.end + by)) for t in tokens]


def control_of(tokenizer: PreTrainedTokenizerBase, template: Template) -> Control:
    return control_tokens(tokenizer, len(tokenizer), f"{template.prompt}\0{template.separator}")


@lru_cache(maxsize=32)
def control_tokens(tokenizer: PreTrainedTokenizerBase, size: int, template: str) -> Control:
    """Added tokens that are special, and those that the template is written with. `size`: of the vocabulary, which
    grows as tokens are added."""
    added = tokenizer.added_tokens_decoder.items()
    found = {i: t for i, t in added if t.special or (t.content in template and not t.content.isspace())}
    longest = sorted(found.values(), key=lambda t: -len(t.content))
    texts = "|".join(re.escape(t.content) for t in longest)
    read = "|".join(r"\s*" * t.lstrip + re.escape(t.content) + r"\s*" * t.rstrip for t in longest)
    return Control(
        ids={t.content: i for i, t in found.items()},
        no_text=frozenset(found) - {tokenizer.unk_token_id},
        texts=re.compile(texts or "(?!)"),
        read=re.compile(f"({read or '(?!)'})"),
    )
