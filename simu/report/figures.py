"""Figures 2–6 and the training curves, drawn from finished runs with matplotlib (extra `plots`).

Colours are Okabe and Ito's (told apart with any colour vision) and every series has its own marker as well. Shapes: L
layers, D neurons a layer.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from simu.report.collect import Run
from simu.report.groups import Estimate, Group, neurons, short, show
from simu.report.tables import METHODS, by_mask, by_place, counts, file_name, is_lume, mask_rank, nearest_to_preset
from simu.types import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#222222", "#999999")
POINTS = tuple(colour for colour in COLOURS if colour != "#222222")  # black is the model before unlearning
MARKERS = ("o", "s", "^", "D", "v", "P", "<", "*", ">", "h")
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.titlesize": 11,
    "pdf.fonttype": 42,
    "image.interpolation": "nearest",
}
SCORES, SIDES = "attribution.safetensors", ("forget", "retain")
CELLS = 512  # columns of a heatmap; wider layers are binned


@dataclass(frozen=True)
class Picture:
    """A drawn figure: the name of its files, a title, and a caption that says what it shows, with n and interval."""

    name: str
    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Panel:
    """One axes of a curve or a comparison: its title and (metric, label) for each series."""

    title: str
    series: tuple[tuple[str, str], ...]


QA_PANELS = (
    Panel(
        "Forgetting: lower is better",
        (
            ("forget/rouge_l_recall", "forget ROUGE-L recall"),
            ("forget/exact_match", "forget exact match"),
            ("mia/min_k", "MIA AUC, min-k"),
        ),
    ),
    Panel(
        "Utility: higher is better",
        (
            ("retain/rouge_l_recall", "retain ROUGE-L recall"),
            ("retain/exact_match", "retain exact match"),
            ("world_facts/contains_answer", "world facts contain answer"),
        ),
    ),
    Panel("Aggregate: higher is better", (("aggregate", "aggregate"),)),
)
LUME_PANELS = (
    Panel(
        "Forgetting: lower is better",
        (("forget/regurgitation", "forget Reg (ROUGE-L recall)"), ("forget/knowledge", "forget Kno (exact match)")),
    ),
    Panel(
        "Utility: higher is better",
        (("retain/regurgitation", "retain Reg (ROUGE-L recall)"), ("retain/knowledge", "retain Kno (exact match)")),
    ),
    Panel("Aggregate: higher is better", (("aggregate", "aggregate"),)),
)


def draw(groups: Sequence[Group], before: Sequence[Group]) -> list[Picture]:
    """Every figure that the runs have the points for. Raises UserError where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("figures need matplotlib: pip install 'simu-unlearning[plots]', or --no-figures") from error
    evaluated = [g for g in groups if g.evaluated]
    m, t = "m, steps of the path integral", "t, share of the layer's largest score"
    with matplotlib.rc_context(STYLE):
        return [
            *curves("figure2_m", "Figure 2", "attribution.m", m, evaluated, before),
            *curves("figure3_t", "Figure 3", "mask.t", t, evaluated, before),
            *trade_offs(evaluated, before),
            *weights(evaluated, before),
            *mask_comparisons(evaluated, before),
            *heatmaps(groups),
            *layers(groups),
            *training_curves(evaluated),
        ]


def save(picture: Picture, folder: Path) -> list[Path]:
    """Write NAME.png (200 dpi) and NAME.pdf, without dates: the same runs give the same bytes."""
    import matplotlib

    paths = [folder / f"{picture.name}.png", folder / f"{picture.name}.pdf"]
    with matplotlib.rc_context(STYLE):
        picture.figure.savefig(paths[0], dpi=200)
        picture.figure.savefig(paths[1], metadata={"CreationDate": None})
    return paths


# --- figures 2 and 3: curves over one setting ------------------------------------------------------------------------


