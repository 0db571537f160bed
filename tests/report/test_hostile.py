"""A report over runs of which a third has hostile names and texts, a third is broken, and a third is whole."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from simu.report import explorer
from simu.report.__main__ import main
from simu.report.collect import collect
from simu.report.figures import draw
from simu.report.figures.canvas import png_and_pdf
from simu.report.groups import group, originals

NAMES = (
    "../../../escaped",
    "/tmp/absolute",
    '<script>document.title="ran"</script>',
    "\"'><img src=x onerror=\"document.title='ran'\">",
    "a|b\\|c `code` [link](javascript:alert(1)) ![x](http://x) & &lt;",
    "two\nlines\r\n\n# heading\n[ref]: http://x",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07\x9b2J",
    "n" * 300,
    "名" * 300,
    '=HYPERLINK("http://x","y")\u202e\ud800\x00{{ 7*7 }} ${{now:}} \\input{x} $y$ %_#',
)
FORMULAS = ("=HYPERLINK(1)", "+1+cmd", "-1+cmd", "@SUM(1)", "\t=1", "＝1")
Breaking = Callable[[Path], Any]


def replaced(file: str, text: str | bytes) -> Breaking:
    return lambda run: (run / file).write_bytes(text.encode() if isinstance(text, str) else text)


def folder(file: str) -> Breaking:
    def do(run: Path) -> None:
        (run / file).unlink()
        (run / file).mkdir()

    return do


def pipe(file: str) -> Breaking:
    def do(run: Path) -> None:
        (run / file).unlink()
        os.mkfifo(run / file)

    return do


def halved(file: str) -> Breaking:
    return lambda run: (run / file).write_bytes((run / file).read_bytes()[:-40])


def with_values(file: str, **values: Any) -> Breaking:
    return lambda run: (run / file).write_text(json.dumps(json.loads((run / file).read_text()) | values))


UNUSABLE: dict[str, tuple[Breaking, str]] = {
    "no record": (lambda run: (run / "provenance.json").unlink(), "no provenance.json"),
    "empty record": (replaced("provenance.json", ""), "provenance.json is empty"),
    "record cut": (halved("provenance.json"), "provenance.json is not whole JSON"),
    "record a list": (replaced("provenance.json", "[]"), "provenance.json is not a JSON object but a list"),
    "record null": (replaced("provenance.json", "null"), "provenance.json is not a JSON object but null"),
    "record a folder": (folder("provenance.json"), "provenance.json is a folder"),
    "record a pipe": (pipe("provenance.json"), "provenance.json is not a file"),
    "record no text": (replaced("provenance.json", b"\xff\xfe{}"), "provenance.json is not UTF-8 text"),
    "wrong types": (with_values("provenance.json", settings=[], benchmark=3), "no settings, benchmark"),
    "still running": (with_values("provenance.json", status="running"), "still going"),
    "failed": (with_values("provenance.json", status="failed", reason="a\x1b[2Jb\nc"), "failed: a\\x1b[2Jb c"),
    "no metrics": (lambda run: (run / "metrics.json").unlink(), "metrics.json is missing"),
    "metrics empty": (replaced("metrics.json", ""), "metrics.json is empty"),
    "metrics cut": (halved("metrics.json"), "metrics.json is not whole JSON"),
    "metrics a folder": (folder("metrics.json"), "metrics.json is a folder"),
    "metrics deep": (replaced("metrics.json", "[" * 100_000), "metrics.json cannot be read: maximum recursion"),
    "metrics long": (replaced("metrics.json", '{"a": ' + "9" * 5000 + "}"), "metrics.json cannot be read: Exceeds"),
    "seed a text": (with_values("provenance.json", switches={"seed": "x" * 999}), "seed 'xxx"),
}
"""Breaks a run → the reason that is said for leaving it out."""
DAMAGED: dict[str, tuple[Breaking, str]] = {
    "no numbers": (
        with_values("metrics.json", aggregate=float("nan"), **{"mia/loss": True, "big": 10**400, "text": "x"}),
        "no number for",
    ),
    "rows cut": (halved("generations.jsonl"), "is not JSON"),
    "rows a folder": (folder("generations.jsonl"), "is a folder"),
    "log of texts": (
        replaced("train_log.jsonl", '{"step": "a", "forget_loss": []}\n{"step": 1e400}\n{"x": 1}'),
        "line 3",
    ),
    "log a number": (replaced("train_log.jsonl", "7"), "line 1 is no object"),
    "scores cut": (halved("attribution.safetensors"), "cannot be read"),
    "scores a folder": (folder("attribution.safetensors"), "cannot be read"),
    "mask of garbage": (replaced("mask.safetensors", b"\x00" * 64), "cannot be read"),
}
"""Breaks a file that a report can do without → the reason that is said for leaving it out."""


@pytest.fixture(scope="module")
def report(tmp_path_factory, make_run, edit):
    """The folder of the report over them all, and what it printed is kept in its own test."""
    root = tmp_path_factory.mktemp("many")
    for i, name in enumerate(NAMES):
        run = make_run(root / "runs" / f"hostile {i} <b>\x1b[1m", seed=i, t=0.1 + i / 20)
        slots = {slot: {"name": name} for slot in (("model", "data", "method") if i % 2 else ())}
        edit(run, switches=slots, command=name, machine={"processor": name}, versions={name: name}, warnings=[name])
        edit(run, settings={"data.forget": name, "optimizer.eps_mode": name}, **({"method": name} if i % 2 else {}))
        edit(run, options={"objective": name, "optimizer": name} if i % 3 else {"mask": name, "selection": name})
        lines = [json.loads(line) for line in (run / "generations.jsonl").read_text().splitlines()]
        texts = [FORMULAS[j % len(FORMULAS)] if j % 2 else name for j in range(len(lines))]
        rows = [
            line | {"prompt": text, "answer": text, "generated": text} for line, text in zip(lines, texts, strict=True)
        ]
        (run / "generations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with_values("metrics.json", **{name: 0.5, f"forget/{name}": 0.25})(run)
    for i, (name, (breaks, _)) in enumerate({**UNUSABLE, **DAMAGED}.items()):
        breaks(make_run(root / "runs" / "broken" / name, model=f"m{i}"))  # each is wanted: the only run of its model
    for seed in range(10):
        make_run(root / "runs" / "whole" / str(seed), seed=seed)
    return root


@pytest.fixture(scope="module")
def said(report):
    """Exit status and what was printed."""
    import contextlib
    import io

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(report / "runs"), "--out", str(report / "out"), "--no-figures"])
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def page(report, said):
    return (report / "out" / "index.html").read_text(encoding="utf-8")


def check_reasons(broken: dict[str, tuple[Breaking, str]], err: str, page: str) -> None:
    """Each broken run, and no other, is named with its reason on the terminal and on the page."""
    lines = [line for line in re.split(r"[\r\n]", err) if line.startswith("left out")]
    assert len(lines) == len(broken)
    for name, (_, reason) in broken.items():
        (line,) = (line for line in lines if f"/broken/{name}" in line)
        assert reason in line, line
        assert f"broken/{name}" in page


def test_the_rest_is_whole_and_every_reason_is_said(report, said, page):
    status, out, err = said
    assert status == 0
    whole = len(NAMES) + len(DAMAGED) + 10
    assert f"{whole} runs, {len(UNUSABLE)} left out" in out
    read = {name: told for name, told in DAMAGED.items() if name.startswith(("no numbers", "rows"))}
    check_reasons({**UNUSABLE, **read}, err, page)
    rows = list(csv.DictReader((report / "out" / "tables" / "runs_qa.csv").open(encoding="utf-8")))
    ten = [row for row in rows if row["model"] == "tiny" and row["seeds"] == "10"]
    assert len(ten) == 2  # before unlearning, and simu
    assert {f"m{len(UNUSABLE) + i}" for i in range(len(DAMAGED))} <= {row["model"] for row in rows}
    assert list((report / "out" / "tables").glob("table6_tiny_mini*.csv"))


def test_every_file_stays_inside_the_reports_folder(report, said):
    assert sorted(p.name for p in report.iterdir()) == ["out", "runs"]
    files = [p.relative_to(report / "out") for p in (report / "out").rglob("*") if p.is_file()]
    assert {len(file.parts) for file in files} == {1, 2}
    assert {p.name for p in (report / "out").iterdir()} == {"tables", "figures", "report.md", "index.html"}


PLAIN_TAGS = {
    *("html", "head", "meta", "link", "title", "style", "body", "header", "main", "footer", "nav", "div", "section"),
    *("h1", "h2", "p", "a", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "small", "details", "summary"),
    *(
        "figure",
        "figcaption",
        "img",
        "noscript",
        "label",
        "input",
        "select",
        "option",
        "button",
        "span",
        "caption",
        "svg",
    ),
}


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs


def test_names_are_inert_on_the_page(page):
    found = Page()
    found.feed(page)
    assert not found.tags & {"iframe", "object", "embed", "form", "base", "b"}
    own, code = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    assert not re.search("[<>&]", own), "data that could end its element"
    assert (
        code.strip() == (Path(explorer.__file__).parent / "templates" / "page.js").read_text(encoding="utf-8").strip()
    )
    assert found.tags <= PLAIN_TAGS | {"script"}
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert all(re.fullmatch(r"[\w.=-]+", value or "") for name, value in found.attributes if name == "id")
    assert all(re.fullmatch(r"#[\w.=-]+|data:,", value or "") for name, value in found.attributes if name == "href")
    assert all((value or "").startswith("data:image/png;base64,") for name, value in found.attributes if name == "src")
    assert "{{" in page  # shown, not computed
    assert "49" not in re.findall(r"ud800\\x00(.{4})", page)


def obeyed(text: str) -> set[str]:
    """Signs that a terminal or an editor obeys."""
    return {c for c in text if (unicodedata.category(c) in ("Cc", "Cs") and c != "\n") or c in "\u202e\u2028"}


def test_no_written_text_and_no_printed_line_holds_a_sign_that_is_obeyed(report, said):
    for file in (report / "out").rglob("*"):
        if file.suffix in (".md", ".csv", ".tex", ".html"):
            assert not obeyed(file.read_text(encoding="utf-8")), file
    assert not obeyed(said[1])
    lines = [line for line in re.split(r"[\r\n]", said[2]) if line.startswith(("left", "simu"))]
    assert not obeyed("\n".join(lines))


def test_a_spreadsheet_computes_nothing(report, said):
    cells = [
        cell
        for file in (report / "out" / "tables").glob("*.csv")
        for row in csv.reader(file.open(encoding="utf-8", newline=""))
        for cell in row
    ]
    assert [c for c in cells if "'=HYPERLINK" in c]
    for cell in cells:
        if not re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", cell):
            assert not re.match(r"\s*[=+\-@＝]", cell), cell


def test_markdown_tables_keep_their_columns_and_hold_no_link_and_no_tag(report, said):
    for file in (report / "out").rglob("*.md"):
        text = file.read_text(encoding="utf-8")
        for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            widths = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table.splitlines()}
            assert len(widths) == 1, file
        assert not re.search(r"(?<!\\)\][(:]", text), file
        assert "<" not in text
        assert {line[:2] for line in text.splitlines() if line} <= {"# ", "##", "| ", "|-", "- "}


def test_latex_has_no_command_of_a_names(report, said):
    for file in (report / "out" / "tables").glob("*.tex"):
        lines = file.read_text(encoding="utf-8").split("\n")
        body = "\n".join(line for line in lines if not line.startswith("%"))
        assert "\\input" not in body
        assert not re.search(r"(?<!\\)[#_]", body.replace("\\label{tab:" + file.stem + "}", "")), file


@pytest.mark.parametrize("command", ["best", "compare"])
def test_best_and_compare_stand_it_too(report, said, command, capsys):
    runs = report / "runs"
    pair = [runs / "whole" / "0", next(runs.glob("hostile 6*"))]
    words = [runs] if command == "best" else pair
    assert main([command, *map(str, words)]) == 0
    out, err = capsys.readouterr()
    assert not obeyed(out + err)


def test_a_broken_run_alone_is_one_line(report, capsys):
    for name, (_, reason) in UNUSABLE.items():
        assert main([str(report / "runs" / "broken" / name), "--quiet", "--out", str(report / "none")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert reason in line
    assert not (report / "none").exists()


@pytest.mark.parametrize("name", ["log of texts", "log a number", "scores cut", "scores a folder", "mask of garbage"])
def test_a_damaged_file_that_figures_want_is_named(tmp_path, make_run, name):
    breaks, reason = DAMAGED[name]
    breaks(make_run(tmp_path))
    (run,) = collect([tmp_path])[0]
    groups = group([run])
    assert draw(groups, [])
    assert [why for why in run.broken.values() if reason in why] == list(run.broken.values()) != []


@pytest.mark.parametrize(
    "tensor",
    [np.ones(4), np.ones((2, 3, 4)), np.ones((0, 4)), np.full((4, 64), np.nan), np.ones((3, 5))],
    ids=["one axis", "three axes", "empty", "not finite", "another shape"],
)
@pytest.mark.parametrize("name", ["forget", "retain", "mask"])
def test_neurons_of_any_shape_stop_no_figure(tmp_path, make_run, name, tensor):
    run = make_run(tmp_path)
    good = {"forget": np.ones((4, 64)), "retain": np.ones((4, 64)), "mask": np.ones((4, 64))} | {name: tensor}
    save_file({key: good[key] for key in ("forget", "retain")}, run / "attribution.safetensors")
    save_file({"mask": good["mask"]}, run / "mask.safetensors")
    (found,) = collect([tmp_path])[0]
    made = draw(group([found]), [])
    assert all(png_and_pdf(picture)[0] for picture in made if picture.name.startswith("figure6"))
    assert len(found.broken) == (0 if name == "mask" and tensor.shape == (3, 5) else 1)


def test_a_figure_that_cannot_be_drawn_is_left_out_by_name(tmp_path, make_run, monkeypatch, capsys):
    from simu.report import write

    def breaks(*_):
        raise ZeroDivisionError("of\x1b its\nown")

    run = make_run(tmp_path / "run")
    drawing = sys.modules["simu.report.figures.draw"]  # the package's own name for it is its function
    monkeypatch.setattr(drawing, "trade_offs", lambda *_: (breaks() for _ in range(1)))
    monkeypatch.setattr(write, "png_and_pdf", breaks)
    assert main([str(run), "--quiet", "--out", str(tmp_path / "out")]) == 0
    err = capsys.readouterr().err
    said = "could not be drawn: ZeroDivisionError: of\\x1b its own"
    assert f"left out figures/figure4_tradeoff: {said}" in err
    assert f"left out figures/training_tiny_mini: {said}" in err
    assert err.count(said) == (tmp_path / "out" / "index.html").read_text().count(said) > 3


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_figure_of_any_name_is_drawn_and_its_file_has_a_name(tmp_path, make_run, edit, name):
    for i in range(2):
        run = make_run(tmp_path / str(i), t=(i + 1) / 4)
        edit(run, switches={"model": {"name": name}}, options={"objective": name, "mask": name}, method=name)
    runs = collect([tmp_path])[0]
    (picture,) = (p for p in draw(group(runs), originals(runs)) if p.name.startswith("figure4_tradeoff"))
    assert png_and_pdf(picture)[0].startswith(b"\x89PNG")
    assert len(f".{picture.name}.png.99999.tmp".encode()) < 200
    assert not obeyed(picture.title + picture.caption)


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)")
def test_with_figures_and_in_a_browser(report, tmp_path, capsys):
    assert main([str(report / "runs"), "--quiet", "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    check_reasons({**UNUSABLE, **DAMAGED}, capsys.readouterr().err, page)
    for width in (1400, 700):
        (tmp_path / "page.html").write_text(page.replace("</head>", f"{PROBE}</head>"), encoding="utf-8")
        words = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},2000", "--dump-dom"]
        command = [CHROMIUM, *words, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "page.html").as_uri()]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
        assert f'data-probe="{page.count("<img ")} images, overflow false"' in shown
        assert "<title>SIMU: report over" in shown


PROBE = """<script>addEventListener("load", () => document.body.setAttribute("data-probe",
  [...document.images].filter(i => i.complete && i.naturalWidth > 100).length + " images, overflow " +
  (document.documentElement.scrollWidth > innerWidth)))</script>"""
