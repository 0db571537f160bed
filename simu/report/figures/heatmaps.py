"""Figure 6: attribution and masks by layer. Shapes: L layers, D neurons a layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simu.report.estimate import neurons
from simu.report.figures.canvas import BLACK, COLOURS, Picture, canvas, legend_beside, titled
from simu.report.groups import Group, show
from simu.report.nearest import by_mask, by_place, nearest_to_preset
from simu.report.run import ALL_WEIGHTS, Run, finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORES, SPLITS = "attribution.safetensors", ("forget", "retain")
CELLS = 512  # columns of a heatmap; wider layers are binned


def heatmaps(groups: Sequence[Group]) -> Iterator[Picture]:
    """Attribution and masks as images [L, D], a run for each kind of mask (the config nearest to its preset)."""
    for same in by_place(groups):
        kinds = by_mask([g for g in same if g.mask != ALL_WEIGHTS])
        runs = [g.first for g in kinds.values()]
        found = {split: [s for run in runs if (s := run.tensor(SCORES, split)) is not None] for split in SPLITS}
        scores = [(split, values[0]) for split, values in found.items() if values]
        masks = [(run, mask) for run in runs if (mask := run.tensor("mask.safetensors", "mask")) is not None]
        if not scores or not masks:
            continue
        n_layers, width = scores[0][1].shape
        count = len(scores) + len(masks)
        figure, axes = canvas(1, rows=count, width=8.4, height=count * (0.55 + 0.035 * max(n_layers, 8)) + 0.6)
        for ax, (split, values) in zip(axes, scores, strict=False):
            _show_scores(ax, split, values)
        for ax, (run, mask) in zip(axes[len(scores) :], masks, strict=True):
            _show_mask(ax, run, mask)
        for ax in axes:
            ax.set(ylabel="layer", yticks=_ticks(n_layers))
            ax.grid(visible=False)
            ax.tick_params(labelbottom=ax is axes[-1])
        axes[-1].set_xlabel("neuron (row of the MLP down-projection)")
        binned = f" {width / CELLS:.0f} neurons share a column (attribution: the largest in size; masks: the mean)."
        caption = f"Figure 6: attribution and masks by layer, {same[0].model} on {same[0].place}."
        note = f"One run each (seed {runs[0].seed}), so no interval.{binned if width > CELLS else ''}"
        yield titled("figure6_heatmaps", figure, same[0], "attribution and masks by layer", note, caption)


def _show_scores(ax: Axes, split: str, values: NDArray[np.float32]) -> None:
    top = values.max(axis=1, keepdims=True)
    scaled = bins(values / np.where(top > 0, top, 1), signed=True)
    image = ax.imshow(scaled, aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1, extent=_extent(values))
    ax.set_title(f"attribution to the {split} answers, as a share of the layer's largest")
    ax.figure.colorbar(image, ax=ax, pad=0.01, ticks=[-1, 0, 1])


def _show_mask(ax: Axes, run: Run, mask: NDArray[np.float32]) -> None:
    shares = bins(mask, signed=False)
    top = float(shares.max()) or 1.0  # a sparse mask in wide bins is pale else
    image = ax.imshow(shares, aspect="auto", cmap="Greys", vmin=0, vmax=top, extent=_extent(mask))
    selected, total = neurons(run) or (int((mask > 0).sum()), mask.size)
    percent = f"{100 * selected / total:.1f} %"
    name, t = run.mask.replace("_", " "), show(_threshold(run))
    ax.set_title(f"mask {name}, t = {t}: {selected:,} of {total:,} neurons ({percent})")
    ax.figure.colorbar(image, ax=ax, pad=0.01, ticks=[0, top], format="%.3g")


def _extent(values: NDArray[Any]) -> tuple[float, float, float, float]:
    n_layers, width = values.shape
    return 0, width, n_layers - 0.5, -0.5


def layers(groups: Sequence[Group]) -> Iterator[Picture]:
    """How many neurons of each layer are critical for the forget set, the retain set, or both (Figure 6's counts)."""
    for same in by_place(groups):
        run = next((run for g in [*nearest_to_preset(same), *same] for run in g.runs if _has_both(run)), None)
        if run is None:
            continue
        forget, retain = (critical(run, split) for split in SPLITS)
        counts = [(forget & ~retain).sum(1), (forget & retain).sum(1), (retain & ~forget).sum(1)]
        n_layers, width = forget.shape
        figure, (ax,) = canvas(1, width=6.4, height=max(2.6, 0.16 * n_layers + 1.4))
        left = np.zeros(n_layers)
        looks = (("forget only", COLOURS[3], ""), ("both", BLACK, ""), ("retain only", COLOURS[0], "///"))
        for part, (label, colour, hatch) in zip(counts, looks, strict=True):
            look: Any = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5, "height": 0.8}
            ax.barh(range(n_layers), part, left=left, label=f"{label}: {int(part.sum()):,}", **look)
            left += part
        t = show(_threshold(run))
        ax.set(xlabel=f"critical neurons of {width:,} a layer, at t = {t}", ylabel="layer", yticks=_ticks(n_layers))
        ax.set_ylim(n_layers - 0.5, -0.5)
        ax.grid(visible=False, axis="y")
        legend_beside(ax)
        both, union = int(counts[1].sum()), int((forget | retain).sum())
        caption = (
            f"Figure 6, counts: neurons above t = {t} of their layer's largest score, {run.model} on {same[0].place}; "
            f"the two sets share {both:,} of {union:,} (Jaccard {both / max(union, 1):.2f})."
        )
        note = f"One run (seed {run.seed}), so no interval."
        yield titled("figure6_layers", figure, same[0], "critical neurons by layer", note, caption)


def _has_both(run: Run) -> bool:
    scores = [run.tensor(SCORES, split) for split in SPLITS]
    shapes = {None if values is None else values.shape for values in scores}
    if len(shapes) > 1 and None not in shapes:
        run.broken[SCORES] = f"{' and '.join(SPLITS)} are of different shapes"
    return _threshold(run) is not None and len(shapes) == 1 and None not in shapes


def _threshold(run: Run) -> float | None:
    return finite(run.settings.get("mask.t"))


def critical(run: Run, split: str) -> NDArray[np.bool_]:
    """Att > t·max of the layer, strictly; a layer whose largest score is ≤ 0 has none."""
    scores = run.tensor(SCORES, split)
    assert scores is not None
    top = scores.max(axis=1, keepdims=True)
    return (scores > (_threshold(run) or 0.0) * top) & (top > 0)


def bins(values: NDArray[Any], signed: bool) -> NDArray[Any]:
    """[L, D] → [L, at most CELLS]: the value largest in size of each bin (signed), or the bin's mean."""
    if values.shape[1] <= CELLS:
        return values
    parts = np.array_split(values, CELLS, axis=1)
    if not signed:
        return np.stack([part.mean(axis=1) for part in parts], axis=1)
    return np.stack([np.take_along_axis(p, np.abs(p).argmax(axis=1)[:, None], axis=1)[:, 0] for p in parts], axis=1)


def _ticks(n_layers: int) -> list[int]:
    return list(range(0, n_layers, max(1, n_layers // 8)))
