import json
from dataclasses import asdict, replace
from itertools import product

import pytest
import torch

from apv_edu import checkpoint
from apv_edu.agent import APVAgent
from apv_edu.agent_config import VARIANTS, BehaviorConfig, BonusConfig, HeadSize, WorldModelConfig
from apv_edu.agent_files import agent_config
from apv_edu.assets import asset_path, read_table
from apv_edu.config import ModelSize, OptimizerConfig
from apv_edu.envs import SUITES, TIME_LIMITS, make_env
from apv_edu.errors import InputError
from apv_edu.finetune_config import LAPTOP, PRESETS, FinetuneConfig, WorldConfig, finetune_config

EVERY = pytest.mark.parametrize(("preset", "suite"), [*product(PRESETS, SUITES)])


def test_the_papers_settings_on_meta_world():
    """Every number of the official config ``metaworld``."""
    adam = OptimizerConfig(learning_rate=3e-4, eps=1e-5, clip=100.0, weight_decay=1e-6)
    slow = replace(adam, learning_rate=8e-5)
    config = finetune_config("paper", "metaworld")
    assert config.agent.variant == "apv"
    assert config.agent.model == ModelSize(
        image_size=64, depth=48, deter=1024, hidden=1024, stoch=32, classes=32
    )
    assert config.agent.heads == HeadSize(units=400, layers=4)
    assert config.agent.world_model == WorldModelConfig(
        concat_embed=False,
        image_scale=1.0,
        reward_scale=1.0,
        kl_scale=1.0,
        video_kl_scale=0.0,
        kl_balance=0.8,
        free_nats=0.0,
        reward_factor=1.0,
        hold=100,
        optimizer=adam,
    )
    assert config.agent.bonus == BonusConfig(
        beta=1.0, window=5, queue=4096, dim=128, neighbours=16, momentum=0.99
    )
    assert config.agent.behavior == BehaviorConfig(
        horizon=15,
        starts=None,
        discount=0.99,
        lam=0.95,
        actor_gradient="dynamics",
        entropy=1e-4,
        target_every=100,
        target_rate=1.0,
        actor=slow,
        critic=slow,
    )
    assert (config.world.action_repeat, config.world.time_limit) == (1, None)
    assert (config.world.rendering, config.world.orientation) == ("exact", "official")
    assert TIME_LIMITS["metaworld"] == 500
    assert (config.steps, config.prefill, config.envs) == (250_000, 5000, 1)
    assert (config.batch_size, config.sequence_length) == (50, 50)
    assert (config.warmup, config.update_every) == (100, 5)
    assert config.replay >= config.steps
    assert config.eval_episodes == 10


def test_the_papers_settings_on_the_control_suite():
    """What the official config ``dmc_vision`` has otherwise."""
    robots, control = (finetune_config("paper", suite) for suite in ("metaworld", "dmc"))
    agent = replace(
        robots.agent,
        world_model=replace(robots.agent.world_model, concat_embed=True, free_nats=1.0, hold=0),
        bonus=replace(robots.agent.bonus, beta=0.1),
    )
    assert control.agent == agent
    assert (control.world.action_repeat, TIME_LIMITS["dmc"]) == (2, 1000)
    assert control.steps * control.world.action_repeat == 1_000_000
    assert (control.batch_size, control.sequence_length) == (16, 50)
    assert (control.prefill, control.warmup, control.update_every) == (1000, 100, 5)
    assert control.eval_episodes == 1