def curves(
    name: str, number: str, key: str, label: str, groups: Sequence[Group], before: Sequence[Group]
) -> Iterator[Picture]:
    """One picture for each model and data (the longest line of configs that differ in `key` alone)."""
    for line in _longest(swept(key, groups)):
        g, xs = line[0], [float(str(p.settings[key])) for p in line]
        shares = [p.share_selected() for p in line]
        panels = list(_panels(g))
        figure, axes = _canvas(len(panels) + (key == "mask.t" and all(shares)))
        original = _original(g, before)
        for ax, panel in zip(axes, panels, strict=False):
            for i, (metric, text) in enumerate(panel.series):
                level = original.estimate(metric) if original else None
                _line(ax, i, _dodged(xs, i, len(panel.series)), [p.estimate(metric) for p in line], text, level)
            ax.set_title(panel.title)
        _controls(axes[len(panels) - 1], g, groups)
        for ax, panel in zip(axes, panels, strict=False):
            _fit(ax, "y")
            if original:
                _levels(ax, [original.estimate(metric) for metric, _ in panel.series], ax.axhline)
        axes[0].set_ylabel("score, 0 to 1")
        if len(axes) > len(panels):
            _line(axes[-1], 6, xs, [s and _percent(s) for s in shares], "critical neurons")
            axes[-1].set(title="MLP neurons that train", ylabel="% of all", ylim=(-3, 103))
        for ax in axes:
            ticks = xs if len(xs) <= 6 else xs[::2]
            ax.set_xticks(ticks, map(show, ticks))
            ax.set_xlabel(label)
            _legend(ax)
        caption = f"{number}: {g.method}, mask {g.mask}, over {key}.{BEFORE if original else ''}"
        yield _titled(name, figure, g, f"{g.method}, mask {g.mask}, over {short(key)}", _evidence(line), caption)


def swept(key: str, groups: Iterable[Group]) -> list[list[Group]]:
    """Groups that differ in `key` alone, two values at least, in the order of `key`."""
    lines: dict[str, list[Group]] = {}
    for g in groups:
        reads = g.mask not in ("none", "all", "all weights") or not key.startswith(("mask.", "attribution."))
        if isinstance(g.settings.get(key), int | float) and reads:
            rest = {k: v for k, v in g.settings.items() if k != key}
            lines.setdefault(repr(sorted(rest.items())), []).append(g)
    return [sorted(line, key=lambda g: float(str(g.settings[key]))) for line in lines.values() if len(line) > 1]


def _longest(lines: list[list[Group]]) -> list[list[Group]]:
    best: dict[tuple[str, str], list[Group]] = {}
    for line in sorted(lines, key=len):
        best[line[0].place, line[0].model] = line
    return [best[key] for key in sorted(best)]


def _controls(ax: Axes, g: Group, groups: Sequence[Group]) -> None:
    """Controls beside a curve's aggregate: no MLP neuron, random neurons."""
    nearest = by_mask([o for o in groups if (o.model, o.place, o.method) == (g.model, g.place, g.method)])
    for mask, style in (("none", "--"), ("random", "-.")):
        level = nearest[mask].estimate("aggregate") if mask in nearest and mask != g.mask else None
        if level:
            ax.axhline(level.mean, color="#555555", linestyle=style, linewidth=1, label=f"mask {mask}", zorder=1)


# --- figure 4: what forgetting costs ---------------------------------------------------------------------------------


