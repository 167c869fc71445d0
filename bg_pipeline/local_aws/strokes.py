"""What a painted background is made of: noise, ridges, glows, textures. Planes and colours run from 0 to 1, RGB."""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Colour = tuple[float, float, float]


def mixed(one: Colour, other: Colour, share: float) -> Colour:
    """The colour `share` (0–1) of the way from one to the other."""
    red, green, blue = (a + (b - a) * share for a, b in zip(one, other, strict=True))
    return red, green, blue


def scaled(colour: Colour, share: float) -> Colour:
    """The colour, darker or lighter."""
    return colour[0] * share, colour[1] * share, colour[2] * share


def noise(random: Generator, shape: tuple[int, int], cells: tuple[float, float], octaves: int = 4) -> Plane:
    """Soft noise of about 0–1, (rows, columns), `cells` (down, across) coarse patches, halved at each octave."""
    height, width = shape
    total, weight, strength = np.zeros(shape, np.float32), 0.0, 1.0
    for octave in range(octaves):
        rows, columns = (max(2, min(round(count * 2**octave), 512)) for count in cells)
        grid = random.random((rows, columns), np.float32)
        total += strength * np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC))
        weight += strength
        strength /= 2
    return np.asarray(np.clip((total / weight - 0.5) * 1.7 + 0.5, 0, 1), np.float32)


def ridge(
    random: Generator, width: int, bumps: int, octaves: int = 6, roughness: float = 0.5, rounded: int = 2
) -> Plane:
    """A skyline of `width` heights, about -1 to 1; its coarsest `rounded` octaves are curves, the others edges."""
    total, strength = np.zeros(width, np.float32), 1.0
    for octave in range(octaves):
        points = random.uniform(-1, 1, (1, bumps * 2**octave + 2)).astype(np.float32)
        way = cv2.INTER_CUBIC if octave < rounded else cv2.INTER_LINEAR
        total += strength * np.asarray(cv2.resize(points, (width, 1), interpolation=way))[0]
        strength *= roughness
    return np.asarray(total * (1 - roughness), np.float32)


def below(heights: Plane, height: int) -> Plane:
    """A mask that is 1 under the line `heights` (one y a column, pixels) with a smooth edge."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    return np.asarray(np.clip(rows - heights[None, :] + 0.5, 0, 1), np.float32)


def lay(canvas: Plane, mask: Plane, paint: Plane | Colour) -> None:
    """Covers the canvas with a colour, or another canvas, where the mask says so (0–1)."""
    canvas += mask[..., None] * (np.asarray(paint, np.float32) - canvas)


def ramp(height: int, stops: list[tuple[float, Colour]]) -> Plane:
    """A column (height, 1, 3) of colours running through the stops (position 0–1 from the top, colour)."""
    rows = np.linspace(0, 1, height)
    places = [place for place, _ in stops]
    channels = [np.interp(rows, places, [colour[channel] for _, colour in stops]) for channel in range(3)]
    return np.asarray(np.stack(channels, axis=-1)[:, None, :], np.float32)


def glow(shape: tuple[int, int], x: float, y: float, radius: float) -> Plane:
    """A light that fades with the distance from (x, y), 1 at its centre; all in pixels."""
    rows = np.arange(shape[0], dtype=np.float32)[:, None] - y
    columns = np.arange(shape[1], dtype=np.float32)[None, :] - x
    return np.asarray(np.exp(-np.sqrt(rows * rows + columns * columns) / radius), np.float32)


def disc(shape: tuple[int, int], x: float, y: float, radius: float) -> Plane:
    """A filled circle with a smooth edge."""
    mask = np.zeros(shape, np.uint8)
    cv2.circle(mask, (round(x * 16), round(y * 16)), round(radius * 16), 255, -1, cv2.LINE_AA, 4)
    return mask.astype(np.float32) / 255


def blurred(plane: Plane, sigma: float) -> Plane:
    """The plane, out of focus by `sigma` pixels."""
    if sigma < 0.3:
        return plane
    return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma, borderType=cv2.BORDER_REFLECT), np.float32)


def bokeh(
    random: Generator, canvas: Plane, colours: list[Colour], count: int, rows: tuple[float, float]
) -> None:
    """Adds lights out of focus between two heights (0–1 from the top)."""
    height, width = canvas.shape[:2]
    unit = min(height, width)
    for _ in range(count):
        x, y = random.uniform(0, width), random.uniform(*rows) * height
        radius = unit * random.uniform(0.008, 0.04)
        colour = np.asarray(colours[random.integers(len(colours))], np.float32)
        reach = int(radius * 1.3) + 2
        top, left = max(int(y) - reach, 0), max(int(x) - reach, 0)
        patch = canvas[top : int(y) + reach, left : int(x) + reach]
        if patch.size:
            spot = blurred(disc(patch.shape[:2], x - left, y - top, radius), radius * 0.12)
            patch += spot[..., None] * colour * random.uniform(0.08, 0.3)


def wood(random: Generator, shape: tuple[int, int], colour: Colour, planks: int) -> Plane:
    """Planks lying across."""
    height, width = shape
    grain = noise(random, shape, (height / 14, 2.5), 3)
    canvas = np.empty((height, width, 3), np.float32)
    edges = np.linspace(0, height, planks + 1).astype(int)
    for top, bottom in zip(edges, edges[1:], strict=False):
        tone = random.uniform(0.85, 1.12)
        canvas[top:bottom] = np.asarray(colour, np.float32) * tone
        canvas[top : top + max(1, height // 250)] *= 0.6
    canvas *= (0.78 + 0.44 * grain)[..., None]
    return canvas


def marble(random: Generator, shape: tuple[int, int], colour: Colour) -> Plane:
    """Polished stone with a few veins."""
    warp = noise(random, shape, (2, 2.5), 3) + 0.12 * noise(random, shape, (14, 18), 3)
    rows = np.linspace(0, 1, shape[0], dtype=np.float32)[:, None]
    columns = np.linspace(0, 1, shape[1], dtype=np.float32)[None, :]
    slant = random.uniform(-1, 1)
    lines = np.abs(np.sin((columns * 1.2 + rows * slant + warp * 1.6) * np.pi * 2.2))
    veins = np.clip(1 - lines / 0.14, 0, 1) ** 2 * noise(random, shape, (3, 3), 3) ** 1.5
    canvas = np.ones((*shape, 3), np.float32) * np.asarray(colour, np.float32)
    canvas *= (0.93 + 0.1 * noise(random, shape, (3, 3), 5))[..., None]
    lay(canvas, 0.5 * veins, (0.45, 0.44, 0.43) if sum(colour) > 1.5 else (0.85, 0.84, 0.82))
    return canvas
