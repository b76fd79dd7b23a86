"""The book, built once, and a browser to read it with."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

ROOT = Path(__file__).resolve().parents[2]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

REMEDY = (
    "No Chromium found: install it with `apt-get install -y --no-install-recommends chromium` or "
    "`python -m playwright install chromium`, or name a browser in APV_CHROMIUM."
)


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


def executable(playwright: Playwright) -> str:
    """A Chromium: named by APV_CHROMIUM, fetched by Playwright, or of the system."""
    named = os.environ.get("APV_CHROMIUM")
    own = playwright.chromium.executable_path
    system = [shutil.which(name) for name in ("chromium", "google-chrome", "chromium-browser")]
    for path in [named] if named else [own, *system]:
        if path and Path(path).is_file():
            return path
    pytest.fail(REMEDY)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium with a fresh profile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(playwright), args=FLAGS)
        yield browser
        browser.close()
