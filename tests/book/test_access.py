"""Every page for every reader: axe-core finds nothing serious, on light and on dark pages."""

from pathlib import Path

import npm
import pytest
from test_pages import PAGES, Reader

ROOT = Path(__file__).resolve().parents[2]

VERSION = "4.14.1"
INTEGRITY = "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="  # noqa: E501

SERIOUS = """async (rules) => {
    const options = {resultTypes: ['violations'], ...(rules.length ? {runOnly: rules} : {})};
    return (await axe.run(document, options)).violations
        .filter((one) => ['serious', 'critical'].includes(one.impact))
        .flatMap((one) => one.nodes.map((node) => `${one.id}: ${node.html.slice(0, 200)}`));
}"""

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core, which no folder of the repository holds."""
    cache = ROOT / "_build" / "npm"
    try:
        folder = npm.fetch("axe-core", VERSION, INTEGRITY, ["axe.min.js"], cache)
    except npm.FetchError as error:
        pytest.fail(str(error))
    return (folder / "axe.min.js").read_text("utf-8")


@pytest.fixture
def page(browser):
    reader = Reader(browser, 1440)
    yield reader
    reader.context.close()


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_in_a_readers_way(book, page, axe, name):
    page.page.emulate_media(color_scheme="light")
    opened = page.open(book / f"{name}.html")
    opened.add_style_tag(content="* { transition: none !important }")  # no colour half-way
    opened.evaluate(f"{axe};0")
    assert opened.evaluate(SERIOUS, []) == [], "light"
    opened.emulate_media(color_scheme="dark")
    opened.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    assert opened.evaluate(SERIOUS, ["color-contrast"]) == [], "dark"
    opened.set_viewport_size({"width": 390, "height": 844})
    opened.wait_for_timeout(600)  # the theme's scripts look again half a second after a resize
    assert opened.evaluate(SERIOUS, ["scrollable-region-focusable"]) == [], "phone"


def test_the_check_finds_what_is_bad(browser, axe, tmp_path):
    path = tmp_path / "page.html"
    path.write_text('<!doctype html><p style="color:#999">Pale words</p><img src="data:,">')
    reader = Reader(browser, 1440)
    opened = reader.open(path)
    opened.evaluate(f"{axe};0")
    found = {line.partition(":")[0] for line in opened.evaluate(SERIOUS, [])}
    assert {"color-contrast", "image-alt", "html-has-lang"} <= found
    reader.context.close()
