import errno
import json
import os
import queue
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from apv_edu.data import workers
from apv_edu.data.collect import PAPER_METAWORLD_TASKS, collect, expand
from apv_edu.data.recording import Settings, episode_path, save_episode, smooth_random
from apv_edu.errors import InputError
from apv_edu.files import locked


def quietly(name, out, **settings):
    return collect(name, out, **{"videos": 3, "workers": 0, "progress": False, **settings})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.npz"))}


def images(folder: Path) -> list[np.ndarray]:
    return [np.load(path)["image"] for path in sorted(folder.glob("*.npz"))]


def test_files_are_official_episodes_without_actions(tmp_path):
    done = quietly("tabletop:push", tmp_path / "v", image_size=32, behaviour="noisy-expert")
    files = sorted((tmp_path / "v").glob("*.npz"))
    assert (done.made, done.present, len(files)) == (3, 0, 3)
    total = 0
    for index, path in enumerate(files):
        task, number, length = path.stem.split("-")
        assert (task, int(number)) == ("tabletop_push", index)
        with np.load(path) as episode:
            assert set(episode) == {"image", "is_first", "is_last", "is_terminal", "reward"}
            image, steps = episode["image"], int(length)
            assert image.shape == (steps, 32, 32, 3) and image.dtype == np.uint8
            assert np.flatnonzero(episode["is_first"]).tolist() == [0]
            assert np.flatnonzero(episode["is_last"]).tolist() == [steps - 1]
            assert not episode["is_terminal"].any()
            assert episode["reward"].dtype == np.float32 and not episode["reward"].any()
            assert (image[0] != image[-1]).any()
        total += steps
    assert done.frames == total
    assert not [path for path in (tmp_path / "v").iterdir() if path.suffix == ".part"]


def test_a_task_with_dashes_is_still_all_before_the_first_dash():
    path = episode_path(Path("v"), "dmc:ball_in_cup-catch", 7, 51)
    assert path.name == "dmc_ball_in_cup_catch-00007-51.npz"


def test_the_number_of_processes_changes_nothing(tmp_path):
    names = ["tabletop:push", "tabletop:reach"]
    settings = {"behaviour": "noisy-expert", "look": "random", "distractors": 2, "image_size": 16}
    quietly(names, tmp_path / "a", **settings)
    done = quietly(names, tmp_path / "b", workers=2, **settings)
    assert done.made == 6 and contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(set(contents(tmp_path / "a").values())) == 6


def test_a_collection_is_taken_up_again(tmp_path):
    quietly("tabletop:*", tmp_path, behaviour="smooth-random", image_size=16)
    before = contents(tmp_path)
    kept, lost = sorted(tmp_path.glob("*.npz"))[:2]
    stamp = kept.stat().st_mtime_ns
    lost.unlink()
    (tmp_path / ".half.npz.1.part").write_bytes(b"x")
    done = quietly("tabletop:*", tmp_path, behaviour="smooth-random", image_size=16)
    assert (done.present, done.made) == (5, 1)
    assert contents(tmp_path) == before and kept.stat().st_mtime_ns == stamp
    assert not (tmp_path / ".half.npz.1.part").exists()
    more = quietly("tabletop:*", tmp_path, videos=4, behaviour="smooth-random", image_size=16)
    assert (more.present, more.made) == (6, 2)
    assert before.items() <= contents(tmp_path).items()


def test_killed_and_taken_up_again_is_the_same(tmp_path):
    call = (
        "from apv_edu.data.collect import collect\n"
        "if __name__ == '__main__':\n"
        f"    collect('tabletop:push', {str(tmp_path / 'a')!r}, videos=5000, workers=2,"
        " image_size=16, progress=False)"
    )
    (tmp_path / "call.py").write_text(call)
    process = subprocess.Popen([sys.executable, str(tmp_path / "call.py")])
    deadline = time.monotonic() + 60
    while len(contents(tmp_path / "a")) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    count, settled = 0, -1
    while count != settled and time.monotonic() < deadline:  # the orphans notice, and stop
        settled = len(contents(tmp_path / "a"))
        time.sleep(1)
        count = len(contents(tmp_path / "a"))
    assert 3 <= count == settled < 5000
    done = quietly("tabletop:push", tmp_path / "a", videos=count + 5, image_size=16)
    quietly("tabletop:push", tmp_path / "b", videos=count + 5, image_size=16)
    assert done.made > 0
    assert contents(tmp_path / "b").items() <= contents(tmp_path / "a").items()
    assert not list((tmp_path / "a").glob(".*.part"))


def test_the_seed_reaches_everything(tmp_path):
    for folder, seed in (("a", 1), ("b", 2)):
        quietly("tabletop:reach", tmp_path / folder, seed=seed, look="random", image_size=16)
    assert not set(contents(tmp_path / "a").values()) & set(contents(tmp_path / "b").values())


