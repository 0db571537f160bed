"""What every figure shares: colours, axes, the words around them, and the bytes of its files.

Colours are Okabe and Ito's (told apart with any colour vision) and every series has its own marker as well.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simu.console import inert, shortened
from simu.report.columns import counts
from simu.report.groups import Group
from simu.report.table import file_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#222222", "#999999")
BLACK = COLOURS[6]
"""Of the model before unlearning, where methods have the other colours."""
POINTS = tuple(colour for colour in COLOURS if colour != BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "<", "*", ">", "h")
BEFORE = " In brackets, and dotted where it is on the scale: before unlearning."
LINE = 60  # letters of a legend's line
TITLE = 160  # letters of a name in a title
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
    "text.parse_math": False,  # a name may hold any sign
}


@dataclass(frozen=True)
class Picture:
    """A drawn figure: the name of its files, a title, and a caption that says what it shows, with n and interval."""

    name: str
    title: str
    caption: str
    figure: Figure


def png_and_pdf(picture: Picture) -> tuple[bytes, bytes]:
    """The picture's files (PNG: 200 dpi), without dates: the same runs give the same bytes."""
    import matplotlib
    from matplotlib.text import Text

    png, pdf = io.BytesIO(), io.BytesIO()
    for text in picture.figure.findobj(Text):
        lines = (shortened(line, int(19 * picture.figure.get_figwidth())) for line in text.get_text().split("\n"))
        text.set_text("\n".join(lines))
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks are boxes, and no lines in a progress bar
        picture.figure.savefig(png, format="png", dpi=200)
        picture.figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    return png.getvalue(), pdf.getvalue()


def canvas(columns: int, rows: int = 1, width: float = 0.0, height: float = 3.7) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width or 3.1 * columns + 0.4, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def titled(name: str, figure: Figure, g: Group, what: str, note: str, caption: str, suffix: str = "") -> Picture:
    """Say inside the picture what it is of and what the bars are, so that it can stand alone."""
    model, place = (shortened(inert(name), TITLE) for name in (g.model, g.place))
    title = f"{model} on {place}: {shortened(inert(what), TITLE)}"
    figure.suptitle(textwrap.fill(title, int(11 * figure.get_figwidth())), x=0.01, ha="left", weight="bold")
    if note:
        lines = textwrap.fill(note, int(18 * figure.get_figwidth()))
        figure.supxlabel(lines, x=0.01, ha="left", fontsize=7.5, color="#555555")
    number = caption.split(":")[0]
    file = file_name(f"{name}_{g.model}_{g.place}{suffix}")
    return Picture(file, inert(f"{number}: {title}"), inert(f"{caption} {note}".strip()), figure)


def evidence(groups: Sequence[Group]) -> str:
    """'2 seeds a point; n: forget 40, …; bars: 95 % intervals over seeds (Student t), cut at 0 and 1.'"""
    seeds = sorted({g.seeds for g in groups})
    many = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]}–{seeds[-1]}"
    noun = "seed" if seeds == [1] else "seeds"
    rows = " or ".join(dict.fromkeys(counts(g) for g in groups))
    over_rows, over_seeds = "over rows (bootstrap or Wilson)", "over seeds (Student t), cut at 0 and 1"
    if seeds[0] > 1:
        bars = over_seeds
    else:
        bars = over_rows if seeds == [1] else f"{over_seeds}, where several ran, else {over_rows}"
    return f"{many} {noun} a point; n: {rows}; bars: 95 % intervals {bars}."


def legend(ax: Axes) -> None:
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
        _wrap(ax)


def legend_beside(ax: Axes, handles: Sequence[Any] | None = None) -> None:
    """To the right of the axes."""
    more = {} if handles is None else {"handles": handles}
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), **more)
    _wrap(ax)


def _wrap(ax: Axes) -> None:
    """Legends leave the axes their room and lose no option of a kind, however long a name is."""
    drawn = ax.get_legend()
    for text in drawn.get_texts() if drawn else ():
        text.set_text("\n".join(map(wrapped, text.get_text().split("\n"))))


def wrapped(name: str) -> str:
    """On lines of LINE letters, broken between the parts of a kind; each part cut where it is longer than that."""
    lines: list[str] = []
    for part in (shortened(part, LINE) for part in inert(name).split(" · ")):
        if lines and len(lines[-1]) + len(part) + 3 <= LINE:
            lines[-1] += f" · {part}"
        else:
            lines.append(part)
    return "\n".join(lines)


def original_of(g: Group, before: Sequence[Group]) -> Group | None:
    """The same model before unlearning, asked the same."""
    return next((o for o in before if (o.model, o.place) == (g.model, g.place)), None)
