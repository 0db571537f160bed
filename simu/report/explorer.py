"""What the page's script reads: every run with its settings, metrics and neurons, and the rows that it was asked.

The script shows texts as texts and computes no score: what it sorts and marks is decided here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from simu.console import inert
from simu.metrics.metric import SPLIT_ROLES, Near
from simu.report.columns import benchmark, headed, main_keys
from simu.report.direction import better
from simu.report.groups import ORIGINAL, PREFIX, Group, group, originals, short, show, varying
from simu.report.run import ALL_WEIGHTS, Run, mapping

ROOM = 2_500_000
"""Letters of rows that a page holds; of more, each run keeps its worst."""
LONGEST = 600
"""Letters of one text."""
ASKED = "–"


def explorer(runs: Sequence[Run]) -> Mapping[str, Any]:
    """All that the script needs, as plain values. Rows come worst first, and `left_out` counts those without room."""
    groups, before = group(runs), originals(runs)
    shown = [g for g in groups if g.evaluated]
    keys = list(dict.fromkeys(key for g in shown for key in main_keys(benchmark(g.benchmark), [g]) if g.estimate(key)))
    columns = varying(shown)
    lines = [_run(g, run, keys, columns) for g in shown for run in g.runs]
    chosen = [run for g in shown for run in g.runs]
    rows, left_out = _rows(chosen)
    return {
        "metrics": [{"key": key, "label": headed(key), "better": _way(key)} for key in keys],
        "settings": [{"key": key, "label": short(key)} for key in columns],
        "axes": list(benchmark(shown[0].benchmark).panels[:2] and _axes(shown[0])) if shown else [],
        "runs": lines,
        "before": [_before(g, keys) for g in before],
        "rows": rows,
        "left_out": left_out,
    }


def as_json(value: object) -> Markup:
    """JSON that may stand in a <script>: no letter of it ends the element, whatever a run is called."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _axes(g: Group) -> Iterator[str]:
    for panel in benchmark(g.benchmark).panels[:2]:
        yield panel.keys[0]


def _way(key: str) -> str | float | None:
    """'lower', 'higher', the value to be near to, or None."""
    way = better(key)
    return way.value if isinstance(way, Near) else way


def _run(g: Group, run: Run, keys: Sequence[str], columns: Sequence[str]) -> dict[str, Any]:
    git, mask = mapping(run.provenance, "git"), mapping(run.provenance, "mask")
    layers = None if run.mask == ALL_WEIGHTS else mask.get("per_layer")
    total = mask.get("total")
    return {
        "name": f"{g.kind}{f' ({apart})' if (apart := g.apart()) else ''}",
        "place": f"{g.model} on {g.place}",
        "method": g.method,
        "seed": run.seed,
        "settings": [show(run.settings[key]) if key in run.settings else ASKED for key in columns],
        "metrics": [_figure(run, key) for key in keys],
        "state": g.state(),
        "command": str(run.provenance.get("command") or ""),
        "commit": str(git.get("commit") or "")[:10] + (" + changes" if git.get("dirty") else ""),
        "digest": str(run.provenance.get("config_digest") or ""),
        "folder": str(run.path),
        "layers": layers if isinstance(layers, list) and all(isinstance(n, int) for n in layers) else [],
        "units": total // len(layers) if isinstance(layers, list) and layers and isinstance(total, int) else 0,
        "warnings": run.warnings,
    }


def _before(g: Group, keys: Sequence[str]) -> dict[str, Any]:
    return {
        "name": ORIGINAL,
        "place": f"{g.model} on {g.place}",
        "metrics": [_figure(g.first, f"{PREFIX}{key}") for key in keys],
    }


def _figure(run: Run, key: str) -> list[float] | None:
    """Value and interval, or None where the run has no such figure."""
    if (value := run.metrics.get(key)) is None:
        return None
    ends = [run.metrics.get(f"{key}/{end}") for end in ("ci_low", "ci_high")]
    return [value, *(end for end in ends if end is not None)]


# ---- rows


def _rows(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], int]:
    """Of each run: {split, id, prompt, answer, before, after, score, was, kind}; worst first, and how many are left
    out. Room is shared evenly."""
    found, left_out = [], 0
    for number, run in enumerate(runs):
        room = ROOM // max(1, len(runs))
        for row in sorted(_told(run), key=lambda told: -told["rank"]):
            room -= sum(len(row[key]) for key in ("id", "prompt", "answer", "before", "after")) + 60
            if room < 0:
                left_out += 1
            else:
                del row["rank"]
                found.append({"run": number, **row})
    return found, left_out


def _told(run: Run) -> Iterator[dict[str, Any]]:
    """A row with what became of it: leaked (the answer is still told), destroyed (it was to be kept, and is gone),
    changed, or same."""
    names = list(
        dict.fromkeys(key.rpartition("/")[2] for panel in benchmark(run.benchmark).panels for key in panel.keys)
    )
    for row in run.generations():
        after, scores = row.get("generated"), row.get("scores")
        if not isinstance(after, str) or not isinstance(scores, dict):
            continue
        score = next((scores[name] for name in names if isinstance(scores.get(name), int | float)), None)
        split, before = str(row["split"]), row.get("original")
        before = before if isinstance(before, str) else ""
        forgets = SPLIT_ROLES.get(split) == "forget"
        worse = score if forgets else None if score is None else 1 - score
        kind = "same" if before == after else "changed"
        if score is not None and forgets and score >= 0.5:
            kind = "leaked"
        elif score is not None and not forgets and score < 0.5 and before == str(row.get("answer", "")):
            kind = "destroyed"
        yield {
            "split": inert(split),
            "id": inert(str(row["id"])),
            "prompt": _cut(row.get("prompt")),
            "answer": _cut(row.get("answer")),
            "before": _cut(before),
            "after": _cut(after),
            "score": None if score is None else round(float(score), 3),
            "kind": kind,
            "rank": {"leaked": 3.0, "destroyed": 2.0, "changed": 1.0, "same": 0.0}[kind] + float(worse or 0) / 2,
        }


def _cut(text: object) -> str:
    said = "\n".join(map(inert, str(text or "").split("\n")))
    return f"{said[:LONGEST]}…" if len(said) > LONGEST else said
