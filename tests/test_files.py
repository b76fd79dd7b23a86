"""A folder is written to by one process at a time."""

import multiprocessing as mp
import os
import signal

import pytest

from apv_edu import files
from apv_edu.errors import InputError
from apv_edu.files import locked


def _hold(folder, held) -> None:
    with locked(folder):
        held.set()
        signal.pause()


def test_a_lock_holds_between_processes_and_dies_with_its_own(tmp_path):
    folder = tmp_path / "new" / "run"
    context = mp.get_context("fork")
    held = context.Event()
    process = context.Process(target=_hold, args=(folder, held))
    process.start()
    assert held.wait(60)
    with pytest.raises(InputError) as caught, locked(folder):
        pass
    assert str(caught.value) == (
        f"Another process is writing to {folder}: wait for it or choose another folder."
    )
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    with locked(folder):
        (folder / "mine").touch()
    assert [path.name for path in folder.iterdir()] == ["mine"]


def test_a_lock_is_let_go_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        _ = 1 / 0
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_on_a_deleted_file_does_not_count(tmp_path, monkeypatch):
    claim, claimed = files.claim, []

    def late(file, folder):
        if not claimed:  # the holder before us is done between our opening and our locking
            (tmp_path / ".lock").unlink()
        claim(file, folder)
        claimed.append(os.fstat(file.fileno()).st_ino)

    monkeypatch.setattr(files, "claim", late)
    with locked(tmp_path):
        assert len(claimed) == 2 and (tmp_path / ".lock").stat().st_ino == claimed[1]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"Cannot write .*file/run: .*choose a folder"),
        locked(tmp_path / "file" / "run"),
    ):
        pass
