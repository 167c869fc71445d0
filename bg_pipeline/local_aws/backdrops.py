"""Backgrounds without a horizon: rooms, studios, space, water, and shapes for words that are not understood."""

import hashlib

import cv2
import numpy as np
from numpy.random import Generator

from bg_pipeline.local_aws.strokes import (
    Colour, Plane, below, blurred, bokeh, disc, glow, lay, marble, mixed, noise, ramp, scaled, wood
)
from bg_pipeline.local_aws.wish import Wish


def space(wish: Wish, random: Generator, shape: tuple[int, int]) -> Plane:
    height, width = shape
    tints = wish.colours or ((0.45, 0.20, 0.65), (0.15, 0.35, 0.75), (0.80, 0.35, 0.45))
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = (0.012, 0.014, 0.04)
    for _ in range(3):
        cloud = np.clip(noise(random, shape, (2.5, 3.5), 6) * 1.8 - 0.85, 0, 1) ** 1.6
        canvas += cloud[..., None] * np.asarray(tints[random.integers(len(tints))], np.float32) * 0.8
    stars = np.clip((random.random(shape, np.float32) - 0.997) / 0.003, 0, 1)
    canvas += blurred(np.asarray(stars, np.float32), 0.5)[..., None]
    for _ in range(14):
        star = glow(
            shape,
            random.uniform(0, width),
            random.uniform(0, height),
            min(shape) * random.uniform(0.003, 0.01),
        )
        canvas += star[..., None]
    return canvas


def underwater(random: Generator, shape: tuple[int, int]) -> Plane:
    height, width = shape
    canvas = np.repeat(
        ramp(height, [(0, (0.36, 0.80, 0.86)), (0.5, (0.06, 0.42, 0.62)), (1, (0.01, 0.12, 0.28))]), width, 1
    )
    columns = np.linspace(0, 1, width, dtype=np.float32)[None, :]
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    lean, phase = random.uniform(-0.5, 0.5), random.uniform(0, 6)
    rays = (
        np.clip(np.sin((columns + lean * rows) * 26 + phase + 3 * noise(random, shape, (1, 5), 2)), 0, 1) ** 2
    )
    canvas += (rays * (1 - rows) ** 1.5 * 0.16)[..., None]
    for _ in range(60):
        radius = min(shape) * random.uniform(0.002, 0.012)
        bubble = (int(random.uniform(0, width)), int(random.uniform(0, height)))
        cv2.circle(canvas, bubble, max(1, int(radius)), (0.75, 0.93, 0.97), 1, cv2.LINE_AA)
    return blurred(canvas, min(shape) / 500)


