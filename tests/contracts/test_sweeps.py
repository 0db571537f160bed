"""Every sweep of the paper composes, and every point of its grid is a run that builds."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from simu.config import build_run, conf_dir

SWEEPS = sorted(path.stem for path in (conf_dir() / "sweep").glob("*.yaml"))


def grid(name: str) -> dict[str, list[str]]:
    node = yaml.safe_load(Path(conf_dir() / "sweep" / f"{name}.yaml").read_text())
    return {key: str(values).split(",") for key, values in node["hydra"]["sweeper"]["params"].items()}


def test_all_are_there():
    paper = {"table1", "table2", "table5", "figure2_m", "figure3_t", "figure4", "figure5_masks", "figure6", "search"}
    assert set(SWEEPS) >= paper


@pytest.mark.parametrize("name", SWEEPS)
def test_every_value_of_the_grid_builds(name):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for key, values in grid(name).items():
            for value in values:
                build_run(compose("config", overrides=[f"+sweep={name}", f"{key}={value}"]))


def test_grids_are_the_papers():
    assert grid("figure2_m") == {"attribution.m": ["2", "3", "5", "8", "10"]}
    assert grid("figure3_t")["mask.t"] == [f"{i / 10:.1f}" for i in range(1, 11)]
    assert grid("table1")["method"] == ["fo_graddiff", "so_graddiff", "simu"]
    assert {"dual", "forget_only", "random", "none"} <= set(grid("figure5_masks")["mask"])


@pytest.mark.parametrize("data", ["mini", "tofu", "lume"])
def test_search_forgets_other_rows_than_a_shown_run(data):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        run = build_run(compose("config", overrides=["+sweep=search", f"data={data}"]))
    assert run.data.forget_offset == 2
