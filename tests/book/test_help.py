"""Help for the reader: errors and their remedies, terms, equations and their functions."""

import importlib
import re
import shutil
from functools import reduce
from pathlib import Path

import equations
import error_list
import nbformat
import numpy as np
import pytest

from apv_edu.checkpoint import load
from apv_edu.config import pretrain_config
from apv_edu.data.readers import read_video
from apv_edu.data.video import VideoDataset
from apv_edu.device import choose_device
from apv_edu.envs import make_env
from apv_edu.errors import InputError
from apv_edu.grid import read_grid
from apv_edu.show.figures import figure_html

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "book" / "troubleshooting.md"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
"""All chapters, in order."""


def words(path: Path) -> str:
    """The prose of a notebook."""
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def test_the_page_has_every_error_and_nothing_else():
    entries = error_list.collect(ROOT / "apv_edu")
    assert error_list.faults(entries, PAGE.read_text()) == []
    found = {(entry.module, entry.line) for entry in entries}
    sources = [path.read_text() for path in (ROOT / "apv_edu").rglob("*.py")]
    # Counted in another way; two are the classes themselves.
    assert len(found) == sum(len(re.findall(r"\b(?:InputError|Busy)\(", s)) for s in sources) - 2
    assert len(found) > 200


def test_an_error_that_breaks_the_rule_is_named(tmp_path):
    package = tmp_path / "apv_edu"
    shutil.copytree(ROOT / "apv_edu", package, ignore=shutil.ignore_patterns("__pycache__"))
    with (package / "device.py").open("a") as file:
        file.write("\n\ndef refuse(size):\n    raise InputError(f'{size} is wrong.')\n")
    (package / "fresh.py").write_text("def f():\n    raise InputError('No: say yes instead.')\n")
    shutil.copy(ROOT / "apv_edu" / "seeds.py", package / "fast.py")
    page = PAGE.read_text()
    one, two, three = error_list.faults(error_list.collect(package), page)
    assert one == "The page lists fast, which raises nothing."
    assert re.match(r"apv_edu\.device, line \d+: '‹size› is wrong\.' has no remedy", two)
    assert three == "apv_edu.fresh raises errors that the page leaves out."
    twice = page.replace("{errors} files", "{errors} files files")
    assert "The page lists files twice." in error_list.faults(error_list.collect(package), twice)


def test_messages_that_really_come_have_their_entry(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "bad.safetensors").write_text("no weights")
    (tmp_path / "grid.toml").write_text("seeds = [")
    mistakes = [
        lambda: make_env("tabletop:pull"),
        lambda: make_env("kitchen:push"),
        lambda: make_env("tabletop:push", colour="red"),
        lambda: choose_device("abacus"),
        lambda: load(tmp_path / "none.safetensors"),
        lambda: load(tmp_path / "bad.safetensors"),
        lambda: [*read_video(tmp_path / "text.mp4")],
        lambda: VideoDataset.open(tmp_path),
        lambda: read_grid(tmp_path / "grid.toml"),
        lambda: pretrain_config("huge"),
        lambda: pretrain_config("smoke", steps=-1),
        lambda: figure_html(np.zeros(3), "A line."),  # pyright: ignore[reportArgumentType]
    ]
    patterns = [pattern(entry) for entry in error_list.collect(ROOT / "apv_edu")]
    for mistake in mistakes:
        with pytest.raises(InputError) as caught:
            mistake()
        assert any(one.fullmatch(str(caught.value)) for one in patterns), str(caught.value)


def pattern(entry: error_list.Entry) -> re.Pattern[str]:
    """What messages made from an entry look like; entries that pass words on match nothing."""
    if entry.passes_on:
        return re.compile("(?!)")
    parts = re.split(error_list.PLACEHOLDER, f"{entry.problem}: {entry.remedy}")
    return re.compile(".*".join(re.escape(part) for part in parts[::2]), re.DOTALL)


def test_every_term_of_the_glossary_is_linked_from_a_chapter():
    glossary = (ROOT / "book" / "glossary.md").read_text()
    entries = re.findall(r"^([^\s`#\[].*)\n  (\S.*)$", glossary, re.MULTILINE)
    terms = {re.sub(r"[^A-Za-z0-9]+", "-", term) for term, _ in entries}
    links = [re.findall(r"\]\(\.\./book/glossary\.md#term-([^)]+)\)", words(p)) for p in NOTEBOOKS]
    assert len(terms) == len(entries) > 50
    assert terms == {term for chapter in links for term in chapter}
    for chapter in links:
        assert len(chapter) == len({*chapter}), "only the first use in a chapter is linked"
    names = [term for term, _ in entries]
    assert names == sorted(names, key=str.lower)
    assert all(re.search(r"Taught in \[.*\]\(.*\)", text) for _, text in entries)


def test_equations_and_functions_know_each_other():
    texts = {f"notebooks/{path.stem}": words(path) for path in NOTEBOOKS}
    texts |= {f"book/{path.stem}": path.read_text() for path in (ROOT / "book").glob("*.md")}
    numbered = {
        page: {*re.findall(r"^\$\$ \((.+)\)$", text, re.MULTILINE)} for page, text in texts.items()
    }
    assert {page: labels for page, labels in numbered.items() if labels} == {
        page: {*table} for page, table in equations.EQUATIONS.items()
    }
    for table in equations.EQUATIONS.values():
        for names in table.values():
            for name in names:
                module, _, _ = name.rpartition(".")
                if module.split(".")[-1][0].isupper():
                    module, _, _ = module.rpartition(".")
                parts = name.removeprefix(f"{module}.").split(".")
                assert callable(
                    reduce(getattr, parts, importlib.import_module(f"apv_edu.{module}"))
                )


@pytest.mark.timeout(1500)
def test_the_links_between_equations_and_functions_are_in_the_book(book):
    api = (book / "book" / "api.html").read_text("utf-8")
    for page, table in equations.EQUATIONS.items():
        text = (book / f"{page}.html").read_text("utf-8")
        for label, names in table.items():
            assert f'id="equation-{label}"' in text
            after = text[text.index(f'id="equation-{label}"') :].partition("</p>")[0]
            for name in names:
                assert f'api.html#apv_edu.{name}"' in after, f"{label} does not lead to {name}"
                entry = api[api.index(f'id="apv_edu.{name}"') :]
                entry = re.split(r'<dt class="sig', entry[10:])[0]
                assert f"{page.split('/')[-1]}.html#equation-{label}" in entry, f"{name}, {label}"
                assert f"_modules/apv_edu/{name.split('.')[0]}" in entry, f"{name} has no source"


@pytest.mark.browser
@pytest.mark.timeout(1500)
def test_a_pasted_error_is_found(book, browser):
    context = browser.new_context()
    page = context.new_page()
    page.goto((book / "book" / "troubleshooting.html").as_uri())
    shown = page.locator(".apv-errors > dt:visible")
    count = shown.count()
    field = page.get_by_label("Paste an error here")
    field.fill(
        "apv-edu: Unknown task 'tabletop:pull': use suite:task, the nearest are tabletop:push."
    )
    assert shown.count() == 1 and shown.inner_text().startswith("Unknown task")
    assert page.locator(".apv-errors > dd:visible").inner_text().startswith("Use suite:task")
    field.fill("checkpoint damaged")
    assert 1 <= shown.count() < count / 10
    assert f"{shown.count()} of {count}" in page.locator(".apv-search output").inner_text()
    field.fill("")
    assert shown.count() == count > 200
    context.close()
