import csv
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from finetune_runs import LIMIT, quick

from apv_edu.agent import APVAgent
from apv_edu.envs import make_env
from apv_edu.envs.vector import Worlds
from apv_edu.errors import InputError
from apv_edu.evaluate import (
    DREAM,
    Played,
    dream,
    evaluate,
    play,
    random_policy,
    world,
    write_episodes,
)
from apv_edu.finetune_config import WorldConfig
from apv_edu.nets.distributions import straight_through
from apv_edu.nets.rssm import RSSM, State
from apv_edu.seeds import stream

MAKE = partial(make_env, "tabletop:reach", image_size=32, time_limit=LIMIT)


def agent(variant: str = "apv") -> APVAgent:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return APVAgent(quick(variant).agent, 2).eval()


def test_agent_and_random_policy_start_from_the_same_positions():
    worlds = Worlds(MAKE, 1)
    mine = evaluate(worlds, agent(), episodes=2, seed=3)
    theirs = evaluate(worlds, None, episodes=2, seed=3)
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(one.frames[0], other.frames[0])
        assert not np.array_equal(one.actions, other.actions)
    assert not np.array_equal(mine[0].frames[0], mine[1].frames[0])
    different = evaluate(worlds, None, episodes=1, seed=4)
    assert not np.array_equal(different[0].frames[0], theirs[0].frames[0])


def test_an_evaluation_depends_on_nothing_but_its_seed():
    worlds = Worlds(MAKE, 1)
    state = torch.random.get_rng_state()
    for who in (agent(), None):
        one, two = (evaluate(worlds, who, episodes=2, seed=3) for _ in range(2))
        first = evaluate(worlds, who, episodes=1, seed=3)
        for a, b in [*zip(one, two, strict=True), (one[0], first[0])]:
            np.testing.assert_array_equal(a.actions, b.actions)
            np.testing.assert_array_equal(a.rewards, b.rewards)
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_agent_plays_its_mode_and_remembers():
    """By hand: noise for latents from the episode's own stream, and no exploration."""
    player, worlds = agent(), Worlds(MAKE, 1)
    played = evaluate(worlds, player, episodes=1, seed=3)[0]
    generator = torch.Generator().manual_seed(stream(3, 1, 0))
    state = player.initial(1)
    for t, frame in enumerate(played.frames[:-1]):
        action, state = player.act(
            torch.from_numpy(frame)[None],
            state,
            torch.tensor([t == 0]),
            explore=False,
            generator=generator,
        )
        np.testing.assert_array_equal(action[0].numpy(), played.actions[t + 1])


class Scripted(Worlds):
    """Success and reward as a list says."""

    def __init__(self, success: list[bool]):
        super().__init__(MAKE, 1)
        self.success, self.time = success, 0

    def reset(self, seeds):
        self.time = 0
        return super().reset(seeds)

    def step(self, actions):
        step, self.time = super().step(actions), self.time + 1
        done = np.array([self.time == len(self.success)])
        return step._replace(
            success=np.array([self.success[self.time - 1]]), done=done, reward=np.array([0.5])
        )


@pytest.mark.parametrize(
    ("success", "solved"),
    [([False, True, False], True), ([False, False, True], True), ([False, False, False], False)],
)
def test_success_at_any_step_is_success(success: list[bool], solved: bool):
    played = play(Scripted(success), random_policy(2, 0), seed=0)
    assert played.success is solved
    assert played.total == 1.5
    assert played.rewards.tolist() == [0, 0.5, 0.5, 0.5]
    assert len(played.frames) == len(played.actions) == 4
    assert (played.actions[0] == 0).all() and (played.actions[1:] != 0).all()


def test_actions_of_another_world_are_refused():
    other = APVAgent(quick("dreamer").agent, 3)
    with pytest.raises(InputError, match=r"actions have 3 numbers and this world takes 2: choose"):
        evaluate(Worlds(MAKE, 1), other, episodes=1, seed=0)


def test_an_agent_with_broken_weights_is_refused():
    broken = agent()
    for weight in broken.behavior.actor.parameters():
        weight.data.fill_(torch.nan)
    with pytest.raises(InputError, match=r"action \[nan, nan\] is not finite: train it anew"):
        evaluate(Worlds(MAKE, 1), broken, episodes=1, seed=0)


def test_a_world_is_made_by_its_settings():
    made = world("tabletop:reach", WorldConfig(time_limit=6, action_repeat=2), image_size=32)
    assert len(play(made, random_policy(2, 0), seed=0).frames) == 4
    with pytest.raises(InputError, match=r"metaworld:reach has no option look"):
        world("metaworld:reach", WorldConfig(look="paper"), image_size=32)


