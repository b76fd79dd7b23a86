"""The book, built once, and a browser to read it with."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parents[2]

@pytest.fixture(scope="session")
def build() -> ModuleType:
    """The builder script, ``book/build.py``, as a module."""
    spec = importlib.util.spec_from_file_location("book_build", ROOT / "book" / "build.py")
    assert spec and spec.loader
    module = sys.modules["book_build"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory, build: ModuleType) -> Path:
    """The folder of the rendered book, built strictly at the preset ``smoke``."""
    out = tmp_path_factory.mktemp("book")
    index = build.build(preset="smoke", out=out, cache=ROOT / "_build" / "cache", root=ROOT)
    return index.parent


@pytest.fixture(scope="session")
def scripts() -> Iterator[Callable[[str], ModuleType]]:
    """Import a script of the folder ``book`` by its name."""
    sys.path.insert(0, str(ROOT / "book"))
    yield importlib.import_module
    sys.path.remove(str(ROOT / "book"))


@pytest.fixture(scope="session")
def browser(scripts: Callable[[str], ModuleType]) -> Iterator[Browser]:
    """A headless Chromium with a fresh profile."""
    finder = scripts("browser")
    with sync_playwright() as playwright:
        path = finder.executable(playwright)
        if path is None:
            pytest.fail(finder.REMEDY)
        browser = playwright.chromium.launch(executable_path=path, args=finder.FLAGS)
        yield browser
        browser.close()
