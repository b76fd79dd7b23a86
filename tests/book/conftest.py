"""The book, built once, and a browser to read it with."""

import functools
import http.server
import importlib.util
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from browser import FLAGS, REMEDY, executable
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
def served(book: Path) -> Iterator[str]:
    """The address of a server of the book on this machine, as ``python -m http.server`` is one."""
    handler = functools.partial(Quiet, directory=str(book))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server that tells nobody what it sends."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium with a fresh profile."""
    with sync_playwright() as playwright:
        path = executable(playwright)
        if path is None:
            pytest.fail(REMEDY)
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()
