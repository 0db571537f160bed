"""Attribution: brute force, captum, the `sequence` approximation and the exact engine, on one model, rows and process.

    python benchmarks/attribution.py --data ../shared/data/tofu                 # everything below; minutes on one core
    python benchmarks/attribution.py --data ../shared/data/tofu --only compare  # or growth, speedups, large, plan, cuda

compare   16 real TOFU forget rows, the tiny model after it has learnt them: time, peak memory, difference of scores
growth    how the cost grows with answer length, m, layers and width (and the plot, with --plot FILE)
speedups  what each trick of the engine is worth
large     a random OLMo-1B in bfloat16 on the CPU, 4 real rows, m = 2: resident memory
plan      bytes and FLOPs of LLaMA2-7B and OLMo-1B, without weights
cuda      a random LLaMA2-7B in bfloat16 and --large-rows forget rows: tokens/s, memory, model-FLOPs utilisation

The brute force is written out in attribution_references.py: for each token and layer a forward for the clean vector and
m forwards and backwards, as DEPN's code has it (flamewei123/DEPN); `lean` does it every favour (the clean vectors of
all layers from one forward, logits at one position). Neither computes weight gradients. Times on a CPU are CPU seconds
of this process, so that a busy machine counts less; on CUDA they are wall seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from attribution_references import Batch, batches_of, brute_force, captum_per_token, timed
from attribution_without import WITHOUT
from scipy.stats import spearmanr
from shapes import LLAMA2_7B, OLMO_1B
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from unlearning_step import peak_allocated, tiny

from simu.attribution import neuron_attribution, plan
from simu.data.batching import Encoded
from simu.models.anatomy import anatomy

attribute = partial(neuron_attribution, path="right")
"""By the printed rule throughout, as the brute force has it; benchmarks/convergence.py compares the rules."""
planned_at = partial(plan, path="right")
BF16_PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Dense bfloat16 FLOP/s, from the vendor's data sheets."""


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {platform.machine()}, {options.threads} threads")
    model, forget, _, pad = tiny(options)
    sections = {"compare": compare, "growth": growth, "speedups": speedups, "large": large, "plan": plans, "cuda": cuda}
    report: dict[str, object] = {}
    for name in options.only or sections:
        print(f"\n== {name}")
        report[name] = sections[name](model, forget, pad, options)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with TOFU's forget10.jsonl and retain90.jsonl")
    parser.add_argument("--only", nargs="*", help="some of the sections")
    parser.add_argument("--rows", type=int, default=16, help="forget rows in compare and speedups")
    parser.add_argument("--large-rows", type=int, default=400, help="forget rows in cuda (default: all of forget10)")
    parser.add_argument("--m", type=int, default=5, help="path points in compare, growth and speedups")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--plot", type=Path, help="picture of growth (png, pdf)")
    return parser.parse_args()


# ---- compare


def compare(model: nn.Module, forget: list[Encoded], pad: int, options: argparse.Namespace) -> list[dict]:
    batches = batches_of(forget[: options.rows], pad, options.rows)
    learn(model, batches)
    one = batches_of(forget[:1], pad, 1)  # memory of the slow ones: on one row, where their peak is the same
    m = options.m
    names: dict[str, Callable[[list[Batch]], Tensor]] = {
        "brute force": lambda b: sum(brute_force(model, x, m) for x in b),
        "brute force, lean": lambda b: sum(brute_force(model, x, m, lean=True) for x in b),
        "lean, m points at once": lambda b: sum(brute_force(model, x, m, lean=True, steps_at_once=m) for x in b),
        "captum, per token": lambda b: sum(captum_per_token(model, x, m) for x in b),
        "sequence": lambda b: attribute(model, b, m=m, position="sequence"),
        "exact": lambda b: attribute(model, b, m=m),
    }
    try:
        import captum  # noqa: F401
    except ImportError:
        names.pop("captum, per token")
        print("captum is not installed (pip install simu-unlearning[attrib]): left out")
    n = sum(int((b["labels"] != -100).sum()) for b in batches)
    print(f"{options.rows} rows, {n} samples, {anatomy(model).n_neurons} neurons, m={m}, CPU seconds")
    timing = {
        name: (
            timed(lambda f=f: f(batches), 5 if name in ("sequence", "exact") else 1),
            peak_allocated(lambda f=f: f(one)),
        )
        for name, f in names.items()
    }
    (exact, fastest), _ = timing["exact"]
    print(f"{'':24}{'seconds':>10}{'/ exact':>10}{'peak MiB, 1 row':>17}{'max difference':>16}{'Spearman':>10}")
    rows = []
    for name, ((scores, seconds), peak) in timing.items():
        difference = float((scores - exact).abs().max() / exact.abs().max())
        rank = float(spearmanr(scores.flatten(), exact.flatten()).statistic)
        rows.append(
            {
                "name": name,
                "seconds": seconds,
                "ratio": seconds / fastest,
                "peak": peak,
                "difference": difference,
                "spearman": rank,
            }
        )
        print(f"{name:24}{seconds:10.2f}{seconds / fastest:10.1f}{peak / 2**20:17.1f}{difference:16.1e}{rank:10.4f}")
    return rows