def test_a_table_of_episodes(tmp_path: Path):
    frames, actions = np.zeros((4, 2, 2, 3), np.uint8), np.zeros((4, 1), np.float32)
    rewards = np.array([0, 1, 2, 0.25], np.float32)
    write_episodes(
        tmp_path / "t.csv",
        [Played(frames, actions, rewards, True), Played(frames[:2], actions, rewards[:2], False)],
    )
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["episode", "return", "success", "length"],
        ["0", "3.25", "1", "3"],
        ["1", "1.0", "0", "1"],
    ]


# Dreams


@torch.no_grad()
def by_hand(who: APVAgent, played: Played, start: int, context: int, horizon: int, seed: int):
    """The mean frames after the context in [-0.5, 0.5], step by step: (horizon, 32, 32, 3)."""
    model = who.world_model
    generator = torch.Generator().manual_seed(stream(seed, DREAM))
    noise = model.noise(1, context + horizon, generator)
    frames = torch.from_numpy(played.frames[start : start + context]).float() / 255 - 0.5

    def see(rssm: RSSM, state: State, seen: torch.Tensor, t: int, action, gumbel) -> State:
        deter = rssm.advance(state, action)
        hidden = F.elu(rssm.posterior_hidden(torch.cat([deter, seen], -1)))
        logits = rssm.posterior_logits(hidden).unflatten(-1, (rssm.stoch, rssm.classes))
        return State(deter, straight_through(logits, gumbel[:, t]))

    below = model.video_rssm
    video, state = below and below.initial(1), model.rssm.initial(1)
    pictures = []
    for t in range(context + horizon):
        action = torch.from_numpy(played.actions[start + t])[None]
        if t >= context:
            deter = model.rssm.advance(state, action)
            state = State(deter, straight_through(model.rssm.prior(deter), noise.stacked[:, t]))
            pictures.append(model.decoder(state.features[:, None])[0, 0])
            continue
        seen = model.encoder(frames[None, t : t + 1])[:, 0]
        if below is not None and video is not None:
            video = see(below, video, seen, t, None, noise.video)
            seen = video.features
        action = torch.zeros_like(action) if t == 0 else action  # the past is forgotten
        state = see(model.rssm, state, seen, t, action, noise.stacked)
    return torch.stack(pictures).numpy()


@pytest.mark.parametrize("variant", ["apv", "dreamer"])
@pytest.mark.parametrize("start", [0, 2])
def test_a_dream_is_the_open_loop_done_by_hand(variant: str, start: int):
    who = agent(variant)
    torch.nn.init.normal_(next(who.world_model.decoder.parameters()), std=0.5)  # not all grey
    played = evaluate(Worlds(MAKE, 1), None, episodes=1, seed=0)[0]
    grid = dream(who, played, start=start, context=3, horizon=4, seed=9)
    assert grid.shape == (7, 3 * 64, 64, 3) and grid.dtype == np.uint8
    truth, made = grid[:, 0:64:2, ::2], grid[:, 64:128:2, ::2]
    np.testing.assert_array_equal(truth, played.frames[start : start + 7])
    np.testing.assert_array_equal(made[:3, 1:], truth[:3, 1:])  # under the white line
    wanted = by_hand(who, played, start, 3, 4, seed=9)
    wanted = np.rint((wanted + 0.5).clip(0, 1) * 255)
    assert np.abs(made[3:] - wanted).max() <= 1
    assert np.ptp(wanted[0] - wanted[-1]) > 1  # it moves
    assert not np.array_equal(dream(who, played, start=start, seed=10)[8:], grid[3:])


@pytest.mark.parametrize(("length", "context"), [(2, 1), (4, 3), (7, 5), (30, 5)])
def test_a_dream_of_a_short_episode_is_short(length: int, context: int):
    rng = np.random.default_rng(0)
    played = Played(
        rng.integers(0, 255, (length, 32, 32, 3), dtype=np.uint8),
        rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        np.zeros(length, np.float32),
        False,
    )
    grid = dream(agent("dreamer"), played)
    assert len(grid) == min(length, 20)
    lines = [(frame[64, 0] == 255).all() for frame in grid]
    assert lines[:context] == [True] * context


@pytest.mark.parametrize(
    "settings", [{"start": 10}, {"start": -1}, {"context": 0}, {"horizon": 0}, {"start": 99}]
)
def test_a_dream_of_nothing_is_refused(settings: dict[str, int]):
    played = evaluate(Worlds(MAKE, 1), None, episodes=1, seed=0)[0]
    with pytest.raises(InputError, match=r"fits an episode of 11 frames: start from 0 to 9, and"):
        dream(agent(), played, **settings)
