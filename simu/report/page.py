"""One self-contained HTML page: every table, every figure, what was skipped, and where the numbers came from."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from simu.report import render
from simu.report.collect import Run, Skipped, mapping
from simu.report.tables import Column, Row, Table

CSS = """
:root{--ink:#1b1b1b;--soft:#5c5c5c;--line:#dcdcdc;--band:#f5f6f8;--paper:#0072b2;--gap:#9a4a00}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--ink);background:#fff;margin:0}
header,main,footer{max-width:1500px;margin:0 auto;padding:0 24px}
header{padding-top:28px}h1{font-size:26px;margin:0 0 4px}h2{font-size:18px;margin:0 0 10px;overflow-wrap:anywhere}
header p{margin:4px 0;color:var(--soft)}
nav{position:sticky;top:0;background:#fff;border-bottom:1px solid var(--line);z-index:3}
nav div{max-width:1500px;margin:0 auto;padding:8px 24px;display:flex;gap:4px 16px;overflow-x:auto}
nav a{color:var(--paper);text-decoration:none;white-space:nowrap;font-size:13px}nav a:hover{text-decoration:underline}
section{margin:34px 0;scroll-margin-top:52px}
.scroll{overflow-x:auto;width:fit-content;max-width:100%;border:1px solid var(--line);border-radius:6px}
table{border-collapse:collapse;font-size:13px}
th,td{padding:5px 9px;text-align:left;vertical-align:top}
th{background:var(--band);font-weight:600;white-space:nowrap;border-bottom:1px solid var(--line)}
th.span{text-align:center;border-left:1px solid var(--line);border-right:1px solid var(--line)}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td small{display:block;color:var(--soft);font-size:11px}tr.ours{border-top:1px solid var(--line)}
tr.paper td{color:var(--paper)}tr.difference td{color:var(--gap)}td{white-space:nowrap}
td.long{white-space:normal;max-width:30em;overflow-wrap:break-word}
.texts td.long{min-width:11em;overflow-wrap:anywhere}
td:first-child,tr:last-child>th:first-child{position:sticky;left:0;z-index:1}td:first-child{background:#fff}
ul.notes{color:var(--soft);font-size:13px;margin:8px 0 0;padding-left:18px}
figure{margin:0}figure img{max-width:100%;height:auto;border:1px solid var(--line);border-radius:6px;padding:10px}
figcaption{color:var(--soft);font-size:13px;margin-top:6px;max-width:75em}
summary{cursor:pointer;color:var(--paper);margin:8px 0}footer{color:var(--soft);font-size:13px;padding-bottom:40px}
@media(max-width:700px){header,main,footer,nav div{padding-left:12px;padding-right:12px}h1{font-size:22px}
td:first-child{max-width:9em;white-space:normal;overflow-wrap:break-word}figure img{padding:2px}
.texts thead{display:none}.texts tr,.texts td{display:block;position:static;max-width:none;white-space:normal}
.texts td{padding:2px 9px}.texts td::before{content:attr(data-label) ": ";font-weight:600;color:var(--soft)}
.texts tr{padding:6px 0}}
"""
FOLD = 12  # lines of a record that are shown without a click


def page(
    tables: Sequence[Table],
    pictures: Sequence[tuple[str, str, str, Path]],
    runs: Sequence[Run],
    skipped: Sequence[Skipped],
    folded: Sequence[Table] = (),
) -> str:
    """The page as text. `pictures`: (name, title, caption, PNG file), inlined; `folded`: tables behind a click."""
    records = [t for t in (*folded, provenance(runs), left_out(skipped)) if t.rows]
    links = [(t.name, t.title) for t in tables] + [(name, title) for name, title, _, _ in pictures]
    links += [(t.name, t.title) for t in records]
    nav = "".join(
        f'<a href="#{name}" title="{html.escape(text)}">{html.escape(_brief(text))}</a>' for name, text in links
    )
    parts = [*map(render.hypertext, tables), *(_picture(*picture) for picture in pictures), *map(_record, records)]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>SIMU: report over {len(runs)} runs</title><style>{CSS}</style></head><body>"
        f"<header><h1>Selective influence machine unlearning: report</h1><p>Finished runs: {len(runs)}; left out: "
        f"{len(skipped)}. Blue rows are printed in arXiv 2510.07822; brown rows are ours minus printed.</p>"
        f"</header><nav><div>{nav}</div></nav><main>{''.join(parts)}</main>"
        "<footer>Made by python -m simu.report; the tables lie beside this page as md, csv and tex, the figures as "
        "png and pdf.</footer></body></html>\n"
    )


def provenance(runs: Sequence[Run]) -> Table:
    """The result card of every run: command, code, versions, machine, time."""
    heads = ("run", "command", "commit", "versions", "machine", "finished", "seconds")
    rows = []
    for run in runs:
        p = run.provenance
        git, machine = mapping(p, "git"), mapping(p, "machine")
        commit = f"{str(git.get('commit', '–'))[:10]}{' + changes' if git.get('dirty') else ''}"
        versions = ", ".join(f"{k} {v}" for k, v in mapping(p, "versions").items())
        gpus = machine.get("gpus")
        kind = ", ".join(
            filter(
                None,
                [
                    str(machine.get("processor") or ""),
                    f"{machine.get('cores', '?')} cores",
                    *map(str, gpus if isinstance(gpus, list) else []),
                ],
            )
        )
        stages = mapping(p, "stages").values()
        spent = [s.get("seconds") for s in stages if isinstance(s, dict) and not s.get("cached")]
        seconds = sum(s for s in spent if isinstance(s, int | float))
        rows.append(
            Row(
                (
                    str(run.path),
                    str(p.get("command") or "–"),
                    commit,
                    versions,
                    kind,
                    str(p.get("finished") or "–"),
                    round(seconds),
                )
            )
        )
    columns = tuple(Column(label=h, style="count" if h == "seconds" else "text") for h in heads)
    notes = ("Seconds of the stages that this run computed itself; stages taken from the cache are not in it.",)
    return Table(name="provenance", title="Provenance", columns=columns, rows=tuple(rows), notes=notes)


def left_out(skipped: Sequence[Skipped]) -> Table:
    """What could not be read, and why."""
    columns = (Column(label="path"), Column(label="reason"))
    rows = tuple(Row((str(s.path), s.reason)) for s in skipped)
    return Table(name="skipped", title="Left out", columns=columns, rows=rows)


def _brief(title: str) -> str:
    """'Table 1: question answering (TOFU)' → 'Table 1', 'Figure 4: tiny on mini: …' → 'Figure 4, tiny on mini'."""
    number, _, rest = title.partition(":")
    where = rest.split(":")[0].strip() if ":" in rest else rest.partition(", ")[2] if " on " in rest else ""
    return f"{number}, {where}" if where else number


def _record(table: Table) -> str:
    if len(table.rows) <= FOLD:
        return render.hypertext(table)
    head = f"{html.escape(table.title)}: {len(table.rows)} lines"
    return f"<details><summary>{head}</summary>{render.hypertext(table)}</details>"


def _picture(name: str, title: str, caption: str, file: Path) -> str:
    png = file.read_bytes()
    data, text = base64.b64encode(png).decode(), html.escape(caption)
    width = int.from_bytes(png[16:20], "big") * 5 // 8  # of the header IHDR; drawn denser than a screen
    return (
        f'<section id="{name}"><h2>{html.escape(title)}</h2>'
        f'<figure><img alt="{text}" width="{width}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text}</figcaption></figure></section>"
    )
