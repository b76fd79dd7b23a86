from pathlib import Path

import pytest

from apv_edu.errors import InputError
from apv_edu.grid import Cell, read_grid

RESULTS = Path(__file__).parents[1] / "assets" / "results"
GRID = """
tasks = ["tabletop:reach", "tabletop:push"]
seeds = 2
[finetune]
steps = 7000
agent.behavior.discount = 0.9
[videos.some]
env = ["tabletop:push"]
videos = 40
[pretrain.some]
videos = ["some"]
steps = 30
stride = 3
seeds = 1
[methods.dreamer]
agent.variant = "dreamer"
agent.bonus.beta = 0
[methods.apv]
agent.variant = "apv"
pretrain = "some"
seeds = [1, 5]
tasks = ["tabletop:reach"]
steps = 8000
"""


def write(tmp_path, text):
    path = tmp_path / "grid.toml"
    path.write_text(text)
    return path


def keys(cells: tuple[Cell, ...]):
    return [(cell.task, cell.method, cell.seed) for cell in cells]


def test_a_grid_has_a_run_for_each_task_method_and_seed(tmp_path):
    grid = read_grid(write(tmp_path, GRID))
    assert keys(grid.cells) == [
        ("tabletop:reach", "dreamer", 0),
        ("tabletop:push", "dreamer", 0),
        ("tabletop:reach", "dreamer", 1),
        ("tabletop:push", "dreamer", 1),
        ("tabletop:reach", "apv", 1),
        ("tabletop:reach", "apv", 5),
    ]
    dreamer, apv = grid.cells[0].config, grid.cells[-1].config
    assert (dreamer.steps, apv.steps) == (7000, 8000)  # a method's own settings come last
    assert dreamer.agent.variant == "dreamer" and apv.agent.variant == "apv"
    assert dreamer.agent.bonus.beta == 0 and type(dreamer.agent.bonus.beta) is float
    assert dreamer.agent.behavior.discount == apv.agent.behavior.discount == 0.9
    assert dreamer.agent.behavior.horizon == apv.agent.behavior.horizon == 8  # the preset's
    some = grid.pretrainings["some"]
    assert (some.videos, some.seeds, some.stride, some.config.steps) == (("some",), 1, 3, 30)
    assert some.config.model == apv.agent.model
    assert grid.videos == {"some": {"env": ["tabletop:push"], "videos": 40}}


def test_a_part_of_a_grid(tmp_path):
    grid = read_grid(write(tmp_path, GRID))
    part = grid.chosen(methods=["apv"], seeds=[5])
    assert keys(part.cells) == [("tabletop:reach", "apv", 5)]
    assert grid.chosen() == grid
    with pytest.raises(InputError, match="no seed 7: it has 0, 1, 5"):
        grid.chosen(seeds=[7])


def test_a_grid_is_tried_out_at_smoke_size_with_the_methods_own_settings(tmp_path):
    grid = read_grid(
        write(tmp_path, GRID.replace("steps = 8000", "agent.bonus.beta = 0.5")), smoke=True
    )
    assert {cell.config.steps for cell in grid.cells} == {80}
    assert grid.cells[-1].config.agent.bonus.beta == 0.5
    assert grid.pretrainings["some"].config.steps == 8
    assert grid.videos["some"]["videos"] < 40


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("steps = 7000", "stepps = 7000", "finetune.stepps is no setting: choose of agent"),
        ("steps = 7000", 'steps = "many"', "finetune.steps = 'many' is of the wrong kind"),
        ("steps = 7000", "steps = 0", "steps=0 is too small"),
        ("agent.behavior.discount = 0.9", "agent = 3", "finetune.agent = 3 is no value"),
        ("discount = 0.9", "discount = 1.5", "discount=1.5 is out of range"),
        ("steps = 30", "strides = 2", "pretrain.some.strides is no setting"),
        ("stride = 3", "stride = 0", "whole numbers from 1 on as seeds and stride"),
        ('pretrain = "some"', 'pretrain = "none"', "there is no .pretrain.none."),
        ('pretrain = "some"', "", "variant 'apv' and no pretrain"),
        ('variant = "dreamer"', 'variant = "naive"', "variant 'naive' and no pretrain"),
        ("tabletop:push", "tabletop:pull", "Unknown task 'tabletop:pull'"),
        ("seeds = 2", 'seeds = "two"', "seeds = 'two' is no number"),
        ("seeds = [1, 5]", "seeds = [1, -5]", "is no number or list of seeds"),
        ("seeds = 1\n", "seeds = 0\n", "pretrain.some is not right"),
        ("videos = 40", "", "videos.some lacks env or videos"),
        ("[finetune]", "[finetuning]", "finetuning is no part of a grid"),
        ("[finetune]", "[finetune", "is no TOML"),
        ("steps = 8000", "agent.model.deter = 64", None),
        ('["tabletop:reach"]\n', '["tabletop:reach", "dmc:walker-walk"]\n', "different sizes"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_named_with_its_place(tmp_path, old, new, told):
    assert old in GRID
    path = write(tmp_path, GRID.replace(old, new))
    if told is None:
        assert read_grid(path).pretrainings["some"].config.model.deter == 64
        return
    with pytest.raises(InputError, match=told) as refused:
        read_grid(path)
    assert str(path) in str(refused.value)


def test_a_grid_without_runs_is_refused(tmp_path):
    with pytest.raises(InputError, match="declares no runs"):
        read_grid(write(tmp_path, "seeds = 2\n"))
    with pytest.raises(InputError, match="cannot be read"):
        read_grid(tmp_path / "missing.toml")


@pytest.mark.parametrize("name", sorted(path.name for path in RESULTS.glob("*.toml")))
def test_the_shipped_grids_are_whole(name):
    grid = read_grid(RESULTS / name)
    tasks, methods = ({getattr(c, key) for c in grid.cells} for key in ("task", "method"))
    assert {"DreamerV2", "APV"} <= {method.split(" ")[0] for method in methods}
    seeds = {m: {c.seed for c in grid.cells if c.method == m} for m in methods}
    assert len(grid.cells) == len(tasks) * sum(map(len, seeds.values()))
    assert all(seeds[method] <= seeds["DreamerV2"] for method in methods)
    assert {source for p in grid.pretrainings.values() for source in p.videos} <= {
        *grid.videos, "/data/rlbench"
    }  # fmt: skip
