"""Landscapes: sky, what stands before it, and the ground or water in front."""

import cv2
import numpy as np
from numpy.random import Generator

from bg_pipeline.local_aws.strokes import (
    Colour, Plane, below, blurred, bokeh, disc, glow, lay, mixed, noise, ramp, ridge, scaled
)
from bg_pipeline.local_aws.wish import Wish


def landscape(wish: Wish, random: Generator, shape: tuple[int, int]) -> Plane:
    height, width = shape
    things, light = wish.things, wish.light
    level = (
        random.uniform(0.56, 0.66)
        if wish.has("beach", "sea", "field", "desert")
        else random.uniform(0.62, 0.72)
    )
    horizon = int(level * height)
    canvas = _sky(wish, random, shape, horizon)
    if wish.has("mountain"):
        _mountains(wish, random, canvas, horizon)
    elif not wish.has("sea", "beach", "city", "desert"):
        _hills(wish, random, canvas, horizon)
    lights = None
    if wish.has("city"):
        lights = _city(wish, random, canvas, horizon)
    if wish.has("forest"):
        _trees(wish, random, canvas, horizon)
    if wish.has("sea", "beach", "london"):
        _water(wish, random, canvas, horizon)
    if wish.has("beach"):
        _shore(wish, random, canvas, horizon)
    elif not wish.has("sea", "london"):
        _ground(wish, random, canvas, horizon)
    if wish.has("grey"):
        rows = (np.arange(height, dtype=np.float32)[:, None] - horizon) / height
        lay(canvas, 0.75 * np.exp(-((rows / 0.16) ** 2)) * noise(random, shape, (3, 3), 4), light.horizon)
    canvas = blurred(canvas, min(shape) / 420)
    if lights:
        bokeh(
            random,
            canvas,
            [(1.0, 0.80, 0.45), (1.0, 0.62, 0.30), (0.75, 0.85, 1.0)],
            lights,
            (level - 0.1, 1),
        )
    if wish.has("snow"):
        _flakes(random, canvas)
    return canvas


def _sky(wish: Wish, random: Generator, shape: tuple[int, int], horizon: int) -> Plane:
    height, width = shape
    light = wish.light
    share = horizon / height
    stops = [(0.0, light.zenith), (0.55 * share, light.middle), (share, light.horizon), (1.0, light.horizon)]
    canvas = np.repeat(ramp(height, stops), width, axis=1)
    sun_x, sun_y = random.uniform(0.1, 0.9) * width, random.uniform(0.35, 0.85) * horizon
    unit = min(shape)
    if wish.has("night"):
        stars = random.random(shape, np.float32)
        bright = (
            np.clip((stars - 0.9985) / 0.0015, 0, 1) * np.linspace(1, 0, height, dtype=np.float32)[:, None]
        )
        canvas += blurred(np.asarray(bright, np.float32), 0.6)[..., None] * 1.6
        sun_y *= 0.4
        lay(canvas, disc(shape, sun_x, sun_y, unit * 0.035), (0.96, 0.96, 0.90))
    if not wish.has("grey"):
        near, wide = glow(shape, sun_x, sun_y, unit * 0.06), glow(shape, sun_x, sun_y, unit * 0.5)
        strength = 0.25 if wish.has("night") else 0.55
        lay(canvas, np.clip(strength * near * 1.4 + 0.5 * strength * wide, 0, 1), light.sun)
    depth = np.clip(np.arange(height, dtype=np.float32) / max(horizon, 1), 0, 1)[:, None]
    clouds = noise(random, shape, (9, 3.5), 6)
    cover = random.uniform(0.44, 0.58) - (0.22 if wish.has("grey") else 0)
    clouds = np.clip((clouds - cover) / 0.4, 0, 1) ** 1.3 * (1 - 0.7 * depth)
    tint = mixed(light.sun, light.middle, 0.1 if not wish.has("night") else 0.85)
    lay(canvas, np.asarray(clouds * (0.3 if wish.has("night") else 0.85), np.float32), tint)
    return canvas