def room(wish: Wish, random: Generator, shape: tuple[int, int]) -> Plane:
    height, width = shape
    walls = ((0.86, 0.83, 0.78), (0.78, 0.82, 0.84), (0.84, 0.80, 0.74), (0.72, 0.76, 0.72))
    wall = wish.colours[0] if wish.colours else walls[random.integers(len(walls))]
    dim = 0.35 if wish.has("night") else 1.0
    canvas = np.repeat(
        ramp(height, [(0, scaled(wall, 0.92 * dim)), (1, scaled(wall, 1.02 * dim))]), width, 1
    )
    pieces: list[Colour] = [(0.35, 0.26, 0.20), (0.55, 0.42, 0.32), (0.30, 0.36, 0.40), (0.62, 0.60, 0.56)]
    books: list[Colour] = [(0.60, 0.25, 0.20), (0.25, 0.40, 0.50), (0.80, 0.70, 0.50), (0.35, 0.45, 0.32)]
    window_left = random.random() < 0.5
    # A window on one side, shelves on the other, all far out of focus.
    left = int(width * (random.uniform(0.03, 0.12) if window_left else random.uniform(0.60, 0.68)))
    top, bottom = int(height * random.uniform(0.06, 0.14)), int(height * random.uniform(0.54, 0.62))
    pane = canvas[top:bottom, left : left + int(width * random.uniform(0.24, 0.32))]
    pane[:] = (0.10, 0.13, 0.24) if wish.has("night") else (1.0, 0.99, 0.95)
    bars = max(2, width // 110)
    pane[:, pane.shape[1] // 2 - bars // 2 : pane.shape[1] // 2 + bars] = scaled(wall, 0.8 * dim)
    pane[pane.shape[0] // 2 - bars // 2 : pane.shape[0] // 2 + bars] = scaled(wall, 0.8 * dim)
    start = 0.5 if window_left else 0.04
    case = slice(int(width * (start - 0.012)), int(width * (start + 0.452)))
    canvas[: int(height * 0.52), case] = scaled(wall, 0.62 * dim)
    for shelf in range(3):
        y = int(height * (0.16 + 0.15 * shelf))
        x, end = int(width * start), int(width * (start + 0.44))
        canvas[y : y + max(3, height // 45), x:end] = scaled(pieces[1], dim)
        while x < end - width * 0.03:
            wide, high = width * random.uniform(0.012, 0.035), height * random.uniform(0.05, 0.115)
            if random.random() < 0.8:
                tone = scaled(books[random.integers(4)], dim * random.uniform(0.8, 1.2))
                canvas[int(y - high) : y, x : int(x + wide)] = tone
            x += int(wide * random.uniform(1.0, 1.5)) + 1
    lamp_x = random.uniform(0.3, 0.7) * width
    lay(canvas, 0.75 * glow(shape, lamp_x, height * 0.08, min(shape) * 0.16), (1.0, 0.86, 0.62))
    canvas = blurred(canvas, min(shape) / 38)
    bokeh(random, canvas, [(0.5, 0.40, 0.26), (0.5, 0.46, 0.40)], 12, (0.05, 0.6))
    top = int(height * random.uniform(0.70, 0.78))
    table = (height - top, width)
    if wish.has("marble"):
        surface = marble(random, table, (0.93, 0.93, 0.94))
    else:
        surface = wood(
            random, table, random.choice([(0.50, 0.34, 0.22), (0.66, 0.50, 0.34), (0.36, 0.24, 0.17)]), 4
        )
    shine = np.linspace(0.25, 0, table[0], dtype=np.float32)[:, None] * np.ones(table, np.float32)
    lay(surface, shine, (1.0, 0.97, 0.92))
    canvas[top:] = surface * dim if wish.has("night") else surface
    rows = slice(max(top - height // 60, 0), top + height // 60)
    canvas[rows] = blurred(canvas[rows].copy(), min(shape) / 160)
    return canvas


def studio(wish: Wish, random: Generator, shape: tuple[int, int]) -> Plane:
    height, width = shape
    tones = ((0.86, 0.87, 0.89), (0.90, 0.88, 0.85), (0.80, 0.83, 0.86))
    plain = wish.colours[0] if wish.colours else tones[random.integers(3)]
    light_x, light_y = random.uniform(0.2, 0.8) * width, random.uniform(0.15, 0.5) * height
    wall: Plane = np.empty((height, width, 3), np.float32)
    wall[:] = plain
    if wish.has("concrete"):
        blotches = noise(random, shape, (4, 5), 6) * 0.3 + noise(random, shape, (70, 110), 3) * 0.08
        wall[:] = mixed(plain, (0.62, 0.61, 0.60), 0.7)
        wall *= (0.8 + blotches)[..., None]
    elif wish.has("marble"):
        wall = marble(random, shape, plain if wish.colours else (0.94, 0.94, 0.95))
    elif wish.has("wood"):
        wall = wood(random, shape, plain if wish.colours else (0.62, 0.45, 0.30), random.integers(6, 9))
    else:
        # A paper roll: wall and floor meet in a soft curve.
        floor = height * random.uniform(0.66, 0.76)
        rows = np.arange(height, dtype=np.float32)[:, None]
        bend = np.exp(-(((rows - floor) / (0.10 * height)) ** 2))
        wall *= (1 - 0.10 * bend + 0.05 * (rows > floor) * np.clip((rows - floor) / (height - floor), 0, 1))[
            ..., None
        ]
        wall *= (0.97 + 0.06 * noise(random, shape, (2, 3), 3))[..., None]
    spot = glow(shape, light_x, light_y, max(shape) * 0.55)
    wall *= (0.72 + 0.36 * spot)[..., None]
    if len(wish.colours) > 1:
        lay(wall, 0.8 * glow(shape, width - light_x, height * 0.9, max(shape) * 0.35), wish.colours[1])
    return wall


def abstract(words: str, random: Generator, shape: tuple[int, int]) -> Plane:
    height, width = shape
    digest = hashlib.sha256(words.encode()).digest()
    hue = digest[0] / 255 * 360
    hues = (hue, hue + 20 + digest[1] / 8, hue - 30 - digest[2] / 6, hue + 180)
    palette = [_from_hue(each % 360, 0.35 + digest[3] / 700, 0.5 + digest[4] / 800) for each in hues]
    canvas = np.repeat(
        ramp(height, [(0, scaled(palette[0], 0.9)), (1, scaled(palette[1], 0.55))]), width, 1
    )
    for light in range(4 + digest[5] % 4):
        x, y = random.uniform(-0.1, 1.1) * width, random.uniform(-0.1, 1.1) * height
        radius = max(shape) * random.uniform(0.12, 0.3)
        lay(canvas, np.clip(1.2 * glow(shape, x, y, radius), 0, 0.85), palette[light % 4 if light else 2])
    # Broad soft bands, their number and slant from the words.
    slant = (digest[6] / 255 - 0.5) * 3
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(0, width / height, width, dtype=np.float32)[None, :]
    bend = noise(random, shape, (1.5, 1.5), 2) * (1 + digest[7] / 64)
    bands = np.sin((rows + slant * columns) * (4 + digest[8] / 20) + bend * 4 + random.uniform(0, 6))
    canvas *= (1 + 0.13 * bands)[..., None]
    bokeh(
        random,
        canvas,
        [mixed(colour, (1.0, 1.0, 1.0), 0.4) for colour in palette],
        10 + digest[9] % 30,
        (0, 1),
    )
    return canvas


def _from_hue(hue: float, saturation: float, value: float) -> Colour:
    pixel = cv2.cvtColor(np.array([[[hue, saturation, value]]], np.float32), cv2.COLOR_HSV2RGB)[0, 0]
    return float(pixel[0]), float(pixel[1]), float(pixel[2])
