"""The second half of a notebook's first cell: what can wait until the package is there.

Colab brings PyTorch and NumPy, but neither MuJoCo's OpenGL for machines without a screen nor the
small file through which that finds an NVIDIA driver.
"""

import os
import platform
import subprocess
from pathlib import Path

from apv_edu.assets import checkout_assets
from apv_edu.errors import InputError
from apv_edu.files import write_atomically

NVIDIA = Path("/usr/share/glvnd/egl_vendor.d/10_nvidia.json")
"""Tells EGL that there is an NVIDIA driver; part of a driver's package, which Colab lacks."""
_DRIVER = '{"file_format_version": "1.0.0", "ICD": {"library_path": "libEGL_nvidia.so.0"}}\n'


def set_up() -> None:
    """Make a notebook ready to draw, and print in one line what it runs on.

    In Colab this installs OpenGL where it is missing and chooses it, so call it before MuJoCo is
    imported. Elsewhere it changes nothing, and in a checkout it prints nothing either.
    """
    if in_colab():
        prepare_opengl()
    elif checkout_assets() is not None:
        return
    print(machine())


def in_colab() -> bool:
    """Whether this Python runs in Colab."""
    return "COLAB_RELEASE_TAG" in os.environ


def prepare_opengl() -> None:
    """Install what MuJoCo draws with where it is missing, for a user who may, and choose it.

    Prints one sentence with the remedy if there is no OpenGL afterwards: worlds that need none
    still work.
    """
    import torch

    from apv_edu.envs.rendering import GL_PACKAGES, choose_gl

    # Asked of dpkg, not of OpenGL: a process that has looked for drivers once does not look again.
    missing = [package for package in GL_PACKAGES if not _installed(package)]
    if missing:
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
        for command in (["apt-get", "update", "-qq"], install):
            subprocess.run(command, capture_output=True)
    try:
        if torch.cuda.is_available() and not NVIDIA.exists():
            write_atomically(NVIDIA, _DRIVER.encode())
        choose_gl()
    except InputError as error:
        print(error)


def machine() -> str:
    """The package, the device (a GPU by name, or the CPU), Python and PyTorch, in one line."""
    import torch

    from apv_edu import __version__

    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"the CPU ({os.cpu_count()} cores)"
    )
    python = platform.python_version()
    return f"apv_edu {__version__} on {device}, Python {python}, PyTorch {torch.__version__}"


def _installed(package: str) -> bool:
    """Whether Debian or Ubuntu has this package here."""
    query = ["dpkg-query", "-W", "-f=${Status}", package]
    return "ok installed" in subprocess.run(query, capture_output=True, text=True).stdout
