"""Landscapes: sky, then hills, buildings or trees at the horizon, then ground or water."""

from dataclasses import dataclass

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
    disc,
    fill_polygon,
    glow,
    horizontal_ramp,
    mask_below,
    mix,
    noise,
    ridge_line,
    scale_brightness,
    vertical_gradient,
    vertical_ramp,
)
from bg_pipeline_local_aws.prompt_words import Light, PromptWords

_PETALS: tuple[Colour, ...] = ((0.85, 0.25, 0.35), (0.95, 0.80, 0.35), (0.70, 0.50, 0.85), (0.98, 0.95, 0.95))
_LEAVES: tuple[Colour, ...] = ((0.20, 0.36, 0.16), (0.26, 0.42, 0.18), (0.18, 0.32, 0.22), (0.34, 0.44, 0.18))
_AUTUMN_LEAVES: tuple[Colour, ...] = ((0.62, 0.34, 0.12), (0.70, 0.46, 0.14), (0.52, 0.22, 0.12))
_LAMPS: list[Colour] = [(1.0, 0.80, 0.45), (1.0, 0.62, 0.30), (0.75, 0.85, 1.0)]


def paint_landscape(words: PromptWords, random: Generator, shape: Shape) -> Plane:
    """A canvas of the landscape that the prompt names; hills and a meadow if it names no place."""
    low = words.has("beach", "sea", "field", "desert")
    level = random.uniform(0.56, 0.66) if low else random.uniform(0.62, 0.72)
    view = _Landscape(words, random, np.zeros((*shape, 3), np.float32), max(1, int(level * shape[0])))
    view.sky()
    if words.has("mountain"):
        view.mountains()
    elif not words.has("sea", "beach", "city", "desert"):
        view.hills()
    if words.has("city"):
        view.city()
    if words.has("forest"):
        view.trees()
    if words.has("sea", "beach", "london"):
        view.water()
    if words.has("beach"):
        view.sand()
    elif words.has("london"):
        view.pavement(int(0.42 * (shape[0] - view.horizon)))
    elif words.has("sea"):
        pass
    elif words.has("snow"):
        view.ground(
            colour_array(mix((0.96, 0.97, 1.0), words.light.middle, 0.25))
            * (0.86 + 0.16 * view.noise((9, 4)))[..., None]
        )
    elif words.has("desert"):
        view.dunes()
    elif words.has("city"):
        view.pavement(0)
    else:
        view.grass()
    if words.has("flower"):
        view.flowers()
    if words.has("grey"):
        view.fog()
    canvas = blur(view.canvas, min(shape) / 420)
    if words.has("city") and words.has("night", "sunset"):
        add_bokeh(random, canvas, _LAMPS, 46, (level - 0.1, 1))
    if words.has("snow"):
        _add_snowflakes(random, canvas)
    return canvas