def trade_offs(groups: Sequence[Group], before: Sequence[Group]) -> Iterator[Picture]:
    """Retained against forgotten, one point a config; each method's config nearest to its preset is the large one."""
    for same in by_place(groups):
        g = same[0]
        (x, name_x), (y, name_y) = (panel.series[0] for panel in _panels(g)[:2])
        if len(same) < 2 or not any(p.estimate(x) and p.estimate(y) for p in same):
            continue
        from matplotlib.lines import Line2D

        figure, (ax,) = _canvas(1, width=5.6, height=4.2)
        kinds = list(dict.fromkeys((p.method, p.mask) for p in sorted(same, key=_rank)))
        large = {id(p) for kind in kinds for p in _nearest([q for q in same if (q.method, q.mask) == kind])}
        for p in sorted(same, key=lambda p: id(p) in large):
            _point(ax, kinds.index((p.method, p.mask)), p.estimate(x), p.estimate(y), id(p) in large)
        _fit(ax, "x")
        _fit(ax, "y")
        handles = [
            Line2D(
                [],
                [],
                linestyle="",
                color=POINTS[i % len(POINTS)],
                marker=MARKERS[i % len(MARKERS)],
                markersize=7,
                label=f"{method} · {mask}",
            )
            for i, (method, mask) in enumerate(kinds)
        ]
        original = _original(g, before)
        levels = [original.estimate(metric) for metric in (x, y)] if original else []
        if len(levels) == 2 and levels[0] and levels[1]:
            at = levels[0].mean, levels[1].mean
            ax.plot(*at, "X", color="#222222", markersize=8, scalex=False, scaley=False)
            said = f"before unlearning ({at[0]:.2f}, {at[1]:.2f})"
            handles.append(Line2D([], [], linestyle="", color="#222222", marker="X", markersize=7, label=said))
        ax.set(xlabel=f"{name_x}: lower is better", ylabel=f"{name_y}: higher is better")
        ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5))
        caption = (
            "Figure 4: retained against forgotten; the best corner is at the top left. The model before unlearning may "
            "be off the scale."
        )
        note = f"Large: nearest to the preset; small: other settings. {_evidence(same)}"
        yield _titled("figure4_tradeoff", figure, g, "retained against forgotten", note, caption)


def _point(ax: Axes, i: int, x: Estimate | None, y: Estimate | None, main: bool) -> None:
    if x is None or y is None:
        return
    colour, marker = POINTS[i % len(POINTS)], MARKERS[i % len(MARKERS)]
    if main:
        ax.errorbar(
            x.mean,
            y.mean,
            xerr=_arms([x]),
            yerr=_arms([y]),
            fmt=marker,
            color=colour,
            markersize=8,
            elinewidth=1,
            capsize=2,
            markeredgecolor="white",
            zorder=3,
        )
    else:
        ax.plot(x.mean, y.mean, marker, color=colour, markersize=4, alpha=0.5, markeredgewidth=0)


def weights(groups: Sequence[Group], before: Sequence[Group]) -> Iterator[Picture]:
    """Forgotten, retained and aggregate over λ, a line for each method and mask."""
    key = "objective.retain_weight"
    for same in by_place(groups):
        longest = {(line[0].method, line[0].mask): line for line in sorted(swept(key, same), key=len)}
        lines = sorted((line for line in longest.values() if len(line) > 2), key=lambda line: _rank(line[0]))
        if not lines:
            continue
        figure, axes = _canvas(3)
        panels = _panels(same[0])
        original = _original(same[0], before)
        ticks = sorted({float(str(p.settings[key])) for line in lines for p in line})
        for ax, panel in zip(axes, panels, strict=True):
            metric, text = panel.series[0]
            for i, line in enumerate(lines):
                xs = [float(str(p.settings[key])) * 1.03 ** (i - (len(lines) - 1) / 2) for p in line]
                _line(ax, i, xs, [p.estimate(metric) for p in line], f"{line[0].method} · {line[0].mask}")
            level = original.estimate(metric) if original else None
            ax.set(title=panel.title, ylabel=f"{text}, 0 to 1", xlabel="λ, weight of the retain side", xscale="log")
            ax.set_xticks(ticks, map(show, ticks), minor=False)
            ax.set_xticks([], minor=True)
            _fit(ax, "y")
            if level:
                _levels(ax, [level], ax.axhline, "#222222")
                ax.plot([], [], ":", color="#222222", linewidth=1, label=f"before unlearning: {level.mean:.2f}")
            _legend(ax)
        shown = [p for line in lines for p in line]
        caption = "Figure 4, λ: what is forgotten and retained over the weight of the retain side."
        yield _titled("figure4_lambda", figure, same[0], "forgetting and utility over λ", _evidence(shown), caption)


# --- figure 5: masks -------------------------------------------------------------------------------------------------