def learn(model: nn.Module, batches: list[Batch], steps: int = 150) -> None:
    """Teach the rows, so that the scores are those of a model that has something to forget."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=2e-3)
    for _ in range(steps):
        for batch in batches:
            loss = model(**batch, use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    print(f"learnt the rows: loss {float(loss.detach()):.4f}")
    model.eval().requires_grad_(False)


# ---- growth


def growth(model: nn.Module, forget: list[Encoded], pad: int, options: argparse.Namespace) -> dict[str, list[dict]]:
    """Seconds a row, and the power of the quantity that they grow with (from one line to the next).

    The brute force is timed on a few tokens of one row, evenly spread, and counted up: its tokens share nothing.
    """
    stream = [token for row in forget for token in row.answer[:-1]]
    vocabulary = model.config.vocab_size
    base = {"answer": 48, "m": options.m, "layers": 4, "width": 256}
    tokens = 8
    tables: dict[str, list[dict]] = {}
    for name, values in {
        "answer": [16, 32, 64, 128],
        "m": [2, 5, 10, 20],
        "layers": [2, 4, 8, 16],
        "width": [64, 128, 256, 512],
    }.items():
        tables[name] = []
        for value in values:
            at = base | {name: value}
            rows = [Encoded(forget[i].prompt[:24], tuple(stream[1000 * i :][: at["answer"]])) for i in range(8)]
            fresh = shape(vocabulary, at["width"], at["layers"])
            batches = batches_of(rows, pad, 8)
            exact = timed(lambda f=fresh, b=batches, k=at["m"]: attribute(f, b, m=k), repeats=5)[1] / 8
            one, every = batches_of(rows[:1], pad, 1)[0], at["answer"] // tokens
            force = every * timed(lambda f=fresh, b=one, k=at["m"], e=every: brute_force(f, b, k, every=e))[1]
            tables[name].append({name: value, "exact": exact, "brute": force})
        print(f"{name:>8}{'exact s/row':>14}{'brute s/row':>14}{'ratio':>8}{'exact power':>13}{'brute power':>13}")
        for i, line in enumerate(tables[name]):
            power = {
                k: math.log(line[k] / tables[name][i - 1][k]) / math.log(line[name] / tables[name][i - 1][name])
                if i
                else math.nan
                for k in ("exact", "brute")
            }
            line |= {f"{k}_power": v for k, v in power.items()}
            print(
                f"{line[name]:8}{line['exact']:14.4f}{line['brute']:14.2f}{line['brute'] / line['exact']:8.0f}"
                f"{power['exact']:13.2f}{power['brute']:13.2f}"
            )
        span = math.log(tables[name][-1][name] / tables[name][0][name])
        overall = {k: math.log(tables[name][-1][k] / tables[name][0][k]) / span for k in ("exact", "brute")}
        print(f"{'overall':>8}{'':36}{overall['exact']:13.2f}{overall['brute']:13.2f}")
    if options.plot:
        draw(tables, options.plot)
    return tables


def draw(tables: dict[str, list[dict]], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(tables), figsize=(12, 3), sharey=True, layout="constrained")
    for axis, (name, rows) in zip(axes, tables.items(), strict=True):
        x = [row[name] for row in rows]
        for key, label in (("brute", "brute force"), ("exact", "exact, position-parallel")):
            axis.loglog(x, [row[key] for row in rows], "o-", label=label)
        axis.set_xlabel({"answer": "answer tokens", "m": "path points m"}.get(name, name))
        axis.set_xticks(x, [str(v) for v in x])
        axis.minorticks_off()
    axes[0].set_ylabel("CPU seconds a row")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)


def shape(vocabulary: int, width: int, layers: int) -> nn.Module:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=round(width * 2.6875),
        num_hidden_layers=layers,
        num_attention_heads=max(4, width // 64),
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


# ---- speed-ups


def speedups(model: nn.Module, forget: list[Encoded], pad: int, options: argparse.Namespace) -> list[dict]:
    """The engine without one of its tricks at a time; scores stay the same."""
    model = model.eval().requires_grad_(False)
    lines = []
    for name, size in ((f"{options.rows} rows a micro-batch", options.rows), ("1 row a micro-batch", 1)):
        batches = batches_of(forget[: options.rows], pad, size)
        whole, base = timed(lambda b=batches: attribute(model, b, m=options.m), repeats=3)
        print(f"{name}: {base:.2f} s")
        for trick, without in WITHOUT.items():
            with without(options.m):
                scores, seconds = timed(lambda b=batches: attribute(model, b, m=options.m), repeats=3)
            difference = float((scores - whole).abs().max() / whole.abs().max())
            lines.append({"rows": size, "without": trick, "seconds": seconds, "ratio": seconds / base})
            print(f"  without {trick:42}{seconds:8.2f} s{seconds / base:8.2f} ×   difference {difference:.0e}")
    return lines


# ---- large models


def large(model: nn.Module, forget: list[Encoded], pad: int, options: argparse.Namespace) -> dict:
    torch.manual_seed(0)
    big = AutoModelForCausalLM.from_config(OLMO_1B, dtype=torch.bfloat16).eval()
    batches = batches_of(forget[:4], pad, 4)
    planned = planned_at(big, batches, m=2)
    print(planned)
    _, seconds = timed(lambda: attribute(big, batches, m=2))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    n = sum(p.numel() for p in big.parameters())
    print(
        f"OLMo-1B shape, {n / 1e9:.2f} B parameters, bfloat16, {planned.samples} samples, m=2: {seconds:.0f} CPU s, "
        f"peak resident memory of the process {peak / 2**30:.2f} GiB"
    )
    return {"seconds": seconds, "peak_rss": peak, "planned": planned.peak, "samples": planned.samples}


def plans(model: nn.Module, forget: list[Encoded], pad: int, options: argparse.Namespace) -> dict:
    batches = batches_of(forget, pad, 16)
    report = {}
    for name, config in (("LLaMA2-7B", LLAMA2_7B), ("OLMo-1B", OLMO_1B)):
        with torch.device("meta"):
            twin = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        made = planned_at(twin, batches, m=5, max_memory=68.0, device="cuda")
        print(f"{name}, {len(forget)} forget rows, m=5\n{made}")
        report[name] = {"peak": made.peak, "flops": made.flops}
    return report


def cuda(model: nn.Module, forget: list[Encoded], pad: int, options: argparse.Namespace) -> dict | None:
    if not torch.cuda.is_available():
        print("no CUDA device: skipped")
        return None
    device = torch.cuda.get_device_name()
    with torch.device("cuda"):
        big = AutoModelForCausalLM.from_config(LLAMA2_7B, dtype=torch.bfloat16).eval()
    forget = forget[: options.large_rows]
    batches = batches_of(forget, pad, 16)
    planned = planned_at(big, batches, m=options.m)
    print(planned)
    attribute(big, batches[-1:], m=options.m)
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    start = time.perf_counter()
    attribute(big, batches, m=options.m)
    torch.cuda.synchronize()
    seconds, peak = time.perf_counter() - start, torch.cuda.max_memory_allocated()
    rate = planned.flops / seconds
    top = next((flops for name, flops in BF16_PEAK.items() if name in device), None)
    print(
        f"{device}, LLaMA2-7B shape, {len(forget)} rows, {planned.samples} samples, m={options.m}: {seconds:.1f} s, "
        f"{planned.samples / seconds:.0f} answer tokens/s, peak {peak / 2**30:.1f} GiB (planned "
        f"{planned.peak / 2**30:.1f}), {rate / 1e12:.0f} TFLOP/s" + (f", utilisation {rate / top:.1%}" if top else "")
    )
    return {
        "device": device,
        "seconds": seconds,
        "tokens_per_s": planned.samples / seconds,
        "peak": peak,
        "planned": planned.peak,
        "flops_per_s": rate,
        "mfu": rate / top if top else None,
    }


if __name__ == "__main__":
    main()
