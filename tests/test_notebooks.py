"""The stored notebooks keep the rules of the house (the book's tests execute them)."""

import json
import re
from pathlib import Path

import addresses
import pytest

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[dict]:
    notebook = json.loads(path.read_text("utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def text(cell: dict) -> str:
    return "".join(cell["source"])


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
class TestChapter:
    def test_is_stored_without_outputs(self, path: Path):
        for cell in cells(path, "code"):
            assert cell["outputs"] == [] and cell["execution_count"] is None

    def test_begins_with_the_installation_then_the_parameters(self, path: Path):
        install, parameters = cells(path, "code")[:2]
        assert text(install) == addresses.first_cell()
        assert parameters["metadata"]["tags"] == ["parameters"]
        assert text(parameters).startswith('PRESET = "laptop"\nSEED = 0')

    def test_only_one_cell_has_the_tag_parameters(self, path: Path):
        tags = [cell["metadata"].get("tags", []) for cell in cells(path, "code")]
        assert sum("parameters" in each for each in tags) == 1

    def test_names_every_preset_it_knows(self, path: Path):
        assert "PRESET" in "".join(text(cell) for cell in cells(path, "code")[2:])

    def test_shows_no_book_directive_in_colab(self, path: Path):
        for cell in cells(path, "markdown"):
            assert not re.search(r"^(```|:::)\{|\{[a-z:]+\}`", text(cell), re.MULTILINE)

    def test_has_two_exercises_with_folded_solutions(self, path: Path):
        solutions = sum(text(cell).count("<summary>Solution") for cell in cells(path, "markdown"))
        assert solutions >= 2

    def test_checks_by_hand_against_the_package(self, path: Path):
        code = "".join(text(cell) for cell in cells(path, "code"))
        assert re.search(r"^\s*(assert |.*assert_(close|allclose|array_equal|equal)\()", code, re.M)

    def test_shows_figures_through_the_package(self, path: Path):
        code = "".join(text(cell) for cell in cells(path, "code"))
        assert "plt.show(" not in code
        assert all(f"show.{kind}(" in code for kind in ("figure", "video", "explore"))
