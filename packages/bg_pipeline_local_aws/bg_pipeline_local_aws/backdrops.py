"""Backgrounds without a horizon: rooms, studios, space, underwater, and abstract shapes for unknown words."""

import hashlib

import cv2
import numpy as np
from numpy.random import Generator

from bg_pipeline_local_aws.brushes import (
    Colour,
    Plane,
    Shape,
    add_bokeh,
    blend,
    blur,
    colour_array,
    glow,
    horizontal_ramp,
    marble_texture,
    mix,
    noise,
    scale_brightness,
    vertical_gradient,
    vertical_ramp,
    wood_texture,
)
from bg_pipeline_local_aws.prompt_words import PromptWords

_WALLS: tuple[Colour, ...] = ((0.86, 0.83, 0.78), (0.78, 0.82, 0.84), (0.84, 0.80, 0.74), (0.72, 0.76, 0.72))
_BOOKS: tuple[Colour, ...] = ((0.60, 0.25, 0.20), (0.25, 0.40, 0.50), (0.80, 0.70, 0.50), (0.35, 0.45, 0.32))
_TABLES: tuple[Colour, ...] = ((0.50, 0.34, 0.22), (0.66, 0.50, 0.34), (0.36, 0.24, 0.17))
_PAPERS: tuple[Colour, ...] = ((0.86, 0.87, 0.89), (0.90, 0.88, 0.85), (0.80, 0.83, 0.86))
_NEBULAE: tuple[Colour, ...] = ((0.45, 0.20, 0.65), (0.15, 0.35, 0.75), (0.80, 0.35, 0.45))


def paint_space(words: PromptWords, random: Generator, shape: Shape) -> Plane:
    """Stars over nebulae in the prompt's colours."""
    height, width = shape
    tints = words.colours or _NEBULAE
    canvas = np.ones((height, width, 3), np.float32) * colour_array((0.012, 0.014, 0.04))
    for _ in range(3):
        cloud = np.clip(noise(random, shape, (2.5, 3.5), 6) * 1.8 - 0.85, 0, 1) ** 1.6
        canvas += cloud[..., None] * colour_array(tints[random.integers(len(tints))]) * 0.8
    stars = np.clip((random.random(shape, np.float32) - 0.997) / 0.003, 0, 1)
    canvas += blur(stars, 0.5)[..., None]
    for _ in range(14):
        x, y, radius = random.uniform(0, width), random.uniform(0, height), random.uniform(0.003, 0.01)
        canvas += glow(shape, x, y, min(shape) * radius)[..., None]
    return canvas


def paint_underwater(random: Generator, shape: Shape) -> Plane:
    """Blue water with light rays from above and a few bubbles."""
    height, width = shape
    canvas = vertical_gradient(
        shape, [(0, (0.36, 0.80, 0.86)), (0.5, (0.06, 0.42, 0.62)), (1, (0.01, 0.12, 0.28))]
    )
    lean, start = random.uniform(-0.5, 0.5), random.uniform(0, 6)
    bend = 3 * noise(random, shape, (1, 5), 2)
    rays = (
        np.clip(np.sin((horizontal_ramp(shape) + lean * vertical_ramp(shape)) * 26 + start + bend), 0, 1) ** 2
    )
    canvas += (0.16 * rays * (1 - vertical_ramp(shape)) ** 1.5)[..., None]
    for _ in range(60):
        place = (int(random.uniform(0, width)), int(random.uniform(0, height)))
        radius = max(1, int(min(shape) * random.uniform(0.002, 0.012)))
        cv2.circle(canvas, place, radius, (0.75, 0.93, 0.97), 1, cv2.LINE_AA)
    return blur(canvas, min(shape) / 500)


