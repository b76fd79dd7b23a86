"""As in Colab: PyTorch and NumPy are there, the project is not, and the first cell comes first.

Each Python gets an environment with the packages that Colab has and the book uses. It is made once
and kept in the folder that APV_COLAB_DIR names (about 10 GB), else in pytest's cache; every run
works on a copy. A Python or a PyTorch that cannot be had fails the test, or skips it where
APV_COLAB_SKIP is set.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import addresses
import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TORCH = "2.14.1"
LIMIT = 120
"""Seconds that the first cell may take."""

# What the book uses and Colab brings: as in its image of June 2026 (Python 3.12), and as in
# requirements.txt but with a newer NumPy (Python 3.13).
PACKAGES = {
    "3.12": "numpy==2.0.2 ipython==7.34.0 ipykernel==6.17.1 ipywidgets==7.7.1 traitlets==5.7.1 "
    "absl-py==1.4.0 dm-tree==0.1.10 docstring_parser==0.18.0 einops==0.8.2 gymnasium==1.3.0 "
    "imageio==2.37.3 imageio-ffmpeg==0.6.0 lxml==6.1.1 matplotlib==3.10.0 pandas==2.2.2 "
    "pillow==11.3.0 protobuf==5.29.6 PyOpenGL==3.1.10 pyparsing==3.3.2 requests==2.32.4 "
    "safetensors==0.7.0 scikit-image==0.25.2 scipy==1.16.3 seaborn==0.13.2 statsmodels==0.14.6 "
    "tensorboard==2.20.0 tqdm==4.67.3 typeguard==4.5.2 typing_extensions==4.15.0",
    "3.13": "numpy==2.5.5 ipython==9.18.1 ipykernel==7.4.0 ipywidgets==8.1.9 matplotlib==3.11.2 "
    "pandas==2.3.3 pillow==13.0.0 protobuf==7.36.2 requests==2.34.2 scikit-image==0.26.0 "
    "scipy==1.17.1 tensorboard==2.21.0 tqdm==4.70.1",
}


@dataclass(frozen=True)
class Runtime:
    """A Python with its packages, and an empty folder to work in."""

    python: Path
    work: Path
    environment: dict[str, str]

    def packages(self) -> dict[str, str]:
        """The version of every package, by name."""
        code = (
            "import json; from importlib.metadata import distributions;"
            "print(json.dumps({each.name: each.version for each in distributions()}))"
        )
        run = [self.python, "-I", "-c", code]  # not what lies in this folder
        return json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)

    def execute(self, notebook: Path) -> tuple[dict, float]:
        """Run a notebook at the preset smoke; returns the executed copy and the seconds."""
        folder = self.work / notebook.stem
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        copy = self.work / f"{notebook.stem}.out.ipynb"
        command = [sys.executable, "-m", "papermill", str(notebook), str(copy), "-k", "colab"]
        command += ["--cwd", str(folder), "-p", "PRESET", "smoke", "--no-progress-bar"]
        start = time.perf_counter()
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-5000:]
        return json.loads(copy.read_text("utf-8")), time.perf_counter() - start


@pytest.fixture(scope="module")
def kept(request: pytest.FixtureRequest) -> Path:
    """The folder whose environments outlive the run."""
    named = os.environ.get("APV_COLAB_DIR")
    folder = Path(named) if named else request.config.cache.mkdir("colab")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def unavailable(reason: str) -> None:
    if os.environ.get("APV_COLAB_SKIP"):
        pytest.skip(reason)
    pytest.fail(f"{reason} Set APV_COLAB_SKIP=1 to skip this test where that is so.")


def find_python(version: str) -> Path:
    """A Python of this version on this machine, pyenv's included."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    named = [shutil.which(f"python{version}"), *pyenv.glob(f"versions/{version}.*/bin/python")]
    code = "import sys, ensurepip; print('%d.%d' % sys.version_info[:2])"
    for path in filter(None, named):
        run = subprocess.run([path, "-c", code], capture_output=True, text=True)
        if run.stdout.strip() == version:
            return Path(path)
    unavailable(f"There is no Python {version} with ensurepip here.")
    raise AssertionError


