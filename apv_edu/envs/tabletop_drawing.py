"""Drawing of the tabletop: anti-aliased shapes from distance fields, in NumPy, with no OpenGL.

Lengths are in world units (the table is the square from -1 to 1, y up); colours are RGB from 0 to
255. An image is float32 while it is drawn. Each shape touches only the pixels near it.
"""

import colorsys
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8

Colour = tuple[float, float, float]
Image = Float[np.ndarray, "size size 3"]

RADIUS = 0.18
"""Of the gripper and of the object."""
RING = 0.25
"""Outer radius of the goal's ring."""


@dataclass(frozen=True)
class Palette:
    """The colours of one look, and the pattern of its table."""

    table: Colour
    gripper: Colour
    fingers: Colour
    object: Colour
    goal: Colour
    texture: str = "flat"
    contrast: float = 0.0
    """Strength of the table's pattern, in grey levels."""


LOOKS = {
    "paper": Palette((238, 231, 218), (70, 92, 140), (36, 44, 66), (226, 86, 62), (30, 152, 128)),
    "wood": Palette(
        (204, 160, 110), (78, 84, 98), (36, 40, 50), (40, 106, 190), (255, 246, 226), "wood", 15
    ),
    "felt": Palette(
        (46, 110, 78), (176, 184, 192), (246, 244, 236), (238, 94, 70), (250, 212, 94), "felt", 7
    ),
    "slate": Palette(
        (56, 62, 76), (150, 122, 204), (232, 226, 246), (252, 156, 62), (94, 208, 222), "felt", 5
    ),
    "tiles": Palette(
        (204, 214, 224), (116, 82, 156), (54, 36, 82), (244, 172, 38), (214, 56, 108), "tiles", 9
    ),
}
TEXTURES = ("flat", "wood", "felt", "tiles")


def random_palette(rng: np.random.Generator) -> Palette:
    """Colours drawn at random: three hues well apart on a pale or a dark table."""
    dark = rng.random() < 0.4
    hue = rng.random()
    hues = (hue + rng.permutation(3) / 3 + rng.uniform(-0.07, 0.07, 3)) % 1
    value = (0.8, 1.0) if dark else (0.45, 0.8)
    gripper, thing, goal = (_rgb(h, rng.uniform(0.55, 0.9), rng.uniform(*value)) for h in hues)
    value = (0.18, 0.36) if dark else (0.75, 0.95)
    table = _rgb(rng.random(), rng.uniform(0.05, 0.35), rng.uniform(*value))
    fingers = (244.0, 242.0, 236.0) if dark else (38.0, 40.0, 52.0)
    texture = TEXTURES[rng.integers(len(TEXTURES))]
    return Palette(table, gripper, fingers, thing, goal, texture, float(rng.uniform(4, 12)))


def draw_table(
    palette: Palette,
    size: int,
    goal: Float[np.ndarray, " 2"],
    distractors: Float[np.ndarray, "count 7"],
) -> Image:
    """The part of the picture that stays through an episode: table, distractors, goal ring.

    A distractor's row is x, y, radius, number of sides (0 is a disc), red, green, blue.
    """
    image = palette.contrast * _relief(palette.texture, size)[..., None] + np.array(
        palette.table, np.float32
    )
    image = np.clip(image, 0, 255).astype(np.float32)
    for x, y, radius, sides, red, green, blue in distractors:
        patch, dx, dy = _near(image, (x, y), radius + 0.05)
        _blend(patch, (red, green, blue), _cover(_polygon(dx, dy, radius, int(sides)), size))
    patch, dx, dy = _near(image, goal, RING + 0.05)
    far = np.hypot(dx, dy)
    _blend(patch, palette.goal, 0.30 * _cover(far - RING, size))
    _blend(patch, palette.goal, _cover(np.abs(far - RING + 0.03) - 0.03, size))
    return image


def draw_object(image: Image, palette: Palette, at: Float[np.ndarray, " 2"]) -> None:
    """A puck with a raised rim and a pale mark in the middle."""
    size = len(image)
    patch, dx, dy = _near(image, at, RADIUS + 0.12)
    _shade(patch, dx - 0.02, dy + 0.03, RADIUS, 0.35)
    far = np.hypot(dx, dy)
    _blend(patch, _mix(palette.object, 0, 0.28), _cover(far - RADIUS, size))
    _blend(patch, palette.object, _cover(far - 0.80 * RADIUS, size))
    _blend(patch, _mix(palette.object, 255, 0.55), _cover(far - 0.34 * RADIUS, size))


