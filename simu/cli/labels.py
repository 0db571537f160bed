"""What a run is called where it is watched: its kind, and what sets it apart from the other jobs of its sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from omegaconf import DictConfig

from simu.console import inert, shortened

LONGEST = {"group": 128, "job_type": 64, "name": 128}
"""Letters that W&B takes."""
PLAIN = ("device", "cache_dir", "save_model", "stages", "seed", "hydra", "tracker")
"""Overrides that say nothing of what is done to the model, or are said apart."""


def labels(config: DictConfig, options: Mapping[str, str], overrides: Sequence[str], job: int | None) -> dict[str, str]:
    """group, job_type and name for a dashboard, and method, data, model, seed as tags.

    job_type is the run's kind, 'simu dual npo×kl sophia selected integrated', behind the stage that it stops at where
    that is not the evaluation. The name goes on with the settings of the command line and the seed; `job`, its number
    in a sweep, ends it, so that no two jobs of a sweep share one.
    """
    model, data, method = (str(config[slot].name) for slot in ("model", "data", "method"))
    stages = [str(stage) for stage in config.stages]
    upto = [] if "evaluation" in stages else [f"{stages[-1]}:"]
    what = kind(method, options)
    settings = [word for word in overrides if _is_setting(word, options)]
    last = [f"seed={config.seed}", *([] if job is None else [f"#{job}"])]
    seed = str(config.seed)
    return {
        "group": _cut([options.get("sweep") or f"{model}-{data}"], [], LONGEST["group"]),
        "job_type": _cut([*upto, what], [], LONGEST["job_type"]),
        "name": _cut([*upto, f"{model}-{data}", what, *settings], last, LONGEST["name"]),
        "kind": _cut([what], [], LONGEST["name"]),
        "method": method,
        "data": data,
        "model": model,
        "seed": seed,
    }


def kind(method: str, options: Mapping[str, str]) -> str:
    """Method, mask, forget × retain loss, optimizer, selection, attribution, by the names of their options."""
    losses = "×".join(options[slot] for slot in ("objective", "objective/retain") if slot in options)
    mask = [] if options.get("selection") == "all" else [options.get("mask", ""), options.get("attribution", "")]
    rest = [mask[0] if mask else "all weights", losses, options.get("optimizer", ""), options.get("selection", "")]
    return " ".join(filter(None, [method, *rest, *mask[1:]]))


def _is_setting(override: str, options: Mapping[str, str]) -> bool:
    key = override.lstrip("+~").partition("=")[0]
    return key not in options and key.partition(".")[0] not in PLAIN


def _cut(words: Sequence[str], last: Sequence[str], longest: int) -> str:
    """On one line, `last` kept whole whatever the rest is."""
    end = " ".join(last)
    start = inert(" ".join(" ".join(words).split()))
    room = longest - len(end) - bool(end)
    return " ".join(filter(None, (shortened(start, room), end)))
