"""How far an attribution is from the integral that it stands for, by path rule and number of points.

    python benchmarks/convergence.py                                 # the default run's target and forget rows
    python benchmarks/convergence.py --plot docs/convergence.png
    python benchmarks/convergence.py model=smollm2_135m data=tofu data.path=… data.forget=01 --rows 4 --points 3 5

Everything is measured against 48 Gauss-Legendre points: the relative L2 error of the scores, the largest completeness
of a layer (which knows nothing of the 48), and the Jaccard overlap of the masks at t = 0.3 and 0.5. `passes` counts
forwards and backwards through the layers above, in units of one path point.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from simu import pipeline
from simu.attribution import neuron_attribution
from simu.config import build_run, conf_dir
from simu.data.batches import attribution_batches
from simu.masks.critical import critical_neurons
from simu.portable import narrow_instructions, set_threads
from simu.presets import register
from simu.stages.artifact import Context
from simu.store.cache import Cache
from simu.tracking import Silent

RULES = ("right", "left", "midpoint", "gauss")
REFERENCE = 48
THRESHOLDS = (0.3, 0.5)


def main() -> None:
    options = arguments()
    narrow_instructions()
    measure = measured(options.overrides, options.rows)
    exact, _ = measure("gauss", REFERENCE)
    print(f"{'rule':10}{'m':>4}{'passes':>8}{'error':>10}{'completeness':>14}{'overlap .3':>12}{'overlap .5':>12}")
    curves: dict[str, list[tuple[int, float]]] = {}
    for rule in RULES:
        for m in options.points:
            scores, off = measure(rule, m)
            error = float((scores - exact).norm() / exact.norm())
            overlaps = "".join(f"{overlap(scores, exact, t):12.2f}" for t in THRESHOLDS)
            passes = m - 1 if rule == "right" else m  # its last point is the clean end: one pass for all layers
            print(f"{rule:10}{m:4}{passes:8}{error:10.4f}{off:14.4f}{overlaps}", flush=True)
            curves.setdefault(rule, []).append((m, error))
    fewest(curves)
    if options.plot:
        plot(curves, options.plot)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="+", default=[2, 3, 5, 8, 12, 20, 50], help="values of m")
    parser.add_argument("--plot", type=Path, help="a PNG of error over points")
    parser.add_argument("--rows", type=int, help="forget rows, the first (default: all)")
    parser.add_argument("overrides", nargs="*", help="of the run whose target and forget rows are taken")
    return parser.parse_args()


def measured(overrides: list[str], rows: int | None) -> Callable[[str, int], tuple[Tensor, float]]:
    """(rule, m) → (scores float64 [L, D], largest completeness), on a run's target and forget rows, `rows` of them."""
    register(conf_dir())
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = build_run(compose("config", overrides=overrides))
    set_threads(cfg.precision.portable)
    splits, device = pipeline.read_rows(cfg), pipeline.device_of(cfg, None)
    context = Context(cache=Cache(Path(cfg.cache_dir)), device=device, group=None, tracker=Silent())
    cfg = pipeline.with_plain_weights(cfg, cfg.data.name, context)
    setup = pipeline.setup_of(cfg, splits, context)
    model, tokenizer = pipeline.the_target(cfg, splits, setup, context).load()
    batches, _ = attribution_batches(
        tokenizer, setup.template, splits.forget[:rows], batch_size=16, max_length=setup.max_length, device=device
    )
    many = len(splits.forget[:rows])
    print(f"{cfg.model.name}, {cfg.data.name}: {many} forget rows, torch {torch.__version__}, {device}")

    def measure(rule: str, m: int) -> tuple[Tensor, float]:
        scores, off = neuron_attribution(model, batches, m=m, path=rule, dtype=torch.float64, return_completeness=True)
        assert off is not None
        return scores, float(off.max())

    return measure


def overlap(a: Tensor, b: Tensor, t: float) -> float:
    """Jaccard index of the masks."""
    one, other = critical_neurons(a, t), critical_neurons(b, t)
    return int((one & other).sum()) / max(1, int((one | other).sum()))


def fewest(curves: dict[str, list[tuple[int, float]]]) -> None:
    """How many points of each rule are as good as few of `gauss`."""
    for m, error in curves["gauss"][:3]:
        said = []
        for rule, curve in curves.items():
            enough = [k for k, e in curve if e <= error]
            said.append(f"{rule} {min(enough)}" if enough else f"{rule} > {curve[-1][0]}")
        print(f"as good as gauss with {m} points: {', '.join(said)}")


def plot(curves: dict[str, list[tuple[int, float]]], place: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for rule, curve in curves.items():
        axes.loglog(*zip(*curve, strict=True), marker="o", label=rule)
    axes.set(xlabel="path points m", ylabel="relative error of the scores")
    points = sorted({m for curve in curves.values() for m, _ in curve})
    axes.set_xticks(points, [str(m) for m in points], minor=False)
    axes.set_xticks([], minor=True)
    axes.axhline(0.1, color="grey", linewidth=0.8, linestyle=":")
    axes.legend(frameon=False)
    figure.savefig(place, dpi=130)


if __name__ == "__main__":
    main()
