"""The rendered book in a browser, as files and from a server: nothing missing or cut off."""

from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1500)]

TOC = yaml.safe_load((Path(__file__).resolve().parents[2] / "_toc.yml").read_text("utf-8"))
CHAPTERS = [page["file"] for part in TOC["parts"] for page in part["chapters"]]
PAGES = [TOC["root"], *CHAPTERS, "search", "genindex", "py-modindex", "_modules/apv_edu/bonus"]
"""All pages, and one of those that show source."""

UNDESCRIBED = """() => [...document.querySelectorAll('img, video, canvas')]
    .map((one) => [one.getAttribute('alt') || one.getAttribute('aria-label') || '', one.outerHTML])
    .filter(([words]) => words.trim().split(/\\s+/).length < 2
        || /\\.(png|jpe?g|svg|gif|webp|mp4|webm)$/i.test(words.trim()))
    .map(([words, code]) => code.slice(0, 200))"""

WIDE = """() => document.documentElement.scrollWidth > window.innerWidth
    ? [...document.querySelectorAll('body *')]
        .filter((one) => one.getBoundingClientRect().right > window.innerWidth + 1)
        .slice(0, 5).map((one) => one.outerHTML.slice(0, 200))
    : []"""

PLAYABLE = """async () => {
    const failed = [];
    for (const video of document.querySelectorAll('video')) {
        const label = video.getAttribute('aria-label') || '';
        if (!label.trim()) failed.push('no label: ' + video.outerHTML.slice(0, 120));
        if (!video.src.startsWith('data:video/mp4')) failed.push('src: ' + label);
        if (!video.controls || !video.muted || !video.loop) failed.push('attributes: ' + label);
        if (!video.checkVisibility()) continue;
        video.scrollIntoView();
        await Promise.race([video.play(), new Promise((done) => setTimeout(done, 30000))])
            .catch((error) => failed.push(label + ': ' + error));
        const plays = () => video.readyState >= 2 && video.videoWidth && video.currentTime > 0;
        for (let i = 0; i < 300 && !plays(); i++)
            await new Promise((done) => setTimeout(done, 100));
        if (!plays()) failed.push('does not play: ' + label);
    }
    return failed;
}"""

VISIBLE = """(player) => [...player.querySelectorAll('.apv-picture')]
    .filter((one) => one.checkVisibility()).map((one) => one.querySelector('img, video').src)"""


class Reader:
    """A browser page that writes down what should not happen."""

    def __init__(self, browser, width, server="file:", **settings):
        self.own = (server, "data:", "blob:")
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
        self.context.set_default_timeout(120_000)
        self.page = self.context.new_page()
        self.complaints = []
        self.page.on("request", self._request)
        self.page.on(
            "requestfailed", lambda one: self.complaints.append(f"failed: {one.url[:200]}")
        )
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("console", self._console)

    def _request(self, request):
        if not request.url.startswith(self.own):
            self.complaints.append(f"request: {request.url}")

    def _console(self, message):
        if message.type == "error":
            self.complaints.append(f"console: {message.text}")

    def open(self, path):
        self.page.goto(path if isinstance(path, str) else path.as_uri(), wait_until="load")
        if "mathjax" in self.page.content().lower():
            self.page.wait_for_function("!window.MathJax || window.MathJax.startup?.promise")
            self.page.evaluate("async () => { await window.MathJax?.startup?.promise }")
        return self.page


@pytest.fixture(params=["file", "server"])
def home(request, book):
    """Where a reader finds the book: in a folder, or at a server."""
    return request.getfixturevalue("served") if request.param == "server" else f"{book.as_uri()}/"


def changes(player, control, controls, others):
    """Whether one step of ``control`` changes the picture while ``others`` stand at an end."""
    for one in controls:
        one.press("Home" if one is control else others)
    before = player.evaluate(VISIBLE)
    control.press("ArrowRight" if control.get_attribute("type") else "ArrowDown")
    after = player.evaluate(VISIBLE)
    assert len(before) == len(after) == 1
    return after != before


@pytest.mark.parametrize("name", PAGES)
def test_page(browser, home, name):
    reader = Reader(browser, 1440, home if home.startswith("http") else "file:")
    page = reader.open(f"{home}{name}.html")
    assert page.locator("h1:visible").count() >= 1
    assert page.evaluate(UNDESCRIBED) == []
    formulas = page.locator(".math").count()
    assert page.locator(".math mjx-container").count() == formulas, "maths is left raw"
    assert page.evaluate(PLAYABLE) == []
    assert page.evaluate(WIDE) == [], "wider than a large screen"
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate(WIDE) == [], "wider than a phone"
    for player in page.locator(".apv-explore").all():
        controls = player.locator("input, select").all()
        for control in controls:
            assert any(changes(player, control, controls, key) for key in ("Home", "End")), (
                f"{name}: a control does nothing"
            )
    assert reader.complaints == []
    reader.context.close()


def test_index_opens_the_introduction(book, browser):
    reader = Reader(browser, 1440)
    reader.page.goto((book / "index.html").as_uri(), wait_until="commit")
    reader.page.wait_for_url("**/book/intro.html")
    assert reader.page.locator("article img").count() >= 1
    assert reader.complaints == []
    reader.context.close()


def test_maths_videos_and_pictures_are_really_there(book):
    """The checks above hold for empty pages too, so count what the chapters promise."""
    texts = [(book / f"{name}.html").read_text("utf-8") for name in CHAPTERS]
    notebooks = [t for n, t in zip(CHAPTERS, texts, strict=True) if n.startswith("notebooks/")]
    assert sum(text.count('class="math') for text in texts) > 10
    assert sum(text.count("<video") for text in notebooks) >= 3
    assert all("<img" in text or "<video" in text for text in notebooks)
    assert sum(text.count('class="apv-explore"') for text in notebooks) >= 1
