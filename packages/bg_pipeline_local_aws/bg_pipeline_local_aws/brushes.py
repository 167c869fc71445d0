"""Parts of painted backgrounds: noise, ridges, glows, textures. Planes and RGB colours range from 0 to 1."""

from itertools import pairwise

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Colour = tuple[float, float, float]
Shape = tuple[int, int]  # rows, columns


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Linear interpolation from ``one`` (share 0) to ``other`` (share 1)."""
    red, green, blue = (a + (b - a) * share for a, b in zip(one, other, strict=True))
    return red, green, blue


def scale_brightness(colour: Colour, share: float) -> Colour:
    """The colour with every channel multiplied by ``share``."""
    return colour[0] * share, colour[1] * share, colour[2] * share


def colour_array(colour: Colour) -> Plane:
    """The colour as a float32 array."""
    return np.asarray(colour, np.float32)


def vertical_ramp(shape: Shape) -> Plane:
    """A column from 0 at the top to 1 at the bottom, shape (rows, 1), for broadcasting."""
    return np.linspace(0, 1, shape[0], dtype=np.float32)[:, None]


def horizontal_ramp(shape: Shape) -> Plane:
    """A row from 0 at the left to 1 at the right, shape (1, columns), for broadcasting."""
    return np.linspace(0, 1, shape[1], dtype=np.float32)[None, :]


def noise(random: Generator, shape: Shape, cells: tuple[float, float], octaves: int = 4) -> Plane:
    """Soft noise of about 0–1: ``cells`` (rows, columns) random patches, halved in size and strength per octave."""
    total, weight, strength = np.zeros(shape, np.float32), 0.0, 1.0
    for octave in range(octaves):
        rows, columns = (max(2, min(round(count * 2**octave), 512)) for count in cells)
        grid = random.random((rows, columns), np.float32)
        total += strength * np.asarray(cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC))
        weight += strength
        strength /= 2
    return np.asarray(np.clip((total / weight - 0.5) * 1.7 + 0.5, 0, 1), np.float32)


def ridge_line(
    random: Generator, width: int, bumps: int, octaves: int, *, roughness: float = 0.5, rounded: int = 2
) -> Plane:
    """A skyline of ``width`` heights, about -1 to 1; its coarsest ``rounded`` octaves are curves, the rest jagged."""
    total, strength = np.zeros(width, np.float32), 1.0
    for octave in range(octaves):
        points = random.uniform(-1, 1, (1, bumps * 2**octave + 2)).astype(np.float32)
        interpolation = cv2.INTER_CUBIC if octave < rounded else cv2.INTER_LINEAR
        total += strength * np.asarray(cv2.resize(points, (width, 1), interpolation=interpolation))[0]
        strength *= roughness
    return np.asarray(total * (1 - roughness), np.float32)


def mask_below(line: Plane, height: int) -> Plane:
    """A mask that is 1 below the line (pixels from the top, one value per column), antialiased."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    return np.asarray(np.clip(rows - line[None, :] + 0.5, 0, 1), np.float32)


def blend(canvas: Plane, mask: NDArray[np.floating], paint: NDArray[np.floating] | Colour) -> None:
    """Blends ``paint`` (a colour or a canvas) into the canvas in place, with the mask (0–1) as its opacity."""
    canvas += np.asarray(mask, np.float32)[..., None] * (np.asarray(paint, np.float32) - canvas)


def vertical_gradient(shape: Shape, stops: list[tuple[float, Colour]]) -> Plane:
    """A canvas interpolated from top to bottom between the stops (position 0–1 from the top, colour)."""
    places = [place for place, _ in stops]
    channels = [
        np.interp(vertical_ramp(shape)[:, 0], places, [colour[each] for _, colour in stops])
        for each in range(3)
    ]
    return np.repeat(np.stack(channels, axis=-1).astype(np.float32)[:, None, :], shape[1], axis=1)