def mask_comparisons(groups: Sequence[Group], before: Sequence[Group]) -> Iterator[Picture]:
    """The kinds of mask side by side, everything else as in the method's preset."""
    for same in by_place(groups):
        for method in dict.fromkeys(g.method for g in same):
            kinds = by_mask([g for g in same if g.method == method])
            if len(kinds) < 2:
                continue
            shown = list(kinds.values())
            g, panels = shown[0], _panels(shown[0])
            figure, axes = _canvas(len(panels), height=0.42 * len(shown) + 1.6)
            original = _original(g, before)
            for ax, panel in zip(axes, panels, strict=True):
                for i, (metric, text) in enumerate(panel.series):
                    offset = 0.18 * (i - (len(panel.series) - 1) / 2)
                    points = [(row + offset, e) for row, p in enumerate(shown) if (e := p.estimate(metric))]
                    level = original.estimate(metric) if original else None
                    ax.errorbar(
                        [e.mean for _, e in points],
                        [at for at, _ in points],
                        xerr=_arms([e for _, e in points]),
                        fmt=MARKERS[i],
                        color=COLOURS[i],
                        markersize=5,
                        elinewidth=1,
                        capsize=2,
                        label=_said(text, level),
                    )
                _fit(ax, "x")
                if original:
                    _levels(ax, [original.estimate(metric) for metric, _ in panel.series], ax.axvline)
                ax.set(
                    title=panel.title, yticks=range(len(shown)), ylim=(len(shown) - 0.5, -0.5), xlabel="score, 0 to 1"
                )
                ax.set_yticklabels([_mask_label(p) for p in shown] if ax is axes[0] else [])
                ax.grid(visible=False, axis="y")
                _legend(ax)
            caption = (
                f"Figure 5: kinds of mask under {method}, {g.model} on {g.place}; in brackets the share of MLP neurons "
                f"that train.{BEFORE if original else ''}"
            )
            suffix = "" if method == "simu" else f"_{method}"
            yield _titled("figure5_masks", figure, g, f"{method} by mask", _evidence(shown), caption, suffix)


def _mask_label(g: Group) -> str:
    share = g.share_selected()
    return f"{g.mask.replace('_', ' ')} ({100 * share.mean:.1f} %)" if share else g.mask.replace("_", " ")


# --- figure 6: attribution and masks by layer ------------------------------------------------------------------------


def heatmaps(groups: Sequence[Group]) -> Iterator[Picture]:
    """Attribution and masks as images [L, D], a run for each kind of mask (the config nearest to its preset)."""
    for same in by_place(groups):
        kinds = by_mask([g for g in same if g.mask != "all weights"])
        runs = [g.first for g in kinds.values()]
        found = {side: [s for run in runs if (s := run.tensor(SCORES, side)) is not None] for side in SIDES}
        scores = [(side, values[0]) for side, values in found.items() if values]
        masks = [(run, mask) for run in runs if (mask := run.tensor("mask.safetensors", "mask")) is not None]
        if not scores or not masks:
            continue
        n_layers, width = scores[0][1].shape
        count = len(scores) + len(masks)
        figure, axes = _canvas(1, rows=count, width=8.4, height=count * (0.55 + 0.035 * max(n_layers, 8)) + 0.6)
        for ax, (side, values) in zip(axes, scores, strict=False):
            top = values.max(axis=1, keepdims=True)
            image = ax.imshow(
                _bins(values / np.where(top > 0, top, 1), signed=True),
                aspect="auto",
                cmap="RdBu_r",
                vmin=-1,
                vmax=1,
                extent=(0, width, n_layers - 0.5, -0.5),
            )
            ax.set_title(f"attribution to the {side} answers, as a share of the layer's largest")
            figure.colorbar(image, ax=ax, pad=0.01, ticks=[-1, 0, 1])
        for ax, (run, mask) in zip(axes[len(scores) :], masks, strict=True):
            shares = _bins(mask, signed=False)
            top = float(shares.max()) or 1.0  # a sparse mask in wide bins is pale else
            image = ax.imshow(
                shares, aspect="auto", cmap="Greys", vmin=0, vmax=top, extent=(0, width, n_layers - 0.5, -0.5)
            )
            selected, total = neurons(run) or (int((mask > 0).sum()), mask.size)
            t = show(_threshold(run))
            ax.set_title(
                f"mask {run.mask.replace('_', ' ')}, t = {t}: {selected:,} of {total:,} neurons "
                f"({100 * selected / total:.1f} %)"
            )
            figure.colorbar(image, ax=ax, pad=0.01, ticks=[0, top], format="%.3g")
        for ax in axes:
            ax.set(ylabel="layer", yticks=_ticks(n_layers))
            ax.grid(visible=False)
            ax.tick_params(labelbottom=ax is axes[-1])
        axes[-1].set_xlabel("neuron (row of the MLP down-projection)")
        binned = f" {width / CELLS:.0f} neurons share a column (attribution: the largest in size; masks: the mean)."
        caption = f"Figure 6: attribution and masks by layer, {same[0].model} on {same[0].place}."
        note = f"One run each (seed {runs[0].seed}), so no interval.{binned if width > CELLS else ''}"
        yield _titled("figure6_heatmaps", figure, same[0], "attribution and masks by layer", note, caption)