@dataclass(frozen=True, slots=True)
class _Landscape:
    """A canvas that is painted from far to near; ``horizon`` is in pixels from the top."""

    words: PromptWords
    random: Generator
    canvas: Plane
    horizon: int

    @property
    def shape(self) -> Shape:
        return self.canvas.shape[0], self.canvas.shape[1]

    @property
    def light(self) -> Light:
        return self.words.light

    @property
    def nearness(self) -> Plane:
        """A column of 0 at the horizon and above, rising to 1 at the lower edge."""
        height = self.shape[0]
        rows = np.arange(height, dtype=np.float32)[:, None] - self.horizon
        return np.asarray(np.clip(rows / max(height - self.horizon, 1), 0, 1), np.float32)

    def noise(self, cells: tuple[float, float], octaves: int = 4) -> Plane:
        return noise(self.random, self.shape, cells, octaves)

    def green(self) -> Colour:
        leaves = _AUTUMN_LEAVES if self.words.has("autumn") else _LEAVES
        return leaves[self.random.integers(len(leaves))]

    def haze(self, start: float, strength: float) -> None:
        """Blends the horizon's colour over the sky, from ``start`` (0–1 of its height) down to full strength."""
        mask = np.zeros(self.shape, np.float32)
        mask[: self.horizon] = np.clip((vertical_ramp((self.horizon, 1)) - start) / (1 - start), 0, 1)
        blend(self.canvas, mask * strength, self.light.horizon)

    def mirrored(self, top: int) -> Plane:
        """The part above row ``top`` upside down, with the height of the part below it."""
        deep = self.shape[0] - top
        upper = self.canvas[:top][::-1][:deep]
        return np.concatenate([upper, upper[-1:].repeat(deep - len(upper), axis=0)])

    def sky(self) -> None:
        height, width = self.shape
        light, night = self.light, self.words.has("night")
        share = self.horizon / height
        self.canvas[:] = vertical_gradient(
            self.shape, [(0, light.zenith), (0.55 * share, light.middle), (share, light.horizon)]
        )
        x, y = self.random.uniform(0.1, 0.9) * width, self.random.uniform(0.35, 0.85) * self.horizon
        unit = min(self.shape)
        if night:
            stars = np.clip((self.random.random(self.shape, np.float32) - 0.9985) / 0.0015, 0, 1)
            self.canvas[:] += blur(stars * (1 - vertical_ramp(self.shape)), 0.6)[..., None] * 1.6
            y *= 0.4
            blend(self.canvas, disc(self.shape, x, y, unit * 0.035), (0.96, 0.96, 0.90))
        if not self.words.has("grey"):
            sun = 1.4 * glow(self.shape, x, y, unit * 0.06) + 0.5 * glow(self.shape, x, y, unit * 0.5)
            blend(self.canvas, np.clip((0.25 if night else 0.55) * sun, 0, 1), light.sun)
        thin = 1 - 0.7 * np.clip(vertical_ramp(self.shape) / share, 0, 1)
        cover = self.random.uniform(0.44, 0.58) - (0.22 if self.words.has("grey") else 0)
        clouds = np.clip((self.noise((9, 3.5), 6) - cover) / 0.4, 0, 1) ** 1.3 * thin
        tint = mix(light.sun, light.middle, 0.85 if night else 0.1)
        blend(self.canvas, clouds * (0.3 if night else 0.85), tint)

    def hills(self) -> None:
        height, width = self.shape
        for step in range(3):
            lift = 0.10 - 0.035 * step + 0.05 * ridge_line(self.random, width, 2 + step, 4)
            colour = mix(self.light.horizon, self.light.on(self.green()), 0.25 + 0.22 * step)
            blend(self.canvas, mask_below(self.horizon - height * lift, height), colour)

    def mountains(self) -> None:
        height, width = self.shape
        rock, white = (
            self.light.on((0.33, 0.37, 0.45)),
            colour_array(mix(self.light.on((1.0, 1.0, 1.0)), self.light.middle, 0.2)),
        )
        columns = np.arange(width, dtype=np.float32)[None, :]
        for step in range(3):
            peak = height * (0.42 - 0.12 * step)
            rise = 0.5 + 0.8 * ridge_line(self.random, width, 4 + 2 * step, 7, rounded=0)
            line = self.horizon - peak * np.clip(rise, 0.05, 1.2)
            depth = np.arange(height, dtype=np.float32)[:, None] - line[None, :]
            # Each column is lit by its slope, and the light drifts sideways on the way down, which looks like rock.
            slope = np.asarray(cv2.GaussianBlur(np.gradient(line)[None, :], (0, 0), width / 150))[0]
            wander = self.noise((5, 9), 5) - 0.5
            lit = np.clip(columns + wander * np.clip(depth, 0, None) * 0.9, 0, width - 1).astype(np.int32)
            shade = (1 + np.clip(slope[lit] * 0.4, -0.3, 0.3))[..., None]
            body = colour_array(mix(self.light.horizon, rock, 0.45 + 0.24 * step)) * shade
            if step < 2 or self.words.has("snow"):
                reach = peak * (0.79 if self.words.has("snow") else 0.34)
                snow = np.clip((reach - depth) / (0.3 * reach) + wander * 4, 0, 1)[..., None]
                body += snow * (white * (0.35 + 0.65 * shade) - body)
            veil = np.clip(depth / (1.1 * peak), 0, 1)[..., None] * (0.6 - 0.15 * step)
            body += veil * (colour_array(self.light.horizon) - body)
            blend(self.canvas, mask_below(line, height), body)

    def city(self) -> None:
        height, width = self.shape
        stone = self.light.on((0.34, 0.38, 0.46))
        for step, tallest in enumerate((0.34, 0.26, 0.15)):
            colour = mix(self.light.horizon, stone, 0.30 + 0.28 * step)
            x = -self.random.uniform(0, 0.05) * width
            while x < width:
                wide = self.random.uniform(0.03, 0.075) * max(width, height)
                high = height * tallest * self.random.uniform(0.4, 1.0) ** 1.3
                tower = step < 2 and self.random.random() < 0.12
                tone = scale_brightness(colour, self.random.uniform(0.9, 1.1))
                self.building(x, wide, high * (1.35 if tower else 1), tone, step)
                x += wide * self.random.uniform(0.85, 1.25)
            if step == 1:
                self.landmarks(mix(self.light.horizon, stone, 0.78))
            self.haze(0.55, 0.34 - 0.1 * step)

    def building(self, x: float, wide: float, high: float, colour: Colour, step: int) -> None:
        height, width = self.shape
        left, right, top = max(int(x), 0), min(int(x + wide), width), max(int(self.horizon - high), 0)
        if right - left < 3 or self.horizon - top < 3:
            return
        roof, inset = self.random.integers(4), (right - left) // 4
        if roof == 0:
            mast = (left + right) // 2
            self.canvas[max(int(top - height * 0.05), 0) : top, mast : mast + max(1, width // 500)] = colour
        elif roof == 1:
            self.canvas[max(int(top - height * 0.025), 0) : top, left + inset : right - inset] = colour
        wall = self.canvas[top : self.horizon, left:right]
        wall[:] = colour_array(colour) * (1.08 - 0.16 * horizontal_ramp((1, right - left)))[..., None]
        night, dusk = self.words.has("night"), self.words.has("sunset")
        cell = max(5, min(height, width) // (95 - 20 * step))
        rows, columns = wall.shape[0] // cell, wall.shape[1] // cell
        lit = self.random.random((rows, columns)) < (0.42 if night else 0.12 if dusk else 0.5)
        pane = np.zeros((cell, cell), np.float32)
        pane[cell // 4 : cell - cell // 4, cell // 4 : cell - cell // 5] = 1
        windows = np.kron(lit * self.random.uniform(0.4, 1, (rows, columns)), pane)
        strength = (0.35, 0.5, 0.65)[step] * (1 if night else 0.75)
        shine = (1.0, 0.80, 0.48) if night or dusk else self.light.middle
        blend(wall[: rows * cell, : columns * cell], windows * strength, shine)

    def landmarks(self, colour: Colour) -> None:
        height, width = self.shape
        unit = min(height * 0.9, width * 0.75)
        spots = self.random.permutation([0.14, 0.36, 0.62, 0.86]) + self.random.uniform(-0.05, 0.05, 4)
        first, second, third, fourth = (spots * width).tolist()
        mask = np.zeros(self.shape, np.uint8)

        def stand(at: float, right_half: list[tuple[float, float]]) -> None:
            outline = right_half + [(-x, y) for x, y in reversed(right_half)]
            fill_polygon(mask, [(at + x * unit, self.horizon - y * unit) for x, y in outline])

        if self.words.has("london"):
            tower = [(0.028, 0), (0.028, 0.36), (0.034, 0.36), (0.034, 0.43), (0.022, 0.45), (0, 0.55)]
            stand(first, tower)
            stand(second, [(0.055, 0), (0.004, 0.58)])
            dome = [
                (0.066 * np.cos(angle), 0.17 + 0.078 * np.sin(angle)) for angle in np.linspace(0, 1.5, 12)
            ]
            stand(third, [(0.11, 0), (0.11, 0.1), (0.066, 0.1), *dome, (0.01, 0.25), (0.01, 0.28), (0, 0.33)])
            self.wheel(mask, fourth, 0.19 * unit)
        if self.words.has("paris"):
            steps = np.linspace(0, 1, 24)
            stand(first, [(0.16 * (1 - step) ** 2.2 + 0.006, 0.62 * step) for step in steps.tolist()])
            arch = (round(0.075 * unit), round(0.09 * unit))
            cv2.ellipse(mask, (round(first), self.horizon), arch, 0, 180, 360, (0,), -1, cv2.LINE_AA)
        blend(self.canvas, mask.astype(np.float32) / 255, colour)
        if self.words.has("london"):
            dial = disc(self.shape, first, self.horizon - 0.395 * unit, unit * 0.02)
            blend(self.canvas, dial * 0.9, (1.0, 0.93, 0.74))

    def wheel(self, mask: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], x: float, rim: float) -> None:
        thick = max(1, round(rim * 0.03))
        hub = (round(x), round(self.horizon - rim * 1.15))
        cv2.circle(mask, hub, round(rim), (255,), thick, cv2.LINE_AA)
        for angle in np.arange(0, 2 * np.pi, np.pi / 12):
            end = (round(hub[0] + rim * np.cos(angle)), round(hub[1] + rim * np.sin(angle)))
            cv2.line(mask, hub, end, (150,), 1, cv2.LINE_AA)
            cv2.circle(mask, end, max(1, round(rim * 0.05)), (255,), -1, cv2.LINE_AA)
        for foot in (-0.37, 0.37):
            cv2.line(mask, hub, (round(x + foot * rim), self.horizon), (255,), thick, cv2.LINE_AA)

    def trees(self) -> None:
        height, width = self.shape
        for step in range(3):
            mask = np.zeros(self.shape, np.uint8)
            foot, x = self.horizon + height * 0.015 * step, 0.0
            while x < width * 1.05:
                tall = height * self.random.uniform(0.16, 0.30) * (0.8 + 0.45 * step)
                half = tall * self.random.uniform(0.13, 0.2)
                for branch in range(9):
                    top = foot - tall * (1 - branch / 9)
                    spread = half * (branch + 1.4) / 9 * self.random.uniform(0.85, 1.15)
                    fill_polygon(
                        mask, [(x, top), (x - spread, top + tall * 0.2), (x + spread, top + tall * 0.2)]
                    )
                x += half * self.random.uniform(0.7, 2.2)
            colour = mix(self.light.horizon, self.light.on(self.green()), 0.35 + 0.28 * step)
            needles = (0.72 + 0.56 * self.noise((60, 80), 3))[..., None]
            blend(self.canvas, mask.astype(np.float32) / 255, colour_array(colour) * needles)
            self.haze(0.6, 0.4 - 0.15 * step)

    def water(self) -> None:
        mirror = self.mirrored(self.horizon)
        deep, width = shape = mirror.shape[0], mirror.shape[1]
        near = vertical_ramp(shape)
        far_waves, near_waves = noise(self.random, shape, (70, 8), 3), noise(self.random, shape, (22, 5), 3)
        waves = far_waves + near * (near_waves - far_waves)
        rows = vertical_ramp(shape) * (deep - 1) + (waves - 0.5) * deep * 0.22 * (0.2 + near)
        columns = horizontal_ramp(shape) * (width - 1) + (waves - 0.5) * width * 0.02
        rows = np.clip(rows, 0, deep - 1)
        bent = cv2.remap(mirror, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        shallow = self.words.has("beach") and not self.words.has("night")
        body = colour_array(self.light.on((0.12, 0.55, 0.62) if shallow else (0.13, 0.30, 0.42)))
        water = bent * 0.82 + 0.05 * colour_array(self.light.sun) * (waves > 0.66)[..., None]
        water += (0.25 + 0.4 * near)[..., None] * (body * (0.8 + 0.4 * waves[..., None]) - water)
        self.canvas[self.horizon :] = water

    def sand(self) -> None:
        height, width = self.shape
        share = 0.42 + 0.10 * ridge_line(self.random, width, 2, 4)
        line = self.horizon + (height - self.horizon) * share
        foam = mask_below(line - height * 0.014, height) * self.noise((70, 60), 3)
        blend(self.canvas, np.clip(foam * 1.5, 0, 0.85), self.light.on((1.0, 1.0, 1.0)))
        texture = 0.84 + 0.16 * self.noise((90, 90), 3) + 0.18 * self.noise((8, 4), 3)
        behind = np.arange(height, dtype=np.float32)[:, None] - line[None, :]
        wet = 0.32 * np.clip(1 - behind / (0.07 * height), 0, 1)
        body = colour_array(self.light.on((0.90, 0.80, 0.62))) * (texture * (1 - wet))[..., None]
        blend(self.canvas, mask_below(line, height), body)

    def ground(self, paint: Plane) -> None:
        """Flat ground textured with ``paint`` (a canvas in daylight colours), paler towards the horizon."""
        height, width = self.shape
        line = self.horizon - height * 0.012 * ridge_line(self.random, width, 3, 4)
        pale = colour_array(self.light.horizon)
        body = paint * colour_array(self.light.on((1.0, 1.0, 1.0)))
        blend(
            self.canvas,
            mask_below(line, height),
            pale + (0.62 + 0.38 * self.nearness[..., None]) * (body - pale),
        )

    def grass(self) -> None:
        near = self.nearness
        blades = self.noise((60, 220), 2) * (1 - near) + self.noise((24, 110), 3) * near
        colour = mix(self.green(), (0.34, 0.38, 0.16), 0.7 if self.words.has("autumn") else 0.0)
        self.ground(colour_array(colour) * (0.55 + 0.7 * blades + 0.4 * self.noise((9, 4)))[..., None])

    def flowers(self) -> None:
        height, width = self.shape
        for _ in range(420):
            near = self.random.random() ** 1.5
            place = (int(self.random.uniform(0, width)), int(self.horizon + near * (height - self.horizon)))
            petal = self.light.on(_PETALS[self.random.integers(len(_PETALS))])
            cv2.circle(
                self.canvas, place, max(1, int(height * (0.002 + 0.009 * near))), petal, -1, cv2.LINE_AA
            )

    def dunes(self) -> None:
        height, width = self.shape
        for step in range(3):
            rise = 0.07 * ridge_line(self.random, width, 2, 3, roughness=0.35) - 0.02 - 0.1 * step
            crest = self.horizon - height * rise
            tone = self.light.on(mix((0.93, 0.76, 0.52), (0.80, 0.52, 0.30), 0.35 * step))
            ripples = 0.94 + 0.1 * self.noise((60, 9), 3) + np.gradient(crest)[None, :] * 0.25
            blend(
                self.canvas,
                mask_below(crest, height),
                colour_array(tone) * np.clip(ripples, 0.7, 1.25)[..., None],
            )

    def pavement(self, start: int) -> None:
        """Wet slabs that reflect the scene, in perspective, beginning ``start`` rows below the horizon."""
        top = self.horizon + start
        mirror = self.mirrored(top)
        shape = mirror.shape[0], mirror.shape[1]
        mirror = blur(mirror, shape[0] / 25)
        near = start / (self.shape[0] - self.horizon) + vertical_ramp(shape) * (
            1 - start / (self.shape[0] - self.horizon)
        )
        side = horizontal_ramp(shape) - self.random.uniform(0.35, 0.65)
        joints = np.maximum(
            np.abs((side / (near + 0.08) * 5) % 1 - 0.5), np.abs((0.9 / (near + 0.08)) % 1 - 0.5)
        )
        slabs = np.clip((joints - 0.478) / 0.022, 0, 1) * near
        tone = 0.9 + 0.2 * noise(self.random, shape, (30, 30)) - 0.22 * slabs
        stone = colour_array(self.light.on((0.44, 0.45, 0.48))) * tone[..., None]
        self.canvas[top:] = stone + (0.62 - 0.38 * near)[..., None] * (mirror - stone)
        if start:  # a kerb along the upper edge of the pavement
            self.canvas[top : top + max(2, self.shape[0] // 110)] = colour_array(
                self.light.on((0.60, 0.60, 0.60))
            )

    def fog(self) -> None:
        distance = vertical_ramp(self.shape) - self.horizon / self.shape[0]
        blend(self.canvas, 0.75 * np.exp(-((distance / 0.16) ** 2)) * self.noise((3, 3)), self.light.horizon)


def _add_snowflakes(random: Generator, canvas: Plane) -> None:
    height, width = canvas.shape[:2]
    flakes = np.zeros((height, width), np.float32)
    for _ in range(130):
        place = (int(random.uniform(0, width)), int(random.uniform(0, height)))
        radius = max(1, int(min(height, width) * random.uniform(0.001, 0.006)))
        cv2.circle(flakes, place, radius, (random.uniform(0.3, 0.9),), -1, cv2.LINE_AA)
    blend(canvas, blur(flakes, min(height, width) / 500), (1.0, 1.0, 1.0))
