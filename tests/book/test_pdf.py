"""The printed book: whole pages with bookmarks, links that stay inside, and nothing that moves."""

import shutil
from pathlib import Path

import pdf
import pytest
from pypdf import PdfReader

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["book/intro", "notebooks/03_pretraining", "book/dream", "book/bibliography"]
TOC = f"""
format: jb-book
root: {PAGES[0]}
parts:
  - caption: Two parts
    chapters: [{{file: {PAGES[1]}}}, {{file: {PAGES[2]}}}, {{file: {PAGES[3]}}}]
"""

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def printed(browser, book: Path, tmp_path_factory: pytest.TempPathFactory) -> PdfReader:
    """Four pages of the book on paper."""
    root = tmp_path_factory.mktemp("three")
    (root / "_toc.yml").write_text(TOC)
    shutil.copy(ROOT / "_config.yml", root)
    (root / "html").symlink_to(book)
    return PdfReader(pdf.make(browser, root, root))


def titles(outline: list, depth: int = 0) -> list[tuple[int, str]]:
    found = []
    for item in outline:
        more = isinstance(item, list)
        found += titles(item, depth + 1) if more else [(depth, str(item.title))]
    return found


def test_bookmarks_are_the_contents(printed):
    found = titles(printed.outline)
    assert found[:2] == [(0, "Contents"), (0, "Watch, then act")]
    assert (0, "Two parts") in found and (1, "A dream you can steer") in found
    assert "3. Pre-training" in [title for depth, title in found if depth == 1]
    assert len([1 for depth, _ in found if depth == 2]) > 8  # sections


def test_each_title_stands_on_the_page_that_the_contents_name(printed):
    texts = [page.extract_text() for page in printed.pages]
    for item in printed.outline:
        if not isinstance(item, list) and item.title == "Watch, then act":
            number = printed.get_destination_page_number(item)
            assert number is not None and "Watch, then act" in texts[number]
    for number, text in enumerate(texts[1:], 2):
        assert text.strip().endswith(str(number)), f"sheet {number} has no number"
    assert "3. Pre-training" in texts[0] and "A dream you can steer" in texts[0]


def test_links_lead_to_sheets_or_to_the_world(printed):
    inside, outside = 0, []
    for page in printed.pages:
        for reference in page.get("/Annots", ()):
            link = reference.get_object()
            inside += "/Dest" in link
            if "/A" in link:
                outside.append(str(link["/A"].get_object().get("/URI", "")))
    assert inside >= 3
    assert outside and not [one for one in outside if "page.invalid" in one]


def test_nothing_is_left_that_only_a_screen_can_do(printed):
    text = "\n".join(page.extract_text() for page in printed.pages)
    for word in ("Open in Colab", "Start again", "Temperature 1"):
        assert word not in text
    assert "Solution" in text
    sizes = {tuple(round(float(x)) for x in page.mediabox[2:]) for page in printed.pages}
    assert sizes <= {(594, 842), (595, 842), (596, 842)}  # A4, in points
    pictures = sum(len(page.images) for page in printed.pages)
    assert pictures > 20, "films and sliders print as pictures"


def test_without_a_book_it_says_what_to_do(browser, tmp_path):
    with pytest.raises(pdf.PrintError, match=r"no .*intro\.html: run `make book` first"):
        pdf.make(browser, tmp_path)
