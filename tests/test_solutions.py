"""Every folded solution runs as printed, after the cells of its chapter."""

import re
from pathlib import Path

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTION = re.compile(r"<details><summary>Solution</summary>(.*?)</details>", re.DOTALL)
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
PATIENCE = 900
"""Seconds that a cell may take on a busy machine."""


def unfold(path: Path, preset: str) -> tuple[nbformat.NotebookNode, int]:
    """The chapter with the code of its solutions as cells, and how many these are."""
    notebook = parameterize_notebook(load_notebook_node(str(path)), {"PRESET": preset})
    before = len(notebook.cells)
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "markdown":
            blocks = BLOCK.findall("".join(SOLUTION.findall(cell.source)))
            cells += [nbformat.v4.new_code_cell(block) for block in blocks]
    notebook.cells = cells
    return notebook, len(cells) - before


@pytest.mark.long
@pytest.mark.notebook
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_solutions_run(path: Path, monkeypatch: pytest.MonkeyPatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("APV_STATIC", "1")
    notebook, solutions = unfold(path, "smoke")
    assert solutions >= 2
    client = NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3")
    client.execute(cwd=str(ROOT / "notebooks"))