def _hills(wish: Wish, random: Generator, canvas: Plane, horizon: int) -> None:
    height, width = canvas.shape[:2]
    for step in range(3):
        line = horizon - height * (0.10 - 0.035 * step) - height * 0.05 * ridge(random, width, 2 + step, 4)
        colour = mixed(wish.light.horizon, _green(wish, random), 0.25 + 0.22 * step)
        lay(canvas, below(np.asarray(line, np.float32), height), colour)


def _mountains(wish: Wish, random: Generator, canvas: Plane, horizon: int) -> None:
    height, width = canvas.shape[:2]
    light = wish.light
    rock = light.on((0.33, 0.37, 0.45))
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
        if step < 2 or wish.has("snow"):
            reach = peak * (0.34 + (0.45 if wish.has("snow") else 0.0))
            snow = np.clip((reach - depth) / (0.3 * reach) + wander * 4, 0, 1)[..., None]
            white = np.asarray(light.on((0.97, 0.98, 1.0)), np.float32) * (
                0.35 + 0.65 * shade[..., None]
            )
            body = body + snow * (white - body)
        haze = np.clip(depth / (1.1 * peak), 0, 1)[..., None] * (0.6 - 0.15 * step)
        body = body + haze * (np.asarray(light.horizon, np.float32) - body)
        lay(canvas, below(line, height), np.asarray(body, np.float32))


def _city(wish: Wish, random: Generator, canvas: Plane, horizon: int) -> int:
    height, width = canvas.shape[:2]
    light = wish.light
    stone = light.on((0.34, 0.38, 0.46))
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
            _building(wish, random, canvas, (x, wide, horizon - high, horizon), scaled(colour, tone), step)
            x += wide * random.uniform(0.85, 1.25)
        if step == 1:
            _landmarks(wish, random, canvas, horizon, mixed(light.horizon, stone, 0.78))
        haze = np.zeros((height, width), np.float32)
        haze[:horizon] = np.clip((np.arange(horizon) - horizon * 0.55) / (horizon * 0.45), 0, 1)[:, None]
        lay(canvas, haze * (0.34 - 0.1 * step), light.horizon)
    return 46 if wish.has("night", "sunset") else 0


