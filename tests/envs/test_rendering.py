# MuJoCo's compiled modules come without types:
# pyright: reportAttributeAccessIssue=false
import gc
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest

from apv_edu.envs import make_env, rendering
from apv_edu.errors import InputError

SCENE = """
<mujoco>
  <asset>
    <hfield name="hill" nrow="2" ncol="2" size="1 1 .8 .1"/>
  </asset>
  <worldbody>
    <light pos="0 0 4"/>
    <camera name="front" pos="0 -3 0" xyaxes="1 0 0 0 0 1"/>
    <geom type="box" size=".3 .3 .3" pos="-.6 0 .6" rgba="1 0 0 1"/>
    <geom type="box" size=".3 .3 .3" pos=".6 0 -.6" rgba="0 0 1 1"/>
    <geom name="terrain" type="hfield" hfield="hill" pos="0 0 -1" rgba="0 1 0 1"/>
  </worldbody>
</mujoco>
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MUJOCO")}
    return subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True
    )


@pytest.fixture
def scene():
    rendering.choose_gl()
    import mujoco

    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def brightest(frame: np.ndarray, channel: int) -> tuple[bool, bool]:
    """Whether the channel's colour is in the upper, and in the left half."""
    pure = frame[..., channel].astype(int) - frame.sum(-1) / 3
    row, column = np.unravel_index(pure.argmax(), pure.shape)
    return bool(row < len(frame) / 2), bool(column < len(frame) / 2)


@pytest.mark.gl
@pytest.mark.parametrize(
    ("flip", "mirror", "red"),
    [
        (False, False, (True, True)),
        (True, False, (False, False)),
        (False, True, (True, False)),
        (True, True, (False, True)),
    ],
)
def test_flip_turns_and_mirror_swaps(scene, flip, mirror, red):
    renderer = rendering.Renderer(scene[0], 32, "front", flip=flip, mirror=mirror)
    frame = renderer.render(scene[1])
    renderer.close()
    assert frame.shape == (32, 32, 3) and frame.dtype == np.uint8
    assert brightest(frame, 0) == red
    assert brightest(frame, 2) == (not red[0], not red[1])


@pytest.mark.gl
def test_exact_is_the_simulators_own_picture(scene):
    import mujoco

    ours = rendering.Renderer(scene[0], 48, "front", "exact")
    frame = ours.render(scene[1])
    ours.close()
    theirs = mujoco.Renderer(scene[0], 48, 48)
    theirs.update_scene(scene[1], "front")
    np.testing.assert_array_equal(frame, theirs.render())
    theirs.close()


@pytest.mark.gl
def test_segments_are_the_things_of_the_scene_in_both_qualities(scene):
    for quality in ("exact", "fast"):
        renderer = rendering.Renderer(scene[0], 32, "front", quality)
        before = renderer.render(scene[1])
        numbers = renderer.segment(scene[1])
        np.testing.assert_array_equal(renderer.render(scene[1]), before)
        renderer.close()
        assert numbers.shape == (32, 32) and np.unique(numbers).tolist() == [0, 1, 2, 3]
        red, green, blue = before.T.astype(int)
        assert (numbers.T == 1).sum() > 20 and (red > blue + green)[numbers.T == 1].mean() > 0.8
        assert (numbers.T == 2).sum() > 20 and (blue > red + green)[numbers.T == 2].mean() > 0.8


@pytest.mark.gl
def test_frames_may_be_larger_than_the_models_buffer(scene):
    for quality in ("exact", "fast"):
        renderer = rendering.Renderer(scene[0], 700, "front", quality)
        assert renderer.render(scene[1]).shape == (700, 700, 3)
        renderer.close()


@pytest.mark.gl
def test_changed_terrain_is_drawn_after_upload(scene):
    model, data = scene
    renderer = rendering.Renderer(model, 32, "front")
    flat = renderer.render(data)
    model.hfield_data[:] = 1.0
    renderer.upload_terrain()
    assert (renderer.render(data) != flat).any()
    renderer.close()


