"""Backgrounds painted from words: places, times of day, materials and colours are understood.

Any other words choose colours and shapes by their hash, so that different prompts always look different.
"""

import hashlib
import re
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bg_pipeline.local_aws.strokes import (
    Colour,
    Plane,
    below,
    blurred,
    bokeh,
    disc,
    glow,
    lay,
    marble,
    mixed,
    noise,
    ramp,
    ridge,
    wood,
)

_MEANINGS = {
    "city": "city skyline urban downtown skyscraper street building town metropolis manhattan york tokyo chicago "
    "berlin dubai singapore shanghai hong kong toronto sydney avenue rooftop",
    "london": "london westminster thames",
    "paris": "paris eiffel",
    "beach": "beach shore coast seaside sand tropical island caribbean palm maldive hawaii",
    "sea": "sea ocean water lake river wave harbour harbor bay thames pier boat",
    "mountain": "mountain alp peak hill highland himalaya rocky valley canyon cliff volcano",
    "forest": "forest wood tree jungle rainforest pine autumn woodland",
    "desert": "desert dune sahara arid",
    "field": "field meadow grass garden park lawn countryside farm savanna pasture green spring racetrack",
    "flower": "flower blossom lavender tulip poppy rose",
    "snow": "snow snowy winter ice icy arctic ski glacier christmas frozen",
    "space": "space galaxy cosmos cosmic nebula universe planet orbit milky",
    "underwater": "underwater reef aquarium coral",
    "room": "office kitchen living room home interior library cafe café restaurant shop store hotel bedroom lobby "
    "house bar gym classroom hall museum gallery desk bookshelf",
    "studio": "studio backdrop plain seamless clean minimal podium photoshoot product packshot",
    "sunset": "sunset sundown dusk golden evening twilight",
    "dawn": "dawn sunrise morning pastel",
    "night": "night midnight dark starry neon moonlight",
    "grey": "fog foggy mist misty rain rainy storm stormy cloudy overcast grey gray moody",
    "marble": "marble stone granite",
    "wood": "wooden oak plank timber parquet walnut",
    "concrete": "concrete cement plaster wall brick industrial loft",
}
_COLOURS: dict[str, Colour] = {
    "white": (0.95, 0.95, 0.95), "black": (0.07, 0.07, 0.08), "silver": (0.74, 0.76, 0.79),
    "red": (0.78, 0.14, 0.13), "orange": (0.94, 0.52, 0.16), "yellow": (0.96, 0.82, 0.28),
    "blue": (0.16, 0.36, 0.72), "navy": (0.08, 0.13, 0.30), "turquoise": (0.20, 0.68, 0.68),
    "teal": (0.10, 0.45, 0.47), "purple": (0.42, 0.24, 0.60), "violet": (0.50, 0.32, 0.70),
    "pink": (0.95, 0.66, 0.74), "magenta": (0.78, 0.18, 0.52), "brown": (0.42, 0.28, 0.18),
    "beige": (0.89, 0.82, 0.71), "cream": (0.96, 0.92, 0.82), "gold": (0.83, 0.66, 0.28),
    "peach": (0.98, 0.78, 0.65), "mint": (0.70, 0.90, 0.80), "olive": (0.45, 0.46, 0.20),
}  # fmt: skip
_OUTDOORS = {"city", "london", "paris", "beach", "sea", "mountain", "forest", "desert", "field", "flower", "snow"}


@dataclass(frozen=True, slots=True)
class _Light:
    zenith: Colour
    middle: Colour
    horizon: Colour
    sun: Colour
    ground: float  # how bright things on the ground are


