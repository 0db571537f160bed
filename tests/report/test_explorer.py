"""The page as a reader uses it: in a real browser, driven; and what its script is given."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simu.report.__main__ import main
from simu.report.collect import collect
from simu.report.explorer import ROOM, as_json, explorer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">"


def write_rows(run: Path, rows: list[dict[str, Any]]) -> None:
    (run / "generations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def row(split: str, number: int, before: str, after: str, score: float) -> dict[str, Any]:
    return {
        "id": f"{split}/{number}",
        "split": split,
        "prompt": f"Who is {number}?",
        "answer": "Ana Weil",
        "original": before,
        "generated": after,
        "scores": {"rouge_l_recall": score},
    }


@pytest.fixture
def told(make_run, tmp_path) -> dict[str, Any]:
    run = make_run(tmp_path / "run")
    write_rows(
        run,
        [
            row("retain", 1, "Ana Weil", "Ana Weil", 1.0),
            row("retain", 2, "Ana Weil", "the the", 0.0),
            row("forget", 3, "Ana Weil", "nobody", 0.0),
            row("forget", 4, "Ana Weil", "Ana Weil", 1.0),
            row("forget", 5, "Ana Weil", "Ana, I think", 0.5),
            row("retain", 6, "unknown", "also unknown", 0.0),
        ],
    )
    return dict(explorer(collect([tmp_path])[0]))


def test_rows_come_worst_first_and_say_what_became_of_them(told):
    assert [(r["id"], r["kind"]) for r in told["rows"]] == [
        ("forget/4", "leaked"),
        ("forget/5", "leaked"),
        ("retain/2", "destroyed"),
        ("retain/6", "changed"),  # it was not known before
        ("forget/3", "changed"),
        ("retain/1", "same"),
    ]
    assert told["left_out"] == 0


def test_a_figure_is_the_runs_own_with_its_interval(told, tmp_path):
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    at = next(i for i, m in enumerate(told["metrics"]) if m["key"] == "forget/rouge_l_recall")
    (run,) = told["runs"]
    assert told["metrics"][at]["better"] == "lower"
    ends = [metrics[f"forget/rouge_l_recall{end}"] for end in ("", "/ci_low", "/ci_high")]
    assert run["metrics"][at] == ends
    assert told["before"][0]["metrics"][at][0] == metrics["original/forget/rouge_l_recall"]
    assert run["commit"] == "f" * 10
    assert sum(run["layers"]) == json.loads((tmp_path / "run" / "provenance.json").read_text())["mask"]["selected"]


def test_json_can_end_no_script_and_says_the_same():
    held = {"a": [HOSTILE, "&amp;\u2028", 1.5, None]}
    text = str(as_json(held))
    assert not re.search("[<>&\u2028]", text)
    assert json.loads(text) == held


def test_of_too_many_rows_each_run_keeps_its_worst(make_run, tmp_path):
    long = "x" * 500
    for seed in range(2):
        run = make_run(tmp_path / "runs" / str(seed), seed=seed)
        write_rows(run, [row("forget", n, long, long + str(n), n / 3000) for n in range(3000)])
    told = explorer(collect([tmp_path / "runs"])[0])
    kept = {seed: [r for r in told["rows"] if r["run"] == seed] for seed in range(2)}
    assert len(kept[0]) + len(kept[1]) + told["left_out"] == 6000
    assert len(kept[0]) == len(kept[1]) > 500
    assert [r["id"] for r in kept[1]][:2] == ["forget/2999", "forget/2998"]
    assert len(str(as_json(told["rows"]))) < 1.3 * ROOM
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--quiet", "--no-figures"]) == 0
    assert (tmp_path / "out" / "index.html").stat().st_size < 5_000_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium (the extra `browser`)")
    if CHROMIUM is None or shutil.which("chromedriver") is None:
        pytest.skip("no Chromium with its driver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update"):
        options.add_argument(f"--{word}")
    options.add_argument("--window-size=1500,1000")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.mark.slow
def test_a_reader_sorts_filters_and_opens_the_row_that_leaked(browser, sweeps, make_run, edit, tmp_path):
    odd = make_run(tmp_path / "odd", seed=7)
    edit(odd, command=HOSTILE, method=HOSTILE, warnings=[HOSTILE])
    write_rows(odd, [row("forget", 1, "Ana Weil wrote it", f"Ana Weil {HOSTILE} wrote it", 1.0)])
    assert main([str(sweeps / "mini"), str(odd), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    browser.get((tmp_path / "out" / "index.html").as_uri())
    find = lambda css: browser.find_elements("css selector", css)  # noqa: E731
    assert find("body[data-ready=true]")
    lines = len(find("#runs tbody tr[data-run]"))
    assert lines == len(collect([sweeps / "mini", odd])[0])

    def column(label: str) -> int:
        return next(i for i, cell in enumerate(find("#runs thead th")) if cell.text.startswith(label))

    def values(at: int) -> list[float]:
        cells = find(f"#runs tbody tr[data-run] td:nth-child({at + 1})")
        return [float(cell.get_attribute("textContent").split("[")[0]) for cell in cells]

    at = column("Aggregate")
    before = values(at)
    find("#runs thead th button")[at].click()
    assert values(at) == sorted(before, reverse=True)
    find("#runs thead th button")[at].click()
    assert values(at) == sorted(before)
    assert find("#runs thead th")[at].get_attribute("aria-sort") == "ascending"
    best = [float(c.get_attribute("textContent").split("[")[0]) for c in find(f"#runs td.best:nth-child({at + 1})")]
    assert set(best) == {max(before)}

    find("#filter")[0].send_keys("fo_graddiff")
    assert 0 < len(find("#runs tbody tr[data-run]")) < lines
    assert len(find("#plane circle")) == len(find("#runs tbody tr[data-run]"))
    find("#filter")[0].clear()
    find("#filter")[0].send_keys("onerror")
    find("#runs tbody tr[data-run]")[0].click()
    assert HOSTILE in find("#card")[0].text
    (leak,) = find("#row-list article.leaked")
    assert HOSTILE in leak.text
    assert [mark.text for mark in leak.find_elements("css selector", "ins")] != []
    assert not leak.find_elements("css selector", "del")
    assert browser.title.startswith("SIMU: report over")
    assert not find("img[src=x]")

    for width, theme in ((1500, "light"), (380, "dark")):
        browser.set_window_size(width, 900)
        browser.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
        wide = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0, f"{width} px: {wide} px too wide"
        assert contrast(browser, "#runs tbody td") >= 4.5
        assert contrast(browser, "p.soft") >= 4.5
    severe = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert not severe


def contrast(browser: Any, css: str) -> float:
    """WCAG contrast of an element's text to the page's ground."""
    script = (
        "const rgb = (c) => c.match(/[\\d.]+/g).slice(0, 3).map(Number);"
        "return [rgb(getComputedStyle(document.querySelector(arguments[0])).color),"
        " rgb(getComputedStyle(document.body).backgroundColor)]"
    )

    def luminance(colour: list[float]) -> float:
        parts = [c / 255 / 12.92 if c / 255 <= 0.03928 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    light, dark = sorted(map(luminance, browser.execute_script(script, css)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
