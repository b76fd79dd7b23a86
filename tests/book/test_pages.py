"""The rendered book in a browser, opened as files: nothing missing, fetched or cut off."""

from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1500)]

TOC = yaml.safe_load((Path(__file__).resolve().parents[2] / "_toc.yml").read_text("utf-8"))
CHAPTERS = [page["file"] for part in TOC["parts"] for page in part["chapters"]]
PAGES = [TOC["root"], *CHAPTERS, "search", "genindex"]

DESCRIBED = """() => [...document.querySelectorAll('img')]
    .filter((image) => !(image.getAttribute('alt') || '').trim())
    .map((image) => image.outerHTML.slice(0, 200))"""

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
    .filter((one) => one.checkVisibility()).map((one) => one.firstElementChild.outerHTML)"""


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
        self.page.goto(path.as_uri(), wait_until="load")
        if "mathjax" in self.page.content().lower():
            self.page.wait_for_function("!window.MathJax || window.MathJax.startup?.promise")
            self.page.evaluate("async () => { await window.MathJax?.startup?.promise }")
        return self.page


@pytest.mark.parametrize("name", PAGES)
def test_page(book, browser, name):
    reader = Reader(browser, 1440)
    page = reader.open(book / f"{name}.html")
    assert page.locator("h1:visible").count() >= 1
    assert page.evaluate(DESCRIBED) == []
    formulas = page.locator(".math").count()
    assert page.locator(".math mjx-container").count() == formulas, "maths is left raw"
    assert page.evaluate(PLAYABLE) == []
    assert page.evaluate(WIDE) == [], "wider than a large screen"
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate(WIDE) == [], "wider than a phone"
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


@pytest.mark.parametrize("name", [name for name in CHAPTERS if name.startswith("notebooks/")])
def test_sliders_change_the_picture(book, browser, name):
    reader = Reader(browser, 390)
    page = reader.open(book / f"{name}.html")
    for player in page.locator(".apv-explore").all():
        for control in player.locator("input, select").all():
            before = player.evaluate(VISIBLE)
            assert len(before) == 1
            control.focus()
            page.keyboard.press("ArrowRight" if control.get_attribute("type") else "ArrowDown")
            after = player.evaluate(VISIBLE)
            assert len(after) == 1 and after != before, f"{name}: a control does nothing"
    assert reader.complaints == []
    reader.context.close()
