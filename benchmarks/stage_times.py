"""What each stage of a finished run took, as a share of this machine's matrix products, and what a dry run predicts.

    python -m simu.run model=smollm2_135m … hydra.run.dir=RUN        # alone on the machine
    python benchmarks/stage_times.py RUN                             # on the same machine, idle

A stage that came from the cache is left out. The target's FLOPs are those of the passes that it took.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from omegaconf import OmegaConf

from simu import costs, dryrun
from simu.config import RunConfig, build_run
from simu.pipeline import read_rows
from simu.types import Splits


def measured(folder: Path) -> dict[str, float]:
    """Seconds by stage, both sides of an attribution and both evaluations together."""
    stages = json.loads((folder / "provenance.json").read_text())["stages"]
    found: dict[str, float] = {}
    for label, stage in stages.items():
        if not stage["cached"]:
            name = label.split(" (")[0]
            found[name] = found.get(name, 0.0) + stage["seconds"]
    return found


def passes(folder: Path, cfg: RunConfig, rows: int) -> float:
    """Over its rows, that the target took."""
    digest = json.loads((folder / "provenance.json").read_text())["stages"]["target"]["digest"]
    (told,) = Path(cfg.cache_dir).glob(f"target/{digest}*/target.json")
    return json.loads(told.read_text())["steps"] / math.ceil(rows / cfg.model.target.batch_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run's folder")
    folder = parser.parse_args().run
    cfg = build_run(OmegaConf.load(folder / ".hydra" / "config.yaml"))
    show(folder, cfg, read_rows(cfg))


def show(folder: Path, cfg: RunConfig, splits: Splits) -> None:
    model = cfg.model.skeleton(cfg.data.name, cfg.precision.dtype)
    rows, plan = dryrun.estimated_rows(cfg, splits), dryrun.attribution_plan(cfg, model, splits)
    flops = costs.stage_flops(cfg, model, rows, plan and plan.flops)
    rate = costs.matmul_rate(model.config.hidden_size, cfg.torch_device(), cfg.precision.dtype)
    seconds = measured(folder)
    print(f"matrix products: {rate / 1e9:.0f} GFLOP/s\n")
    print("| stage | TFLOP | seconds | of the matmul rate | a dry run's | measured / predicted |")
    print("|---|---|---|---|---|---|")
    for stage in (stage for stage in flops if stage in seconds):
        done = flops[stage]
        if stage == "target":
            done *= passes(folder, cfg, len(rows["taught"])) / costs.passes(cfg)
        guess = flops[stage] / (rate * costs.SHARE[stage])
        print(
            f"| {stage} | {done / 1e12:.2f} | {seconds[stage]:.1f} | {done / seconds[stage] / rate:.0%} "
            f"| {guess:.1f} | {seconds[stage] / guess:.2f} |"
        )


if __name__ == "__main__":
    main()
