"""One unlearning step, as SOUL's trainer does it and as it is done here: time, peak memory, optimizer state.

    python benchmarks/unlearning_step.py --data ../shared/data/tofu            # the tiny model, real TOFU rows, minutes
    python benchmarks/unlearning_step.py --plan                                # LLaMA2-7B and OLMo-1B, computed

The reference is written out below: every parameter trains, full logits, both losses in one backward, the whole batch
at a time (and a few rows at a time, in the order in which they come). All variants share the model, the rows of each
step and the process, and take turns step by step. Peak memory is exact: every allocation and release of the allocator
in a step (torch.profiler; on CUDA the allocator's own counter), on top of what lives throughout (weights, masters,
moments). On a CUDA device the large shapes (--shape) are measured too, with random weights; what does not fit says so.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from shapes import LLAMA2_7B, OLMO_1B
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, LlamaConfig, OlmoConfig, PreTrainedModel

from simu.config import build, conf_dir
from simu.data.batching import Encoded, collate, encode_examples
from simu.data.tofu import Tofu
from simu.gradients import ProcessGroup, Term, backward, clip_norm
from simu.losses.forget.ascent import Ascent
from simu.losses.retain.ce import CE
from simu.models.anatomy import anatomy
from simu.models.forward import device_of
from simu.models.load import texts_of
from simu.optim.adamw import BuildAdamW
from simu.optim.sophia import BuildSophia
from simu.selection.select import select_parameters

LR, RETAIN_WEIGHT, CLIP = 1e-5, 1.0, 1.0
REFERENCE = "reference Sophia"
SHAPES = {"OLMo-1B": OLMO_1B, "LLaMA2-7B": LLAMA2_7B}


def main() -> None:
    options = arguments()
    report: dict[str, object] = {"torch": torch.__version__, "machine": platform.machine(), "threads": options.threads}
    if options.data:
        torch.set_num_threads(options.threads)
        report["tiny"] = measure(*tiny(options), options, "cpu")
    if options.plan:
        report["plan"] = [plan(*model, options) for model in SHAPES.items()]
    if torch.cuda.is_available():
        report["cuda"] = {"device": torch.cuda.get_device_name()}
        for shape in options.shape:
            print(f"\n{torch.cuda.get_device_name()}, {shape}")
            report["cuda"][shape] = measure(*large(shape), options, "cuda")
    else:
        print("no CUDA device: the large shapes are computed (--plan), not measured")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with TOFU's forget10.jsonl and retain90.jsonl")
    parser.add_argument("--plan", action="store_true", help="bytes of LLaMA2-7B and OLMo-1B, without weights")
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=list(SHAPES), help="on a CUDA device")
    parser.add_argument("--batch", type=int, default=16, help="forget rows a step")
    parser.add_argument("--tokens", type=int, default=1024, help="a forward pass here (training.micro_batch_tokens)")
    parser.add_argument("--micro", type=int, default=4, help="rows a forward pass of the reference that accumulates")
    parser.add_argument("--share", type=float, default=0.05, help="share of down-projection rows that the mask trains")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each variant")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


# ---- the reference: SOUL's trainer (OPTML-Group/SOUL) in plain torch


class DenseSophia(torch.optim.Optimizer):
    """Eq. 3–4 on every parameter, one tensor after the other."""

    def __init__(self, params, lr=LR, betas=(0.9, 0.95), gamma=204.8, eps=1e-15, weight_decay=0.1):
        super().__init__(params, {"lr": lr, "betas": betas, "gamma": gamma, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["exp_avg"], state["hessian"] = torch.zeros_like(p), torch.zeros_like(p)
                m, h = state["exp_avg"], state["hessian"]
                m.mul_(beta1).add_(p.grad, alpha=1 - beta1)
                h.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                ratio = (m.abs() / (group["gamma"] * h).clamp(min=group["eps"])).clamp(None, 1)
                p.addcmul_(m.sign(), ratio, value=-group["lr"])


def dense_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    forget: list[Encoded],
    retain: list[Encoded],
    pad_id: int,
    micro: int,
) -> None:
    """Both losses by the library's own full-logits cross-entropy, one backward for both, every gradient; accumulation
    as transformers' Trainer does it, a mean of means over the rows as they come."""
    device = device_of(model)
    starts = range(0, len(forget), micro)
    for i in starts:
        loss = RETAIN_WEIGHT * model(**collate(retain[i : i + micro], pad_id, device), use_cache=False).loss
        loss = loss - model(**collate(forget[i : i + micro], pad_id, device), use_cache=False).loss
        (loss / len(starts)).backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


