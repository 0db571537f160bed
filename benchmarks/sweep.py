"""A sweep over the stage cache against the same jobs each from scratch, and against two workers.

    python benchmarks/sweep.py                          # three values of t on model=tiny data=mini, a few minutes
    python benchmarks/sweep.py --sweep mask.t=0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1.0

Three ways to the same runs, one after the other: `scratch`, every job a command of its own with an empty cache (what a
suite without one does); `sweep`, one `simu.run -m` on one cache; `workers`, the same with `hydra/launcher=joblib` on
another cache. A job has one thread throughout, so all three have to agree: the script fails where one metric differs.
`runs of` counts how often each stage was computed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

STAGES = ("target", "attribution", "unlearning", "evaluation")


def main() -> None:
    options = arguments()
    key, _, values = options.sweep.partition("=")
    points = values.split(",")
    print(f"{key} = {', '.join(points)}; {platform.machine()}, {os.cpu_count()} cores, one thread a job")
    print(f"{'way':10}{'wall s':>9}{'ratio':>8}   runs of " + ", ".join(STAGES))
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        jobs = [
            ([f"{key}={point}", f"hydra.run.dir=scratch/{i}", *options.overrides], f"cache-{i}")
            for i, point in enumerate(points)
        ]
        took = {"scratch": timed(root, "scratch", *jobs)}
        ways: dict[str, list[str]] = {"sweep": []}
        if find_spec("hydra_plugins.hydra_joblib_launcher"):
            ways["workers"] = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={options.workers}"]
        else:
            print("workers: skipped, the extra `joblib` is not installed")
        for way, launcher in ways.items():
            words = ["-m", options.sweep, f"hydra.sweep.dir={way}", *launcher, *options.overrides]
            took[way] = timed(root, way, (words, f"cache-{way}"))
        for way, seconds in took.items():
            pattern = "cache-[0-9]*" if way == "scratch" else f"cache-{way}"
            counts = [str(len(list(root.glob(f"{pattern}/{stage}/*/files.json")))) for stage in STAGES]
            print(f"{way:10}{seconds:9.1f}{took['scratch'] / seconds:8.2f}   {', '.join(counts)}")
        compare(root, list(took), len(points))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", default="mask.t=0.3,0.6,0.9", help="one key and its values, as on the command line")
    parser.add_argument("--workers", type=int, default=2, help="jobs at a time of the joblib launcher")
    parser.add_argument("overrides", nargs="*", help="further overrides of every run, e.g. model.layers=2")
    return parser.parse_args()


def timed(root: Path, way: str, *commands: tuple[list[str], str]) -> float:
    """Wall seconds of the commands, one after the other, each on its cache."""
    start = time.perf_counter()
    for number, (words, cache) in enumerate(commands):
        print(f"  {way} {number + 1}/{len(commands)}", file=sys.stderr, flush=True)
        env = {**os.environ, "SIMU_CACHE_DIR": str(root / cache), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "simu.run", *words], cwd=root, env=env, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{way}: {done.stderr.strip().splitlines()[-1]}")
    return time.perf_counter() - start


def compare(root: Path, ways: list[str], jobs: int) -> None:
    """Every metric of every job the same in every way, or an exit that names the job."""
    for job in range(jobs):
        metrics = {way: json.loads((root / way / str(job) / "metrics.json").read_text()) for way in ways}
        for way in ways[1:]:
            if metrics[way] != metrics[ways[0]]:
                raise SystemExit(f"job {job}: the metrics of {way} and {ways[0]} differ")
    print(f"equal metrics in {jobs} of {jobs} jobs")


if __name__ == "__main__":
    main()
