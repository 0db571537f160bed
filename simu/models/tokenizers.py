"""Whether a tokenizer and a model belong together: looked at before a weight is loaded."""

from __future__ import annotations

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from simu.types import UserError


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, where: str) -> None:
    """Raise UserError for a tokenizer without EOS, and for tokens that the model's embedding has no row for.

    `where` names the tokenizer as the user does: 'model.tokenizer=FOLDER'.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{where}: the tokenizer has no EOS, the token that ends an answer; allowed is one whose "
            "tokenizer_config.json names it (eos_token)"
        )
    rows = getattr(config.get_text_config(), "vocab_size", None)
    if not isinstance(rows, int):
        return
    for what, held in (("the tokenizer's", tokenizer), ("config.json's", config)):
        pad = getattr(held, "pad_token_id", None)
        if isinstance(pad, int) and pad >= rows:
            raise UserError(f"{where}: {what} pad token is number {pad}; allowed is 0 to {rows - 1}: {_rows(rows)}")
    if (largest := max(tokenizer.get_vocab().values(), default=0)) >= rows:
        raise UserError(
            f"{where}: the tokenizer has tokens up to number {largest}; allowed is 0 to {rows - 1}: {_rows(rows)}; "
            "model.tokenizer takes the tokenizer that belongs to the weights"
        )


def _rows(count: int) -> str:
    return f"the model's embedding has {count} rows"
