"""The page on full scale says what the shipped measurements say."""

import csv
import re
from pathlib import Path

import pytest

from apv_edu.config import PRETRAIN
from apv_edu.finetune_config import finetune_config

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book/full_scale.md").read_text("utf-8")
WORLDS = {suite: finetune_config("paper", suite) for suite in ("metaworld", "dmc")}
UPDATES = {suite: config.updates_due(config.steps) for suite, config in WORLDS.items()}
LINES = {
    "pre-training": ("pre-training", "16x25", PRETRAIN["paper"].steps),
    "Meta-World": ("fine-tuning", "50x50", UPDATES["metaworld"]),
    "Control Suite": ("fine-tuning", "16x50", UPDATES["dmc"]),
}


@pytest.mark.parametrize("way", ["graph", "careful eager"])
@pytest.mark.parametrize("name", LINES)
def test_hours_are_those_of_the_measured_milliseconds(name, way):
    update, batch, updates = LINES[name]
    with (ROOT / "assets/speed_gpu.csv").open(newline="") as file:
        rows = {
            (r["update"], r["batch"], r["way"]): float(r["wall_ms"]) for r in csv.DictReader(file)
        }
    how = "`fast`" if way == "graph" else "plain"
    (line,) = re.findall(rf"^\| {name}, {how} \|(.*)\|$", PAGE, re.MULTILINE)
    milliseconds, hours, runs, total = (float(cell) for cell in line.split("|"))
    measured = rows[update, batch, way]
    assert milliseconds == pytest.approx(measured, abs=0.051)
    assert hours == pytest.approx(measured * updates / 3.6e6, abs=0.051)
    assert total == pytest.approx(runs * measured * updates / 3.6e6, abs=0.51)