def test_the_manifest_says_how_it_was_made(tmp_path):
    quietly("tabletop:reach", tmp_path, seed=9, noise=0.25, look="felt")
    manifest = json.loads((tmp_path / "collect.json").read_text())
    assert manifest["names"] == ["tabletop:reach"] and manifest["videos"] == 3
    assert manifest["settings"]["seed"] == 9 and manifest["settings"]["noise"] == 0.25
    assert manifest["settings"]["options"] == {"look": "felt"}
    assert len(set(manifest["seeds"].values())) == 3 and "apv_edu" in manifest


def test_episodes_end_when_told(tmp_path):
    common = {"image_size": 16, "videos": 4}
    quietly("tabletop:reach", tmp_path / "all", after_success=None, **common)
    assert [len(image) for image in images(tmp_path / "all")] == [51] * 4
    quietly("tabletop:reach", tmp_path / "max", max_length=17, after_success=None, **common)
    assert [len(image) for image in images(tmp_path / "max")] == [17] * 4
    done = quietly("tabletop:reach", tmp_path / "now", min_length=0, after_success=0, **common)
    now = [len(image) for image in images(tmp_path / "now")]
    quietly("tabletop:reach", tmp_path / "later", min_length=0, after_success=5, **common)
    assert [len(image) for image in images(tmp_path / "later")] == [length + 5 for length in now]
    assert max(now) < 30 and done.successes == 4
    quietly("tabletop:reach", tmp_path / "min", min_length=40, after_success=0, **common)
    assert [len(image) for image in images(tmp_path / "min")] == [40] * 4


def test_noise_is_on_every_action(tmp_path):
    quietly("tabletop:reach", tmp_path / "a", after_success=None)
    quietly("tabletop:reach", tmp_path / "b", after_success=None, behaviour="noisy-expert")
    for steady, noisy in zip(images(tmp_path / "a"), images(tmp_path / "b"), strict=True):
        assert (steady[0] == noisy[0]).all() and (steady[1] != noisy[1]).any()
        assert (steady[-1] == steady[-2]).all() and (noisy[-1] != noisy[-2]).any()


def test_smooth_random_motion_is_smooth_and_varied():
    motions = []
    for seed in range(50):
        act = smooth_random(6, np.random.default_rng(seed))
        motions.append(np.stack([act() for _ in range(200)]))
    motion = np.stack(motions)
    assert motion.dtype == np.float32 and np.abs(motion).max() <= 1
    assert np.abs(np.diff(motion, axis=1)).mean() < 0.15
    assert motion.std(1).mean() > 0.3 and np.abs(motion.mean()) < 0.1


def test_the_44_tasks_the_paper_does_not_fine_tune_on():
    names = expand("metaworld:*", exclude=PAPER_METAWORLD_TASKS)
    assert len(names) == 44 and not set(names) & set(PAPER_METAWORLD_TASKS)
    assert len(set(PAPER_METAWORLD_TASKS)) == 6
    assert expand(["tabletop:push", "tabletop:*"]) == ["tabletop:push", "tabletop:reach"]


def fails(*words, name: str | list[str] = "tabletop:push", out, **settings):
    with pytest.raises(InputError) as error:
        quietly(name, out, **settings)
    message = str(error.value)
    assert all(word in message for word in words), message
    assert message.endswith(".") and "\n" not in message


