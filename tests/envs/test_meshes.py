# MuJoCo's compiled modules come without types:
# pyright: reportAttributeAccessIssue=false
import numpy as np
import pytest
from worlds import make_env, play

from apv_edu.bench.render import outline_change, outlines
from apv_edu.envs import meshes, rendering, task_names
from apv_edu.envs.meshes import drawing_copy, merge_vertices


def cube(pieces: int) -> tuple[np.ndarray, np.ndarray]:
    """A cube of edge 1 around the origin, each side of pieces x pieces squares, and no gap."""
    steps = np.linspace(-0.5, 0.5, pieces + 1)
    row, column = np.divmod(np.arange(pieces**2), pieces)
    first = row * (pieces + 1) + column
    square = np.c_[first, first + 1, first + pieces + 2, first, first + pieces + 2]
    square = np.c_[square, first + pieces + 1].reshape(-1, 3)
    grid = np.stack(np.meshgrid([0.5], steps, steps, indexing="ij"), -1).reshape(-1, 3)
    places, faces = [], []
    for axis in range(3):
        for sign, turn in ((1, 1), (-1, -1)):
            faces.append(square[:, ::turn] + len(places) * len(grid))
            places.append(np.roll(grid * [sign, 1, 1], axis, axis=1))
    vertices, number = np.unique(np.concatenate(places).round(9), axis=0, return_inverse=True)
    return vertices, number.reshape(-1)[np.concatenate(faces)][:, ::-1]


def ball(pieces: int) -> tuple[np.ndarray, np.ndarray]:
    vertices, faces = cube(pieces)
    return vertices / np.linalg.norm(vertices, axis=1, keepdims=True), faces


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    return float(np.linalg.det(vertices[faces]).sum() / 6)


def has_no_hole(vertices: np.ndarray, faces: np.ndarray) -> bool:
    """Whether every ray from the origin leaves through a triangle that shows its front outside."""
    corners = vertices[faces]
    corners = corners[np.linalg.det(corners) > 1e-12]
    rays = np.random.default_rng(0).normal(size=(500, 3))
    shares = np.einsum("rx,fxc->rfc", rays, np.linalg.inv(corners))
    return bool((shares > -1e-9).all(-1).any(1).all())


def test_the_shapes_of_these_tests_are_whole():
    for pieces in (2, 6):
        assert volume(*cube(pieces)) == pytest.approx(1) and has_no_hole(*cube(pieces))
    vertices, faces = ball(24)
    assert has_no_hole(vertices, faces) and not has_no_hole(vertices, faces[:-40])
    assert volume(vertices, faces) == pytest.approx(4 / 3 * np.pi, rel=0.01)


@pytest.mark.parametrize("cell", [0.11, 0.2, 0.34])
def test_a_cube_keeps_its_corners_and_a_ball_its_surface(cell):
    vertices, faces = cube(24)
    fewer, _ = merge_vertices(vertices, faces, cell)
    assert 12 <= len(fewer) < len(faces) / 3 and has_no_hole(vertices, fewer)
    np.testing.assert_array_equal(np.ptp(vertices[fewer.ravel()], axis=0), 1)

    vertices, faces = ball(24)
    fewer, _ = merge_vertices(vertices, faces, cell)
    assert len(fewer) < len(faces) / 2 and has_no_hole(vertices, fewer)
    assert np.linalg.norm(vertices[fewer].mean(1), axis=1).min() > 1 - cell


def test_shrunken_and_equal_triangles_are_dropped_and_the_first_stays():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1.01, 0, 0], [1, 0.01, 0]])
    faces = np.array([[1, 3, 4], [1, 2, 0], [0, 3, 2], [2, 1, 0], [0, 1, 2]])
    fewer, kept = merge_vertices(vertices, faces, 0.1)
    # The last three corners are one; 3 lists the other side of the same triangle.
    assert kept.tolist() == [1, 3]
    assert len({frozenset(face) for face in fewer.tolist()}) == 1