def draw_gripper(image: Image, palette: Palette, at: Float[np.ndarray, " 2"]) -> None:
    """A palm seen from above with two open fingers; it casts a wider shadow than the object."""
    size = len(image)
    patch, dx, dy = _near(image, at, RADIUS + 0.17)
    far = np.hypot(dx, dy)
    ring = np.abs(np.hypot(dx, dy - 0.15) - 0.125) - 0.04
    fingers = np.maximum(ring, 0.055 - np.abs(dx))
    _shade(patch, dx - 0.045, dy + 0.06, RADIUS, 0.40)
    _blend(patch, palette.fingers, _cover(fingers, size))
    _blend(patch, _mix(palette.gripper, 0, 0.30), _cover(far - RADIUS, size))
    _blend(patch, palette.gripper, _cover(far - 0.80 * RADIUS, size))
    _blend(patch, palette.fingers, _cover(far - 0.36 * RADIUS, size))


def to_bytes(image: Image) -> UInt8[np.ndarray, "size size 3"]:
    """The finished picture as bytes."""
    return (image + 0.5).astype(np.uint8)


def _near(image: Image, at: np.ndarray | tuple[float, float], reach: float) -> tuple:
    """The pixels within ``reach`` of a point (a view), and the offsets (1, w), (h, 1) from it."""
    size, x, y = len(image), float(at[0]), float(at[1])
    left, right = (x - reach + 1) / 2 * size, (x + reach + 1) / 2 * size
    top, bottom = (1 - y - reach) / 2 * size, (1 - y + reach) / 2 * size
    columns = slice(max(int(left), 0), min(int(right) + 1, size))
    rows = slice(max(int(top), 0), min(int(bottom) + 1, size))
    across, down = _grid(size)
    return image[rows, columns], across[:, columns] - x, down[rows] - y


def _cover(distance: Float[np.ndarray, "h w"], size: int) -> Float[np.ndarray, "h w"]:
    """How much of each pixel a shape covers, from the signed distance to its edge."""
    return np.minimum(np.maximum(0.5 - distance * np.float32(size / 2), 0), 1)


def _blend(patch: Image, colour: Colour, alpha: Float[np.ndarray, "h w"]) -> None:
    patch += alpha[..., None] * (np.asarray(colour, np.float32) - patch)


def _shade(patch: Image, dx: np.ndarray, dy: np.ndarray, radius: float, depth: float) -> None:
    """A soft shadow: full inside the disc, gone .1 outside it."""
    edge = np.minimum(np.maximum((radius + 0.07 - np.hypot(dx, dy)) * 8, 0), 1)
    patch *= (1 - depth * edge)[..., None]


def _polygon(dx: np.ndarray, dy: np.ndarray, radius: float, sides: int) -> np.ndarray:
    if sides == 0:
        return np.hypot(dx, dy) - radius
    angles = np.pi / 2 + np.pi / sides + 2 * np.pi * np.arange(sides) / sides
    planes = [dx * np.float32(np.cos(a)) + dy * np.float32(np.sin(a)) for a in angles]
    return np.maximum.reduce(planes) - np.float32(radius * np.cos(np.pi / sides))


def _mix(colour: Colour, grey: float, share: float) -> Colour:
    red, green, blue = (c + share * (grey - c) for c in colour)
    return red, green, blue


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return 255 * red, 255 * green, 255 * blue


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[Float[np.ndarray, "1 size"], Float[np.ndarray, "size 1"]]:
    """World coordinates of the pixels' centres: x along a row, y down a column."""
    centres = (2 * np.arange(size, dtype=np.float32) + 1) / size - 1
    return centres[None], -centres[:, None]


@lru_cache(maxsize=32)
def _relief(texture: str, size: int) -> Float[np.ndarray, "size size"]:
    """The pattern of a table, about -1 to 1, always the same for one texture and size."""
    x, y = _grid(size)
    rng = np.random.default_rng(7)
    if texture == "wood":
        plank = np.floor((y + 1) * 2).astype(int).clip(0, 3)
        tone, phase = rng.uniform(-0.8, 0.8, 4)[plank], rng.uniform(0, 6, 4)[plank]
        grain = np.sin(34 * y + 2.2 * np.sin(1.7 * x + phase) + phase)
        seam = np.abs((y + 1) * 2 - np.round((y + 1) * 2)) < 2 / size
        return (tone + 0.35 * grain - 1.6 * seam).astype(np.float32)
    if texture == "felt":
        blotches = rng.standard_normal((size, size))
        return (0.6 * blotches - 0.9 * (x**2 + y**2)).astype(np.float32)
    if texture == "tiles":
        return np.where((np.floor(2 * x) + np.floor(2 * y)) % 2 == 0, 1, -1).astype(np.float32)
    return (0 * x * y).astype(np.float32)
