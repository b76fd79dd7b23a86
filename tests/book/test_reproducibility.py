"""The page on reproducibility: all figures and files are there, with what is known of each."""

import csv
import hashlib
import html
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import nbformat
import numpy as np
import pytest
import torch

from apv_edu import assets, checkpoint
from apv_edu.errors import InputError
from apv_edu.show.explore import explore_html
from apv_edu.show.figures import card, image_tag
from apv_edu.show.videos import video_html

ROOT = Path(__file__).resolve().parents[2]
PNG, OTHER = b"the bytes of a picture", b"of another"
PAPERMILL = "papermill notebooks/01_small.ipynb -p SEED 3"
COMMANDS = {
    "clips.npz": "apv-edu predict --out assets/clips.npz",
    "curve.csv": "cp runs/small/metrics.csv assets/curve.csv",
    "model.safetensors": "",
    "results/grid.toml": "",
    "results/toy.csv": "apv-edu sweep grid.toml --out runs/toy",
    "results/toy_models.csv": "apv-edu sweep grid.toml --out runs/toy && cp models.csv assets/",
    "speed_data.csv": "python -m apv_edu.bench data --seed 5",
    "speed_machine.csv": "python -m apv_edu.bench data",
}
RUN = {
    "name": "01_small",
    "title": "A small chapter",
    "preset": "smoke",
    "seed": 3,
    "seconds": 9.5,
    "cpu_seconds": 61.0,
    "cores": 2,
    "command": PAPERMILL,
    "versions": {"python": "3.11.0", "torch": "2.9"},
}
SWEEP = """task,method,seed,env_step,success,return,wall_seconds,cpu_seconds,revision,versions
tabletop:reach,random,0,0,0,1,0.0,0.0,abc,torch 2.9
tabletop:reach,APV,0,100,0,1,9,1000.5,abc,torch 2.9
tabletop:reach,APV,0,200,0,1,9,3000.5,abc,torch 2.9
tabletop:reach,APV,1,200,0,1,9,2000.0,abd,torch 2.9
tabletop:reach,DreamerV2,1,200,0,1,9,2199.5,abd,torch 2.8
tabletop:push,APV,3,200,0,1,9,,abd,torch 2.8
"""


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The script ``book/reproducibility.py``, as a module."""
    sys.path.insert(0, str(ROOT / "book"))
    try:
        yield importlib.import_module("reproducibility")
    finally:
        sys.path.remove(str(ROOT / "book"))


def output(text: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_output("display_data", {"text/html": text, "text/plain": "<HTML>"})


def notebook(path: Path, *texts: str) -> None:
    outputs = [output(text) for text in texts] + [nbformat.v4.new_output("stream", text="words")]
    cells = [nbformat.v4.new_code_cell("x", outputs=[one]) for one in outputs]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


def picture(data: bytes = PNG) -> str:
    return card(image_tag(data, "A hill & a cloud of $5", 4, 4), "A caption.")


def player() -> str:
    frame = np.zeros((4, 4, 3), np.uint8)
    return explore_html(lambda n: frame + n, "A square, {n} bright.", n=[1, 2])


def write_table(root: Path) -> None:
    """As ``make assets`` does it, with commands."""
    path = root / "apv_edu" / "assets.json"
    made = assets.make_table(root / "assets", assets.read_table(path))
    for name, asset in made.items():
        asset["command"] = asset["command"] or COMMANDS.get(name, "")
        asset["about"] = f"What {name} is."
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(made))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with a few files of each kind."""
    folder = tmp_path / "root"
    (folder / "assets" / "results").mkdir(parents=True)
    told = {"command": "apv-edu pretrain --out runs/small", "seed": 4, "versions": {"torch": "2.9"}}
    model = folder / "assets" / "model.safetensors"
    checkpoint.save(model, {"weight": torch.zeros(2)}, {"kind": "video_model", **told})
    texts = {
        "README.md": "not shipped",
        "clips.npz": "clips",
        "curve.csv": "step,name,value\n10,time/seconds_per_step,2.0\n10,loss,7\n"
        "30,time/seconds_per_step,0.5\n",
        "results/grid.toml": "seeds = 4\n",
        "results/toy.csv": SWEEP,
        "results/toy_models.csv": "model,seed,updates,clock_seconds\npush,0,9,600\npush,1,9,660\n",
        "speed_data.csv": "videos,gb\n5,1\n",
        "speed_machine.csv": "cpu,cores\nA fast one,2\n",
    }
    for name, text in texts.items():
        (folder / "assets" / name).write_text(text)
    write_table(folder)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A staged book of a drawing, a picture, a video and a player."""
    folder = tmp_path / "out"
    source = folder / "source"
    video = video_html(np.zeros((2, 16, 16, 3), np.uint8), "A film.")
    notebook(source / "notebooks" / "01_small.ipynb", picture(), video, "<p>5</p>", player())
    (source / "book" / "figures").mkdir(parents=True)
    (source / "book" / "figures" / "a.svg").write_text("<svg/>")
    drawing = "```{figure} figures/a.svg\n:name: fig-a\n:alt: A drawing.\n\nA caption.\n```\n"
    (source / "book" / "intro.md").write_text(f"# A book\n\n{drawing}")
    pages = "[{file: notebooks/01_small}, {file: book/reproducibility}]"
    (source / "_toc.yml").write_text(
        f"root: book/intro\nparts: [{{caption: One, chapters: {pages}}}]\n"
    )
    (folder / "run_times.json").write_text(json.dumps([RUN]))
    return folder


def rows(out: Path) -> dict[str, dict[str, str]]:
    """The lines of the CSV that was written, by name."""
    with (out / "source" / "book" / "reproducibility.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_every_figure_and_every_file_is_there(script, out, root):
    made = script.write(out, root)
    table = rows(out)
    figures = {
        "figures/a.svg": "drawing",
        "figure 1": "picture",
        "figure 2": "video",
        "figure 3": "interactive",
    }
    assert list(table) == [one.name for one in made] == [*figures, *COMMANDS]
    assert {name: table[name]["kind"] for name in figures} == figures
    page = (out / "source" / "book" / "reproducibility.md").read_text()
    words = html.unescape(re.sub(r"</?span>", "", page))  # which keep options in one piece
    for row in table.values():
        assert f'title="{row["sha256"]}">{row["sha256"][:12]}</code>' in page, row["name"]
    for name in COMMANDS:
        data = (root / "assets" / name).read_bytes()
        assert table[name]["sha256"] == hashlib.sha256(data).hexdigest()
        assert int(table[name]["bytes"]) == len(data) and f"What {name} is." in page
        assert not COMMANDS[name] or table[name]["command"] == COMMANDS[name]
        assert table[name]["command"] in words
    assert "A hill &amp; a cloud of &#36;5" in page and "A drawing." in page
    assert "A square, 1 bright." in page and PAPERMILL in words
    assert "{download}`reproducibility.csv`" in page and "make" in page


def test_a_figure_has_the_facts_of_its_notebook_and_the_sum_of_its_bytes(script, out, root):
    script.write(out, root)
    table = rows(out)
    first = table["figure 1"]
    assert first["sha256"] == hashlib.sha256(PNG).hexdigest()
    assert first["about"] == "A hill & a cloud of $5" and first["page"] == "notebooks/01_small"
    assert first["command"] == PAPERMILL and first["seed"] == "3"
    assert (first["cpu_seconds"], first["wall_seconds"]) == ("61.0", "9.5")
    assert first["versions"] == "python 3.11.0, torch 2.9"
    assert len({row["sha256"] for row in table.values()}) == len(table)


def test_a_changed_byte_changes_the_checksum(script, out, root):
    script.write(out, root)
    before = rows(out)
    cells = player()
    assert "base64," in cells
    parts = cells.rpartition("base64,")  # the last picture of the player
    changed = f"{parts[0]}{parts[1]}AAAA{parts[2]}"
    video = video_html(np.zeros((2, 16, 16, 3), np.uint8), "A film.")
    path = out / "source" / "notebooks" / "01_small.ipynb"
    notebook(path, picture(PNG[:-1] + b"!"), video, changed)
    (root / "assets" / "clips.npz").write_text("clipt")
    write_table(root)
    script.write(out, root)
    after = rows(out)
    differing = [name for name in after if after[name]["sha256"] != before[name]["sha256"]]
    assert differing == ["figure 1", "figure 3", "clips.npz"]


def test_costs_and_seeds_come_from_the_files(script, out, root):
    script.write(out, root)
    table = rows(out)
    toy = table["results/toy.csv"]
    assert float(toy["cpu_seconds"]) == 3000.5 + 2000 + 2199.5
    assert toy["seed"] == "0-1, 3" and toy["revision"] == "abc, abd"
    assert toy["versions"] == "torch 2.8 / torch 2.9" and toy["wall_seconds"] == ""
    models = table["results/toy_models.csv"]  # of the same sweep, with a cost and seeds of its own
    assert (models["cpu_seconds"], float(models["wall_seconds"])) == ("", 1260)
    assert models["seed"] == "0-1" and models["versions"] == toy["versions"]
    for name in ("model.safetensors", "curve.csv"):  # of one run, so they lend each other
        assert float(table[name]["wall_seconds"]) == 10 * 2 + 20 * 0.5
        assert table[name]["cpu_seconds"] == "" and table[name]["seed"] == "4"
        assert table[name]["versions"] == "torch 2.9"
    assert table["speed_data.csv"]["versions"] == "cpu A fast one, cores 2"
    assert table["speed_data.csv"]["seed"] == "5"
    clips = table["clips.npz"]
    assert clips["cpu_seconds"] == clips["wall_seconds"] == clips["seed"] == clips["versions"] == ""
    page = (out / "source" / "book" / "reproducibility.md").read_text()
    assert "<br>2.0 h</td>" in page and "<br>30 s, clock</td>" in page
    assert "<br>21 min, clock</td>" in page
    assert "<br>not recorded</td>" in page and "1 min of processor time" in page


def test_a_file_without_a_command_is_named(script, out, root):
    (root / "assets" / "new.npz").write_text("new")
    with pytest.raises(InputError, match=r"assets/new\.npz has no command: run `make assets`"):
        script.write(out, root)
    write_table(root)
    with pytest.raises(InputError, match=r"assets/new\.npz has no command"):
        script.write(out, root)
    assert not (out / "source" / "book" / "reproducibility.md").exists()
    (root / "assets" / "new.npz").rename(root / "assets" / "new.toml")
    script.write(out, root)
    assert rows(out)["new.toml"]["command"].startswith("none: written by hand")
    page = (out / "source" / "book" / "reproducibility.md").read_text()
    line = next(line for line in page.splitlines() if "new.toml" in line)
    assert "not recorded" not in line  # nothing was computed


def test_a_file_that_is_not_the_one_described_is_named(script, out, root):
    (root / "assets" / "clips.npz").write_text("clipt")
    with pytest.raises(InputError, match=r"assets/clips\.npz is not the file that .*assets\.json"):
        script.write(out, root)


def test_figures_without_a_source_are_named(script, out, root):
    (out / "run_times.json").write_text(json.dumps([RUN | {"command": ""}]))
    with pytest.raises(InputError, match=r"01_small\.ipynb tells no command: run `make book`"):
        script.write(out, root)
    (out / "run_times.json").write_text(json.dumps([RUN]))
    page = out / "source" / "notebooks" / "01_small.ipynb"
    notebook(page, '<img alt="far" src="https://example.org/a.png">')
    with pytest.raises(InputError, match=r"notebooks/01_small shows 'https://example\.org/a\.png'"):
        script.write(out, root)
    notebook(page, picture())
    intro = out / "source" / "book" / "intro.md"
    intro.write_text("# A book\n\n![A photograph.](figures/b.png)\n")
    with pytest.raises(InputError, match=r"book/intro shows figures/b\.png, which does not exist"):
        script.write(out, root)
    (intro.parent / "figures" / "b.png").write_bytes(PNG)
    with pytest.raises(InputError, match=r"figures/b\.png, of which no command is known"):
        script.write(out, root)
    (out / "run_times.json").unlink()
    with pytest.raises(InputError, match=r"no .*run_times\.json: run `make book` first"):
        script.write(out, root)


def test_pictures_outside_cards_count_too(script, out, root):
    page = out / "source" / "notebooks" / "01_small.ipynb"
    bare = image_tag(PNG, "One.", 4, 4) + image_tag(OTHER, "Two.", 4, 4)
    notebook(page, bare)
    read = nbformat.read(page, as_version=4)
    data = {"image/png": "QUJD\n", "text/plain": "<Figure>"}
    read.cells.append(
        nbformat.v4.new_code_cell("y", outputs=[nbformat.v4.new_output("display_data", data)])
    )
    nbformat.write(read, page)
    script.write(out, root)
    sums = [rows(out)[f"figure {number}"]["sha256"] for number in (1, 2, 3)]
    assert sums == [hashlib.sha256(one).hexdigest() for one in (PNG, OTHER, b"ABC")]


def test_the_builder_stops_before_the_notebooks_run(build, root, out):
    (root / "_toc.yml").write_text((out / "source" / "_toc.yml").read_text())
    build.account(root, "--check")
    (root / "assets" / "new.npz").write_text("new")
    with pytest.raises(build.BuildError, match=r"assets/new\.npz has no command"):
        build.build(preset="smoke", out=out / "other", root=root)
    (root / "_toc.yml").write_text("root: book/intro\nparts: []\n")
    build.account(root, "--check")  # a book without the page


@pytest.mark.timeout(1500)
def test_the_books_own_page_has_all_its_figures(book):
    with next(book.glob("_downloads/*/reproducibility.csv")).open(newline="") as file:
        table = list(csv.DictReader(file))
    runs = json.loads((book.parent / "run_times.json").read_text())
    for run in runs:
        page = f"notebooks/{run['name']}"
        shown = (book / f"{page}.html").read_text("utf-8").count('<figure class="apv-card"')
        assert shown == sum(row["page"] == page for row in table) >= 1
    assert {row["name"] for row in table if row["page"] == "assets"} == set(assets.read_table())
    text = (book / "book" / "reproducibility.html").read_text("utf-8")
    assert all(row["sha256"] in text and row["command"] for row in table)