# ---- here


def our_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    forget: list[Encoded],
    retain: list[Encoded],
    pad_id: int,
    tokens: int | None,
) -> None:
    """What simu.training.train does in a step."""
    indices, group = list(range(len(forget))), ProcessGroup()
    for term in (
        Term([(r,) for r in forget], Ascent(), 1.0),
        Term([(r,) for r in retain], CE(), RETAIN_WEIGHT),
    ):
        backward(model, term, indices, tokens, pad_id, group)
    clip_norm(optimizer, CLIP, group)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@dataclass(frozen=True)
class Variant:
    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: Callable[[list[Encoded], list[Encoded]], None]
    keep: object = None
    """What must live as long as the variant: the selection."""


def variants(
    model: PreTrainedModel, options: argparse.Namespace, pad_id: int, device: str
) -> Iterator[Callable[[], Variant]]:
    """Makers of each variant, on a copy of the model of its own on `device`."""

    def dense(name: str, make: Callable, micro: int) -> Variant:
        own = copy.deepcopy(model).to(device).train()
        optimizer = make(own.parameters())
        return Variant(name, own, optimizer, lambda f, r: dense_step(own, optimizer, f, r, pad_id, micro))

    def ours(name: str, mask: Tensor | None, make: Callable, tokens: int | None) -> Variant:
        own = copy.deepcopy(model).to(device).train()
        selection = select_parameters(own, mask)
        optimizer = make(lr=LR)(selection.named_parameters())
        return Variant(name, own, optimizer, lambda f, r: our_step(own, optimizer, f, r, pad_id, tokens), selection)

    def adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
        return torch.optim.AdamW(parameters, lr=LR, weight_decay=0.1)

    micro, tokens, mask = options.micro, options.tokens, some_rows(model, options.share)
    yield lambda: dense("reference AdamW", adamw, options.batch)
    yield lambda: dense(REFERENCE, DenseSophia, options.batch)
    yield lambda: dense(f"  {micro} rows at a time", DenseSophia, micro)
    yield lambda: ours("FO", None, BuildAdamW, tokens)
    yield lambda: ours("SO", None, BuildSophia, tokens)
    yield lambda: ours("SIMU", mask, BuildSophia, tokens)
    yield lambda: ours("  all rows at once", mask, BuildSophia, None)


def some_rows(model: nn.Module, share: float) -> Tensor:
    """A mask with as many neurons in each layer, at most `share` of them; drawn with seed 0."""
    parts = anatomy(model)
    n = int(share * parts.d_model)
    order = torch.rand(parts.n_layers, parts.d_model, generator=torch.Generator().manual_seed(0)).argsort(1)
    return order < n


# ---- measuring


def measure(
    model: PreTrainedModel,
    forget: list[Encoded],
    retain: list[Encoded],
    pad_id: int,
    options: argparse.Namespace,
    device: str,
) -> list[dict[str, object]]:
    """A line a variant. On CUDA one variant lives at a time."""
    batches = pairs(forget, retain, options.batch, options.steps + 3)
    makers = list(variants(model, options, pad_id, device))
    if device == "cpu":
        rows = measured([make() for make in makers], batches, device)
    else:
        rows = [row for make in makers for row in measured_if_it_fits(make, batches, device)]
    show(rows, model, options)
    return rows