def _building(
    wish: Wish,
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
    chance = 0.42 if wish.has("night") else 0.12 if wish.has("sunset") else 0.5
    lit = (random.random((rows, columns)) < chance) * random.uniform(0.4, 1.0, (rows, columns))
    pane = np.zeros((cell, cell), np.float32)
    pane[cell // 4 : cell - cell // 4, cell // 4 : cell - cell // 5] = 1
    windows = np.kron(lit, pane).astype(np.float32)[..., None]
    shine = (1.0, 0.80, 0.48) if wish.has("night", "sunset") else wish.light.middle
    strength = (0.35, 0.5, 0.65)[step] * (1.0 if wish.has("night") else 0.75)
    patch = wall[: rows * cell, : columns * cell]
    patch += windows * strength * (np.asarray(shine, np.float32) - patch)


def _landmarks(wish: Wish, random: Generator, canvas: Plane, horizon: int, colour: Colour) -> None:
    height, width = canvas.shape[:2]
    unit = min(height * 0.9, width * 0.75)
    spots = random.permutation([0.14, 0.36, 0.62, 0.86]) + random.uniform(-0.05, 0.05, 4)
    x = spots * width
    mask = np.zeros((height, width), np.uint8)

    def shape(points: list[tuple[float, float]], at: float) -> None:
        outline = np.array([(at + px * unit, horizon - py * unit) for px, py in points])
        cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)

    if wish.has("london"):
        # A clock tower, a great wheel, a dome and a glass shard.
        shape([(-0.028, 0), (-0.028, 0.36), (-0.034, 0.36), (-0.034, 0.43), (-0.022, 0.45), (0, 0.55),
               (0.022, 0.45), (0.034, 0.43), (0.034, 0.36), (0.028, 0.36), (0.028, 0)], x[0])  # fmt: skip
        shape([(-0.055, 0), (-0.008, 0.58), (0.004, 0.56), (0.05, 0)], x[1])
        shape([(-0.11, 0), (-0.11, 0.1), (0.11, 0.1), (0.11, 0)], x[2])
        centre = (round(x[2] * 16), round((horizon - 0.17 * unit) * 16))
        cv2.ellipse(
            mask, centre, (round(unit * 1.05), round(unit * 1.25)), 0, 180, 360, 255, -1, cv2.LINE_AA, 4
        )
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
    elif wish.has("paris"):
        steps = np.linspace(0, 1, 24)
        half = 0.16 * (1 - steps) ** 2.2 + 0.006
        side = list(zip(half, steps * 0.62, strict=True))
        shape([(-px, py) for px, py in side] + side[::-1], x[0])
        arch = (round(x[0]), horizon)
        cv2.ellipse(mask, arch, (round(0.075 * unit), round(0.09 * unit)), 0, 180, 360, 0, -1, cv2.LINE_AA)
    lay(canvas, mask.astype(np.float32) / 255, colour)
    if wish.has("london"):
        dial = disc((height, width), x[0], horizon - 0.395 * unit, unit * 0.02)
        lay(canvas, dial * 0.9, (1.0, 0.93, 0.74))


def _trees(wish: Wish, random: Generator, canvas: Plane, horizon: int) -> None:
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


def _water(wish: Wish, random: Generator, canvas: Plane, horizon: int) -> None:
    height, width = canvas.shape[:2]
    deep = height - horizon
    mirrored = canvas[horizon - 1 :: -1][:deep]
    mirrored = np.concatenate([mirrored, mirrored[-1:].repeat(deep - len(mirrored), axis=0)])
    near = np.linspace(0, 1, deep, dtype=np.float32)[:, None]
    # Waves grow towards the viewer.
    far = noise(random, (deep, width), (70, 8), 3)
    close = noise(random, (deep, width), (22, 5), 3)
    waves = far + near * (close - far)
    rows = np.clip(
        np.arange(deep, dtype=np.float32)[:, None] + (waves - 0.5) * deep * 0.22 * (0.2 + near), 0, deep - 1
    )
    columns = np.repeat(np.arange(width, dtype=np.float32)[None, :], deep, axis=0)
    columns += (waves - 0.5) * width * 0.02
    warped = cv2.remap(
        mirrored, columns, rows.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    tropical = wish.has("beach") and not wish.has("night")
    body = wish.light.on((0.12, 0.55, 0.62) if tropical else (0.13, 0.30, 0.42))
    water = warped * 0.82 + 0.05 * np.asarray(wish.light.sun, np.float32) * (waves > 0.66)[..., None]
    depth = (0.25 + 0.4 * near)[..., None]
    canvas[horizon:] = water + depth * (np.asarray(body, np.float32) * (0.8 + 0.4 * waves[..., None]) - water)


def _shore(wish: Wish, random: Generator, canvas: Plane, horizon: int) -> None:
    height, width = canvas.shape[:2]
    sand = np.asarray(wish.light.on((0.90, 0.80, 0.62)), np.float32)
    line = horizon + (height - horizon) * (0.42 + 0.10 * ridge(random, width, 2, 4))
    line = np.asarray(line, np.float32)
    foam = below(line - height * 0.014, height) * noise(random, (height, width), (70, 60), 3)
    lay(canvas, np.clip(foam * 1.5, 0, 0.85), wish.light.on((1.0, 1.0, 1.0)))
    texture = (
        noise(random, (height, width), (90, 90), 3) * 0.16
        + noise(random, (height, width), (8, 4), 3) * 0.18
        + 0.84
    )
    rows = np.arange(height, dtype=np.float32)[:, None] - line[None, :]
    wet = np.clip(1 - rows / (0.07 * height), 0, 1)[..., None] * 0.32
    lay(canvas, below(line, height), np.asarray(sand * texture[..., None] * (1 - wet), np.float32))


def _ground(wish: Wish, random: Generator, canvas: Plane, horizon: int) -> None:
    height, width = canvas.shape[:2]
    shape = (height, width)
    things, light = wish.things, wish.light
    line = np.asarray(horizon - height * 0.012 * ridge(random, width, 3, 4), np.float32)
    near = np.clip((np.arange(height, dtype=np.float32) - horizon) / max(height - horizon, 1), 0, 1)[:, None]
    coarse = noise(random, shape, (9, 4), 4)
    fine = noise(random, shape, (60, 220), 2) * (1 - near) + noise(random, shape, (24, 110), 3) * near
    if wish.has("snow"):
        colour, texture = (0.93, 0.95, 1.0), 0.86 + 0.16 * coarse
    elif wish.has("desert"):
        for step in range(3):
            crest = horizon + height * (0.02 + 0.1 * step) - height * 0.07 * ridge(random, width, 2, 3, 0.35)
            tone = light.on(mixed((0.93, 0.76, 0.52), (0.80, 0.52, 0.30), 0.35 * step))
            slope = np.gradient(crest)[None, :, None] * 0.25
            ripples = 0.94 + 0.1 * noise(random, shape, (60, 9), 3)[..., None]
            body = np.asarray(tone, np.float32) * np.clip(ripples + slope, 0.7, 1.25)
            lay(canvas, below(np.asarray(crest, np.float32), height), np.asarray(body, np.float32))
        return
    elif wish.has("city"):
        _pavement(wish, random, canvas, horizon)
        return
    else:
        colour, texture = _green(wish, random, dim=False), 0.75 + 0.7 * fine + 0.4 * (coarse - 0.5)
    body = np.asarray(light.on(colour), np.float32) * texture[..., None]
    far = np.asarray(light.horizon, np.float32)
    body = far + (0.62 + 0.38 * near[..., None]) * (body - far)
    lay(canvas, below(line, height), np.asarray(body, np.float32))
    if wish.has("flower"):
        petals = [(0.85, 0.25, 0.35), (0.95, 0.80, 0.35), (0.70, 0.50, 0.85), (0.98, 0.95, 0.95)]
        for _ in range(420):
            depth = random.random() ** 1.5
            x, y = random.uniform(0, width), horizon + depth * (height - horizon)
            petal = light.on(petals[random.integers(4)])
            cv2.circle(
                canvas,
                (int(x), int(y)),
                max(1, int(height * (0.002 + 0.009 * depth))),
                petal,
                -1,
                cv2.LINE_AA,
            )


def _pavement(wish: Wish, random: Generator, canvas: Plane, horizon: int) -> None:
    """Wet slabs that run to a vanishing point and mirror what stands behind them."""
    height, width = canvas.shape[:2]
    deep = height - horizon
    mirrored = canvas[horizon - 1 :: -1][:deep]
    mirrored = blurred(
        np.concatenate([mirrored, mirrored[-1:].repeat(deep - len(mirrored), axis=0)]), deep / 25
    )
    near = np.linspace(0.004, 1, deep, dtype=np.float32)[:, None]
    across = (np.arange(width, dtype=np.float32)[None, :] - width * random.uniform(0.35, 0.65)) / width
    joints = np.maximum(
        np.abs(((across / (near + 0.08) * 5) % 1) - 0.5), np.abs(((0.9 / (near + 0.08)) % 1) - 0.5)
    )
    slabs = np.clip((joints - 0.478) / 0.022, 0, 1) * near
    tone = 0.9 + 0.2 * noise(random, (deep, width), (30, 30), 4) - 0.22 * slabs
    stone = np.asarray(wish.light.on((0.44, 0.45, 0.48)), np.float32) * tone[..., None]
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



