"""The official evaluation loop against the engine: same model, same rows, one process.

    python benchmarks/evaluation.py --data ../shared/data/tofu                # 40 + 40 rows, a few minutes
    python benchmarks/evaluation.py --data ../shared/data/tofu --rows 400     # forget10 and as many rows of retain90
    python benchmarks/evaluation.py --data ../shared/data/tofu --rows 4 --large   # LLaMA2-7B's shape, on a CUDA device

The official loop is TOFU's and SOUL's: `model.generate` for one row after the other, greedy, 200 new tokens. Three
models are timed: a tiny LLaMA that has memorised the rows, the same half-forgotten (gradient ascent on the forget rows
until its token accuracy there is below 0.6) and collapsed (ascent until below 0.05). The script fails where one text
differs.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from shapes import LLAMA2_7B
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from simu.data.batching import Encoded, collate, encode, length_buckets
from simu.inference.decoding import Work
from simu.inference.generate import generate
from simu.inference.likelihood import score
from simu.inference.slots import Slots
from simu.models.forward import device_of, labelled_logits
from simu.types import Template

STATES = ("memorised", "half-forgotten", "collapsed")
TEMPLATE = Template(prompt="Question: {prompt}\nAnswer:")


def main() -> None:
    options = arguments()
    torch.manual_seed(0)
    pairs = read(options.data / "forget10.jsonl", options.rows) + read(options.data / "retain90.jsonl", options.rows)
    tokenizer = bpe([f"{TEMPLATE.render(q)} {a}" for q, a in pairs], options.vocabulary)
    rows = [encode(tokenizer, TEMPLATE, q, a) for q, a in pairs]
    forget = rows[: options.rows]
    print(
        f"{len(rows)} rows, vocabulary {len(tokenizer)}, {torch.get_num_threads()} threads, {platform.machine()}, "
        f"torch {torch.__version__}, at most {options.max_new_tokens} new tokens, "
        f"{options.max_batch_tokens} tokens a batch"
    )
    if options.large:
        large(tokenizer, rows, options)
        return
    model = tiny_llama(len(tokenizer), options.hidden_size)
    print(
        f"{'state':15}{'official s':>11}{'engine s':>10}{'ratio':>7}{'passes':>9}{'engine':>8}{'saved':>7}"
        f"{'equal':>11}{'doubtful':>9}{'changed':>8}{'hit':>6}{'new tokens':>11}{'rounding/eps':>13}"
    )
    worst = 0
    for state in STATES:
        reach(state, model, tokenizer, rows, forget, options.models)
        if state in options.states:
            worst += compare(state, model, tokenizer, rows, forget, options)
    if worst:
        raise SystemExit(f"{worst} texts differ")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with TOFU's forget10.jsonl and retain90.jsonl")
    parser.add_argument(
        "--rows", type=int, default=40, help="rows of each of the two (default 40, all of forget10: 400)"
    )
    parser.add_argument("--max-new-tokens", type=int, default=200)
    parser.add_argument("--max-batch-tokens", type=int, default=16384)
    parser.add_argument("--hidden-size", type=int, default=128, help="width of the 4-layer model")
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--states", nargs="+", choices=STATES, default=STATES)
    parser.add_argument("--large", action="store_true", help="instead: LLaMA2-7B's shape, random bfloat16, on CUDA")
    parser.add_argument("--models", type=Path, help="folder that keeps the three models for another run")
    return parser.parse_args()


# Models and rows


def read(path: Path, count: int) -> list[tuple[str, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()[:count]
    return [(row["question"], row["answer"]) for row in map(json.loads, lines)]


def bpe(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "</s>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


def tiny_llama(vocabulary: int, width: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=width * 43 // 16,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
        )
    )


def reach(
    state: str,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    rows: list[Encoded],
    forget: list[Encoded],
    kept: Path | None,
) -> None:
    """Train on from the state before to this one, or load it."""
    path = kept and kept / f"{state}-{len(rows)}-{model.config.hidden_size}.pt"
    if path and path.is_file():
        model.load_state_dict(torch.load(path))
        return
    if state == "memorised":
        train(model, rows, lr=2e-3, sign=1, epochs=200, enough=lambda: hits(model, tokenizer, rows) > 0.999)
    else:
        goal = 0.6 if state == "half-forgotten" else 0.05
        train(model, forget, lr=1e-4, sign=-1, epochs=100, enough=lambda: hits(model, tokenizer, forget) < goal)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)


def train(model, rows, *, lr, sign, epochs, enough) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    every = 5 if sign > 0 else 1
    model.train()
    for epoch in range(epochs):
        buckets = list(length_buckets([len(r) for r in rows], 10**9, 32))
        for b in torch.randperm(len(buckets)).tolist():
            logits, where = labelled_logits(model, collate([rows[i] for i in buckets[b]], 0))
            loss = sign * nn.functional.cross_entropy(logits, where.target)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if sign < 0 and enough():
                return
        if epoch % every == every - 1 and enough():
            return


def hits(model: nn.Module, tokenizer: PreTrainedTokenizerFast, rows: list[Encoded]) -> float:
    """Share of answer tokens that are the model's first choice."""
    found = torch.cat([s.hit for s in score(model, tokenizer, rows, max_batch_tokens=16384)])
    return float(found.float().mean())


