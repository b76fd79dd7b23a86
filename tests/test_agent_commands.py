import csv
from pathlib import Path

import av
import numpy as np
import pytest
from finetune_runs import LIMIT, TASK, quick, run, video_model

from apv_edu import checkpoint, cli, evaluate
from apv_edu.agent_files import load_agent
from apv_edu.assets import read_table
from apv_edu.envs.vector import EnvironmentCrash
from apv_edu.finetune_config import FinetuneConfig, finetune_config

RUN = (
    f"--preset smoke --world.time-limit {LIMIT} --agent.model.image-size 32 --steps 30 "
    "--prefill 10 --warmup 1 --sequence-length 6 --replay 40 --log-every 1 --eval-every 20 "
    "--checkpoint-every 10 --device cpu --threads 1 --no-progress --seed 5"
).split()


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = cli.main([str(argument) for argument in arguments])
    out, error = capsys.readouterr()
    return status, out, error


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    run(out, quick("dreamer", steps=20))
    return out / "agent.safetensors"


def frames_of(path: Path) -> np.ndarray:
    with av.open(str(path), "r") as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_finetune_from_a_video_model_to_an_agent_and_on(tmp_path: Path, capsys):
    model = video_model(tmp_path / "model.safetensors")
    out = tmp_path / "run"
    arguments = ["finetune", TASK, "--out", out, "--video-model", model, *RUN]
    status, text, _ = call(capsys, *arguments)
    assert (status, text) == (0, f"{out / 'agent.safetensors'}\n")
    agent, story = load_agent(out / "agent.safetensors")
    assert story["command"].startswith(f"apv-edu finetune {TASK} --out ")
    assert agent.config.variant == "apv"
    assert call(capsys, *arguments)[0] == 0  # once more is no harm
    status, _, error = call(capsys, *arguments, "--agent.bonus.beta", "0.5")
    assert status == 2 and "agent.bonus.beta: 1.0 there, 0.5 now" in error
    assert call(capsys, *arguments, "--steps", "40")[0] == 0
    assert load_agent(out / "agent.safetensors")[1]["steps"] == 40


def test_evaluate_writes_table_video_and_dream(trained: Path, tmp_path: Path, capsys):
    table, video, dreamt = (tmp_path / name for name in ("t.csv", "v.mp4", "d.gif"))
    status, out, _ = call(
        capsys, "evaluate", "--agent", trained, "--episodes", 3, "--seed", 4, "--out", table,
        "--video", video, "--dream", dreamt,
    )  # fmt: skip
    assert status == 0
    lines = out.splitlines()
    assert lines[0].startswith("return   ") and "(95% interval " in lines[0]
    assert lines[1] == "success  0  (95% interval 0 to 0.561)"
    assert lines[2:] == [str(table), str(video), str(dreamt)]
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["episode"] for row in rows] == ["0", "1", "2"]
    assert {row["length"] for row in rows} == {str(LIMIT)}
    mean = np.mean([float(row["return"]) for row in rows])
    assert lines[0].split()[1] == f"{mean:.3g}"
    assert frames_of(video).shape == (3 * (LIMIT + 1), 32, 32, 3)
    assert frames_of(dreamt).shape == (LIMIT + 1, 3 * 64, 64, 3)
    again, other = tmp_path / "again.csv", tmp_path / "random.csv"
    call(capsys, "evaluate", "--agent", trained, "--episodes", 3, "--seed", 4, "--out", again)
    assert again.read_text() == table.read_text()
    status, out, _ = call(
        capsys, "evaluate", "--agent", trained, "--episodes", 3, "--seed", 4, "--out", other,
        "--random",
    )  # fmt: skip
    assert status == 0
    assert other.read_text() != table.read_text()


def test_evaluate_in_another_world(trained: Path, tmp_path: Path, capsys):
    arguments = ["evaluate", "--agent", trained, "--episodes", 1, "--task"]
    assert call(capsys, *arguments, "tabletop:push")[0] == 0
    status, _, error = call(capsys, *arguments, "tabletop:pull")
    assert status == 2 and "Unknown task 'tabletop:pull'" in error


