"""The page with a model in it: it runs alone, computes what torch does, and obeys its reader."""

import gzip
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from test_pages import Reader

from apv_edu.agent_files import load_agent
from apv_edu.assets import asset_path
from apv_edu.nets.distributions import entropy, gumbel

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "book" / "dream.py"
pytestmark = [pytest.mark.browser, pytest.mark.timeout(1500)]

KEYS = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "w", "a", "s", "d", " ", "r", "Tab"]
BUSY = "document.querySelector('[data-part=begin]').hidden"
DREAMS = f"{BUSY} && document.querySelector('[data-part=reward]').textContent !== '–'"

IMAGINE = """async ([actions, noises]) => {
    const model = document.querySelector('.apv-dream').model, told = [];
    const about = window.apvDream.about, size = atob(about.starts[0].deter).length / 4;
    const zeros = (n) => new Float32Array(n);
    let belief = { deter: zeros(size), stoch: zeros(about.stoch * about.classes) };
    for (let t = 0; t < actions.length; t++) {
        belief = await model.step(
            belief, Float32Array.from(actions[t]), Float32Array.from(noises[t]));
        told.push([belief.entropy[0], belief.reward[0], ...await model.draw(belief)]);
    }
    return told;
}"""

PACE = """async () => {
    const figure = document.querySelector('.apv-dream'), begin = performance.now();
    for (let t = 0; t < 100; t++) await figure.dream();
    return 100_000 / (performance.now() - begin);
}"""

FUTURES = """async () => {
    await document.querySelector('.apv-dream').lookAhead();
    const canvas = document.querySelector('[data-part=futures]'), { size } = window.apvDream.about;
    return Array.from({ length: 16 }, (_, i) => [...canvas.getContext('2d').getImageData(
        (i % 8) * (size + 1), Math.floor(i / 8) * (size + 1), size, size).data].join());
}"""

RING = """() => { const { left, top } = document.querySelector('[data-part=ring]').style;
    return [parseFloat(left), parseFloat(top)]; }"""


@pytest.fixture
def reader(browser, request) -> Iterator[Reader]:
    """A browser that complains, closed at the end."""
    settings = getattr(request, "param", {"width": 1440})
    reader = Reader(browser, **settings)
    yield reader
    assert reader.complaints == []
    reader.context.close()


def begin(page):
    page.locator("[data-part=begin]").click()
    page.wait_for_function(DREAMS)
    return page


def pause(page):
    """Stop the page's own clock, and wait for the step that it is at."""
    page.get_by_role("button", name="Pause").click()
    page.wait_for_timeout(1000)


def test_from_files_it_repeats_what_torch_dreams_quickly(book, reader):
    page = begin(reader.open(book / "book/dream.html"))
    worst = page.evaluate("document.querySelector('.apv-dream').worst")  # on the stored trace
    assert 0 < worst <= 1e-4
    assert "differs from PyTorch" in page.locator("[data-part=check]").inner_text()
    pause(page)
    assert page.evaluate(PACE) >= 20  # steps a second, pictures and futures included

    name = SCRIPT.read_text("utf-8").partition('AGENT = "')[2].partition('"')[0]
    agent, _ = load_agent(asset_path(name))
    assert agent.config.variant == "apv"  # a stacked one: its upper storey dreams
    model = agent.world_model
    generator = torch.Generator().manual_seed(7)
    action = torch.rand(1, 20, 2, generator=generator) * 2 - 1
    noise = gumbel(1, 20, model.size.stoch, model.size.classes, generator=generator)
    with torch.no_grad():
        future = model.rssm.imagine(model.rssm.initial(1), 20, actions=action, noise=noise)
        frames = (model.decode(future.features) + 0.5).clamp(0, 1).flatten(2)
        told = [entropy(future.prior)[..., None], model.reward(future.features)[..., None], frames]
    found = page.evaluate(IMAGINE, [action[0].tolist(), noise[0].flatten(1).tolist()])
    np.testing.assert_allclose(found, torch.cat(told, -1)[0], atol=1e-4)


