"""What a run leaves behind in its folder and shows its tracker, artifact by artifact: whole files or none."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from simu.masks.critical import critical_neurons
from simu.masks.report import finite, mask_report
from simu.metrics.collapse import collapsed
from simu.models.load import Loaded, save_folder
from simu.slots import Attribution, Mask, WithThreshold
from simu.stages.artifact import Artifact
from simu.stages.unlearning import LOG, send, warnings
from simu.store.files import read_json_lines, replacing, write_json, write_json_lines, write_tensors
from simu.types import Evaluation, NeuronMask, NeuronUnit, Scores, called

log = logging.getLogger("simu")
SAID = ("localisation/auc", "localisation/precision", "localisation/recall", "change/auc", "change/outside")
"""Of the metrics of a planted target: those on the terminal."""
INCOMPLETE = 0.1
"""Relative error of a layer's sum of scores from which on it is said."""


class Results:
    """Of one run. In a process group the main process alone writes."""

    def __init__(self, folder: Path, tracker: Any, main: bool):
        self.folder, self.tracker, self.main = folder, tracker, main
        self.metrics: dict[str, float] = {}
        """metrics.json: `original/…` before unlearning."""
        self.noted: dict[str, Any] = {}
        """For provenance.json."""
        self._attacked: list[dict[str, Any]] = []
        self._before: dict[tuple[object, object], object] = {}

    def warn(self, lines: Iterable[str]) -> None:
        """Say each line once, and note it for provenance.json."""
        said: list[str] = self.noted.setdefault("warnings", [])
        for line in lines:
            if line not in said:
                said.append(line)
                log.warning("%s", line)

    def save_original(self, evaluation: Evaluation) -> None:
        self.warn(evaluation.warnings)
        self.metrics |= {f"original/{name}": value for name, value in evaluation.metrics.items()}
        self._before = {(row["split"], row["id"]): row.get("generated") for row in evaluation.rows}

    def save_scores(self, scores: Mapping[str, Scores], attribution: Attribution) -> None:
        """attribution.safetensors: float32 [L, units] for each side; how far they are from complete, in a line."""
        for side, found in scores.items():
            if (off := found.completeness) is not None:
                self.noted.setdefault("completeness", {})[side] = finite(off)
                log.info("%-24s off by %s", f"completeness ({side})", by_layer(off))
                self.warn(incomplete(off, side, attribution))
        if scores and self.main:
            values = {side: found.values for side, found in scores.items()}
            write_tensors(self.folder / "attribution.safetensors", values, {"unit": attribution.unit})
            for side, found in scores.items():
                self.tracker.heatmap(f"attribution/{side}", found.values)

    def save_mask(
        self, mask: NeuronMask, scores: Mapping[str, Scores], component: Mask, unit: NeuronUnit = "row"
    ) -> None:
        """mask.safetensors, mask_report.json, and a line on the terminal."""
        chosen = (mask > 0).sum(dim=1).tolist()
        self.noted["mask"] = {"unit": unit, "total": mask.numel(), "selected": sum(chosen), "per_layer": chosen}
        name, share = type(component).__name__.lower(), 100 * sum(chosen) / mask.numel()
        log.info("%-24s %s: %d of %d %s (%.1f %%)", "", name, sum(chosen), mask.numel(), called(unit), share)
        log.info("%-24s by layer %s", "", brief(chosen))
        if self.main:
            write_tensors(self.folder / "mask.safetensors", {"mask": mask}, {"unit": unit})
            values = {side: found.values for side, found in scores.items()}
            t = component.t if isinstance(component, WithThreshold) else None
            critical = {f"critical_{side}": critical_neurons(v, t) for side, v in values.items() if t is not None}
            samples = {side: found.n_samples for side, found in scores.items()}
            off = {side: found.completeness for side, found in scores.items()}
            report = mask_report({"mask": mask, **critical}, values, samples, off, unit)
            write_json(self.folder / "mask_report.json", report)
            self.tracker.heatmap("mask", mask)

    def save_localisation(self, found: Mapping[str, float]) -> None:
        """metrics.json so far: how well the planted units were found; and a line on the terminal."""
        self.metrics |= found
        said = ", ".join(f"{key} {value:.3f}" for key, value in found.items() if key in SAID)
        log.info("%-24s %s", "planted units", said)
        if self.main:
            write_json(self.folder / "metrics.json", self.metrics)

    def save_training(self, unlearned: Artifact[Loaded]) -> None:
        """train_log.jsonl; a tracker that did not see the steps (they came from the cache) is sent them."""
        if not self.main or unlearned.folder is None:
            return
        with replacing(self.folder / LOG) as temporary:
            shutil.copyfile(unlearned.folder / LOG, temporary)
        lines = warnings(unlearned.folder)
        self.warn(lines) if unlearned.cached else self.noted.setdefault("warnings", []).extend(
            lines
        )  # said as it trained
        for row in read_json_lines(self.folder / LOG) if unlearned.cached else ():
            send(self.tracker, row)

    def save_evaluation(self, evaluation: Evaluation) -> None:
        """metrics.json and generations.jsonl; a row also has what the original model said (`original`)."""
        self.warn(evaluation.warnings)
        self.metrics |= evaluation.metrics
        self.warn(f"the model has collapsed: {sign}" for sign in collapsed(self.metrics))
        if not self.main:
            return
        rows = [row | {"original": self._before.get((row["split"], row["id"]))} for row in evaluation.rows]
        write_json_lines(self.folder / "generations.jsonl", rows)
        write_json(self.folder / "metrics.json", self.metrics)
        self.tracker.table("generations", rows)
        self.tracker.summary(self.metrics)

    def save_attack(self, attack: str, found: Mapping[str, Evaluation]) -> None:
        """metrics.json so far, and robustness.jsonl: `found` by who was attacked ("": the run's own model)."""
        for who, outcome in found.items():
            self.warn(outcome.warnings)
            prefix = f"{who}/{attack}" if who else attack
            self.metrics |= {f"{prefix}/{key}": value for key, value in outcome.metrics.items()}
            self._attacked += [{"attack": attack, "model": who or "unlearned", **row} for row in outcome.rows]
        if self.main:
            write_json(self.folder / "metrics.json", self.metrics)
            write_json_lines(self.folder / "robustness.jsonl", self._attacked)
            self.tracker.summary(self.metrics)

    def save_model(self, model: Any, tokenizer: Any) -> None:
        """model/: a plain Hugging Face folder."""
        with replacing(self.folder / "model") as temporary:
            save_folder(model, tokenizer, temporary)


def by_layer(off: Tensor) -> str:
    """Relative errors of layers, on a line."""
    worst = int(off.argmax())
    return f"{100 * float(off[worst]):.1f} % at most (layer {worst} of {len(off)})"


def incomplete(off: Tensor, side: str, attribution: Attribution) -> Iterator[str]:
    """A warning where a layer's scores are further than INCOMPLETE from what they should add up to, with the cure."""
    if bool((off <= INCOMPLETE).all()):
        return
    path, m = getattr(attribution, "path", ""), attribution.m
    cure = f"attribution.m={2 * m}" if path == "gauss" else f"attribution.path=gauss at the same m={m}"
    yield (
        f"attribution ({side}): the scores of {int((~(off <= INCOMPLETE)).sum())} layers have not converged, off by "
        f"{by_layer(off)}; {cure} is nearer"
    )


def brief(counts: list[int], width: int = 46) -> str:
    """All counts where a line of a terminal has room for them; of a deep model the first, the last and the extremes."""
    whole = str(counts)
    if len(whole) <= width:
        return whole
    return f"{counts[:2]} … {counts[-2:]}, {min(counts)}–{max(counts)}"
