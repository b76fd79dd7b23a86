"""Files written whole or not at all, so that no kill and no full disk leaves half of one."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from apv_edu.errors import Busy, InputError


def write_atomically(path: Path | str, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all: whoever reads sees the old file or the new.

    Raises:
        InputError: when the disk is full or the folder cannot be written; the old file stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Around code that writes to ``path``: a disk that refuses becomes an ``InputError``.

    Raises:
        InputError: when the disk is full or the path cannot be written.
    """
    try:
        yield
    except OSError as error:
        kept = " (what was there before is kept)" if path.exists() else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"No space left to write {path}{kept}: free some on its disk and run again."
            ) from error
        raise InputError(
            f"Cannot write {path}{kept}: {error.strerror or error}; "
            "choose a folder that you may write to."
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make ``folder`` if it is missing and keep other processes from writing to it meanwhile.

    Raises:
        Busy: if another process is at it.
        InputError: if the folder cannot be written.
    """
    path = folder / ".lock"
    while True:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        with file:
            claim(file, folder)
            # The holder before us may have deleted the very file that we had opened.
            if not (path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def claim(file: IO[bytes], folder: Path) -> None:
    """Lock ``file`` in the name of ``folder`` until it is closed or the process dies.

    Raises:
        Busy: if another process holds it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy(
            f"Another process is writing to {folder}: wait for it or choose another folder."
        ) from None


def remove_leftovers(folder: Path | str) -> None:
    """Delete the temporary files that a killed process left behind in ``folder``."""
    for leftover in Path(folder).glob(".*.part"):
        leftover.unlink(missing_ok=True)