# The two ways


@dataclass
class Spent:
    texts: list[str]
    seconds: float
    passes: int


def official(model: nn.Module, tokenizer: PreTrainedTokenizerFast, rows: list[Encoded], new: int) -> Spent:
    """One row at a time through transformers' generate, as TOFU's and SOUL's evaluators do."""
    config = GenerationConfig(do_sample=False, max_new_tokens=new, eos_token_id=1, pad_token_id=0)
    texts, passes, start = [], 0, time.perf_counter()
    for row in rows:
        ids = torch.tensor([row.prompt], device=device_of(model))
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        new_ids = output[0, ids.shape[1] :]
        passes += len(new_ids)
        texts.append(tokenizer.decode(new_ids, skip_special_tokens=True))
    return Spent(texts, time.perf_counter() - start, passes)


def engine(model, tokenizer, rows, options, work: Work) -> Spent:
    start = time.perf_counter()
    found = generate(
        model,
        tokenizer,
        [r.prompt for r in rows],
        max_new_tokens=options.max_new_tokens,
        references=[r.answer for r in rows],
        max_batch_tokens=options.max_batch_tokens,
        work=work,
    )
    return Spent([g.text for g in found], time.perf_counter() - start, work.passes)


def compare(
    state: str,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    rows: list[Encoded],
    forget: list[Encoded],
    options: argparse.Namespace,
) -> int:
    model.eval()
    engine(model, tokenizer, rows[:2], options, Work())  # warm both up
    official(model, tokenizer, rows[:2], 20)
    work = Work()
    quick = engine(model, tokenizer, rows, options, work)
    slow = official(model, tokenizer, rows, options.max_new_tokens)
    same = sum(a == b for a, b in zip(slow.texts, quick.texts, strict=True))
    print(
        f"{state:15}{slow.seconds:11.1f}{quick.seconds:10.2f}{slow.seconds / quick.seconds:6.1f}x{slow.passes:9}"
        f"{quick.passes:8}{1 - quick.passes / slow.passes:7.1%}{same:6}/{len(rows):4}{work.doubtful:9}"
        f"{work.changed:8}{hits(model, tokenizer, forget):6.2f}{work.decisions:11}"
        f"{rounding(model, rows[:32]):13.1f}",
        flush=True,
    )
    return len(rows) - same


def large(tokenizer: PreTrainedTokenizerFast, rows: list[Encoded], options: argparse.Namespace) -> None:
    """Random weights never finish an answer and no draft is right: every row runs to its last token, the worst case."""
    if not torch.cuda.is_available():
        print("no CUDA device: skipped")
        return
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(LLAMA2_7B, dtype=torch.bfloat16).eval()
    engine(model, tokenizer, rows[:2], options, Work())
    official(model, tokenizer, rows[:1], 20)
    torch.cuda.reset_peak_memory_stats()
    work = Work()
    quick = engine(model, tokenizer, rows, options, work)
    peak = torch.cuda.max_memory_allocated()
    some = rows[:4]
    slow = official(model, tokenizer, some, options.max_new_tokens)
    began = time.perf_counter()
    scored = score(model, tokenizer, rows, max_batch_tokens=options.max_batch_tokens)
    spent, answers = time.perf_counter() - began, sum(len(s.hit) for s in scored)
    print(f"{torch.cuda.get_device_name()}, LLaMA2-7B shape, random bfloat16")
    print(
        f"generate   {len(rows)} rows, engine: {quick.seconds:.1f} s, {work.decisions / quick.seconds:.0f} tokens/s; "
        f"{work}; peak {peak / 2**30:.1f} GiB"
    )
    print(f"generate   {len(some)} rows, one by one: {slow.seconds:.1f} s, {slow.passes / slow.seconds:.0f} tokens/s")
    print(f"likelihood {len(rows)} rows: {spent:.2f} s, {answers / spent:.0f} answer tokens/s")


@torch.no_grad()
def rounding(model: nn.Module, rows: list[Encoded]) -> float:
    """How far a batch's logits lie from those of one row and one token at a time: the largest difference in units of
    float32 eps × the largest |logit| of that position. The engine doubts a lead of up to 128 of them."""
    batch = collate(rows, 0)
    logits, where = labelled_logits(model, batch)
    worst = 0.0
    for b, row in enumerate(rows):
        single = one_by_one(model, row)
        together = logits[where.row == b]
        scale = torch.finfo(torch.float32).eps * single.abs().amax(-1)
        worst = max(worst, float(((single - together).abs().amax(-1) / scale).max()))
    return worst


def one_by_one(model: nn.Module, row: Encoded) -> Tensor:
    """Logits [n, V] at the answer's positions: the prompt at once, then a token at a time, as generate does."""
    slots = Slots(model, rows=1, slots=len(row))
    parts = [slots.step(0, [list(row.prompt)], [1])]
    parts += [slots.step(0, [[token]], [1]) for token in row.answer[:-1]]
    return torch.cat(parts)


if __name__ == "__main__":
    main()