def test_from_a_server_two_hundred_keys_do_no_harm(browser, served):
    reader = Reader(browser, 1440, served)
    reader.page.goto(served + "book/dream.html")
    page = begin(reader.page)
    stage, keys = page.locator("[data-part=stage]"), random.Random(0)
    for _ in range(200):
        if keys.random() < 0.1:
            stage.focus()
        page.keyboard.press(keys.choice(KEYS), delay=keys.choice([0, 0, 30]))
    if page.get_by_role("button", name="Go on").count():
        page.get_by_role("button", name="Go on").click()
    page.get_by_role("button", name="Start again").click()
    page.wait_for_function("document.querySelector('[data-part=reward]').textContent === '–'")
    page.wait_for_function(DREAMS)
    uncertainty = float(page.locator("[data-part=entropy]").inner_text())
    assert 0 <= uncertainty <= float(page.locator("[data-part=most]").inner_text()) + 1
    assert reader.complaints == []
    reader.context.close()


def test_temperature_decides_whether_futures_differ(book, reader):
    page = begin(reader.open(book / "book/dream.html"))
    pause(page)
    slider = page.get_by_label("Temperature")
    slider.focus()
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "0 (mode)"
    assert len(set(page.evaluate(FUTURES))) == 1
    page.keyboard.press("End")
    assert len(set(page.evaluate(FUTURES))) > 8


def test_keys_and_buttons_move_the_gripper_up_to_the_wall(book, reader):
    page = begin(reader.open(book / "book/dream.html"))
    at = page.evaluate(RING)
    page.keyboard.down("ArrowRight")
    page.wait_for_function(f"({RING})()[0] > 90.9")  # 1 - RADIUS is at 91%
    assert page.locator(".pad .held").get_attribute("aria-label") == "Right"
    page.wait_for_timeout(500)
    page.keyboard.up("ArrowRight")
    assert page.locator(".pad .held").count() == 0
    assert page.evaluate(RING) == pytest.approx([91, at[1]])
    page.get_by_role("button", name="Up", exact=True).focus()
    page.keyboard.press("Enter")  # as a click without a finger: half a second
    page.wait_for_function(f"({RING})()[1] < {at[1] - 5}")
    page.get_by_label("Ring").uncheck()
    assert page.locator("[data-part=ring]").is_hidden()
    page.get_by_label("Recording").select_option(index=3)
    page.wait_for_function(DREAMS)


@pytest.mark.parametrize("reader", [{"width": 390, "has_touch": True}], indirect=True)
def test_fingers_steer_on_a_phone(book, reader):
    page = reader.open(book / "book/dream.html")
    page.locator("[data-part=begin]").tap()
    page.wait_for_function(DREAMS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for button in page.locator(".apv-dream button:visible").all():
        box = button.bounding_box()
        assert box and min(box["width"], box["height"]) >= 44, button.inner_text()
    for name, axis, wall in (("Left", 0, 9), ("Down", 1, 91)):
        box = page.get_by_role("button", name=name, exact=True).bounding_box()
        middle = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        touch = reader.context.new_cdp_session(page)
        touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [middle]})
        page.wait_for_function(f"Math.abs(({RING})()[{axis}] - {wall}) < 0.1")
        assert page.locator(".pad .held").get_attribute("aria-label") == name
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_function("!document.querySelector('.pad .held')")


def test_only_this_page_carries_the_model_and_it_is_small(book):
    wire = [book / "book/dream.html", *(book / "_static/dream").iterdir()]
    assert sum(len(gzip.compress(path.read_bytes())) for path in wire) <= 20e6
    carriers = [page.name for page in book.rglob("*.html") if "_static/dream" in page.read_text()]
    assert carriers == ["dream.html"]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    assert "runtime.js" not in tracked and "ort" not in {Path(f).stem for f in tracked.split()}


def make(cache: Path, out: Path, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), "--cache", str(cache), "--out", str(out)]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True
    )


def test_without_the_registry_the_build_says_so_in_one_sentence(tmp_path):
    done = make(tmp_path / "cache", tmp_path / "out", npm_config_registry="http://127.0.0.1:9/")
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert "check the network" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_another_file_than_the_pinned_one_is_not_used(tmp_path):
    (tmp_path / "onnxruntime-web-1.30.0.tgz").write_text("something else")
    done = make(tmp_path, tmp_path / "out", npm_config_registry="http://127.0.0.1:9/")
    assert done.returncode == 1 and "could not be fetched" in done.stderr
    assert not (tmp_path / "out").exists()
