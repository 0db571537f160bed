"""One self-contained HTML page: every table, every figure, what was skipped, and where the numbers came from."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simu.report.collect import Skipped
from simu.report.explorer import as_json, explorer
from simu.report.records import left_out, provenance
from simu.report.render.html import environment, view
from simu.report.run import Run
from simu.report.table import Table

FOLD = 12  # lines of a record that are shown without a click


@dataclass(frozen=True)
class Drawn:
    """A figure as the page shows it: name, title, caption, and the bytes of its PNG."""

    name: str
    title: str
    caption: str
    png: bytes


def page(
    tables: Sequence[Table],
    pictures: Sequence[Drawn],
    runs: Sequence[Run],
    skipped: Sequence[Skipped],
    folded: Sequence[Table] = (),
) -> str:
    """The page as text. `pictures` are inlined; `folded`: tables behind a click."""
    parts: list[Table | Drawn] = [*tables, *pictures]
    data = explorer(runs)
    records = [t for t in (*folded, provenance(runs), left_out(skipped)) if t.rows]
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            runs=len(runs),
            skipped=len(skipped),
            links=[_link(part) for part in [*parts, *records]],
            tables=[view(table) for table in tables],
            pictures=[_picture(picture) for picture in pictures],
            records=[view(table) for table in records],
            fold=FOLD,
            data=data if data["runs"] else None,
            json=as_json(data),
        )
    )


def _link(part: Table | Drawn) -> Mapping[str, str]:
    return {"name": part.name, "title": part.title, "brief": _brief(part.title)}


def _brief(title: str) -> str:
    """'Table 1: question answering (TOFU)' → 'Table 1', 'Figure 4: tiny on mini: …' → 'Figure 4, tiny on mini'."""
    number, _, rest = title.partition(":")
    where = rest.split(":")[0].strip() if ":" in rest else rest.partition(", ")[2] if " on " in rest else ""
    return f"{number}, {where}" if where else number


def _picture(picture: Drawn) -> Mapping[str, object]:
    width = int.from_bytes(picture.png[16:20], "big") * 5 // 8  # of the header IHDR; drawn denser than a screen
    return {
        "name": picture.name,
        "title": picture.title,
        "caption": picture.caption,
        "width": width,
        "data": base64.b64encode(picture.png).decode(),
    }