def layers(groups: Sequence[Group]) -> Iterator[Picture]:
    """How many neurons of each layer are critical for the forget set, the retain set, or both (Figure 6's counts)."""
    for same in by_place(groups):
        run = next((run for g in [*_nearest(same), *same] for run in g.runs if _both_sides(run)), None)
        if run is None:
            continue
        forget, retain = (_critical(run, side) for side in SIDES)
        counts = [(forget & ~retain).sum(1), (forget & retain).sum(1), (retain & ~forget).sum(1)]
        n_layers, width = forget.shape
        figure, (ax,) = _canvas(1, width=6.4, height=max(2.6, 0.16 * n_layers + 1.4))
        left = np.zeros(n_layers)
        looks = (("forget only", COLOURS[3], ""), ("both", COLOURS[6], ""), ("retain only", COLOURS[0], "///"))
        for part, (label, colour, hatch) in zip(counts, looks, strict=True):
            ax.barh(
                range(n_layers),
                part,
                left=left,
                label=f"{label}: {int(part.sum()):,}",
                color=colour,
                hatch=hatch,
                edgecolor="white",
                linewidth=0.5,
                height=0.8,
            )
            left += part
        t = show(_threshold(run))
        ax.set(
            xlabel=f"critical neurons of {width:,} a layer, at t = {t}",
            ylabel="layer",
            yticks=_ticks(n_layers),
            ylim=(n_layers - 0.5, -0.5),
        )
        ax.grid(visible=False, axis="y")
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        both, union = int(counts[1].sum()), int((forget | retain).sum())
        caption = (
            f"Figure 6, counts: neurons above t = {t} of their layer's largest score, {run.model} on {same[0].place}; "
            f"the two sets share {both:,} of {union:,} (Jaccard {both / max(union, 1):.2f})."
        )
        note = f"One run (seed {run.seed}), so no interval."
        yield _titled("figure6_layers", figure, same[0], "critical neurons by layer", note, caption)


def _both_sides(run: Run) -> bool:
    return _threshold(run) is not None and all(run.tensor(SCORES, side) is not None for side in SIDES)


def _threshold(run: Run) -> float | None:
    t = run.settings().get("mask.t")
    return float(t) if isinstance(t, int | float) else None


def _critical(run: Run, side: str) -> NDArray[np.bool_]:
    """Att > t·max of the layer, strictly; a layer whose largest score is ≤ 0 has none."""
    scores = run.tensor(SCORES, side)
    assert scores is not None
    top = scores.max(axis=1, keepdims=True)
    return (scores > (_threshold(run) or 0.0) * top) & (top > 0)


def _bins(values: NDArray[Any], signed: bool) -> NDArray[Any]:
    """[L, D] → [L, at most CELLS]: the value largest in size of each bin (signed), or the bin's mean."""
    if values.shape[1] <= CELLS:
        return values
    parts = np.array_split(values, CELLS, axis=1)
    if not signed:
        return np.stack([part.mean(axis=1) for part in parts], axis=1)
    return np.stack([np.take_along_axis(p, np.abs(p).argmax(axis=1)[:, None], axis=1)[:, 0] for p in parts], axis=1)