def paint_room(words: PromptWords, random: Generator, shape: Shape) -> Plane:
    """A table top in front of a blurred wall with a window and a bookcase."""
    height, width = shape
    night = words.has("night")
    dim = 0.35 if night else 1.0
    wall = scale_brightness(words.colours[0] if words.colours else _WALLS[random.integers(len(_WALLS))], dim)
    canvas = vertical_gradient(shape, [(0, scale_brightness(wall, 0.92)), (1, scale_brightness(wall, 1.02))])
    window_left = random.random() < 0.5
    window = random.uniform(0.03, 0.12) if window_left else random.uniform(0.60, 0.68)
    _paint_window(
        random,
        canvas,
        window,
        (0.10, 0.13, 0.24) if night else (1.0, 0.99, 0.95),
        scale_brightness(wall, 0.8),
    )
    _paint_bookcase(random, canvas, 0.5 if window_left else 0.04, scale_brightness(wall, 0.62), dim)
    lamp = glow(shape, random.uniform(0.3, 0.7) * width, height * 0.08, min(shape) * 0.16)
    blend(canvas, 0.75 * lamp, (1.0, 0.86, 0.62))
    canvas = blur(canvas, min(shape) / 38)
    add_bokeh(random, canvas, [(0.5, 0.40, 0.26), (0.5, 0.46, 0.40)], 12, (0.05, 0.6))
    edge = int(height * random.uniform(0.70, 0.78))
    table = (height - edge, width)
    if words.has("marble"):
        top = marble_texture(random, table, (0.93, 0.93, 0.94))
    else:
        top = wood_texture(random, table, _TABLES[random.integers(len(_TABLES))], 4)
    blend(top, 0.25 * (1 - vertical_ramp(table)), (1.0, 0.97, 0.92))
    canvas[edge:] = top * dim
    rim = slice(max(edge - height // 60, 0), edge + height // 60 + 1)
    canvas[rim] = blur(canvas[rim].copy(), min(shape) / 160)
    return canvas


def _paint_window(random: Generator, canvas: Plane, start: float, pane: Colour, frame: Colour) -> None:
    height, width = canvas.shape[:2]
    left, right = int(width * start), int(width * (start + random.uniform(0.24, 0.32)))
    top, bottom = int(height * random.uniform(0.06, 0.14)), int(height * random.uniform(0.54, 0.62))
    half = max(2, width // 110) // 2
    canvas[top:bottom, left:right] = pane
    canvas[top:bottom, (left + right) // 2 - half : (left + right) // 2 + half] = frame
    canvas[(top + bottom) // 2 - half : (top + bottom) // 2 + half, left:right] = frame


def _paint_bookcase(random: Generator, canvas: Plane, start: float, back: Colour, dim: float) -> None:
    height, width = canvas.shape[:2]
    canvas[: int(height * 0.52), int(width * (start - 0.012)) : int(width * (start + 0.452))] = back
    for board in (0.16, 0.31, 0.46):
        y, x, end = int(height * board), int(width * start), int(width * (start + 0.44))
        canvas[y : y + max(3, height // 45), x:end] = scale_brightness((0.55, 0.42, 0.32), dim)
        while x < end - width * 0.03:
            wide, high = width * random.uniform(0.012, 0.035), height * random.uniform(0.05, 0.115)
            if random.random() < 0.8:
                book = scale_brightness(_BOOKS[random.integers(len(_BOOKS))], dim * random.uniform(0.8, 1.2))
                canvas[int(y - high) : y, x : int(x + wide)] = book
            x += int(wide * random.uniform(1.0, 1.5)) + 1


def paint_studio(words: PromptWords, random: Generator, shape: Shape) -> Plane:
    """A paper backdrop in the prompt's first colour, or a wall of marble, wood or concrete, under one soft light."""
    height, width = shape
    paper = words.colours[0] if words.colours else None
    wall: Plane
    if words.has("marble"):
        wall = marble_texture(random, shape, paper or (0.94, 0.94, 0.95))
    elif words.has("wood"):
        wall = wood_texture(random, shape, paper or (0.62, 0.45, 0.30), int(random.integers(6, 9)))
    elif words.has("concrete"):
        plaster = mix(paper or (0.80, 0.80, 0.80), (0.62, 0.61, 0.60), 0.7)
        blotches = 0.3 * noise(random, shape, (4, 5), 6) + 0.08 * noise(random, shape, (70, 110), 3)
        wall = colour_array(plaster) * np.asarray(0.8 + blotches, np.float32)[..., None]
    else:
        plain = paper or _PAPERS[random.integers(len(_PAPERS))]
        floor = vertical_ramp(shape) - random.uniform(0.66, 0.76)
        shade = 1 - 0.10 * np.exp(-((floor / 0.10) ** 2)) + 0.18 * np.clip(floor, 0, 1)
        shade = np.asarray(shade * (0.97 + 0.06 * noise(random, shape, (2, 3), 3)), np.float32)
        wall = colour_array(plain) * shade[..., None]
    x, y = random.uniform(0.2, 0.8) * width, random.uniform(0.15, 0.5) * height
    wall *= (0.72 + 0.36 * glow(shape, x, y, max(shape) * 0.55))[..., None]
    if len(words.colours) > 1:
        blend(wall, 0.8 * glow(shape, width - x, height * 0.9, max(shape) * 0.35), words.colours[1])
    return wall


def paint_abstract(prompt: str, random: Generator, shape: Shape) -> Plane:
    """Soft coloured lights and bands; the prompt's hash sets colours, slant and number of lights."""
    height, width = shape
    choice = hashlib.sha256(prompt.encode()).digest()
    hue = choice[0] / 255 * 360
    hues = (hue, hue + 20 + choice[1] / 8, hue - 30 - choice[2] / 6, hue + 180)
    palette = [_colour_of_hue(each % 360, 0.35 + choice[3] / 700, 0.5 + choice[4] / 800) for each in hues]
    canvas = vertical_gradient(
        shape, [(0, scale_brightness(palette[0], 0.9)), (1, scale_brightness(palette[1], 0.55))]
    )
    for light in range(4 + choice[5] % 4):
        x, y = random.uniform(-0.1, 1.1) * width, random.uniform(-0.1, 1.1) * height
        spot = 1.2 * glow(shape, x, y, max(shape) * random.uniform(0.12, 0.3))
        blend(canvas, np.clip(spot, 0, 0.85), palette[light % 4 if light else 2])
    slant = (choice[6] / 255 - 0.5) * 3
    along = vertical_ramp(shape) + slant * horizontal_ramp(shape) * width / height
    bend = 4 * noise(random, shape, (1.5, 1.5), 2) * (1 + choice[7] / 64)
    canvas *= (1 + 0.13 * np.sin(along * (4 + choice[8] / 20) + bend + random.uniform(0, 6)))[..., None]
    lights = [mix(colour, (1.0, 1.0, 1.0), 0.4) for colour in palette]
    add_bokeh(random, canvas, lights, 10 + choice[9] % 30, (0, 1))
    return canvas


def _colour_of_hue(hue: float, saturation: float, value: float) -> Colour:
    pixel = cv2.cvtColor(np.array([[[hue, saturation, value]]], np.float32), cv2.COLOR_HSV2RGB)
    red, green, blue = np.ravel(pixel).tolist()
    return red, green, blue