def measured_if_it_fits(make: Callable[[], Variant], batches: list[tuple[list, list]], device: str) -> list[dict]:
    """One variant by itself: the others' masters and moments would not fit beside it."""
    try:
        return measured([make()], batches, device)
    except torch.OutOfMemoryError as error:
        print(f"out of memory: {str(error).splitlines()[0][:160]}")
        return []
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def measured(group: list[Variant], batches: list[tuple[list, list]], device: str) -> list[dict]:
    times: dict[str, list[float]] = {variant.name: [] for variant in group}
    for number, (f, r) in enumerate(batches):  # they take turns, so that a slow moment meets all
        for variant in group:
            seconds = timed(lambda v=variant, f=f, r=r: v.step(f, r), device)
            if number >= 3:
                times[variant.name].append(seconds)
    return [
        {"name": v.name, "seconds": statistics.median(times[v.name]), **memory(v, batches[:3], device)} for v in group
    ]


def pairs(forget: list[Encoded], retain: list[Encoded], batch: int, steps: int) -> list[tuple[list, list]]:
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randint(len(rows), (steps, batch), generator=generator).tolist() for rows in (forget, retain)]
    return [([forget[i] for i in f], [retain[i] for i in r]) for f, r in zip(*draw, strict=True)]


def timed(step: Callable[[], None], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def memory(variant: Variant, batches: list[tuple[list, list]], device: str) -> dict[str, int]:
    """Bytes: of optimizer state, of what lives between steps (with weights and masters), of the peak in a step."""
    moments = [t for s in variant.optimizer.state.values() for t in s.values() if isinstance(t, Tensor) and t.ndim]
    trained = [p for group in variant.optimizer.param_groups for p in group["params"]]
    held = {t.data_ptr(): t.nbytes for t in (*variant.model.parameters(), *variant.model.buffers(), *trained)}
    resident = sum(held.values()) + sum(t.nbytes for t in moments)
    peaks = []
    for f, r in batches:
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            variant.step(f, r)
            peaks.append(torch.cuda.max_memory_allocated() - resident)
        else:
            peaks.append(peak_allocated(lambda f=f, r=r: variant.step(f, r)))
    return {"state": sum(t.nbytes for t in moments), "resident": resident, "peak": resident + max(peaks)}


def peak_allocated(step: Callable[[], None]) -> int:
    """Most bytes that the CPU allocator held at one time beyond those it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    changes = sorted(
        (e.start_ns(), e.nbytes()) for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"
    )
    now = peak = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return peak


def show(rows: list[dict], model: nn.Module, options: argparse.Namespace) -> None:
    against = next((r for r in rows if r["name"] == REFERENCE), None)  # None: it did not fit
    n_parameters = sum(p.numel() for p in model.parameters())
    print(
        f"\n{n_parameters:,} parameters, batch {options.batch}, here {options.tokens} tokens at a time, "
        f"mask {options.share:.0%} of the rows, median of {options.steps} steps, "
        f"{options.threads} threads, torch {torch.__version__}"
    )
    print(f"{'':20}{'ms/step':>9}{'faster':>8}{'peak MiB':>10}{'of ref.':>8}{'state MiB':>11}{'of ref.':>8}")
    for r in rows:
        faster = f"{against['seconds'] / r['seconds']:.2f}×" if against else "–"
        peak, state = (f"{r[k] / against[k]:.2f}" if against else "–" for k in ("peak", "state"))
        print(
            f"{r['name']:20}{1e3 * r['seconds']:9.1f}{faster:>8}{r['peak'] / 2**20:10.1f}{peak:>8}"
            f"{r['state'] / 2**20:11.2f}{state:>8}"
        )


# ---- the models


def tiny(options: argparse.Namespace) -> tuple[PreTrainedModel, list[Encoded], list[Encoded], int]:
    """conf/model/tiny.yaml on forget10 and retain90, with a tokenizer of their text."""
    slot = build(yaml.safe_load((conf_dir() / "model" / "tiny.yaml").read_text()), "model")
    splits = Tofu(path=str(options.data))()
    texts = texts_of([(e.prompt, e.answer) for e in (*splits.forget, *splits.retain)], slot.template)
    model, tokenizer = slot.load("tofu", texts, 0, torch.float32)
    rows = [encode_examples(tokenizer, slot.template, part) for part in (splits.forget, splits.retain)]
    return model, *rows, tokenizer.pad_token_id


def large(shape: str) -> tuple[PreTrainedModel, list[Encoded], list[Encoded], int]:
    """A large shape with random bfloat16 weights and random rows of TOFU's lengths."""
    with torch.device("cuda"):  # made there, which takes seconds, and kept on the CPU: each variant brings its own
        model = AutoModelForCausalLM.from_config(SHAPES[shape], dtype=torch.bfloat16).cpu()
    generator = torch.Generator().manual_seed(0)

    def row() -> Encoded:
        prompt, answer = (
            torch.randint(20, 40, (1,), generator=generator),
            torch.randint(40, 90, (1,), generator=generator),
        )
        return Encoded(
            tuple(torch.randint(3, 32000, (int(prompt),), generator=generator).tolist()),
            tuple(torch.randint(3, 32000, (int(answer),), generator=generator).tolist()),
        )

    return model, [row() for _ in range(64)], [row() for _ in range(64)], 0


# ---- the plan: bytes by what they are for, from the architecture alone


def plan(name: str, config: LlamaConfig | OlmoConfig, options: argparse.Namespace) -> dict[str, object]:
    """Of bfloat16 weights, and of float32 masters, gradients and moments of what trains."""
    tokens = 128  # a long TOFU row in a LLaMA tokenizer
    micro = max(1, options.tokens // tokens)
    lines: dict[str, dict[str, int]] = {}
    for method in ("SO, every parameter", "SIMU"):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).train()
        weights = sum(p.nbytes for p in model.parameters())
        selection = select_parameters(model, some_rows(model, options.share) if method == "SIMU" else None)
        trained = sum(p.numel() for p in selection.parameters())
        parts = {
            "weights": weights,
            "masters": 4 * trained,
            "gradients": 4 * trained,
            "moments": 8 * trained,
            "activations": activations(model, micro, tokens),
        }
        lines[method] = {"trained": trained, **parts, "total": sum(parts.values())}
    print(
        f"\n{name}, GB: batch {options.batch} as {math.ceil(options.batch / micro)} × {micro} rows of {tokens} "
        f"tokens, mask {options.share:.0%} of the rows"
    )
    print(f"{'':22}{'trained':>15}" + "".join(f"{k:>13}" for k in (*parts, "total")))
    for method, line in lines.items():
        print(f"{method:22}{line['trained']:15,}" + "".join(f"{line[k] / 1e9:13.1f}" for k in (*parts, "total")))
    return {"name": name, "tokens": tokens, "micro": micro, **lines}


def activations(model: PreTrainedModel, rows: int, tokens: int) -> int:
    """Bytes that a forward keeps for its backward, counted on the meta device (where attention keeps its matrices;
    fused attention does not), and the logits of 3 in 4 tokens with their gradient."""
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    ids = torch.ones(rows, tokens, dtype=torch.long, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        causal = torch.ones(rows, 1, tokens, tokens, dtype=torch.bool, device="meta")
        model(input_ids=ids, attention_mask=causal, use_cache=False, logits_to_keep=1)
    logits = 2 * (3 * rows * tokens // 4) * model.config.vocab_size * 2
    return sum(s.nbytes() for s in kept.values()) + logits


if __name__ == "__main__":
    main()