def test_sides_of_a_thin_wall_stay_apart():
    sheet, number = np.unique(cube(20)[0][:, :2], axis=0, return_inverse=True)
    top = number[cube(20)[1]]
    top = top[np.linalg.det(np.insert(sheet, 2, 1, axis=1)[top]) > 1e-9]
    wall = np.concatenate([np.insert(sheet, 2, height, axis=1) for height in (0.001, 0)])
    fewer, _ = merge_vertices(wall, np.concatenate([top, top[:, ::-1] + len(sheet)]), 0.2)
    corners = wall[fewer]
    upward = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2] > 0
    assert upward.any() and not upward.all()
    np.testing.assert_array_equal(corners[..., 2], np.where(upward, 0.001, 0)[:, None].repeat(3, 1))


def test_a_cell_smaller_than_the_mesh_changes_nothing():
    vertices, faces = cube(5)
    same, kept = merge_vertices(vertices, faces, 1e-4)
    np.testing.assert_array_equal(same, faces)
    np.testing.assert_array_equal(kept, np.arange(len(faces)))


def model_of(*geoms: str, camera: str = 'pos="0 -10 0"', shape: tuple | None = None):
    rendering.choose_gl()
    import mujoco

    texts = (" ".join(map(str, numbers.ravel())) for numbers in shape or ball(16))
    mesh = '<mesh name="ball" inertia="shell" vertex="{}" face="{}"/>'.format(*texts)
    return mujoco.MjModel.from_xml_string(
        f"""<mujoco><statistic center="0 0 0" extent="5"/><asset>{mesh}</asset><worldbody>
        <light pos="0 -5 5"/><camera name="front" {camera} xyaxes="1 0 0 0 0 1"/>
        {"".join(f"<geom {geom}/>" for geom in geoms)}</worldbody></mujoco>"""
    )


def drawn(model, size: int = 64):
    import mujoco

    return drawing_copy(model, rendering._fixed_camera(model, "front"), mujoco.MjvOption(), size)


MESH = 'type="mesh" mesh="ball" contype="0" conaffinity="0"'


def test_the_model_itself_is_left_as_it_is():
    model = model_of(MESH, 'type="sphere" size=".2" pos="2 0 0"')
    import mujoco

    before = np.zeros(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, before)
    data = mujoco.MjData(model)
    for quality in ("exact", "fast"):
        for size in (16, 900):
            renderer = rendering.Renderer(model, size, "front", quality)
            renderer.render(data)
            renderer.close()
    after = np.zeros_like(before)
    mujoco.mj_saveModel(model, None, after)
    np.testing.assert_array_equal(after, before)
    assert drawn(model).mesh_facenum < model.mesh_facenum


def test_detail_follows_from_the_pixels_of_the_nearest_part():
    far, near = model_of(MESH), model_of(MESH, camera='pos="0 -2.5 0"')
    zoomed = model_of(MESH, camera='pos="0 -10 0" fovy="5"')
    faces = far.mesh_facenum[0]
    assert drawn(far, 16).mesh_facenum < drawn(far, 64).mesh_facenum < faces
    assert drawn(far, 32).mesh_facenum < drawn(near, 32).mesh_facenum
    assert drawn(far, 32).mesh_facenum < drawn(zoomed, 32).mesh_facenum
    beside = model_of(MESH, 'type="sphere" size=".1" pos="0 -9 0"')
    assert drawn(far, 32).mesh_facenum < drawn(beside, 32).mesh_facenum
    around = model_of(MESH, camera='pos="0 -.1 0"')
    assert drawn(around, 1).mesh_facenum == faces


def test_orthographic_pixels_do_not_depend_on_distance():
    lens = 'orthographic="true" fovy="4"'
    near, far = (model_of(MESH, camera=f'pos="0 -{way} 0" {lens}') for way in (3, 30))
    assert drawn(near, 32).mesh_facenum == drawn(far, 32).mesh_facenum < near.mesh_facenum
    alike = model_of(MESH, camera=f'pos="0 -{np.sqrt(3) + 2 / np.tan(np.pi / 8)} 0"')
    np.testing.assert_allclose(drawn(near, 32).mesh_facenum, drawn(alike, 32).mesh_facenum, 0.05)
    assert drawn(near, 32).mesh_facenum < drawn(near, 64).mesh_facenum