@EVERY
def test_every_preset_fits_together(preset: str, suite: str):
    config = finetune_config(preset, f"{suite}:anything")
    assert config == finetune_config(preset, suite)
    limit = config.world.time_limit or TIME_LIMITS[suite]
    entries = -(-limit // config.world.action_repeat) + 1
    assert entries >= config.sequence_length > config.agent.bonus.window
    assert config.replay >= config.prefill + entries
    assert config.prefill + entries <= config.steps
    assert (config.agent.bonus.beta > 0) <= VARIANTS[config.agent.variant].stacked
    stored = json.loads(json.dumps(asdict(config)))
    assert agent_config(stored["agent"]) == config.agent
    assert WorldConfig(**stored["world"]) == config.world
    with torch.device("meta"):  # shapes without numbers
        agent = APVAgent(config.agent, 4)
        assert agent.initial(2).action.shape == (2, 4)
    assert agent.world_model.size == config.agent.model
    assert (agent.bonus is None) == (config.agent.bonus.beta == 0)


@EVERY
def test_updates_fall_due_by_one_law(preset: str, suite: str):
    """A warm-up when the prefill ends, then one for every ``update_every`` further steps."""
    config = finetune_config(preset, suite)
    due = 0
    for step in range(config.prefill - 3, config.prefill + 60):
        if step == config.prefill:
            due += config.warmup
        elif step > config.prefill and (step - config.prefill) % config.update_every == 0:
            due += 1
        assert config.updates_due(step) == due
    assert config.updates_due(0) == 0


@pytest.mark.parametrize("preset", ["laptop", "paper"])
@pytest.mark.parametrize(
    "task",
    [
        "tabletop:reach",
        pytest.param("metaworld:reach", marks=pytest.mark.gl),
        pytest.param("dmc:walker-walk", marks=pytest.mark.gl),
    ],
)
def test_a_preset_makes_its_world(preset: str, task: str):
    config = finetune_config(preset, task)
    size = config.agent.model.image_size
    world = make_env(task, image_size=size, **config.world.options())
    frame, _ = world.reset(seed=0)
    assert frame["image"].shape == (size, size, 3)
    world.close()


@pytest.mark.parametrize("suite", LAPTOP)
def test_a_shipped_video_model_fits_the_laptop(suite: str):
    config = finetune_config("laptop", suite)
    if not VARIANTS[config.agent.variant].pretrained:
        pytest.skip("starts from scratch")
    models = [name for name in read_table() if name.endswith("safetensors") and suite in name]
    stories = [checkpoint.load(asset_path(name))[1] for name in models]
    sizes = [ModelSize(**s["size"]) for s in stories if s["kind"] == "video_model"]
    assert config.agent.model in sizes


@pytest.mark.parametrize("suite", SUITES)
def test_the_colab_preset_has_the_papers_behaviour(suite: str):
    colab, paper = (finetune_config(preset, suite) for preset in ("colab", "paper"))
    assert colab.agent.behavior == paper.agent.behavior
    assert colab.agent.heads == paper.agent.heads


def test_changes_are_made():
    config = finetune_config("smoke", "dmc", steps=77, warmup=0)
    assert (config.steps, config.warmup) == (77, 0)
    assert config.updates_due(config.prefill) == 0
    assert WorldConfig(distractors=0, tolerance=0.3).options() == {
        "action_repeat": 1,
        "rendering": "fast",
        "distractors": 0,
        "tolerance": 0.3,
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: finetune_config("huge", "dmc"), "Unknown preset 'huge': choose one of smoke, "),
        (lambda: finetune_config("paper", "atari"), "Unknown suite 'atari': choose one of "),
        (lambda: FinetuneConfig(warmup=-1), "warmup=-1 is too small: .* at least 0"),
        (lambda: FinetuneConfig(batch_size=0), "batch_size=0 is too small: .* at least 1"),
        (lambda: FinetuneConfig(envs=0), "envs=0 is too small"),
        (lambda: WorldConfig(distractors=-1), "distractors=-1 is too small: .* at least 0"),
        (lambda: WorldConfig(action_repeat=0), "action_repeat=0 is too small"),
        (lambda: WorldConfig(time_limit=0), "time_limit=0 is too small"),
    ],
)
def test_settings_out_of_range_are_refused(make, message: str):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