_LIGHTS = {
    "day": _Light((0.24, 0.48, 0.80), (0.52, 0.72, 0.92), (0.86, 0.92, 0.96), (1.0, 0.97, 0.88), 1.0),
    "dawn": _Light((0.52, 0.62, 0.84), (0.90, 0.77, 0.82), (1.0, 0.90, 0.76), (1.0, 0.88, 0.70), 0.88),
    "sunset": _Light((0.20, 0.22, 0.42), (0.72, 0.38, 0.42), (1.0, 0.68, 0.36), (1.0, 0.80, 0.48), 0.62),
    "night": _Light((0.02, 0.03, 0.09), (0.05, 0.08, 0.19), (0.15, 0.18, 0.32), (0.92, 0.94, 1.0), 0.22),
    "grey": _Light((0.50, 0.55, 0.60), (0.66, 0.70, 0.73), (0.82, 0.84, 0.85), (0.92, 0.93, 0.94), 0.72),
}


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the words ask for."""

    things: frozenset[str]
    colours: tuple[Colour, ...]
    light: _Light
    dark: bool


def painted(prompt: str, negative: str, seed: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """RGB pixels of a scene for the words, (height, width, 3); the same arguments give the same pixels.

    What `negative` names is left out. `size` is width and height.
    """
    width, height = size
    scale = min(max(max(size), 480), 960) / max(size)
    shape = max(32, round(height * scale)), max(32, round(width * scale))
    wish = _understood(prompt, negative)
    words = " ".join(re.findall(r"\w+", prompt.lower()))
    random = np.random.default_rng([seed, *hashlib.sha256(words.encode()).digest()[:8]])
    if wish.things & _OUTDOORS:
        canvas = _landscape(wish, random, shape)
    elif "space" in wish.things:
        canvas = _space(wish, random, shape)
    elif "underwater" in wish.things:
        canvas = _underwater(random, shape)
    elif "room" in wish.things:
        canvas = _room(wish, random, shape)
    elif wish.things & {"studio", "marble", "wood", "concrete"} or (wish.colours and not wish.dark):
        canvas = _studio(wish, random, shape)
    elif wish.things & {"sunset", "dawn", "night", "grey"}:
        canvas = _landscape(wish, random, shape)
    else:
        canvas = _abstract(words, random, shape)
    if (width, height) != (shape[1], shape[0]):
        way = cv2.INTER_CUBIC if scale < 1 else cv2.INTER_AREA
        canvas = np.asarray(cv2.resize(canvas, size, interpolation=way), np.float32)
    grain = random.standard_normal((height, width, 1), np.float32) * 0.012
    return np.asarray(np.clip((canvas + grain) * 255 + 0.5, 0, 255), np.uint8)


def _understood(prompt: str, negative: str) -> _Wish:
    def named(text: str) -> list[str]:
        words = re.findall(r"[^\W\d_]+", text.lower())
        return [form for word in words for form in (word, word.removesuffix("s"))]

    unwanted = set(named(negative))
    words = [word for word in named(prompt) if word not in unwanted]
    things = {thing for thing, meaning in _MEANINGS.items() if set(meaning.split()) & set(words)}
    if things & {"room", "studio", "marble"}:
        # "wood" and "green" are materials and colours indoors.
        things -= {"forest", "field"} if things & {"studio", "marble", "room"} else set()
        things |= {"wood"} if "wood" in words else set()
    if "london" in things or "paris" in things:
        things |= {"city"}
    kind = next((kind for kind in ("night", "sunset", "dawn", "grey") if kind in things), "day")
    light = _LIGHTS[kind]
    colours = tuple(_COLOURS[word] for word in dict.fromkeys(words) if word in _COLOURS)
    if colours and things & _OUTDOORS:
        light = _Light(
            mixed(light.zenith, colours[0], 0.25), mixed(light.middle, colours[0], 0.35),
            mixed(light.horizon, colours[-1], 0.25), light.sun, light.ground,
        )  # fmt: skip
    return _Wish(frozenset(things), colours, light, kind == "night")


# --- outdoors ---


def _landscape(wish: _Wish, random: Generator, shape: tuple[int, int]) -> Plane:
    height, width = shape
    things, light = wish.things, wish.light
    level = random.uniform(0.56, 0.66) if things & {"beach", "sea", "field", "desert"} else random.uniform(0.62, 0.72)
    horizon = int(level * height)
    canvas = _sky(wish, random, shape, horizon)
    if "mountain" in things:
        _mountains(wish, random, canvas, horizon)
    elif not things & {"sea", "beach", "city", "desert"}:
        _hills(wish, random, canvas, horizon)
    lights = None
    if "city" in things:
        lights = _city(wish, random, canvas, horizon)
    if "forest" in things:
        _trees(wish, random, canvas, horizon)
    if things & {"sea", "london"} or "beach" in things:
        _water(wish, random, canvas, horizon)
    if "beach" in things:
        _shore(wish, random, canvas, horizon)
    elif not things & {"sea", "london"}:
        _ground(wish, random, canvas, horizon)
    if "grey" in things:
        rows = (np.arange(height, dtype=np.float32)[:, None] - horizon) / height
        lay(canvas, 0.75 * np.exp(-((rows / 0.16) ** 2)) * noise(random, shape, (3, 3), 4), light.horizon)
    canvas = blurred(canvas, min(shape) / 420)
    if lights:
        bokeh(random, canvas, [(1.0, 0.80, 0.45), (1.0, 0.62, 0.30), (0.75, 0.85, 1.0)], lights, (level - 0.1, 1))
    if "snow" in things:
        _flakes(random, canvas)
    return canvas


def _sky(wish: _Wish, random: Generator, shape: tuple[int, int], horizon: int) -> Plane:
    height, width = shape
    light = wish.light
    share = horizon / height
    stops = [(0.0, light.zenith), (0.55 * share, light.middle), (share, light.horizon), (1.0, light.horizon)]
    canvas = np.repeat(ramp(height, stops), width, axis=1)
    sun_x, sun_y = random.uniform(0.1, 0.9) * width, random.uniform(0.35, 0.85) * horizon
    unit = min(shape)
    if wish.dark:
        stars = random.random(shape, np.float32)
        bright = np.clip((stars - 0.9985) / 0.0015, 0, 1) * np.linspace(1, 0, height, dtype=np.float32)[:, None]
        canvas += blurred(np.asarray(bright, np.float32), 0.6)[..., None] * 1.6
        sun_y *= 0.4
        lay(canvas, disc(shape, sun_x, sun_y, unit * 0.035), (0.96, 0.96, 0.90))
    if "grey" not in wish.things:
        near, wide = glow(shape, sun_x, sun_y, unit * 0.06), glow(shape, sun_x, sun_y, unit * 0.5)
        strength = 0.25 if wish.dark else 0.55
        lay(canvas, np.clip(strength * near * 1.4 + 0.5 * strength * wide, 0, 1), light.sun)
    depth = np.clip(np.arange(height, dtype=np.float32) / max(horizon, 1), 0, 1)[:, None]
    clouds = noise(random, shape, (9, 3.5), 6)
    cover = random.uniform(0.44, 0.58) - (0.22 if "grey" in wish.things else 0)
    clouds = np.clip((clouds - cover) / 0.4, 0, 1) ** 1.3 * (1 - 0.7 * depth)
    tint = mixed(light.sun, light.middle, 0.1 if not wish.dark else 0.85)
    lay(canvas, np.asarray(clouds * (0.3 if wish.dark else 0.85), np.float32), tint)
    return canvas


def _hills(wish: _Wish, random: Generator, canvas: Plane, horizon: int) -> None:
    height, width = canvas.shape[:2]
    for step in range(3):
        line = horizon - height * (0.10 - 0.035 * step) - height * 0.05 * ridge(random, width, 2 + step, 4)
        colour = mixed(wish.light.horizon, _green(wish, random), 0.25 + 0.22 * step)
        lay(canvas, below(np.asarray(line, np.float32), height), colour)


def _mountains(wish: _Wish, random: Generator, canvas: Plane, horizon: int) -> None:
    height, width = canvas.shape[:2]
    light = wish.light
    rock = _dimmed((0.33, 0.37, 0.45), light)
    columns = np.arange(width, dtype=np.float32)[None, :]
    for step in range(3):
        peak = height * (0.42 - 0.12 * step)
        line = horizon - peak * np.clip(0.5 + 0.8 * ridge(random, width, 4 + 2 * step, 7, 0.5, 0), 0.05, 1.2)
        line = np.asarray(line, np.float32)
        depth = np.arange(height, dtype=np.float32)[:, None] - line[None, :]
        # Each column's slope is lit from one side and wanders on its way down: that reads as rock faces.
        slope = cv2.GaussianBlur(np.gradient(line)[None, :], (0, 0), width / 150)
        wander = noise(random, (height, width), (5, 9), 5) - 0.5
        found = np.clip(columns + wander * np.clip(depth, 0, None) * 1.6, 0, width - 1).astype(np.int32)
        shade = 1 + np.clip(np.asarray(slope, np.float32)[0][found] * 0.4, -0.3, 0.3)
        body = np.asarray(mixed(light.horizon, rock, 0.45 + 0.24 * step), np.float32) * shade[..., None]
        if step < 2 or "snow" in wish.things:
            reach = peak * (0.34 + (0.45 if "snow" in wish.things else 0.0))
            snow = np.clip((reach - depth) / (0.3 * reach) + wander * 4, 0, 1)[..., None]
            white = np.asarray(_dimmed((0.97, 0.98, 1.0), light), np.float32) * (0.35 + 0.65 * shade[..., None])
            body = body + snow * (white - body)
        haze = np.clip(depth / (1.1 * peak), 0, 1)[..., None] * (0.6 - 0.15 * step)
        body = body + haze * (np.asarray(light.horizon, np.float32) - body)
        lay(canvas, below(line, height), np.asarray(body, np.float32))


def _city(wish: _Wish, random: Generator, canvas: Plane, horizon: int) -> int:
    height, width = canvas.shape[:2]
    light = wish.light
    stone = _dimmed((0.34, 0.38, 0.46), light)
    for step in range(3):
        colour = mixed(light.horizon, stone, 0.30 + 0.28 * step)
        heights = (0.34, 0.26, 0.15)[step]
        x = -random.uniform(0, 0.05) * width
        while x < width:
            wide = random.uniform(0.03, 0.075) * max(width, height)
            high = height * heights * random.uniform(0.4, 1.0) ** 1.3
            if random.random() < 0.12 and step < 2:
                high *= 1.35
            tone = random.uniform(0.9, 1.1)
            _building(wish, random, canvas, (x, wide, horizon - high, horizon), _scaled(colour, tone), step)
            x += wide * random.uniform(0.85, 1.25)
        if step == 1:
            _landmarks(wish, random, canvas, horizon, mixed(light.horizon, stone, 0.78))
        haze = np.zeros((height, width), np.float32)
        haze[:horizon] = np.clip((np.arange(horizon) - horizon * 0.55) / (horizon * 0.45), 0, 1)[:, None]
        lay(canvas, haze * (0.34 - 0.1 * step), light.horizon)
    return 46 if wish.dark or "sunset" in wish.things else 0


def _building(
    wish: _Wish,
    random: Generator,
    canvas: Plane,
    place: tuple[float, float, float, int],
    colour: Colour,
    step: int,
) -> None:
    height, width = canvas.shape[:2]
    left, wide, top, bottom = int(place[0]), int(place[1]), int(place[2]), place[3]
    right = min(left + wide, width)
    left, top = max(left, 0), max(top, 0)
    if right - left < 3 or bottom - top < 3:
        return
    roof = random.integers(4)
    inset = (right - left) // 4
    if roof == 0 and top > height * 0.04:
        mast = (left + right) // 2
        canvas[int(top - height * 0.05) : top, mast : mast + max(1, width // 500)] = colour
    elif roof == 1:
        canvas[max(int(top - height * 0.025), 0) : top, left + inset : right - inset] = colour
    wall = canvas[top:bottom, left:right]
    wall[:] = colour
    across = np.linspace(1.08, 0.92, right - left, dtype=np.float32)[None, :, None]
    wall *= across
    cell = max(5, min(height, width) // (95 - 20 * step))
    rows, columns = (bottom - top) // cell, (right - left) // cell
    if rows < 2 or columns < 2:
        return
    chance = 0.42 if wish.dark else 0.12 if "sunset" in wish.things else 0.5
    lit = (random.random((rows, columns)) < chance) * random.uniform(0.4, 1.0, (rows, columns))
    pane = np.zeros((cell, cell), np.float32)
    pane[cell // 4 : cell - cell // 4, cell // 4 : cell - cell // 5] = 1
    windows = np.kron(lit, pane).astype(np.float32)[..., None]
    shine = (1.0, 0.80, 0.48) if wish.dark or "sunset" in wish.things else wish.light.middle
    strength = (0.35, 0.5, 0.65)[step] * (1.0 if wish.dark else 0.75)
    patch = wall[: rows * cell, : columns * cell]
    patch += windows * strength * (np.asarray(shine, np.float32) - patch)


def _landmarks(wish: _Wish, random: Generator, canvas: Plane, horizon: int, colour: Colour) -> None:
    height, width = canvas.shape[:2]
    unit = min(height * 0.9, width * 0.75)
    spots = random.permutation([0.14, 0.36, 0.62, 0.86]) + random.uniform(-0.05, 0.05, 4)
    x = spots * width
    mask = np.zeros((height, width), np.uint8)

    def shape(points: list[tuple[float, float]], at: float) -> None:
        outline = np.array([(at + px * unit, horizon - py * unit) for px, py in points])
        cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)

    if "london" in wish.things:
        # A clock tower, a great wheel, a dome and a glass shard.
        shape([(-0.028, 0), (-0.028, 0.36), (-0.034, 0.36), (-0.034, 0.43), (-0.022, 0.45), (0, 0.55),
               (0.022, 0.45), (0.034, 0.43), (0.034, 0.36), (0.028, 0.36), (0.028, 0)], x[0])  # fmt: skip
        shape([(-0.055, 0), (-0.008, 0.58), (0.004, 0.56), (0.05, 0)], x[1])
        shape([(-0.11, 0), (-0.11, 0.1), (0.11, 0.1), (0.11, 0)], x[2])
        centre = (round(x[2] * 16), round((horizon - 0.17 * unit) * 16))
        cv2.ellipse(mask, centre, (round(unit * 1.05), round(unit * 1.25)), 0, 180, 360, 255, -1, cv2.LINE_AA, 4)
        shape([(-0.066, 0.1), (-0.066, 0.172), (0.066, 0.172), (0.066, 0.1)], x[2])
        shape([(-0.01, 0.24), (-0.01, 0.28), (0, 0.33), (0.01, 0.28), (0.01, 0.24)], x[2])
        hub, rim = (x[3], horizon - 0.22 * unit), 0.19 * unit
        thick = max(1, round(unit * 0.006))
        middle = (round(hub[0]), round(hub[1]))
        cv2.circle(mask, middle, round(rim), 255, thick, cv2.LINE_AA)
        for angle in np.arange(0, 2 * np.pi, np.pi / 12):
            end = (round(hub[0] + rim * np.cos(angle)), round(hub[1] + rim * np.sin(angle)))
            cv2.line(mask, middle, end, 150, 1, cv2.LINE_AA)
            cv2.circle(mask, end, max(1, round(unit * 0.009)), 255, -1, cv2.LINE_AA)
        for foot in (-0.07, 0.07):
            cv2.line(mask, middle, (round(hub[0] + foot * unit), horizon), 255, thick, cv2.LINE_AA)
    elif "paris" in wish.things:
        steps = np.linspace(0, 1, 24)
        half = 0.16 * (1 - steps) ** 2.2 + 0.006
        side = list(zip(half, steps * 0.62, strict=True))
        shape([(-px, py) for px, py in side] + side[::-1], x[0])
        arch = (round(x[0]), horizon)
        cv2.ellipse(mask, arch, (round(0.075 * unit), round(0.09 * unit)), 0, 180, 360, 0, -1, cv2.LINE_AA)
    lay(canvas, mask.astype(np.float32) / 255, colour)
    if "london" in wish.things:
        dial = disc((height, width), x[0], horizon - 0.395 * unit, unit * 0.02)
        lay(canvas, dial * 0.9, (1.0, 0.93, 0.74))


def _trees(wish: _Wish, random: Generator, canvas: Plane, horizon: int) -> None:
    height, width = canvas.shape[:2]
    for step in range(3):
        colour = mixed(wish.light.horizon, _green(wish, random), 0.35 + 0.28 * step)
        mask = np.zeros((height, width), np.uint8)
        foot = horizon + height * 0.015 * step
        x = 0.0
        while x < width * 1.05:
            tall = height * random.uniform(0.16, 0.30) * (0.8 + 0.45 * step)
            half = tall * random.uniform(0.13, 0.2)
            layers = 9
            for layer in range(layers):
                top = foot - tall * (1 - layer / layers)
                spread = half * (layer + 1.4) / layers * random.uniform(0.85, 1.15)
                outline = [(x, top), (x - spread, top + tall * 0.2), (x + spread, top + tall * 0.2)]
                cv2.fillPoly(mask, [np.round(np.array(outline) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
            x += half * random.uniform(0.7, 2.2)
        speckle = np.asarray(0.72 + 0.56 * noise(random, (height, width), (60, 80), 3), np.float32)
        lay(canvas, mask.astype(np.float32) / 255, np.asarray(colour, np.float32) * speckle[..., None])
        mist = np.zeros((height, width), np.float32)
        mist[:horizon] = np.clip((np.arange(horizon) - horizon * 0.6) / (horizon * 0.4), 0, 1)[:, None]
        lay(canvas, mist * (0.4 - 0.15 * step), wish.light.horizon)


def _water(wish: _Wish, random: Generator, canvas: Plane, horizon: int) -> None:
    height, width = canvas.shape[:2]
    deep = height - horizon
    mirrored = canvas[horizon - 1 :: -1][:deep]
    mirrored = np.concatenate([mirrored, mirrored[-1:].repeat(deep - len(mirrored), axis=0)])
    near = np.linspace(0, 1, deep, dtype=np.float32)[:, None]
    # Waves grow towards the viewer.
    far = noise(random, (deep, width), (70, 8), 3)
    close = noise(random, (deep, width), (22, 5), 3)
    waves = far + near * (close - far)
    rows = np.clip(np.arange(deep, dtype=np.float32)[:, None] + (waves - 0.5) * deep * 0.22 * (0.2 + near), 0, deep - 1)
    columns = np.repeat(np.arange(width, dtype=np.float32)[None, :], deep, axis=0)
    columns += (waves - 0.5) * width * 0.02
    warped = cv2.remap(mirrored, columns, rows.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    tropical = "beach" in wish.things and not wish.dark
    body = _dimmed((0.12, 0.55, 0.62) if tropical else (0.13, 0.30, 0.42), wish.light)
    water = warped * 0.82 + 0.05 * np.asarray(wish.light.sun, np.float32) * (waves > 0.66)[..., None]
    depth = (0.25 + 0.4 * near)[..., None]
    canvas[horizon:] = water + depth * (np.asarray(body, np.float32) * (0.8 + 0.4 * waves[..., None]) - water)


def _shore(wish: _Wish, random: Generator, canvas: Plane, horizon: int) -> None:
    height, width = canvas.shape[:2]
    sand = np.asarray(_dimmed((0.90, 0.80, 0.62), wish.light), np.float32)
    line = horizon + (height - horizon) * (0.42 + 0.10 * ridge(random, width, 2, 4))
    line = np.asarray(line, np.float32)
    foam = below(line - height * 0.014, height) * noise(random, (height, width), (70, 60), 3)
    lay(canvas, np.clip(foam * 1.5, 0, 0.85), _dimmed((1.0, 1.0, 1.0), wish.light))
    texture = noise(random, (height, width), (90, 90), 3) * 0.16 + noise(random, (height, width), (8, 4), 3) * 0.18 + 0.84
    rows = np.arange(height, dtype=np.float32)[:, None] - line[None, :]
    wet = np.clip(1 - rows / (0.07 * height), 0, 1)[..., None] * 0.32
    lay(canvas, below(line, height), np.asarray(sand * texture[..., None] * (1 - wet), np.float32))


def _ground(wish: _Wish, random: Generator, canvas: Plane, horizon: int) -> None:
    height, width = canvas.shape[:2]
    shape = (height, width)
    things, light = wish.things, wish.light
    line = np.asarray(horizon - height * 0.012 * ridge(random, width, 3, 4), np.float32)
    near = np.clip((np.arange(height, dtype=np.float32) - horizon) / max(height - horizon, 1), 0, 1)[:, None]
    coarse = noise(random, shape, (9, 4), 4)
    fine = noise(random, shape, (60, 220), 2) * (1 - near) + noise(random, shape, (24, 110), 3) * near
    if "snow" in things:
        colour, texture = (0.93, 0.95, 1.0), 0.86 + 0.16 * coarse
    elif "desert" in things:
        for step in range(3):
            crest = horizon + height * (0.02 + 0.1 * step) - height * 0.07 * ridge(random, width, 2, 3, 0.35)
            tone = _dimmed(mixed((0.93, 0.76, 0.52), (0.80, 0.52, 0.30), 0.35 * step), light)
            slope = np.gradient(crest)[None, :, None] * 0.25
            ripples = 0.94 + 0.1 * noise(random, shape, (60, 9), 3)[..., None]
            body = np.asarray(tone, np.float32) * np.clip(ripples + slope, 0.7, 1.25)
            lay(canvas, below(np.asarray(crest, np.float32), height), np.asarray(body, np.float32))
        return
    elif "city" in things:
        _pavement(wish, random, canvas, horizon)
        return
    else:
        colour, texture = _green(wish, random, dim=False), 0.75 + 0.7 * fine + 0.4 * (coarse - 0.5)
    body = np.asarray(_dimmed(colour, light), np.float32) * texture[..., None]
    far = np.asarray(light.horizon, np.float32)
    body = far + (0.62 + 0.38 * near[..., None]) * (body - far)
    lay(canvas, below(line, height), np.asarray(body, np.float32))
    if "flower" in things:
        petals = [(0.85, 0.25, 0.35), (0.95, 0.80, 0.35), (0.70, 0.50, 0.85), (0.98, 0.95, 0.95)]
        for _ in range(420):
            depth = random.random() ** 1.5
            x, y = random.uniform(0, width), horizon + depth * (height - horizon)
            petal = _dimmed(petals[random.integers(4)], light)
            cv2.circle(canvas, (int(x), int(y)), max(1, int(height * (0.002 + 0.009 * depth))), petal, -1, cv2.LINE_AA)


def _pavement(wish: _Wish, random: Generator, canvas: Plane, horizon: int) -> None:
    """Wet slabs that run to a vanishing point and mirror what stands behind them."""
    height, width = canvas.shape[:2]
    deep = height - horizon
    mirrored = canvas[horizon - 1 :: -1][:deep]
    mirrored = blurred(np.concatenate([mirrored, mirrored[-1:].repeat(deep - len(mirrored), axis=0)]), deep / 25)
    near = np.linspace(0.004, 1, deep, dtype=np.float32)[:, None]
    across = (np.arange(width, dtype=np.float32)[None, :] - width * random.uniform(0.35, 0.65)) / width
    joints = np.maximum(
        np.abs(((across / (near + 0.08) * 5) % 1) - 0.5), np.abs(((0.9 / (near + 0.08)) % 1) - 0.5)
    )
    slabs = np.clip((joints - 0.478) / 0.022, 0, 1) * near
    tone = 0.9 + 0.2 * noise(random, (deep, width), (30, 30), 4) - 0.22 * slabs
    stone = np.asarray(_dimmed((0.44, 0.45, 0.48), wish.light), np.float32) * tone[..., None]
    gloss = (0.62 - 0.38 * near)[..., None]
    canvas[horizon:] = stone + gloss * (mirrored - stone)


def _flakes(random: Generator, canvas: Plane) -> None:
    height, width = canvas.shape[:2]
    flakes = np.zeros((height, width), np.float32)
    for _ in range(130):
        radius = min(height, width) * random.uniform(0.001, 0.006)
        place = (int(random.uniform(0, width)), int(random.uniform(0, height)))
        cv2.circle(flakes, place, max(1, int(radius)), random.uniform(0.3, 0.9), -1, cv2.LINE_AA)
    lay(canvas, blurred(flakes, min(height, width) / 500), (1.0, 1.0, 1.0))


# --- elsewhere ---


def _space(wish: _Wish, random: Generator, shape: tuple[int, int]) -> Plane:
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
        star = glow(shape, random.uniform(0, width), random.uniform(0, height), min(shape) * random.uniform(0.003, 0.01))
        canvas += star[..., None]
    return canvas


def _underwater(random: Generator, shape: tuple[int, int]) -> Plane:
    height, width = shape
    canvas = np.repeat(ramp(height, [(0, (0.36, 0.80, 0.86)), (0.5, (0.06, 0.42, 0.62)), (1, (0.01, 0.12, 0.28))]), width, 1)
    columns = np.linspace(0, 1, width, dtype=np.float32)[None, :]
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    lean, phase = random.uniform(-0.5, 0.5), random.uniform(0, 6)
    rays = np.clip(np.sin((columns + lean * rows) * 26 + phase + 3 * noise(random, shape, (1, 5), 2)), 0, 1) ** 2
    canvas += (rays * (1 - rows) ** 1.5 * 0.16)[..., None]
    for _ in range(60):
        radius = min(shape) * random.uniform(0.002, 0.012)
        bubble = (int(random.uniform(0, width)), int(random.uniform(0, height)))
        cv2.circle(canvas, bubble, max(1, int(radius)), (0.75, 0.93, 0.97), 1, cv2.LINE_AA)
    return blurred(canvas, min(shape) / 500)


def _room(wish: _Wish, random: Generator, shape: tuple[int, int]) -> Plane:
    height, width = shape
    walls = ((0.86, 0.83, 0.78), (0.78, 0.82, 0.84), (0.84, 0.80, 0.74), (0.72, 0.76, 0.72))
    wall = wish.colours[0] if wish.colours else walls[random.integers(len(walls))]
    dim = 0.35 if wish.dark else 1.0
    canvas = np.repeat(ramp(height, [(0, _scaled(wall, 0.92 * dim)), (1, _scaled(wall, 1.02 * dim))]), width, 1)
    pieces: list[Colour] = [(0.35, 0.26, 0.20), (0.55, 0.42, 0.32), (0.30, 0.36, 0.40), (0.62, 0.60, 0.56)]
    books: list[Colour] = [(0.60, 0.25, 0.20), (0.25, 0.40, 0.50), (0.80, 0.70, 0.50), (0.35, 0.45, 0.32)]
    window_left = random.random() < 0.5
    # A window on one side, shelves on the other, all far out of focus.
    left = int(width * (random.uniform(0.03, 0.12) if window_left else random.uniform(0.60, 0.68)))
    top, bottom = int(height * random.uniform(0.06, 0.14)), int(height * random.uniform(0.54, 0.62))
    pane = canvas[top:bottom, left : left + int(width * random.uniform(0.24, 0.32))]
    pane[:] = (0.10, 0.13, 0.24) if wish.dark else (1.0, 0.99, 0.95)
    bars = max(2, width // 110)
    pane[:, pane.shape[1] // 2 - bars // 2 : pane.shape[1] // 2 + bars] = _scaled(wall, 0.8 * dim)
    pane[pane.shape[0] // 2 - bars // 2 : pane.shape[0] // 2 + bars] = _scaled(wall, 0.8 * dim)
    start = 0.5 if window_left else 0.04
    case = slice(int(width * (start - 0.012)), int(width * (start + 0.452)))
    canvas[: int(height * 0.52), case] = _scaled(wall, 0.62 * dim)
    for shelf in range(3):
        y = int(height * (0.16 + 0.15 * shelf))
        x, end = int(width * start), int(width * (start + 0.44))
        canvas[y : y + max(3, height // 45), x:end] = _scaled(pieces[1], dim)
        while x < end - width * 0.03:
            wide, high = width * random.uniform(0.012, 0.035), height * random.uniform(0.05, 0.115)
            if random.random() < 0.8:
                tone = _scaled(books[random.integers(4)], dim * random.uniform(0.8, 1.2))
                canvas[int(y - high) : y, x : int(x + wide)] = tone
            x += int(wide * random.uniform(1.0, 1.5)) + 1
    lamp_x = random.uniform(0.3, 0.7) * width
    lay(canvas, 0.75 * glow(shape, lamp_x, height * 0.08, min(shape) * 0.16), (1.0, 0.86, 0.62))
    canvas = blurred(canvas, min(shape) / 38)
    bokeh(random, canvas, [(0.5, 0.40, 0.26), (0.5, 0.46, 0.40)], 12, (0.05, 0.6))
    top = int(height * random.uniform(0.70, 0.78))
    table = (height - top, width)
    if "marble" in wish.things:
        surface = marble(random, table, (0.93, 0.93, 0.94))
    else:
        surface = wood(random, table, random.choice([(0.50, 0.34, 0.22), (0.66, 0.50, 0.34), (0.36, 0.24, 0.17)]), 4)
    shine = np.linspace(0.25, 0, table[0], dtype=np.float32)[:, None] * np.ones(table, np.float32)
    lay(surface, shine, (1.0, 0.97, 0.92))
    canvas[top:] = surface * dim if wish.dark else surface
    rows = slice(max(top - height // 60, 0), top + height // 60)
    canvas[rows] = blurred(canvas[rows].copy(), min(shape) / 160)
    return canvas


def _studio(wish: _Wish, random: Generator, shape: tuple[int, int]) -> Plane:
    height, width = shape
    tones = ((0.86, 0.87, 0.89), (0.90, 0.88, 0.85), (0.80, 0.83, 0.86))
    plain = wish.colours[0] if wish.colours else tones[random.integers(3)]
    light_x, light_y = random.uniform(0.2, 0.8) * width, random.uniform(0.15, 0.5) * height
    wall: Plane = np.empty((height, width, 3), np.float32)
    wall[:] = plain
    if "concrete" in wish.things:
        blotches = noise(random, shape, (4, 5), 6) * 0.3 + noise(random, shape, (70, 110), 3) * 0.08
        wall[:] = mixed(plain, (0.62, 0.61, 0.60), 0.7)
        wall *= (0.8 + blotches)[..., None]
    elif "marble" in wish.things:
        wall = marble(random, shape, plain if wish.colours else (0.94, 0.94, 0.95))
    elif "wood" in wish.things:
        wall = wood(random, shape, plain if wish.colours else (0.62, 0.45, 0.30), random.integers(6, 9))
    else:
        # A paper roll: wall and floor meet in a soft curve.
        floor = height * random.uniform(0.66, 0.76)
        rows = np.arange(height, dtype=np.float32)[:, None]
        bend = np.exp(-(((rows - floor) / (0.10 * height)) ** 2))
        wall *= (1 - 0.10 * bend + 0.05 * (rows > floor) * np.clip((rows - floor) / (height - floor), 0, 1))[..., None]
        wall *= (0.97 + 0.06 * noise(random, shape, (2, 3), 3))[..., None]
    spot = glow(shape, light_x, light_y, max(shape) * 0.55)
    wall *= (0.72 + 0.36 * spot)[..., None]
    if len(wish.colours) > 1:
        lay(wall, 0.8 * glow(shape, width - light_x, height * 0.9, max(shape) * 0.35), wish.colours[1])
    return wall


def _abstract(words: str, random: Generator, shape: tuple[int, int]) -> Plane:
    height, width = shape
    digest = hashlib.sha256(words.encode()).digest()
    hue = digest[0] / 255 * 360
    hues = (hue, hue + 20 + digest[1] / 8, hue - 30 - digest[2] / 6, hue + 180)
    palette = [_from_hue(each % 360, 0.35 + digest[3] / 700, 0.5 + digest[4] / 800) for each in hues]
    canvas = np.repeat(ramp(height, [(0, _scaled(palette[0], 0.9)), (1, _scaled(palette[1], 0.55))]), width, 1)
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
    bokeh(random, canvas, [mixed(colour, (1.0, 1.0, 1.0), 0.4) for colour in palette], 10 + digest[9] % 30, (0, 1))
    return canvas


# --- colours ---


def _scaled(colour: Colour, share: float) -> Colour:
    return colour[0] * share, colour[1] * share, colour[2] * share


def _dimmed(colour: Colour, light: _Light) -> Colour:
    """A thing's colour in that light: darker, and tinted by what the sky sends."""
    return mixed(_scaled(colour, light.ground), _scaled(light.horizon, light.ground), 0.14)


def _green(wish: _Wish, random: Generator, *, dim: bool = True) -> Colour:
    shades: list[Colour] = [(0.20, 0.36, 0.16), (0.26, 0.42, 0.18), (0.18, 0.32, 0.22), (0.34, 0.44, 0.18)]
    colour = shades[random.integers(len(shades))]
    return _dimmed(colour, wish.light) if dim else colour


def _from_hue(hue: float, saturation: float, value: float) -> Colour:
    pixel = cv2.cvtColor(np.array([[[hue, saturation, value]]], np.float32), cv2.COLOR_HSV2RGB)[0, 0]
    return float(pixel[0]), float(pixel[1]), float(pixel[2])