@pytest.mark.gl
def test_evaluate_in_a_world_with_other_actions(trained: Path, capsys):
    arguments = ["evaluate", "--agent", trained, "--episodes", 1, "--task", "metaworld:reach"]
    status, _, error = call(capsys, *arguments)
    assert status == 2 and "actions have 2 numbers and this world takes 4" in error


SHIPPED = [name for name in read_table() if name.endswith("_agent.safetensors")]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name.startswith("tabletop") else pytest.mark.gl)
        for name in SHIPPED
    ],
)
def test_a_shipped_agent_plays(name: str, tmp_path: Path, capsys):
    video = tmp_path / "v.mp4"
    status, out, _ = call(capsys, "evaluate", "--agent", name, "--episodes", 1, "--video", video)
    assert status == 0
    assert out.splitlines()[-1] == str(video)
    assert len(frames_of(video)) > 10


def test_a_crash_in_an_evaluation_is_one_line(trained: Path, capsys, monkeypatch):
    def crash(*_arguments: object, **_options: object) -> None:
        raise EnvironmentCrash("RuntimeError: boom")

    monkeypatch.setattr(evaluate, "evaluate", crash)
    status, _, error = call(capsys, "evaluate", "--agent", trained)
    assert status == 2
    assert error.startswith(f"apv-edu: The world {TASK} crashed (RuntimeError: boom): mend it")


def test_export_halves_an_agent_and_keeps_its_story(trained: Path, tmp_path: Path, capsys):
    small = tmp_path / "small.safetensors"
    status, out, _ = call(capsys, "export", "--model", trained, "--out", small)
    assert (status, out) == (0, f"{small}: {small.stat().st_size / 1e6:.1f} MB\n")
    assert small.stat().st_size < 0.55 * trained.stat().st_size
    assert checkpoint.load(small)[1] == checkpoint.load(trained)[1]
    assert call(capsys, "evaluate", "--agent", small, "--episodes", 1)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("finetune reach --out run", "starts from a video model: name the model.safetensors"),
        ("finetune reach --out run --agent.variant dreamer", "Unknown task 'reach'"),
        ("finetune tabletop:reach --out run --video-model m", "There is no file or asset 'm'"),
        ("finetune tabletop:reach --out run --preset=huge", "Unknown preset 'huge'"),
        ("finetune tabletop:reach --out run --steps 0", "steps=0 is too small"),
        ("finetune tabletop:reach --out run --agent.bonus.beta -1", "beta=-1.0 is out of range"),
        ("finetune tabletop:reach --out run --seed -1", "seed=-1 is out of range"),
        ("finetune tabletop:reach --out run --threads 0", "threads=0 is too small"),
        ("finetune tabletop:reach --out run --agent.variant dreamer --replay 99999999999", " GB "),
        ("evaluate --agent a", "There is no file or asset 'a'"),
        ("evaluate --agent .", ". is a folder, not an agent"),
        ("evaluate --agent runs/a.safetensors", "There is no checkpoint runs/a.safetensors"),
        ("evaluate --agent a --episodes 0", "episodes=0 is too small"),
        ("evaluate --agent a --seed -1", "seed=-1 is out of range"),
        ("import-official --folder nowhere --out m", "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, error = call(capsys, *arguments.split())
    assert (status, out) == (2, "")
    assert error.startswith("apv-edu: ")
    assert error.count("\n") == 1
    assert message in error
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("preset", ["smoke", "laptop", "colab", "paper"])
@pytest.mark.parametrize("task", ["tabletop:push", "metaworld:reach", "dmc:walker-walk"])
def test_preset_and_suite_set_the_defaults_of_the_other_options(preset: str, task: str):
    arguments = f"finetune {task} --out o --preset {preset} --batch-size 7".split()
    command = cli.parse(arguments)
    assert isinstance(command, cli.Finetune)
    assert command.task == task
    assert command.config == finetune_config(preset, task, batch_size=7)


def test_the_suite_is_the_tasks_wherever_it_stands():
    command = cli.parse(["finetune", "--out", "c:/o", "dmc:walker-walk", "--video-model", "x"])
    assert isinstance(command, cli.Finetune)
    assert command.config == finetune_config("laptop", "dmc")
    unknown = cli.parse(["finetune", "nowhere", "--out", "o"])
    assert isinstance(unknown, cli.Finetune) and isinstance(unknown.config, FinetuneConfig)
