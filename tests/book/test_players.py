"""Players, figures and videos of the package on a bare page, several together."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from test_pages import PLAYABLE, Reader

from apv_edu.show.explore import explore_html
from apv_edu.show.figures import figure_html
from apv_edu.show.videos import video_html

pytestmark = pytest.mark.browser


def flat(colour: tuple[int, int, int], time: int = 4) -> np.ndarray:
    return np.full((time, 8, 8, 3), colour, np.uint8)


def line(slope: float):
    fig, axis = plt.subplots(figsize=(6, 3))
    axis.plot([0, 1], [0, slope])
    return fig


@pytest.fixture
def page(browser, tmp_path):
    parts = [
        figure_html(line(1), "A rising line", "A caption"),
        video_html(flat((200, 30, 30)), "Red"),
        explore_html(
            lambda slope, sign: line(slope * sign), "{slope} {sign}", slope=[1, 2, 3], sign=[1, -1]
        ),
        explore_html(
            lambda slope, sign: line(slope * sign), "{slope} {sign}", slope=[1, 2, 3], sign=[1, -1]
        ),
        explore_html(lambda red: flat((red, 0, 0)), "Red {red}", red=[0, 100, 200]),
    ]
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{''.join(parts)}</body>")
    reader = Reader(browser, 390)
    yield reader.open(path)
    assert reader.complaints == []
    reader.context.close()


def alt(player) -> str:
    shown = [one for one in player.locator(".apv-picture img").all() if one.is_visible()]
    assert len(shown) == 1
    return shown[0].get_attribute("alt")


def test_players_do_not_disturb_each_other(page):
    first, second = page.locator(".apv-explore").all()[:2]
    assert alt(first) == alt(second) == "1 1"
    first.locator("input").focus()
    page.keyboard.press("ArrowRight")
    assert (alt(first), alt(second)) == ("2 1", "1 1")
    assert first.locator("output").inner_text() == "2"
    assert first.locator("input").get_attribute("aria-valuetext") == "2"
    second.locator("select").select_option(index=1)
    page.keyboard.press("End")
    assert (alt(first), alt(second)) == ("3 1", "1 -1")


def test_controls_are_named(page):
    for player in page.locator(".apv-explore").all():
        assert player.get_attribute("aria-label")
    assert page.get_by_label("slope").count() == 2
    assert page.get_by_label("sign").count() == 2


def test_videos_play_in_their_own_colours(page):
    assert page.evaluate(PLAYABLE) == []
    colour = page.evaluate("""async () => {
        const video = document.querySelector('video');
        await new Promise((done) => video.requestVideoFrameCallback(done));
        const canvas = document.createElement('canvas');
        canvas.width = video.videoWidth; canvas.height = video.videoHeight;
        const drawing = canvas.getContext('2d');
        drawing.drawImage(video, 0, 0);
        return [...drawing.getImageData(8, 8, 1, 1).data].slice(0, 3);
    }""")
    assert np.abs(np.array(colour) - (200, 30, 30)).max() < 16


def test_only_the_visible_video_of_a_player_runs(page):
    player = page.locator(".apv-explore").nth(2)
    slider = player.locator("input")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        """() => { const videos = [...document.querySelectorAll('.apv-explore')[2]
            .querySelectorAll('video')]; return !videos[1].paused && videos[0].paused; }"""
    )


def test_nothing_is_wider_than_a_phone(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
