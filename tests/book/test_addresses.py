"""The project's address stands once; everything that repeats it follows, and nothing else does."""

import shutil
import subprocess
import sys
from pathlib import Path

import addresses
import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager

from apv_edu.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OTHER = "https://github.com/someone/a.course"
SUFFIXES = {".py", ".md", ".ipynb", ".toml", ".yml", ".cff", ".json", ".css", ".js", ""}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The text files of the project, with another address in pyproject.toml."""
    root = tmp_path / "copy"
    for name in ("apv_edu", "book", "notebooks"):
        ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file() and path.suffix in SUFFIXES:
            shutil.copy(path, root)
    path = root / "pyproject.toml"
    text = path.read_text("utf-8")
    assert text.count(f'"{addresses.repository()}"') == 1
    path.write_text(text.replace(f'"{addresses.repository()}"', f'"{OTHER}"'))
    return root


def run(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "book" / "addresses.py"), "--root", str(root), *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def mentions(root: Path, name: str) -> list[str]:
    """The files that write OWNER/NAME after a slash."""
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix in SUFFIXES]
    texts = {path: path.read_text("utf-8") for path in files}
    return sorted(str(path.relative_to(root)) for path in texts if f"/{name}" in texts[path])


def test_nothing_has_drifted():
    done = run(ROOT)
    assert done.returncode == 0 and done.stdout == "", done.stdout + done.stderr


def test_a_new_address_reaches_every_file(copy: Path):
    old = addresses.repository().removeprefix("https://github.com/")
    seen = mentions(copy, old)
    assert {"README.md", "_config.yml", "pyproject.toml"} < set(seen)
    check = run(copy)
    assert check.returncode == 1 and all(f"{copy / name}: differs" in check.stdout for name in seen)
    assert "addresses.py --write" in check.stderr and mentions(copy, old) == seen

    assert run(copy, "--write").returncode == 0
    assert mentions(copy, old) == []
    assert mentions(copy, "someone/a.course") == seen
    config = yaml.safe_load((copy / "_config.yml").read_text("utf-8"))
    assert config["repository"]["url"] == OTHER
    assert "//raw.githubusercontent.com/someone/a.course/main/assets/" in (
        copy / "pyproject.toml"
    ).read_text("utf-8")
    again = run(copy, "--write")
    assert again.returncode == 0 and again.stdout == ""


def test_a_first_cell_follows_its_template_and_no_other_cell_changes(copy: Path):
    (copy / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    path = copy / "notebooks" / CHAPTERS[0].name
    text = path.read_text("utf-8")
    path.write_text(text.replace("--no-deps dm_control", "dm_control"))
    assert run(copy, "--write").stdout == f"{path}: written\n"
    assert path.read_text("utf-8") == text


@pytest.mark.parametrize(
    "address", ["", "https://example.org/a/b", "https://github.com/a", "https://github.com/a/b/c"]
)
def test_an_address_that_colab_cannot_open_is_refused(tmp_path: Path, address: str):
    (tmp_path / "pyproject.toml").write_text(f'[project.urls]\nRepository = "{address}"\n')
    with pytest.raises(InputError, match=r"Colab opens notebooks of GitHub only") as error:
        addresses.repository(tmp_path)
    assert repr(address) in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_readme_opens_every_chapter_in_colab(path: Path):
    name = f"notebooks/{path.name}"
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    (row,) = [line for line in lines if line.startswith("| [") and f"]({name})" in line]
    label = row[row.rindex("[") + 1 : row.rindex("]")]
    assert "in Colab][open]]" in row
    assert f"[{label}]: {addresses.in_colab(name)}" in lines


def test_in_a_checkout_the_first_cell_is_silent_and_light(tmp_path: Path):
    cell = TransformerManager().transform_cell(addresses.first_cell())
    light = "import os, sys; print('torch' in sys.modules, 'MUJOCO_GL' in os.environ)"
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", f"{cell}\n{light}"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "False False\n" and done.stderr == ""
