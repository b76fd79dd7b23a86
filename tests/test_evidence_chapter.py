"""The chapter on evidence says what the tables say, whatever that is."""

import csv
from pathlib import Path

import nbformat
import numpy as np
import pytest
from evidence_data import HEADER

from apv_edu.grid import Cell, read_grid

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "assets"
CHAPTER = ROOT / "notebooks" / "08_evidence.ipynb"
PATIENCE = 900
"""Seconds that a cell may take on a busy machine."""
STEPS = 10
"""Evaluations of a made run."""
OWN = [f"results/{name}.csv" for name in ("tabletop", "metaworld", "locomotion")]
"""Tables of our own runs, which the test replaces."""


def make_table(path: Path, cells: list[Cell], apv: float) -> None:
    """Runs that climb to 30, those of the whole method to ``apv``, give or take one."""
    rows = []
    for cell in cells:
        whole = cell.method in ("APV", "APV (Locomotion)")
        top = (apv if whole else 30) + np.random.default_rng(cell.seed).normal()
        for k in range(1, STEPS + 1):
            value = 10 + (top - 10) * k / STEPS
            where = (cell.task, cell.method, cell.seed, 400 * k)
            rows.append((*where, value / 50, value, 60 * k, 50 * k, "made", "by a test"))
    with path.open("w", newline="") as file:
        file.write(HEADER + "\n")
        csv.writer(file).writerows(rows)


def copy_assets(folder: Path) -> None:
    """All shipped files but the tables of our own runs."""
    for path in ASSETS.rglob("*"):
        name = path.relative_to(ASSETS)
        if path.is_file() and name.as_posix() not in OWN:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(path)


@pytest.mark.notebook
@pytest.mark.timeout(3 * PATIENCE)
def test_another_table_changes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("APV_STATIC", "1")
    copy_assets(tmp_path / "assets")
    table = tmp_path / "assets" / "results" / "tabletop.csv"
    notebook = nbformat.read(CHAPTER, as_version=4)
    parameters = next(c for c in notebook.cells if c.metadata.get("tags") == ["parameters"])
    parameters.source = (
        'PRESET, SEED = "smoke", 0\n'
        "import pathlib, apv_edu.assets\n"
        "listed = apv_edu.assets.read_table()\n"
        f"for name in {OWN}: listed.pop(name, None)\n"
        "apv_edu.assets.read_table = lambda: listed\n"
        f"apv_edu.assets.checkout_assets = lambda: pathlib.Path({str(table.parent.parent)!r})"
    )
    client = NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3")

    def run(*needles: str) -> str:
        """What the cells say that hold one of the texts, or all cells without any."""
        said = ""
        for index, cell in enumerate(notebook.cells):
            if not needles or any(needle in cell.source for needle in needles):
                client.execute_cell(cell, index)
                said += "".join(output.get("text", "") for output in cell.get("outputs", []))
        return said

    cells = list(read_grid(ASSETS / "results" / "tabletop.toml").cells)
    reading = ('whole_arms(name, "return") for name', "found = {", "MEANS = {")
    with client.setup_kernel(cwd=str(tmp_path)):
        make_table(table, cells, apv=40)
        said = run()
        assert f"tabletop: {len(cells)} of {len(cells)} planned runs are in" in said
        assert "] shows\n" in said and "shows, so far" not in said
        assert "agrees: both show that the whole method helps\n" in said

        make_table(table, cells, apv=30)
        said = run(*reading)
        assert "] absent\n" in said and "-> agrees" not in said
        assert "disagrees: here an effect that matters is ruled out\n" in said

        make_table(table, cells[: len(cells) // 2], apv=20)
        said = run(*reading)
        assert f"tabletop: {len(cells) // 2} of {len(cells)} planned runs are in" in said
        assert "] shows the opposite, so far\n" in said
        assert "disagrees: here the method does harm (so far)\n" in said

        make_table(table, cells[:1], apv=20)
        said = run(*reading)
        assert f"tabletop: 1 of {len(cells)} planned runs are in" in said
        assert "no runs yet" in said and "-> " not in said

        for name, apv in (("metaworld", 40), ("locomotion", 20)):
            cells = list(read_grid(ASSETS / "results" / f"{name}.toml").cells)
            make_table(table.with_name(f"{name}.csv"), cells, apv)
        said = run(*reading, "def curve_rows", "show_beside(")
        assert "metaworld: 2 differences are planned, 2 have a word\n" in said
        assert "by the return, area: APV - DreamerV2 +" in said
        assert "metaworld, APV, area of the return: +" in said
        assert "locomotion, APV (Locomotion), area of the return: -" in said
        assert "locomotion, APV (Manipulation), last evaluation of the return: " in said
