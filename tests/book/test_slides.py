"""Slides: what of a chapter is on them, and that they need nothing but their own folder."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def slides(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script ``book/slides.py``, as a module."""
    monkeypatch.setitem(sys.modules, "build", build)
    spec = importlib.util.spec_from_file_location("book_slides", ROOT / "book" / "slides.py")
    assert spec and spec.loader
    module = sys.modules["book_slides"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def chapter() -> nbformat.NotebookNode:
    def markdown(text: str) -> nbformat.NotebookNode:
        return nbformat.v4.new_markdown_cell(text)

    def drawn(words: str) -> nbformat.NotebookNode:
        data = {"text/html": f'<figure class="apv-card">{words}</figure>'}
        output = nbformat.v4.new_output("display_data", data)
        return nbformat.v4.new_code_cell("show()", outputs=[output])

    printed = nbformat.v4.new_code_cell("print(1)")
    printed.outputs = [nbformat.v4.new_output("stream", text="1")]
    cells = [
        markdown("# A chapter\n\nIt promises.\n\n- one thing;\n- another.\n\n**You need** time."),
        drawn("first"),
        markdown("## A part\n\nOne. Two with $x < y$. Three. Four."),
        markdown("### Within [it](a.md)\n\nSet\n\n$$a = b$$"),
        printed,
        drawn("second"),
        markdown("## Bare\n### Its part\nWords."),
        markdown("## Exercises\n\n### One\nDo it."),
        drawn("of an exercise"),
        markdown("## What you learned\n\n- All.\n- Of it.\n\n## Further reading\n\n- A paper."),
    ]
    return nbformat.v4.new_notebook(cells=cells)


def test_headings_first_words_and_figures(slides: ModuleType):
    made = slides.make_slides(chapter())
    assert [(slide.heading, slide.figure) for slide in made] == [
        ("A chapter", False),
        ("A chapter", True),
        ("A part", False),
        ("Within [it](a.md)", False),
        ("Within [it](a.md)", True),
        ("Its part", False),
        ("What you learned", False),
    ]
    bodies = [slide.body for slide in made]
    assert "It promises." in bodies[0] and "another" in bodies[0] and "You need" not in bodies[0]
    assert "Three." in bodies[2] and "Four" not in bodies[2] and r"\(x &lt; y\)" in bodies[2]
    assert r"\[a = b\]" in bodies[3].replace("\n", "")
    assert "second" in bodies[4] and "Of it." in bodies[6]


def test_pages_work_from_a_file(slides: ModuleType, tmp_path: Path):
    path = tmp_path / "chapter.ipynb"
    nbformat.write(chapter(), path)
    index = slides.build_slides({"small": path}, tmp_path / "out")
    page = (index.parent / "small.html").read_text()
    assert page.count("<section") == 7 and "7 / 7" in page
    assert 'href="small.html"' in index.read_text() and "7 slides" in index.read_text()
    for source in re.findall(r'(?:src|href)="([^"]+)"', page + index.read_text()):
        assert (index.parent / source).is_file(), source
    assert "<h2>Within it</h2>" in page