def _ticks(n_layers: int) -> list[int]:
    return list(range(0, n_layers, max(1, n_layers // 8)))


# --- training --------------------------------------------------------------------------------------------------------


def training_curves(groups: Sequence[Group]) -> Iterator[Picture]:
    """Forget and retain loss and the clipped fraction by step, each method nearest to its preset."""
    wanted = (
        ("forget_loss", "Forget loss, as the objective signs it"),
        ("retain_loss", "Retain loss"),
        ("clipped_fraction", "Clipped fraction"),
    )
    for same in by_place(groups):
        shown = [(g, log) for g in sorted(_nearest(same), key=_rank) if (log := g.first.training())]
        if not shown:
            continue
        figure, axes = _canvas(len(wanted))
        window = max(1, max(len(log) for _, log in shown) // 20)
        for ax, (key, title) in zip(axes, wanted, strict=True):
            for i, (g, log) in enumerate(shown):
                pairs = [(line["step"], line.get(key)) for line in log]
                points = [pair for pair in pairs if all(isinstance(value, int | float) for value in pair)]
                if points:
                    colour, style = COLOURS[i % len(COLOURS)], ("-", "--", "-.", ":")[i % 4]
                    steps, values = np.array(points, dtype=float).T
                    ax.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
                    ax.plot(
                        steps,
                        _smooth(values, window),
                        color=colour,
                        linestyle=style,
                        linewidth=1.6,
                        label=f"{g.method} · {g.mask}",
                    )
            ax.set(title=title, xlabel="step")
        axes[0].set_ylabel("loss")
        axes[-1].set_ylabel("share of coordinates, 0 to 1")
        _legend(axes[0])
        g = same[0]
        caption = (
            f"Training: {g.model} on {g.place}, each method's config nearest to its preset. Clipped: share of "
            "coordinates whose second-order step is cut to ±1 (first-order methods have none). Thin: every step; "
            f"thick: mean of {window} steps."
        )
        yield _titled(
            "training", figure, g, "losses by step", "One run each (its first seed), so no interval.", caption
        )


# --- shared ----------------------------------------------------------------------------------------------------------


def _canvas(columns: int, rows: int = 1, width: float = 0.0, height: float = 3.7) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width or 3.1 * columns + 0.4, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


BEFORE = " In brackets, and dotted where it is on the scale: before unlearning."
SPAN = 0.1  # least width of a scale, so that noise does not look like an effect


def _line(
    ax: Axes, i: int, xs: Sequence[float], values: Sequence[Estimate | None], label: str, before: Estimate | None = None
) -> None:
    points = [(x, e) for x, e in zip(xs, values, strict=True) if e is not None]
    if points:
        i %= len(COLOURS)
        ax.errorbar(
            [x for x, _ in points],
            [e.mean for _, e in points],
            yerr=_arms([e for _, e in points]),
            color=COLOURS[i],
            marker=MARKERS[i],
            markersize=5,
            linewidth=1.5,
            elinewidth=1,
            capsize=2,
            label=_said(label, before),
            clip_on=False,
        )


def _said(label: str, before: Estimate | None) -> str:
    return f"{label} (before: {before.mean:.2f})" if before else label


def _dodged(xs: Sequence[float], i: int, n: int) -> list[float]:
    """Series beside one another, so that points of the same height stay visible."""
    gap = min(b - a for a, b in pairwise(xs))
    return [x + 0.1 * gap * (i - (n - 1) / 2) for x in xs]


def _arms(estimates: Sequence[Estimate]) -> Any:
    """Lengths of error bars [2, n], 0 where there is no interval; cut at 0 and 1 where the figure lies between them."""
    pairs = []
    for e in estimates:
        low, high = (e.mean if end is None else end for end in (e.low, e.high))
        if 0 <= e.mean <= 1:
            low, high = max(low, 0.0), min(high, 1.0)
        pairs.append((e.mean - low, high - e.mean))
    return np.clip(np.array(pairs).T, 0, None)


def _percent(e: Estimate) -> Estimate:
    return Estimate(mean=100 * e.mean, low=e.low and max(0.0, 100 * e.low), high=e.high and min(100.0, 100 * e.high))


def _fit(ax: Axes, axis: Literal["x", "y"]) -> None:
    """Fix a scale to what is drawn so far, SPAN wide at least, and not wider below 0 or above 1 for that."""
    low, high = ax.get_xlim() if axis == "x" else ax.get_ylim()
    more = max(0.0, SPAN - (high - low))
    under = min(more / 2, max(0.0, low + 0.01))
    over = min(more - under, max(0.0, 1.01 - high))
    (ax.set_xlim if axis == "x" else ax.set_ylim)(low - (more - over), high + over)


def _levels(ax: Axes, levels: Sequence[Estimate | None], draw: Callable[..., Any], colour: str = "") -> None:
    """Dotted lines before unlearning; the scale stays, so a line may be off it."""
    for i, level in enumerate(levels):
        if level:
            draw(level.mean, color=colour or COLOURS[i], linestyle=":", linewidth=1, zorder=1)


def _smooth(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Mean over up to `window` steps around each."""
    kernel = np.ones(min(window, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


def _legend(ax: Axes) -> None:
    """Half an inch under the axes, so that it never covers a point; curves first, reference lines after them."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import ScaledTranslation

    pairs = sorted(zip(*ax.get_legend_handles_labels(), strict=True), key=lambda pair: isinstance(pair[0], Line2D))
    if pairs:
        below = ScaledTranslation(0, -0.45 if ax.get_xlabel() else -0.28, ax.figure.dpi_scale_trans)
        ax.legend(
            *zip(*pairs, strict=True),
            loc="upper left",
            bbox_to_anchor=(0, 0),
            borderaxespad=0,
            bbox_transform=ax.transAxes + below,
        )


def _titled(name: str, figure: Figure, g: Group, what: str, note: str, caption: str, suffix: str = "") -> Picture:
    """Say inside the picture what it is of and what the bars are, so that it can stand alone."""
    title = f"{g.model} on {g.place}: {what}"
    figure.suptitle(textwrap.fill(title, int(11 * figure.get_figwidth())), x=0.01, ha="left", weight="bold")
    if note:
        lines = textwrap.fill(note, int(18 * figure.get_figwidth()))
        figure.supxlabel(lines, x=0.01, ha="left", fontsize=7.5, color="#555555")
    number = caption.split(":")[0]
    file = f"{name}_{g.model}_{file_name(g.place)}{suffix}"
    return Picture(file, f"{number}: {title}", f"{caption} {note}".strip(), figure)


def _evidence(groups: Sequence[Group]) -> str:
    """'2 seeds a point; n: forget 40, …; bars: 95 % intervals over seeds (Student t), cut at 0 and 1.'"""
    seeds = sorted({g.seeds for g in groups})
    many = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]}–{seeds[-1]}"
    noun = "seed" if seeds == [1] else "seeds"
    rows = " or ".join(dict.fromkeys(counts(g) for g in groups))
    over_rows, over_seeds = "over rows (bootstrap)", "over seeds (Student t), cut at 0 and 1"
    if seeds[0] > 1:
        bars = over_seeds
    else:
        bars = over_rows if seeds == [1] else f"{over_seeds}, where several ran, else {over_rows}"
    return f"{many} {noun} a point; n: {rows}; bars: 95 % intervals {bars}."


def _panels(g: Group) -> tuple[Panel, ...]:
    return LUME_PANELS if is_lume(g) else QA_PANELS


def _original(g: Group, before: Sequence[Group]) -> Group | None:
    return next((o for o in before if (o.model, o.place) == (g.model, g.place)), None)


def _nearest(groups: Sequence[Group]) -> list[Group]:
    return nearest_to_preset(groups)


def _rank(g: Group) -> tuple[int, str, int]:
    return METHODS.index(g.method) if g.method in METHODS else len(METHODS), g.method, mask_rank(g.mask)
