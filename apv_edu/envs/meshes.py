"""A model with no more triangles than a small picture of it can show."""

# MuJoCo's compiled modules come without types:
# pyright: reportAttributeAccessIssue=false

import copy
from math import acos, ceil, pi
from typing import Any

import numpy as np
from jaxtyping import Float, Int

CELL = 0.75
"""Edge of the cells in which a mesh's vertices are merged, in pixels of the picture."""
ROUNDNESS = 1 / 8
"""How far, in pixels, the polygon that stands for a circle may run inside that circle."""


def drawing_copy(model: Any, camera: Any, option: Any, size: int) -> Any:
    """A copy of a model for OpenGL alone, as detailed as its frames need.

    Meshes are simplified by ``merge_vertices``, and round bodies get fewer sides. The pixel that
    both are measured by is that of the mesh or round body nearest to the camera while the model is
    at rest, so that other parts may come as near as that. All parts keep their numbers: a scene of
    ``model`` can be drawn with the copy's shapes.

    Args:
        model: an ``mujoco.MjModel``, which is left as it is.
        camera: the ``mujoco.MjvCamera`` of the frames.
        option: the ``mujoco.MjvOption`` of the frames.
        size: height and width of a frame in pixels.

    Returns:
        Another ``mujoco.MjModel``, to make an ``mujoco.MjrContext`` of and not to simulate.
    """
    import mujoco

    drawn, kinds = copy.copy(model), mujoco.mjtGeom
    scene = _scene_at_rest(model, camera, option)

    def seen(*types: Any) -> list[Any]:
        return [geom for geom in scene.geoms[: scene.ngeom] if geom.type in types]

    meshes = seen(kinds.mjGEOM_MESH)
    tubes = seen(kinds.mjGEOM_CAPSULE, kinds.mjGEOM_CYLINDER)
    balls = seen(kinds.mjGEOM_SPHERE, kinds.mjGEOM_ELLIPSOID)
    pixel = _least_pixel(scene.camera[0], meshes + tubes + balls, size)
    for mesh in {geom.dataid // 2 for geom in meshes}:
        _simplify(drawn, mesh, CELL * pixel)
    radius = max([0, *(g.size[:2].max() for g in tubes), *(g.size.max() for g in balls)])
    if radius:
        # A polygon of n sides runs r - r cos(pi/n) inside its circle.
        sides = ceil(pi / acos(max(0.5, 1 - ROUNDNESS * pixel / radius)))
        quality = drawn.vis.quality
        quality.numslices = min(quality.numslices, max(8, sides))
        # A ball has half as many rings, since they span half a turn.
        quality.numstacks = min(quality.numstacks, quality.numslices // 2 + 1)
    return drawn


def merge_vertices(
    vertices: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"], cell: float
) -> tuple[Int[np.ndarray, "kept 3"], Int[np.ndarray, " kept"]]:
    """Simplify a mesh by letting one vertex stand for all those in a cell of a grid.

    Vertices of one cell are merged only if the surface faces the same way at both, by the six
    directions of the axes: the two sides of a thin wall stay apart, and so do those of an edge.

    Args:
        vertices: places in metres.
        faces: numbers of each triangle's vertices, in the order that tells its front.
        cell: edge of a cell in metres; a vertex moves by less than the cell's diagonal.

    Returns:
        The triangles that are left, of the same vertices, and their numbers in ``faces``, rising:
        those that shrank to a line or a point are gone, and of equal ones all but the first.

    Source: Rossignac & Borrel, Multi-resolution 3D approximations for rendering complex scenes,
        1993 (vertex clustering); the split by direction is ours.
    """
    corners = vertices[faces].astype(np.float64)
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = _sums(faces.ravel(), np.repeat(across, 3, axis=0), len(vertices))
    axis = np.abs(normals).argmax(1)
    direction = 2 * axis + (np.take_along_axis(normals, axis[:, None], 1)[:, 0] > 0)
    used = np.unique(faces)
    places = vertices[used].astype(np.float64)
    middle = (places.min(0) + places.max(0)) / 2
    grid = np.rint((places - middle) / cell).astype(np.int64)
    grid = np.c_[grid - grid.min(0), direction[used]]
    _, group = np.unique(_row_keys(grid), return_inverse=True)
    means = _sums(group, places, group.max() + 1) / np.bincount(group)[:, None]
    # In each group the vertex that is nearest to the mean stands for all.
    order = np.lexsort((((places - means[group]) ** 2).sum(1), group))
    chosen = used[order[np.searchsorted(group[order], np.arange(len(means)))]]
    stands_for = np.zeros(len(vertices), faces.dtype)
    stands_for[used] = chosen[group]
    merged = stands_for[faces]
    whole = np.flatnonzero((merged != np.roll(merged, 1, axis=1)).all(1))
    # Equal are triangles with the same vertices in the same sense of rotation.
    turn = (merged[whole].argmin(1)[:, None] + np.arange(3)) % 3
    turned = np.take_along_axis(merged[whole], turn, 1)
    _, first = np.unique(_row_keys(turned), return_index=True)
    kept = np.sort(whole[first])
    return merged[kept], kept


def _row_keys(rows: np.ndarray) -> np.ndarray:
    """One number for each row of whole numbers >= 0, the same for equal rows alone."""
    return np.asarray(np.ravel_multi_index(tuple(rows.T), tuple(rows.max(0, initial=0) + 1)))


def _sums(groups: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Per group, the sum of the values' rows."""
    return np.stack([np.bincount(groups, column, count) for column in values.T], axis=1)


def _simplify(model: Any, mesh: int, cell: float) -> None:
    """Put fewer triangles in the front of a mesh's place in ``model``, and say how many."""
    start, vertex = model.mesh_faceadr[mesh], model.mesh_vertadr[mesh]
    place = slice(start, start + model.mesh_facenum[mesh])
    vertices = model.mesh_vert[vertex : vertex + model.mesh_vertnum[mesh]]
    faces, kept = merge_vertices(vertices, model.mesh_face[place], cell)
    if len(faces) == 0:  # smaller than a pixel
        return
    # A triangle keeps the normals and texture it had.
    front = slice(start, start + len(faces))
    model.mesh_face[front] = faces
    model.mesh_facenormal[front] = model.mesh_facenormal[place][kept]
    model.mesh_facetexcoord[front] = model.mesh_facetexcoord[place][kept]
    model.mesh_facenum[mesh] = len(faces)


def _least_pixel(eye: Any, geoms: list[Any], size: int) -> float:
    """Metres that a pixel sees at the nearest of the ``mujoco.MjvGeom``, by the balls around them.

    No ball is taken to be more than 100 000 pixels wide, such as one with the camera in it.
    """
    radii = np.array([np.linalg.norm(geom.size) for geom in geoms])
    places = np.array([geom.pos for geom in geoms]).reshape(-1, 3)
    depths = np.linalg.norm(places - eye.pos, axis=1) - radii
    if eye.orthographic:
        depths[:] = eye.frustum_near
    pixels = 2 * eye.frustum_top / eye.frustum_near / size * depths
    return float(max(pixels.min(initial=np.inf), 2e-5 * radii.max(initial=0)))


def _scene_at_rest(model: Any, camera: Any, option: Any) -> Any:
    """The ``mujoco.MjvScene`` of a model before any simulation."""
    import mujoco

    data, scene = mujoco.MjData(model), mujoco.MjvScene(model, maxgeom=10_000)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)
    everything = mujoco.mjtCatBit.mjCAT_ALL.value
    mujoco.mjv_updateScene(model, data, option, None, camera, everything, scene)
    return scene