def glow(shape: Shape, x: float, y: float, radius: float) -> Plane:
    """A light with value 1 at (x, y) that decays by 1/e per ``radius``; all in pixels."""
    rows = np.arange(shape[0], dtype=np.float32)[:, None] - y
    columns = np.arange(shape[1], dtype=np.float32)[None, :] - x
    return np.asarray(np.exp(-np.sqrt(rows * rows + columns * columns) / radius), np.float32)


def disc(shape: Shape, x: float, y: float, radius: float) -> Plane:
    """A filled, antialiased circle; x, y and radius in pixels."""
    mask = np.zeros(shape, np.uint8)
    cv2.circle(mask, (round(x * 16), round(y * 16)), round(radius * 16), (255,), -1, cv2.LINE_AA, 4)
    return np.asarray(mask / 255, np.float32)


def fill_polygon(mask: NDArray[np.uint8], points: list[tuple[float, float]]) -> None:
    """Fills the outline (x, y in pixels) with 255 in place, antialiased."""
    cv2.fillPoly(mask, [np.round(np.array(points) * 16).astype(np.int32)], (255,), cv2.LINE_AA, 4)


def blur(plane: Plane, sigma: float) -> Plane:
    """The plane after a Gaussian blur of ``sigma`` pixels; unchanged if sigma is below 0.3."""
    if sigma < 0.3:
        return plane
    return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma, borderType=cv2.BORDER_REFLECT), np.float32)


def add_bokeh(
    random: Generator, canvas: Plane, colours: list[Colour], count: int, rows: tuple[float, float]
) -> None:
    """Adds ``count`` blurred discs of light in place, between two heights (0–1 from the top)."""
    height, width = canvas.shape[:2]
    for _ in range(count):
        x, y = random.uniform(0, width), random.uniform(*rows) * height
        radius = min(height, width) * random.uniform(0.008, 0.04)
        reach = int(radius * 1.3) + 2
        left, top = max(int(x) - reach, 0), max(int(y) - reach, 0)
        patch = canvas[top : int(y) + reach, left : int(x) + reach]
        spot = blur(disc((patch.shape[0], patch.shape[1]), x - left, y - top, radius), radius * 0.12)
        patch += (
            spot[..., None] * colour_array(colours[random.integers(len(colours))]) * random.uniform(0.08, 0.3)
        )


def wood_texture(random: Generator, shape: Shape, colour: Colour, planks: int) -> Plane:
    """Horizontal wooden planks."""
    height, width = shape
    canvas = np.empty((height, width, 3), np.float32)
    for top, bottom in pairwise(np.linspace(0, height, planks + 1).astype(int)):
        canvas[top:bottom] = colour_array(colour) * random.uniform(0.85, 1.12)
        canvas[top : top + max(1, height // 250)] *= 0.6
    canvas *= (0.78 + 0.44 * noise(random, shape, (height / 14, 2.5), 3))[..., None]
    return canvas


def marble_texture(random: Generator, shape: Shape, colour: Colour) -> Plane:
    """Polished stone with veins: dark veins in a light stone, light veins in a dark one."""
    warp = noise(random, shape, (2, 2.5), 3) + 0.12 * noise(random, shape, (14, 18), 3)
    slant = random.uniform(-1, 1)
    lines = np.abs(
        np.sin((horizontal_ramp(shape) * 1.2 + vertical_ramp(shape) * slant + warp * 1.6) * np.pi * 2.2)
    )
    veins = np.clip(1 - lines / 0.14, 0, 1) ** 2 * noise(random, shape, (3, 3), 3) ** 1.5
    canvas = np.ones((*shape, 3), np.float32) * colour_array(colour)
    canvas *= (0.93 + 0.1 * noise(random, shape, (3, 3), 5))[..., None]
    blend(canvas, 0.5 * veins, (0.45, 0.44, 0.43) if sum(colour) > 1.5 else (0.85, 0.84, 0.82))
    return canvas
