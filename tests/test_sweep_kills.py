import random
import signal
import time
from pathlib import Path

import psutil
import pytest
from run_killing import finish, kill, start_command
from test_sweep import timeless

pytestmark = pytest.mark.long

GRID = """
preset = "smoke"
tasks = ["tabletop:reach"]
seeds = 6
[finetune]
steps = 160
[videos.push]
env = ["tabletop:push"]
videos = 6
[pretrain.push]
videos = ["push"]
seeds = 3
[methods.dreamer]
agent.variant = "dreamer"
agent.bonus.beta = 0
[methods.apv]
pretrain = "push"
"""


def of_ray(driver: int, *names: str) -> list[psutil.Process]:
    """Processes of the sweep's own Ray whose command begins with one of ``names``."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if any(name in command.split(" --")[0] for name in names):
            found.append(process)
    return found


def done(out: Path) -> int:
    return len(list(out.glob("runs/*/*/*/done.json")))


def wait_for(process, condition, seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.timeout(1500)
def test_a_sweep_of_twelve_runs_survives_the_death_of_a_worker_of_the_driver_and_of_ray(tmp_path):
    grid = tmp_path / "grid.toml"
    grid.write_text(GRID)
    quiet, out = tmp_path / "quiet", tmp_path / "out"

    def start(folder: Path):
        return start_command("sweep", grid, "--out", folder, "--workers", 2, "--no-progress")

    finish(start(quiet))
    assert done(quiet) == 12
    rng = random.Random(0)

    def kill_a_worker(process) -> None:
        """In the middle of a run, or of making a model."""
        while True:
            wait_for(process, lambda: of_ray(process.pid, "ray::_work"))
            time.sleep(rng.uniform(0, 2))
            if workers := of_ray(process.pid, "ray::_work"):
                return workers[0].send_signal(signal.SIGKILL)

    process = start(out)
    kill_a_worker(process)
    wait_for(process, lambda: done(out) >= 2)
    kill_a_worker(process)
    wait_for(process, lambda: done(out) >= 4)
    assert kill(process)  # the driver
    assert 4 <= done(out) < 12

    process = start(out)
    wait_for(process, lambda: done(out) >= 6 and of_ray(process.pid, "ray::_work"))
    for head in of_ray(process.pid, "gcs_server", "raylet"):
        head.send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=600)
    if process.returncode != 0:  # Ray may take its driver with it
        assert done(out) < 12, output
        finish(start(out))
    assert done(out) == 12
    assert timeless(out / "results.csv") == timeless(quiet / "results.csv")
    left = [path for path in out.rglob("*") if path.name.endswith(".part")]
    assert not left