def test_what_is_smaller_than_a_pixel_is_drawn_all_the_same():
    sheet = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 1]]), np.array([[0, 1, 2], [3, 2, 1]])
    for shape in (None, sheet):
        model = model_of(MESH, camera='pos="0 -2000 0"', shape=shape)
        assert drawn(model).mesh_facenum[0] >= 1


def test_round_bodies_have_as_many_sides_as_pixels_ask_for():
    body = 'type="capsule" size=".1 3"'
    far, near = model_of(body), model_of(body, camera='pos="0 -6 0"')
    pictures = ((far, 64), (far, 256), (near, 256), (near, 600))
    sides = [drawn(model, size).vis.quality.numslices for model, size in pictures]
    assert 8 == sides[0] < sides[1] < sides[2] < sides[3] == far.vis.quality.numslices
    assert drawn(far).vis.quality.numstacks == 5
    assert drawn(model_of('type="box" size="1 1 1"')).vis.quality.numslices == 28


@pytest.mark.gl
def test_shape_and_shading_stay():
    model = model_of(MESH, 'type="box" size=".2 .2 .2" pos="0 -1.5 1"', camera='pos="0 -6 0"')
    import mujoco

    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    frames, numbers = [], []
    for detail in (10**6, 16):
        renderer = rendering.Renderer(model, 64, "front", detail=detail)
        frames.append(renderer.render(data).astype(int))
        numbers.append(renderer.segment(data))
        renderer.close()
    assert np.unique(numbers[0]).tolist() == [0, 1, 2]
    assert 0 < np.abs(frames[0] - frames[1]).mean() < 0.33  # twice that with others' normals
    pixels, shift = outline_change(numbers[0], numbers[1])
    assert pixels <= 8 and shift <= 0.5


@pytest.mark.gl
def test_outlines_and_colours_stay_and_coarser_cells_would_show(monkeypatch):
    env = make_env("metaworld:door-unlock", seed=0)
    play(env, 30, seed=0)
    pixels, shift = outline_change(*outlines(env, 64))
    assert pixels < 20 and shift <= 1
    monkeypatch.setattr(meshes, "CELL", 6.0)
    pixels, shift = outline_change(*outlines(env, 64))
    assert pixels > 20 and shift > 1
    env.close()


def check_against_exact(name: str, steps: int) -> None:
    """The bars of fast rendering in one world, and the same simulation in both qualities."""
    envs = [make_env(name, seed=0, rendering=quality) for quality in ("exact", "fast")]
    for env in envs:
        env.reset(seed=1)
    for _ in range(steps):
        action = envs[0].unwrapped.expert_action()
        (_, first, *_), (_, second, *_) = (env.unwrapped.simulate(action) for env in envs)
        assert first == second
    exact, fast = (env.render().astype(float) for env in envs)
    states = [env.unwrapped._world.data for env in envs]
    np.testing.assert_array_equal(states[0].qpos, states[1].qpos)
    np.testing.assert_array_equal(states[0].qvel, states[1].qvel)
    assert 0.1 < np.abs(exact - fast).mean() <= 12
    assert outline_change(*outlines(envs[1], 64))[1] <= 1
    for env in envs:
        env.close()


@pytest.mark.gl
@pytest.mark.parametrize("task", ["pick-out-of-hole", "hammer"])
def test_fast_is_close_to_exact_and_the_simulation_is_the_same(task):
    check_against_exact(f"metaworld:{task}", 40)


@pytest.mark.gl
@pytest.mark.long
@pytest.mark.parametrize("name", task_names("metaworld"))
def test_every_task_is_close_to_exact(name):
    check_against_exact(name, 60)


@pytest.mark.gl
def test_two_worlds_show_the_same_frames():
    frames = []
    for _ in range(2):
        env = make_env("metaworld:door-open", seed=0)
        frames.append(play(env, 5, seed=3))
        env.close()
    np.testing.assert_array_equal(frames[0], frames[1])
