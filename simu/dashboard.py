"""The comparison dashboard on a W&B server: `python -m simu.dashboard ENTITY [PROJECT]` builds it, prints its address.

Needs an account (`wandb login`) and the extra `dashboards`; nothing else in the project does.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from simu.console import forgiving
from simu.metrics.benchmarks import BENCHMARKS, Benchmark
from simu.report.columns import headed

METRICS = tuple(dict.fromkeys(key for benchmark in BENCHMARKS.values() for key in benchmark.headline))
"""What every benchmark's summary shows."""
STEPS = ("train/forget_loss", "train/retain_loss", "train/grad_norm", "train/clipped_fraction", "train/lr")


def workspace(entity: str, project: str) -> Any:
    """Bars of the final metrics by kind (method, mask, losses, optimizer, selection), forgetting against retention,
    losses by step, what differs between runs."""
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as ws

    kind = panels.Config("kind")  # not method.name: an NPO run of method=simu is no bar of SIMU's
    bars: list[Any] = [
        panels.BarPlot(title=headed(key), metrics=[panels.SummaryMetric(key)], groupby=kind) for key in METRICS
    ]
    trades: list[Any] = [_trade(benchmark) for benchmark in BENCHMARKS.values() if len(benchmark.panels) > 1]
    lines: list[Any] = [panels.LinePlot(title=s, y=[panels.Metric(s)]) for s in STEPS]
    media = panels.MediaBrowser(media_keys=["attribution/forget", "attribution/retain", "mask"])
    sections = [
        ws.Section(name="methods", panels=[*bars, *trades], is_open=True),
        ws.Section(name="training", panels=lines),
        ws.Section(name="attribution and masks", panels=[media]),
        ws.Section(name="configs", panels=[panels.RunComparer(diff_only=True)]),
    ]
    return ws.Workspace(entity=entity, project=project, name="SIMU: methods compared", sections=sections)


def _trade(benchmark: Benchmark) -> Any:
    """What is retained against what is forgotten, the first figure of each."""
    import wandb_workspaces.reports.v2 as panels

    x, y = (panel.keys[0] for panel in benchmark.panels[:2])
    return panels.ScatterPlot(
        title=f"forgetting against retention: {benchmark.title}",
        x=panels.SummaryMetric(x),
        y=panels.SummaryMetric(y),
    )


def main(words: list[str] | None = None) -> int:
    forgiving()
    parser = argparse.ArgumentParser(prog="python -m simu.dashboard", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("entity", help="W&B user or team")
    parser.add_argument("project", nargs="?", default="simu", help="default: simu, as tracker.project")
    options = parser.parse_args(words)
    try:
        saved = workspace(options.entity, options.project).save()
    except ImportError:
        print(
            'simu.dashboard: wandb-workspaces is not installed; pip install "simu-unlearning[dashboards]"',
            file=sys.stderr,
        )
        return 2
    except Exception as error:  # whatever the server or the missing login answers, the user can only read it
        said = " ".join(str(error).split())[:200]
        hint = "" if "wandb login" in said else "; try `wandb login`"
        print(f"simu.dashboard: not saved: {said}{hint}", file=sys.stderr)
        return 2
    print(saved.url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