def install(python: Path, *arguments: str) -> None:
    command = [str(python), "-I", "-m", "pip", "install", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        unavailable(f"pip could not install {' '.join(arguments)} ({' '.join(last)}).")


def make_environment(version: str, kept: Path) -> Path:
    """The folder of a virtual environment with PyTorch and what else Colab has."""
    packages = PACKAGES[version].split()
    wanted = hashlib.sha256(f"{TORCH} {packages}".encode()).hexdigest()[:8]
    home = kept / f"python-{version}-{wanted}"
    if home.is_dir():
        return home
    for old in kept.glob(f"python-{version}-*"):
        shutil.rmtree(old)
    part = kept / f"python-{version}-{wanted}.part"
    subprocess.run([find_python(version), "-m", "venv", str(part)], check=True)
    python = part / "bin" / "python"
    install(python, "--no-deps", f"torch=={TORCH}")
    # CUDA's libraries, GBs without which such a build does not start, serve every Python.
    code = "from importlib.metadata import requires; print(*requires('torch'), sep='\\n')"
    needs = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout
    cuda = [
        line.partition(";")[0] for line in needs.splitlines() if re.match("nvidia-|cuda-t", line)
    ]
    shared = kept / f"cuda-{hashlib.sha256(' '.join(cuda).encode()).hexdigest()[:8]}"
    if cuda and not shared.is_dir():
        half = shared.with_suffix(".part")
        install(python, "--target", str(half), *cuda)
        half.rename(shared)
    if cuda:
        (site,) = part.glob("lib/python*/site-packages")
        (site / "cuda.pth").write_text(f"{shared}\n")
    install(python, f"torch=={TORCH}", *packages)
    part.rename(home)
    return home


def runtime(version: str, kept: Path, wheel: Path, work: Path) -> Runtime:
    """A copy of the environment, with a kernel named colab."""
    home, copy = make_environment(version, kept), kept / f"run-{version}"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(home, copy, symlinks=True, copy_function=os.link)
    python = copy / "bin" / "python"
    kernel = work / "jupyter" / "kernels" / "colab"
    kernel.mkdir(parents=True)
    start = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    described = {"argv": start, "display_name": "colab", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(described))
    ours = ("PYTHONPATH", "MUJOCO_GL", "APV_CACHE", "APV_STATIC", "MPLBACKEND")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment |= {
        "JUPYTER_PATH": str(work / "jupyter"),
        "COLAB_RELEASE_TAG": "a test",
        "APV_WHEEL": str(wheel),
        "APV_ASSETS_URL": (ROOT / "assets").as_uri(),
        "APV_CACHE": str(work / "cache"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    return Runtime(python, work, environment)


def only_first_cell(path: Path) -> Path:
    page = json.loads(CHAPTERS[0].read_text("utf-8"))
    page["cells"] = [cell for cell in page["cells"] if cell["cell_type"] == "code"][:2]
    path.write_text(json.dumps(page))
    return path


def printed(page: dict, cell: int) -> str:
    outputs = page["cells"][cell]["outputs"]
    return "".join("".join(output.get("text", "")) for output in outputs)


@pytest.mark.parametrize(("version", "chapters"), [("3.12", CHAPTERS), ("3.13", CHAPTERS[:7:6])])
def test_the_first_cell_installs_the_wheel_and_the_chapters_run(
    version: str, chapters: list[Path], kept: Path, wheel: Path, tmp_path: Path
):
    here = runtime(version, kept, wheel, tmp_path)
    before = here.packages()
    assert {"torch", "numpy"} <= set(before) and "apv_edu" not in before
    page, seconds = here.execute(only_first_cell(tmp_path / "first.ipynb"))
    print(f"\nPython {version}: the first cell took {seconds:.0f} s")
    assert seconds < LIMIT
    said = printed(page, 0)
    assert re.search(rf"apv_edu \S+ on .+, Python {re.escape(version)}\.\d+, PyTorch {TORCH}", said)
    assert "ERROR" not in said
    for chapter in chapters:
        page, seconds = here.execute(chapter)
        print(f"Python {version}: {chapter.stem} took {seconds:.0f} s")
    after = here.packages()
    assert {name: after.get(name) for name in before} == before
    assert list((tmp_path / "cache").rglob("*.safetensors"))


def test_the_first_cell_installs_from_the_address_of_a_repository(
    kept: Path, wheel: Path, tmp_path: Path
):
    """As from GitHub: the same cell, with a repository on this disk."""
    repository = tmp_path / "repository"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "apv_edu", repository / "apv_edu", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, repository)
    author = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "All"]):
        subprocess.run(["git", *command], cwd=repository, check=True)
    here = runtime("3.13", kept, wheel, tmp_path)
    before = here.packages()
    cell = addresses.first_cell()
    assert f"git+{addresses.repository()}" in cell
    page = json.loads(only_first_cell(tmp_path / "first.ipynb").read_text("utf-8"))
    page["cells"][0]["source"] = cell.replace(addresses.repository(), repository.as_uri())
    (tmp_path / "first.ipynb").write_text(json.dumps(page))
    del here.environment["APV_WHEEL"]
    here.execute(tmp_path / "first.ipynb")
    after = here.packages()
    assert {name: after.get(name) for name in before} == before and "apv_edu" in after