def test_bad_names_are_answered_with_the_nearest(tmp_path):
    out = tmp_path / "v"
    fails("'tabletop:psh'", "tabletop:push", name="tabletop:psh", out=out)
    fails("'metaworld:lever-pul'", "metaworld:lever-pull", name="metaworld:lever-pul", out=out)
    fails("'lever-pull'", "metaworld:lever-pull", name="lever-pull", out=out)
    fails("'metaword:lever-pull'", "metaworld:lever-pull", name="metaword:lever-pull", out=out)
    fails("'atari:pong'", "suite:task", name="atari:pong", out=out)
    fails("'tabletop:lift*'", name=["tabletop:push", "tabletop:lift*"], out=out)
    fails("left", "tabletop:*", name="tabletop:push", exclude="tabletop:*", out=out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("videos", 0),
        ("seed", -1),
        ("noise", -0.1),
        ("noise", float("nan")),
        ("max_length", 1),
        ("after_success", -1),
        ("workers", -1),
        ("behaviour", "asleep"),
    ],
)
def test_bad_settings_are_named(tmp_path, setting, value):
    fails(setting, str(value), out=tmp_path / "v", **{setting: value})
    assert not (tmp_path / "v").exists()


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    fails(str(tmp_path), "not empty", "empty folder", out=tmp_path)
    fails("notes.txt", "is a file", out=tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_other_settings_do_not_mix(tmp_path):
    quietly("tabletop:push", tmp_path, videos=1)
    before = (tmp_path / "collect.json").read_bytes()
    fails("other settings", "seed", "options", out=tmp_path, seed=1, look="wood")
    fails("other settings", "names", name="tabletop:reach", out=tmp_path)
    assert (tmp_path / "collect.json").read_bytes() == before
    (tmp_path / "collect.json").write_text("{")
    fails("collect.json", "damaged", out=tmp_path)


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    sync, calls = os.fsync, []

    def full(descriptor):
        calls.append(1)
        if len(calls) < 4:  # the manifest and two episodes still fit
            return sync(descriptor)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    fails("tabletop_push-00002-", "No space left", "free some", out=tmp_path)
    monkeypatch.undo()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[0] == "collect.json" and [n[:19] for n in names[1:]] == [
        "tabletop_push-00000",
        "tabletop_push-00001",
    ]
    assert quietly("tabletop:push", tmp_path).made == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "episode-0-2.npz"
    with pytest.raises(InputError, match=r"file/episode-0-2\.npz: .* choose a folder"):
        save_episode(path, np.zeros((2, 8, 8, 3), np.uint8))


def test_an_error_in_a_process_reaches_the_reader(tmp_path):
    fails("'plaid'", "wood", out=tmp_path / "a", workers=1, look="plaid")
    fails("no option colour", "look", out=tmp_path / "b", workers=1, colour="red")


def test_a_process_that_dies_is_noticed():
    dead = SimpleNamespace(exitcode=-9, is_alive=lambda: False)
    alive = SimpleNamespace(exitcode=None, is_alive=lambda: True)
    with pytest.raises(InputError, match="status -9: collect again to go on"):
        workers._next_result(queue.Queue(), [alive, dead])
    gone = SimpleNamespace(exitcode=0, is_alive=lambda: False)  # ended well, and too early
    with pytest.raises(InputError, match="status 0: collect again to go on"):
        workers._next_result(queue.Queue(), [gone, gone])


def test_a_process_that_fails_is_one_sentence(tmp_path, monkeypatch):
    def fail(*_args):
        raise ValueError("qpos is\nnot finite.")

    todo, done = queue.Queue(), queue.Queue()
    todo.put(("tabletop:push", [0]))
    monkeypatch.setattr(workers, "record", fail)
    workers._work(todo, done, tmp_path, Settings(image_size=16))
    with pytest.raises(InputError) as caught:
        workers._next_result(done, [])
    message = str(caught.value)
    assert "Recording tabletop:push failed (ValueError: qpos is not finite): collect" in message
    assert "workers=0" in message and "\n" not in message and message.endswith(".")


def test_a_world_without_an_expert_says_so(tmp_path, monkeypatch):
    closed = []
    world = SimpleNamespace(unwrapped=object(), close=lambda: closed.append(1))
    monkeypatch.setattr(workers, "make_env", lambda *_, **__: world)
    words = ("tabletop:push has no scripted expert", "use the behaviour smooth-random")
    fails(*words, out=tmp_path)
    assert closed == [1]


def test_a_refused_collection_can_be_corrected_in_its_folder(tmp_path):
    fails("'plaid'", "wood", out=tmp_path, look="plaid")
    assert quietly("tabletop:push", tmp_path, look="wood", image_size=16).made == 3
    assert json.loads((tmp_path / "collect.json").read_text())["settings"]["image_size"] == 16
    fails("other settings", "image_size", out=tmp_path, look="wood")


def test_videos_of_others_are_not_counted(tmp_path):
    quietly("tabletop:push", tmp_path, videos=1, image_size=16)
    for name in ("my-own-video", "holiday", "tabletop_push-1-a"):
        np.savez(tmp_path / f"{name}.npz", image=np.zeros((2, 8, 8, 3), np.uint8))
    done = quietly("tabletop:push", tmp_path, videos=2, image_size=16)
    assert (done.present, done.made) == (1, 1)


def test_two_collections_at_once_do_not_mix(tmp_path):
    half = tmp_path / ".tabletop_push-00000-51.npz.1.part"
    with locked(tmp_path):
        half.write_bytes(b"half an episode of the other process")
        fails("Another process is writing to", str(tmp_path), out=tmp_path)
        assert half.exists() and not (tmp_path / "collect.json").exists()
    half.unlink()
    assert quietly("tabletop:push", tmp_path, image_size=16).made == 3
    assert not (tmp_path / ".lock").exists()


def test_a_true_end_is_marked(tmp_path):
    save_episode(tmp_path / "a-0-3.npz", np.zeros((3, 8, 8, 3), np.uint8), terminal=True)
    assert np.load(tmp_path / "a-0-3.npz")["is_terminal"].tolist() == [False, False, True]
    assert Settings().options == {}
