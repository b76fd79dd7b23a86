"""The shipped agents do what the book says of them, and so do all their seeds."""

import numpy as np
import pytest

from apv_edu.agent_files import load_agent, world_config
from apv_edu.assets import asset_path, read_table
from apv_edu.evaluate import evaluate, world
from apv_edu.learning_curves import Point, read_points

AGENTS = sorted(name for name in read_table() if name.endswith("_agent.safetensors"))
DREAM = "tabletop_dream_agent.safetensors"
"""Made for the page that dreams: no curve of the book is of it."""


@pytest.fixture(scope="module")
def points() -> list[Point]:
    return read_points(asset_path("finetuning.csv"))


def last(points: list[Point], task: str, name: str) -> dict[int, Point]:
    """Each seed's last number of that name."""
    return {p.seed: p for p in points if (p.task, p.name) == (task, name)}


def mean(points: list[Point], task: str, name: str) -> float:
    return float(np.mean([p.value for p in points if (p.task, p.name) == (task, name)]))


def test_there_is_one_of_each_suite():
    suites = {load_agent(asset_path(name))[1]["task"].partition(":")[0] for name in AGENTS}
    assert suites == {"tabletop", "metaworld", "dmc"}


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_is_small_and_tells_how_it_was_made(name: str):
    path = asset_path(name)
    story = load_agent(path)[1]
    assert path.stat().st_size <= 12_000_000
    assert story["command"].startswith(f"apv-edu finetune {story['task']} ")
    asked = read_table()[name]["command"].split()
    assert set(asked) - {"--threads", "1"} <= set(story["command"].split())
    assert story["seed"] == 0


@pytest.mark.parametrize("name", [name for name in AGENTS if name != DREAM])
def test_its_curve_is_in_the_table_with_the_random_policys(name: str, points: list[Point]):
    story = load_agent(asset_path(name))[1]
    mine = [p for p in points if (p.task, p.seed) == (story["task"], story["seed"])]
    assert max(p.step for p in mine) == story["steps"]
    assert {"random/return", "random/success", "eval/return"} <= {p.name for p in mine}


def test_reach_is_learned_from_scratch_in_twenty_minutes(points: list[Point]):
    """The easy variant: 80% or more where chance has at most 10%, by every seed."""
    task = "tabletop:reach"
    final = last(points, task, "eval/success")
    assert len(final) >= 2
    assert all(p.value >= 0.8 and p.cpu_seconds <= 20 * 60 for p in final.values())
    chance = [
        p.value for p in points if p.task == task and p.name == "episode/success" and p.step <= 2000
    ]
    assert len(chance) > 100 and np.mean(chance) <= 0.1


def test_the_door_is_closed_by_every_seed(points: list[Point]):
    task = "metaworld:door-close"
    final = last(points, task, "eval/success")
    assert len(final) >= 2
    assert all(p.value >= 0.8 and p.cpu_seconds <= 90 * 60 for p in final.values())
    assert mean(points, task, "random/success") <= 0.2


def test_the_walker_walks_for_every_seed(points: list[Point]):
    """The curve's evaluations are of few episodes: its last three together."""
    task = "dmc:walker-walk"
    for seed in (0, 1):
        curve = [p for p in points if (p.task, p.seed, p.name) == (task, seed, "eval/return")]
        assert curve[-1].cpu_seconds <= 90 * 60
        assert np.mean([p.value for p in curve[-3:]]) >= 400
    assert mean(points, task, "random/return") <= 100


@pytest.mark.parametrize("name", ["tabletop_reach_agent.safetensors", DREAM])
def test_a_tabletop_agent_solves_its_task(name: str):
    agent, story = load_agent(asset_path(name))
    worlds = world(story["task"], world_config(story), agent.config.model.image_size)
    success = np.mean([e.success for e in evaluate(worlds, agent, episodes=40, seed=1)])
    chance = np.mean([e.success for e in evaluate(worlds, None, episodes=200, seed=1)])
    worlds.close()
    assert success >= 0.7  # of 40 episodes, where the curve says 0.8 or more of many
    assert chance <= 0.1