@pytest.mark.gl
def test_close_frees_and_is_final(scene):
    renderer = rendering.Renderer(scene[0], 16, "front")
    renderer.render(scene[1])
    renderer.close()
    renderer.close()
    with pytest.raises(RuntimeError, match="closed"):
        renderer.render(scene[1])
    for closed in (True, False):
        renderer = rendering.Renderer(scene[0], 16, "front")
        context = weakref.ref(renderer._gl)
        if closed:
            renderer.close()
        del renderer
        gc.collect()
        assert context() is None


@pytest.mark.gl
def test_many_renderers_in_a_row(scene):
    frames = []
    for _ in range(12):
        renderer = rendering.Renderer(scene[0], 16, 0)
        frames.append(renderer.render(scene[1]))
        renderer.close()
    assert all((frame == frames[0]).all() for frame in frames)


@pytest.mark.gl
def test_driver_is_named(scene):
    renderer = rendering.Renderer(scene[0], 16, "front")
    assert len(renderer.driver()) > 3
    renderer.close()


@pytest.mark.gl
def test_unknown_camera_and_quality(scene):
    with pytest.raises(InputError, match=r"no camera 'back'.*front.*-1"):
        rendering.Renderer(scene[0], 16, "back")
    with pytest.raises(InputError, match="no camera 3"):
        rendering.Renderer(scene[0], 16, 3)
    with pytest.raises(InputError, match=r"'best'.*exact or fast"):
        rendering.Renderer(scene[0], 16, "front", "best")  # type: ignore[arg-type]
    free = rendering.Renderer(scene[0], 16, -1)
    assert free.render(scene[1]).std() > 0
    free.close()


def test_no_opengl_names_the_remedy(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr(rendering, "egl_works", lambda: False)
    monkeypatch.setattr(rendering, "osmesa_works", lambda: False)
    with pytest.raises(InputError, match=r"apt-get install .*libegl1 libopengl0 libgl1-mesa-dri"):
        rendering.choose_gl()
    assert "MUJOCO_GL" not in os.environ
    monkeypatch.setattr(rendering, "osmesa_works", lambda: True)
    assert rendering.choose_gl() == os.environ["MUJOCO_GL"] == "osmesa"


def test_a_backend_that_cannot_draw_is_refused(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    with pytest.raises(InputError, match="MUJOCO_GL=disabled cannot draw"):
        make_env("metaworld:reach")


@pytest.mark.parametrize("asked", [{}, {"MUJOCO_GL": "egl"}])
def test_egl_without_a_driver_is_noticed_before_mujoco_is_imported(asked):
    code = """
import os, sys
os.environ.pop("DISPLAY", None)
import apv_edu.envs.rendering as rendering
from apv_edu.errors import InputError
rendering.osmesa_works = lambda: False
from apv_edu.envs import make_env
try:
    make_env("metaworld:reach")
except InputError as error:
    print(error, "mujoco" in sys.modules)
"""
    done = python(code, __EGL_VENDOR_LIBRARY_FILENAMES="/nowhere.json", **asked)
    assert rendering.INSTALL_GL in done.stdout, done.stderr
    assert done.stdout.endswith("False\n") and done.stderr == ""


@pytest.mark.gl
def test_nothing_is_said_at_exit():
    code = """
from apv_edu.envs import make_env
worlds = [make_env(name, seed=0) for name in ("metaworld:reach", "dmc:quadruped-escape")]
worlds.append(make_env("metaworld:reach", seed=0))
for world in worlds:
    world.reset()
worlds[-1].close()
"""
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.gl
def test_mujoco_may_be_imported_first():
    code = """
import warnings
warnings.simplefilter("ignore")  # glfw misses a screen
import mujoco
from apv_edu.envs import make_env
world = make_env("dmc:walker-walk", seed=0)
print(world.reset()[0]["image"].std() > 0)
"""
    done = python(code)
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.gl
def test_triton_is_loaded_before_any_opengl(tmp_path):
    """A Triton that is loaded after Mesa crashes."""
    (tmp_path / "triton.py").write_text("print('libEGL' in open('/proc/self/maps').read())")
    code = (
        "from apv_edu.envs.rendering import choose_gl; print(choose_gl());"
        "import ctypes; ctypes.CDLL('libEGL.so.1');"
        "print('libEGL' in open('/proc/self/maps').read())"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    assert python(code, PYTHONPATH=path).stdout.split() == ["False", "egl", "True"]
