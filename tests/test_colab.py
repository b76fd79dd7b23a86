"""What a first cell does once the package is there, with a Colab that is played."""

import json
import os
import platform
import subprocess
from pathlib import Path

import pytest
import torch

from apv_edu import colab
from apv_edu.envs import rendering
from apv_edu.errors import InputError


class Machine:
    """A Debian that writes down what is asked of it."""

    def __init__(self, *installed: str):
        self.installed = set(installed)
        self.ran: list[list[str]] = []

    def run(self, command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        known = command[0] == "dpkg-query" and command[-1] in self.installed
        if command[0] != "dpkg-query":
            self.ran.append(command)
        return subprocess.CompletedProcess(
            command, 0 if known else 1, "install ok installed" if known else ""
        )


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """In Colab, without a GPU; a word for every time that OpenGL was chosen."""
    monkeypatch.setenv("COLAB_RELEASE_TAG", "a test")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(colab, "NVIDIA", tmp_path / "vendors" / "10_nvidia.json")
    words: list[str] = []
    monkeypatch.setattr(rendering, "choose_gl", lambda: words.append("chosen"))
    return words


def play(monkeypatch: pytest.MonkeyPatch, *installed: str) -> Machine:
    machine = Machine(*installed)
    monkeypatch.setattr(subprocess, "run", machine.run)
    return machine


def test_a_checkout_outside_colab_stays_as_it_is(monkeypatch, capsys):
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    machine, before = play(monkeypatch), dict(os.environ)
    colab.set_up()
    assert capsys.readouterr().out == "" and machine.ran == [] and dict(os.environ) == before


def test_an_installed_package_outside_colab_says_where_it_runs(monkeypatch, capsys):
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    monkeypatch.setattr(colab, "checkout_assets", lambda: None)
    machine = play(monkeypatch)
    colab.set_up()
    assert capsys.readouterr().out == f"{colab.machine()}\n" and machine.ran == []


def test_colab_gets_the_packages_that_are_missing_and_no_other(monkeypatch, chosen, capsys):
    machine = play(monkeypatch, "libegl1")
    colab.set_up()
    assert machine.ran == [
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *rendering.GL_PACKAGES[1:]],
    ]
    assert chosen == ["chosen"] and not colab.NVIDIA.exists()
    assert capsys.readouterr().out == f"{colab.machine()}\n"


def test_a_machine_that_has_all_is_asked_for_nothing(monkeypatch, chosen):
    machine = play(monkeypatch, *rendering.GL_PACKAGES)
    colab.set_up()
    assert machine.ran == [] and chosen == ["chosen"]


def test_a_gpu_is_named_and_its_driver_made_known_before_opengl_is_chosen(
    monkeypatch, chosen, capsys
):
    play(monkeypatch, *rendering.GL_PACKAGES)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA T4")
    there: list[bool] = []
    monkeypatch.setattr(rendering, "choose_gl", lambda: there.append(colab.NVIDIA.exists()))
    colab.set_up()
    assert there == [True]
    assert json.loads(colab.NVIDIA.read_text())["ICD"]["library_path"] == "libEGL_nvidia.so.0"
    assert " on NVIDIA T4, Python" in capsys.readouterr().out

    colab.NVIDIA.write_text("its own")
    colab.set_up()
    assert colab.NVIDIA.read_text() == "its own"


def test_without_opengl_one_sentence_says_so_and_the_notebook_goes_on(monkeypatch, chosen, capsys):
    play(monkeypatch, *rendering.GL_PACKAGES)

    def nothing() -> str:
        raise InputError("There is no headless OpenGL: install it.")

    monkeypatch.setattr(rendering, "choose_gl", nothing)
    colab.set_up()
    first, second = capsys.readouterr().out.splitlines()
    assert first == "There is no headless OpenGL: install it." and second == colab.machine()


def test_the_machine_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = colab.machine()
    assert "\n" not in line and f"Python {platform.python_version()}," in line
    assert f"on the CPU ({os.cpu_count()} cores)" in line and torch.__version__ in line
