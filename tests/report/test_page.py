"""The whole report over synthetic sweeps: files, figures, and one page that needs nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from simu.report.__main__ import main
from simu.report.collect import collect
from simu.report.columns import label
from simu.report.estimate import Estimate
from simu.report.figures.canvas import canvas
from simu.report.figures.curves import curves, swept, weights
from simu.report.figures.heatmaps import CELLS, bins, critical
from simu.report.figures.marks import arms, dodged, fit
from simu.report.figures.training import smooth
from simu.report.groups import group, originals

pytest.importorskip("matplotlib", reason="figures need matplotlib (extra `plots`)")

TABLES = (
    "table1",
    "table2",
    "table2_tasks",
    "table3",
    "table4",
    "table5",
    "table6_tiny_mini",
    "table7_olmo_1b_lume",
    "runs_qa",
    "runs_lume",
    "metrics",
    "provenance",
)
FIGURES = (
    "figure2_m",
    "figure3_t",
    "figure4_tradeoff",
    "figure4_lambda",
    "figure5_masks",
    "figure6_heatmaps",
    "figure6_layers",
    "training",
)


@pytest.fixture(scope="module")
def out(sweeps, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    half = tmp_path_factory.mktemp("half")
    (half / "metrics.json").write_text("{")
    assert (
        main(
            [
                str(sweeps / "mini"),
                str(sweeps / "lume"),
                str(half),
                str(folder / "missing"),
                "--out",
                str(folder),
                "--quiet",
            ]
        )
        == 0
    )
    return folder


def test_every_table_is_written_three_ways(out):
    for name in TABLES[:-1]:
        assert {p.suffix for p in (out / "tables").glob(f"{name}.*")} == {".md", ".csv", ".tex"}


def test_every_figure_is_written_as_png_and_pdf_with_something_on_it(out):
    for name in FIGURES:
        for run in ("tiny_mini", "olmo_1b_lume"):
            assert (out / "figures" / f"{name}_{run}.pdf").read_bytes().startswith(b"%PDF")
            with Image.open(out / "figures" / f"{name}_{run}.png") as picture:
                assert len(picture.convert("RGB").getcolors(1 << 24)) > 20


def test_the_page_holds_every_table_and_figure_and_needs_nothing_else(out):
    page = (out / "index.html").read_text()
    for name in (*TABLES, "skipped", *(f"{name}_tiny_mini" for name in FIGURES)):
        assert f'id="{name}"' in page
    assert page.count('src="data:image/png;base64,') == 2 * len(FIGURES)
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "url(" not in page
    assert "half-written" in page
    assert "no such folder" in page


def test_the_same_runs_give_the_same_bytes(sweeps, tmp_path):
    paths = [str(sweeps / "mini" / "figure3")]
    for name in "ab":
        assert main([*paths, "--out", str(tmp_path / name), "--quiet"]) == 0
    files = [p.relative_to(tmp_path / "a") for p in sorted((tmp_path / "a").rglob("*.*"))]
    assert {file.suffix for file in files} == {".md", ".csv", ".tex", ".html", ".png", ".pdf"}
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_curves_go_over_one_setting_alone(sweeps):
    groups = group(collect([sweeps / "mini"])[0])
    (line,) = swept("mask.t", groups)
    assert [g.settings["mask.t"] for g in line] == [0.1, 0.3, 0.5, 0.7, 0.9]
    assert {g.settings["attribution.m"] for g in line} == {5}
    (line,) = swept("attribution.m", groups)
    assert [g.settings["attribution.m"] for g in line] == [2, 3, 5, 8, 10]


def test_curves_draw_the_runs_own_numbers(sweeps):
    runs = collect([sweeps / "mini"])[0]
    groups = group(runs)
    (picture,) = curves("figure3_t", "Figure 3", "mask.t", "t", groups, originals(runs))
    forget = picture.figure.axes[0]
    drawn = {c.get_label(): c.lines[0].get_ydata() for c in forget.containers}
    (line,) = swept("mask.t", groups)
    expected = [np.mean([run.metrics["forget/rouge_l_recall"] for run in g.runs]) for g in line]
    assert list(drawn[f"{label('forget/rouge_l_recall')} ↓ (before: 0.97)"]) == pytest.approx(expected)
    assert "n: forget 40" in picture.caption


def test_wide_layers_are_binned_without_losing_the_largest_scores():
    values = np.zeros((2, 4096), dtype=np.float32)
    values[0, 1234], values[1, 4000] = 1.0, -0.9
    binned = bins(values, signed=True)
    assert binned.shape == (2, CELLS)
    assert (binned[0].max(), binned[1].min()) == (1.0, pytest.approx(-0.9))
    share = bins(values > 0, signed=False)
    assert share[0].max() == pytest.approx(1 / 8)


def test_critical_neurons_by_layer_follow_the_strict_rule(tmp_path, make_run):
    import torch
    from safetensors.torch import save_file

    folder = make_run(tmp_path / "run", t=0.5)
    scores = torch.tensor([[2.0, 1.0, 1.1, -3.0], [-1.0, -2.0, -0.1, 0.0]])
    save_file({"forget": scores}, folder / "attribution.safetensors")
    (run,) = collect([folder])[0]
    assert critical(run, "forget").tolist() == [[True, False, True, False], [False] * 4]


def test_what_an_earlier_report_left_is_named(sweeps, tmp_path, capsys):
    both = [str(sweeps / "mini" / "table1"), "--out", str(tmp_path), "--quiet", "--no-figures"]
    assert main([str(sweeps / "lume" / "table1"), *both]) == 0
    assert "earlier" not in capsys.readouterr().err
    assert main(both) == 0
    err = capsys.readouterr().err
    assert "earlier report: runs_lume, table2, table2_tasks, table7_olmo_1b_lume\n" in err


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.2, 0.6, (0.2, 0.6)),
        (0.4, 0.42, (0.36, 0.46)),
        (0.0, 0.02, (-0.01, 0.09)),
        (0.99, 1.0, (0.91, 1.01)),
        (-0.05, 0.0, (-0.05, 0.05)),
    ],
)
def test_a_scale_is_a_tenth_wide_at_least_and_stays_near_nought_to_one(low, high, expected):
    _, (ax,) = canvas(1)
    ax.set_ylim(low, high)
    fit(ax, "y")
    assert ax.get_ylim() == pytest.approx(expected)


def test_bars_end_at_nought_and_one_and_series_stand_side_by_side():
    e = [Estimate(mean=0.9, low=0.7, high=1.3), Estimate(mean=0.1, low=-0.2, high=0.3), Estimate(mean=0.5)]
    assert arms(e) == pytest.approx(np.array([[0.2, 0.1, 0.0], [0.1, 0.2, 0.0]]))
    assert dodged([2, 3, 5], 0, 3) == pytest.approx([1.9, 2.9, 4.9])
    assert dodged([2, 3, 5], 1, 3) == [2, 3, 5]


def test_smoothing_is_the_mean_of_the_steps_around():
    assert smooth(np.array([0.0, 3.0, 6.0, 0.0]), 3) == pytest.approx([1.5, 3.0, 3.0, 3.0])
    assert smooth(np.array([1.0, 2.0]), 1) == pytest.approx([1.0, 2.0])


def test_the_curve_over_lambda_draws_each_methods_own_numbers(tmp_path, make_run):
    for method in ("so_graddiff", "simu"):
        for i, weight in enumerate((0.5, 1.0, 5.0)):
            make_run(tmp_path / f"{method}{i}", method=method, weight=weight, retain=0.5 + weight / 20)
    groups = group(collect([tmp_path])[0])
    (picture,) = weights(groups, [])
    utility = picture.figure.axes[1]
    drawn = {c.get_label(): list(c.lines[0].get_ydata()) for c in utility.containers}
    expected = [
        json.loads((tmp_path / f"simu{i}" / "metrics.json").read_text())["retain/rouge_l_recall"] for i in range(3)
    ]
    assert drawn["simu · dual"] == pytest.approx(expected)
    assert len(drawn) == 2


def test_without_figures_only_tables_are_written(sweeps, tmp_path, capsys):
    assert main([str(sweeps / "mini" / "table1"), "--out", str(tmp_path), "--no-figures"]) == 0
    assert list((tmp_path / "figures").iterdir()) == []
    assert "Table 1" in capsys.readouterr().out


HOSTILE = '<script>document.title="ran"</script>"\'><img src=x onerror="document.title=\'ran\'">/../../x [bold] $y$'


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, make_run, edit):
    """Two runs whose model, data, method, rows and command hold tags, quotes, slashes and dollars."""
    root = tmp_path_factory.mktemp("hostile")
    for i, name in enumerate((HOSTILE, HOSTILE.replace("/", "_"))):  # one file name, two models
        run = make_run(root / "runs" / str(i), seed=i)
        names = {slot: {"name": name} for slot in ("model", "data", "method")}
        edit(run, switches=names, method=name, command=HOSTILE, options={"mask": HOSTILE, "objective": HOSTILE})
        edit(run, settings={"data.forget": HOSTILE}, benchmark="qa", machine={"processor": HOSTILE})
        rows = [json.loads(line) for line in (run / "generations.jsonl").read_text().splitlines()]
        text = "".join(json.dumps(row | {"prompt": HOSTILE, "generated": HOSTILE}) + "\n" for row in rows)
        (run / "generations.jsonl").write_text(text)
        metrics = json.loads((run / "metrics.json").read_text())
        (run / "metrics.json").write_text(json.dumps(metrics | {HOSTILE: 0.5, f"forget/{HOSTILE}": 0.25}))
    assert main([str(root / "runs"), str(root / HOSTILE.split("/")[0]), "--out", str(root / "out")]) == 0
    return root


def test_whatever_a_run_names_is_escaped_on_the_page(hostile):
    page = (hostile / "out" / "index.html").read_text()
    found = Tags()
    found.feed(page)
    assert found.tags.count("script") == 2, "the page's own: its data and its code"
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    linked = [*re.findall(r'<section id="([^"]*)"', page)]
    assert {value for name, value in found.attributes if name == "href"} == {
        "data:,",
        *(f"#{value}" for value in linked),
    }
    names = [value for name, value in found.attributes if name == "id"]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[\w.=-]+", name) for name in names)
    assert page.count("&lt;script&gt;") > 20


def test_whatever_a_run_names_stays_inside_the_reports_folder(hostile):
    assert sorted(p.name for p in hostile.iterdir()) == ["out", "runs"]
    files = [p.relative_to(hostile / "out") for p in (hostile / "out").rglob("*") if p.is_file()]
    assert {len(file.parts) for file in files} == {1, 2}
    assert len([f for f in files if f.name.startswith("training_") and f.suffix == ".png"]) == 2  # one a model


class Tags(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--enable-logging=stderr",
    "--dump-dom",
)
PROBE = """<script>addEventListener("load", () => {
  const shown = [...document.images].filter(i => i.complete && i.naturalWidth > 100).length;
  const rows = [...document.querySelectorAll("section[id] table")].filter(t => t.rows.length > 1).length;
  document.body.setAttribute("data-probe", shown + " images, " + rows + " tables, overflow " +
    (document.documentElement.scrollWidth > innerWidth));
})</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width", [1500, 500])
def test_headless_chromium_shows_every_table_and_figure_without_a_console_error(out, tmp_path, width):
    page = (out / "index.html").read_text()
    tables = page.count("<table")
    (tmp_path / "page.html").write_text(page.replace("</head>", f"{PROBE}</head>"))
    command = [
        CHROMIUM,
        *FLAGS,
        f"--window-size={width},2000",
        f"--user-data-dir={tmp_path / 'profile'}",
        (tmp_path / "page.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert f'data-probe="{2 * len(FIGURES)} images, {tables} tables, overflow false"' in done.stdout
    assert [line for line in done.stderr.splitlines() if ":CONSOLE" in line] == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)")
def test_no_name_runs_as_a_script_in_headless_chromium(hostile, tmp_path):
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", (hostile / "out" / "index.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "<title>SIMU: report over 2 runs</title>" in done.stdout
