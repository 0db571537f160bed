"""A tokenizer's chat template as the plain text around a prompt and its answer: `model.template=chat`.

The jinja is rendered with two marks in place of the texts, and what stands around them is a `Template` like any other:
BOS once, the generation prompt at the prompt's end, and between prompt and answer what the template puts there. Rows
are then read as all rows are: control tokens of the template are such, and data is never read as one.
"""

from __future__ import annotations

import logging

from transformers import PreTrainedTokenizerBase

from simu.models.folder import one_line
from simu.types import Layout, Template, UserError

log = logging.getLogger("simu")

PLAIN = Template(prompt="Question: {prompt}\nAnswer:", separator=" ")
"""Of `auto`, where the tokenizer has no chat template."""
ASKED, SAID = "simu0asked0mark", "simu0said0mark"
ONE_DAY = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}"
"""Of a template that prints the day, as Llama 3's falls back to: a row must not change overnight."""


def laid_out(layout: Layout, tokenizer: PreTrainedTokenizerBase, where: str) -> Template:
    """The template that `layout` means for this tokenizer. `where` names it in a UserError: 'model.path=FOLDER'."""
    if isinstance(layout, Template):
        return layout
    if layout == "auto" and tokenizer.chat_template is None:
        log.info("%-24s none in the tokenizer; rows are laid out as %r", "chat template", PLAIN.prompt)
        return PLAIN
    return chat_template(tokenizer, where)


def chat_template(tokenizer: PreTrainedTokenizerBase, where: str) -> Template:
    """One user turn and the assistant's answer, as `apply_chat_template` writes them, default system turn included.

    What stands between the generation prompt and the answer is the separator if it is white space, else the prompt's
    (an empty thinking block). Raises UserError where there is no chat template, or none of which this can be said.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            f"model.template=chat: {where}: the tokenizer has no chat template; allowed is a layout, as "
            '\'model.template={prompt: "Question: {prompt}\\nAnswer:", separator: " "}\''
        )
    asked, whole = rendered(tokenizer, where)
    between, found, _ = whole.removeprefix(asked).partition(SAID)
    if not whole.startswith(asked) or not found or ASKED not in asked or "{prompt}" in asked + between:
        raise UserError(
            f"model.template=chat: {where}: the chat template's generation prompt is not how its assistant's turn "
            "begins; allowed is a layout of your own (model.template)"
        )
    inside, separator = ("", between) if not between.strip() else (between, "")
    return Template(prompt=(asked + inside).replace(ASKED, "{prompt}"), separator=separator)


def rendered(tokenizer: PreTrainedTokenizerBase, where: str) -> tuple[str, str]:
    """The prompt with the generation prompt, and the whole exchange. Raises UserError for what jinja raises."""
    turns = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]

    def written(count: int) -> str:
        begun = count == 1
        made = tokenizer.apply_chat_template(
            turns[:count], chat_template=jinja, add_generation_prompt=begun, tokenize=False
        )
        return str(made)

    try:
        jinja = ONE_DAY + tokenizer.get_chat_template()
        return written(1), written(2)
    except Exception as error:  # a template raises what it likes
        raise UserError(f"model.template=chat: {where}: the chat template fails ({one_line(error)})") from error


def end_with_turn(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make the token that ends the assistant's turn the tokenizer's EOS, where the template has one there.

    Where the turn ends with text, or is left open, EOS stays what it is: an answer always ends with one token.
    """
    if tokenizer.chat_template is None:
        return
    tail = rendered(tokenizer, "the tokenizer")[1].partition(SAID)[2].lstrip()
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    ends = [token for token in special if tail.startswith(token)]
    if ends and (longest := max(ends, key=len)) != tokenizer.eos_token:
        log.info("%-24s the chat template ends a turn with %s, not with %s", "EOS", longest, tokenizer.eos_token)
        tokenizer.eos_token = longest
