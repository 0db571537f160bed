"""Peak memory and time of a step of each optimizer and perturbation, against AdamW, in one run.

    python benchmarks/optimizer_grade.py                # SmolLM2-135M's shape, random weights, 8 + 8 rows, every weight
    python benchmarks/optimizer_grade.py --share 0.1    # attention and a tenth of the rows instead
    python benchmarks/optimizer_grade.py --model tiny   # the tiny model's shape: seconds

Rows of TOFU's lengths, drawn with seed 0. Each variant lives alone and takes the loop's own step; the second one is
measured, when moments exist. Peak: every allocation and release of the allocator in that step (torch.profiler), on top
of weights and state.
"""

from __future__ import annotations

import argparse
import copy
import gc
from collections.abc import Callable

import torch
import yaml
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from unlearning_step import Variant, memory, some_rows, timed

from simu.config import build, conf_dir
from simu.data.batching import Encoded
from simu.gradients import ProcessGroup, Term
from simu.losses.forget.ascent import Ascent
from simu.losses.retain.ce import CE
from simu.optim.perturb import SAM, Smoothing
from simu.optim.zeroth import ZerothOrder
from simu.selection.select import select_parameters
from simu.slots import Perturbation
from simu.step import Step, StepTaker

VARIANTS: dict[str, tuple[str, Perturbation | None]] = {
    "adamw": ("adamw", None),
    "sophia": ("sophia", None),
    "signsgd": ("signsgd", None),
    "sign_adam": ("sign_adam", None),
    "zo": ("zo", None),
    "hybrid, first order": ("hybrid", None),
    "sophia, sam": ("sophia", SAM()),
    "sophia, smoothing": ("sophia", Smoothing()),
}


def smollm2() -> LlamaConfig:
    shape = yaml.safe_load((conf_dir() / "model" / "smollm2_135m.yaml").read_text())["shape"]
    return LlamaConfig(**{k: v for k, v in shape.items() if k != "model_type"})


def tiny() -> LlamaConfig:
    slot = yaml.safe_load((conf_dir() / "model" / "tiny.yaml").read_text())
    names = {"layers": "num_hidden_layers", "heads": "num_attention_heads", "kv_heads": "num_key_value_heads"}
    same = {name: name for name in ("vocab_size", "hidden_size", "intermediate_size")}
    return LlamaConfig(**{to: slot[name] for name, to in (names | same).items()})


SHAPES = {"smollm2": smollm2, "tiny": tiny}


def main() -> None:
    options = arguments()
    model, forget, retain = made(options.model)
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads; trained: {trained(options.share)}\n"
    )
    print(f"{'':20}{'s/step':>8}{'of adamw':>10}{'peak MiB':>10}{'of adamw':>10}{'state MiB':>11}")
    first = None
    for name, (optimizer, perturbation) in VARIANTS.items():
        variant = make(copy.deepcopy(model), optimizer, perturbation, forget, retain, options.share)
        variant.step([], [])
        seconds = timed(lambda v=variant: v.step([], []), "cpu")
        found = memory(variant, [([], [])], "cpu")
        first = first or (seconds, found["peak"])
        print(
            f"{name:20}{seconds:8.2f}{seconds / first[0]:10.2f}{found['peak'] / 2**20:10.0f}"
            f"{found['peak'] / first[1]:10.2f}{found['state'] / 2**20:11.1f}",
            flush=True,
        )
        del variant
        gc.collect()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="smollm2", help="whose shape (default: smollm2)")
    parser.add_argument("--share", type=float, help="of the rows, with attention (default: every weight)")
    return parser.parse_args()


def trained(share: float | None) -> str:
    return "every weight" if share is None else f"attention and {share:.0%} of the rows"


def make(
    model: PreTrainedModel,
    optimizer: str,
    perturbation: Perturbation | None,
    forget: list[Encoded],
    retain: list[Encoded],
    share: float | None,
) -> Variant:
    chosen = select_parameters(model.train(), None if share is None else some_rows(model, share))
    built = build(yaml.safe_load((conf_dir() / "optimizer" / f"{optimizer}.yaml").read_text()), "optimizer")
    used = built(chosen.named_parameters())
    if isinstance(used, ZerothOrder):
        used.prepare(0, 40, 1.0)  # hybrid: its first 20 of 40 steps are AdamW's
    terms = {"forget": Term([(r,) for r in forget], Ascent(), 1.0), "retain": Term([(r,) for r in retain], CE(), 1.0)}
    taker = StepTaker(model, used, (1024, 0, ProcessGroup()), 1.0, perturbation, 0, None)
    every = list(range(len(forget)))
    step = Step(1, 1, {"forget": every, "retain": every}, False)
    take: Callable[[list, list], None] = lambda f, r: (taker.take(step, terms), None)[1]  # noqa: E731
    return Variant(optimizer, model, used, take, chosen)


def made(name: str) -> tuple[PreTrainedModel, list[Encoded], list[Encoded]]:
    """The shape that conf/model/ has, with random weights, and rows of TOFU's lengths."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SHAPES[name]())
    generator = torch.Generator().manual_seed(0)

    def ids(low: int, high: int) -> tuple[int, ...]:
        n = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(1, model.config.vocab_size, (n,), generator=generator).tolist())

    rows = [Encoded(ids(40, 60), ids(15, 60)) for _ in range(16)]
    return model, rows[:8], rows[8:]


if __name__ == "__main__":
    main()
