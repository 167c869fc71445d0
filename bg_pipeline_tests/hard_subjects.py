"""Hard subjects with exactly known mattes: 13 kinds, each in any number of variants, before the five grounds.

Shapes, sizes, colours and textures of a variant follow from its number and the ``seed``; two seeds have no subject
in common. Everything is drawn at twice its size.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from bg_pipeline_tests.rendered import Ground, Rendered, ground_pixels

Kind = Literal[
    "product",
    "hair",
    "fur",
    "fence",
    "spokes",
    "chain",
    "lace",
    "glass",
    "white on white",
    "black on black",
    "several",
    "cut by the frame",
    "person",
]
Floats = NDArray[np.float32]
Random = np.random.Generator

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
GROUNDS: Final[tuple[Ground, ...]] = get_args(Ground)
VARIANTS = 4

_OVERSAMPLED = 2


@dataclass(frozen=True)
class HardSubject:
    """One subject before one ground; `render` draws it."""

    kind: Kind
    variant: int
    ground: Ground
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.variant} {self.ground}"

    def render(self, size: tuple[int, int] = (900, 720)) -> Rendered:
        """The photo in this size, its matte, and its background."""
        number = (self.seed, KINDS.index(self.kind), self.variant)
        shape, behind = np.random.default_rng(number), np.random.default_rng((*number, ord(self.ground[0])))
        drawing = _Drawing(size, shape)
        getattr(drawing, self.kind.replace(" ", "_"))(self.variant)
        matte = drawing.matte()
        ground = ground_pixels(self.ground, size, behind)
        ground *= np.exp(behind.normal(0, 0.08, 3)).astype(np.float32)
        front = drawing.colours(matte, behind)
        if self.kind == "white on white":
            ground, front = 236 + 0.08 * (ground - 128), 228 + 0.14 * (front - 128)
        elif self.kind == "black on black":
            ground, front = 20 + 0.08 * (ground - 128), 28 + 0.14 * (front - 128)
        if self.kind not in ("fence", "cut by the frame"):
            ground = ground * (1 - behind.uniform(0.1, 0.4) * _unit(_shadow(matte)))
        grain = behind.normal(0, 1.5, (size[1], size[0], 1)).astype(np.float32)
        share = _unit(matte)
        return Rendered(
            _picture(front * share + ground * (1 - share) + grain), matte, _picture(ground + grain)
        )


def hard_subjects(seed: int = 0, variants: int = VARIANTS) -> Iterator[HardSubject]:
    """All kinds, variants and grounds."""
    for kind in KINDS:
        for variant in range(variants):
            for ground in GROUNDS:
                yield HardSubject(kind, variant, ground, seed)


class _Drawing:
    """The shape of one subject, and a second shape that has another colour."""

    def __init__(self, size: tuple[int, int], random: Random) -> None:
        self._size = size
        self._random = random
        large = (size[0] * _OVERSAMPLED, size[1] * _OVERSAMPLED)
        self._shape = Image.new("L", large)
        self._mark = Image.new("L", large)
        self._draw, self._draw_mark = ImageDraw.Draw(self._shape), ImageDraw.Draw(self._mark)
        self._unit = min(large)
        self._middle = np.array(large) / 2 + random.uniform(-0.06, 0.06, 2) * self._unit
        self._scale = float(random.uniform(0.75, 1.1))
        self._rough = float(random.uniform(4, 16))
        self._colour = _colour(random)
        self._second = _colour(random)

    def matte(self) -> Image.Image:
        return self._shape.filter(ImageFilter.GaussianBlur(max(0.7, self._unit / 2200))).resize(
            self._size, Image.Resampling.BOX
        )

    def colours(self, matte: Image.Image, random: Random) -> Floats:
        """The subject's own colours everywhere: shaded, rough, with a light from above."""
        width, height = self._size
        down = np.linspace(1.15, 0.75, height, dtype=np.float32)[:, None, None]
        mark = _unit(self._mark.resize(self._size, Image.Resampling.BOX))
        flat = self._colour * (1 - mark) + self._second * mark
        inside = np.asarray(matte.filter(ImageFilter.GaussianBlur(width / 30)), np.float32)[..., None] / 255
        rough = self._rough * _clouds(self._size, max(2, width // 60), random)[..., None]
        return np.asarray(flat * down * (0.75 + 0.3 * inside) + rough, np.float32)

    # Shapes; positions are shares of the shorter side from the middle.

    def product(self, variant: int) -> None:
        random = self._random
        match variant % 4:
            case 0:
                wide = random.uniform(0.1, 0.16)
                self._polygon([(-wide, 0.38), (wide, 0.38), (wide, -0.1), (0.05, -0.2), (0.05, -0.38),
                               (-0.05, -0.38), (-0.05, -0.2), (-wide, -0.1)])  # fmt: skip
                self._rectangle(-wide, 0.0, wide, 0.22, mark=True)
            case 1:
                self._ellipse(0.08, -0.2, 0.36, 0.2)
                self._ellipse(0.13, -0.14, 0.31, 0.14, 0)
                self._rectangle(-0.28, -0.27, 0.2, 0.28)
                self._ellipse(-0.15, -0.12, 0.08, 0.12, mark=True)
            case 2:
                self._polygon([(-0.4, 0.2), (-0.38, -0.12), (-0.22, -0.2), (-0.05, -0.02), (0.2, 0.05),
                               (0.4, 0.13), (0.4, 0.2)])  # fmt: skip
                self._rectangle(-0.4, 0.17, 0.41, 0.22)
                self._rectangle(-0.4, 0.17, 0.41, 0.22, mark=True)
            case _:
                self._polygon([(-0.3, -0.2), (0.05, -0.3), (0.34, -0.16), (0.34, 0.22), (0.0, 0.36),
                               (-0.3, 0.24)])  # fmt: skip
                self._polygon([(0.0, -0.02), (0.34, -0.16), (0.34, 0.22), (0.0, 0.36)], mark=True)

    def white_on_white(self, variant: int) -> None:
        self.product(variant)

    def black_on_black(self, variant: int) -> None:
        self.product(variant)

    def cut_by_the_frame(self, variant: int) -> None:
        self._scale *= 1.3
        self._middle += (((variant % 2) * 2 - 1) * 0.45 * self._unit, 0.3 * self._unit * (variant // 2))
        self.product(variant + 1)

    def several(self, variant: int) -> None:
        middle, scale = self._middle.copy(), self._scale
        number = 2 + variant
        for place in range(number):
            across = (place - (number - 1) / 2) * 1.15 / number
            self._middle = middle + self._unit * np.array((across, self._random.uniform(-0.08, 0.08)))
            self._scale = scale * 1.4 / number
            self.product(place + variant)

    def hair(self, variant: int) -> None:
        self._ellipse(-0.17, -0.2, 0.17, 0.26)
        self._ellipse(-0.12, -0.12, 0.12, 0.22, mark=True)
        self._strands(
            (-0.02, 0.02), 0.17, (200, 420)[variant % 2], (0.25, 0.45), self._unit / (900, 500)[variant // 2]
        )

    def fur(self, variant: int) -> None:
        self._ellipse(-0.28, -0.12, 0.2, 0.24)
        self._ellipse(0.1, -0.28, 0.32, 0.0)
        self._polygon([(0.13, -0.2), (0.15, -0.36), (0.22, -0.26)])
        for side in (-0.2, 0.1):
            self._rectangle(side - 0.035, 0.15, side + 0.035, 0.36)
        thick = self._unit / 900
        self._strands((-0.04, 0.06), 0.2, 500, (0.2, 0.31), thick, stretch=1.25)
        self._strands((0.21, -0.14), 0.1, 250, (0.1, 0.15 + 0.01 * variant), thick)

    def fence(self, variant: int) -> None:
        wire = (0.006, 0.011, 0.016, 0.022)[variant]
        gap, across = self._random.uniform(0.05, 0.11), self._random.uniform(0.25, 0.45)
        slanted = variant % 2
        self._grid(across, 0.32, gap, wire, math.pi / 4 if slanted else 0.0)
        self._outline(-across, -0.32, across, 0.32, wire * 1.8)

    def lace(self, variant: int) -> None:
        reach = 0.33
        self._ellipse(-reach, -reach, reach, reach)
        for ring in range(3 + variant % 2):
            radius = reach * (0.9 - 0.22 * ring)
            holes = max(5, round(radius * (52 - 6 * variant)))
            hole = radius * math.pi / holes * self._random.uniform(0.5, 0.7)
            for number in range(holes):
                angle = 2 * math.pi * number / holes
                x, y = radius * math.cos(angle), radius * math.sin(angle)
                self._ellipse(x - hole, y - hole, x + hole, y + hole, 0)

    def spokes(self, variant: int) -> None:
        reach, spoke = 0.36, (0.004, 0.007, 0.011, 0.016)[variant]
        rim = self._random.uniform(0.02, 0.04)
        self._ellipse(-reach, -reach, reach, reach)
        self._ellipse(-reach + rim, -reach + rim, reach - rim, reach - rim, 0)
        number = int(self._random.integers(8, 28))
        for place in range(number):
            angle = 2 * math.pi * place / number
            self._line((0, 0), (reach * math.cos(angle), reach * math.sin(angle)), spoke)
        self._ellipse(-0.04, -0.04, 0.04, 0.04)

    def chain(self, variant: int) -> None:
        links = 9 + 2 * variant
        wire = (0.012, 0.018)[variant % 2]
        for place in range(links):
            along = place / (links - 1) * 2 - 1
            x, y = along * 0.42, 0.18 * along * along - 0.1 + 0.05 * math.sin(3 * along * (variant + 1))
            half, high = 0.42 / links * 1.7, (0.03, 0.012)[place % 2]
            box = (x - half, y - high, x + half, y + high)
            self._ellipse(*box, outline=wire)

    def glass(self, variant: int) -> None:
        thin = int(self._random.integers(55, 115))
        rim = self._random.uniform(0.006, 0.012)
        match variant % 4:
            case 0:
                self._ellipse(-0.17, -0.38, 0.17, 0.08, thin)
                self._ellipse(-0.17, -0.38, 0.17, 0.08, 220, outline=rim)
                self._chord(-0.16, -0.3, 0.16, 0.07)
                self._rectangle(-0.012, 0.06, 0.012, 0.34, 200)
                self._ellipse(-0.13, 0.31, 0.13, 0.38, 190)
            case 1:
                self._rectangle(-0.15, -0.3, 0.15, 0.32, thin)
                self._outline(-0.15, -0.3, 0.15, 0.32, rim, 220)
                self._rectangle(-0.15, 0.27, 0.15, 0.32, 170)
            case 2:
                self._ellipse(-0.36, -0.2, 0.36, 0.26, thin)
                self._ellipse(-0.36, -0.2, 0.36, 0.26, 210, outline=rim)
                self._ellipse(-0.34, -0.15, 0.34, 0.02, 130, outline=rim)
            case _:
                self._polygon([(-0.12, 0.36), (0.12, 0.36), (0.12, -0.1), (0.04, -0.2), (0.04, -0.36),
                               (-0.04, -0.36), (-0.04, -0.2), (-0.12, -0.1)], thin)  # fmt: skip
                self._outline(-0.12, -0.1, 0.12, 0.36, rim, 230)
                self._outline(-0.04, -0.36, 0.04, -0.2, rim, 230)
        # Something that reflects a window.
        self._line((-0.09, -0.15), (-0.09, 0.0), 0.012, 245)

    def person(self, variant: int) -> None:
        self._rectangle(-0.06, -0.1, 0.06, 0.06)
        self._ellipse(-0.1, -0.36, 0.1, -0.06)
        self._rectangle(-0.17, 0.0, 0.17, 0.5)
        self._rectangle(-0.17, 0.0, 0.17, 0.5, mark=True)
        if variant % 2:
            for side in (-1, 1):
                self._line((side * 0.15, 0.04), (side * 0.33, 0.2), 0.07)
                self._line((side * 0.33, 0.2), (side * 0.16, 0.34), 0.06)
        else:
            self._line((0.15, 0.04), (0.36, -0.2), 0.07)
            self._line((-0.15, 0.04), (-0.22, 0.4), 0.07)
        self._strands((0.0, -0.22), 0.1, 220, (0.1, 0.13 + 0.03 * (variant // 2)), self._unit / 900)

    # Steps

    def _at(self, *pairs: tuple[float, float]) -> list[tuple[float, float]]:
        return [tuple(self._middle + self._unit * self._scale * np.array(pair)) for pair in pairs]

    def _tool(self, mark: bool) -> ImageDraw.ImageDraw:
        return self._draw_mark if mark else self._draw

    def _polygon(self, points: list[tuple[float, float]], fill: int = 255, *, mark: bool = False) -> None:
        self._tool(mark).polygon(self._at(*points), fill=fill)

    def _rectangle(
        self, left: float, top: float, right: float, bottom: float, fill: int = 255, *, mark: bool = False
    ) -> None:
        self._tool(mark).rectangle(self._at((left, top), (right, bottom)), fill=fill)

    def _outline(
        self, left: float, top: float, right: float, bottom: float, wide: float, fill: int = 255
    ) -> None:
        self._draw.rectangle(self._at((left, top), (right, bottom)), outline=fill, width=self._pixels(wide))

    def _ellipse(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        fill: int = 255,
        *,
        outline: float = 0.0,
        mark: bool = False,
    ) -> None:
        box = self._at((left, top), (right, bottom))
        if outline:
            self._draw.ellipse(box, outline=fill, width=self._pixels(outline))
        else:
            self._tool(mark).ellipse(box, fill=fill)

    def _chord(self, left: float, top: float, right: float, bottom: float) -> None:
        self._draw.chord(self._at((left, top), (right, bottom)), 0, 180, fill=255)

    def _line(
        self, start: tuple[float, float], end: tuple[float, float], wide: float, fill: int = 255
    ) -> None:
        self._draw.line(self._at(start, end), fill=fill, width=self._pixels(wide))

    def _pixels(self, wide: float) -> int:
        return max(2, round(wide * self._unit * self._scale))

    def _grid(self, across: float, down: float, gap: float, wire: float, turn: float) -> None:
        """Wires in two directions, within a box."""
        lines = Image.new("L", self._shape.size)
        draw = ImageDraw.Draw(lines)
        for direction in (turn, turn + math.pi / 2):
            along = np.array((math.cos(direction), math.sin(direction)))
            beside = np.array((-along[1], along[0]))
            for number in range(-round(1 / gap), round(1 / gap) + 1):
                middle = beside * number * gap
                draw.line(
                    self._at(tuple(middle - along), tuple(middle + along)), fill=255, width=self._pixels(wire)
                )
        box = Image.new("L", self._shape.size)
        ImageDraw.Draw(box).rectangle(self._at((-across, -down), (across, down)), fill=255)
        self._shape.paste(ImageChops.darker(lines, box))

    def _strands(
        self,
        middle: tuple[float, float],
        root: float,
        number: int,
        reach: tuple[float, float],
        thick: float,
        *,
        stretch: float = 1.0,
    ) -> None:
        random = self._random
        for angle in random.uniform(0, 2 * math.pi, number):
            bent = angle + random.normal(0, 0.25)
            far = random.uniform(*reach)
            middle_of = (root + far) / 2
            points = [
                (middle[0] + stretch * length * math.cos(turn), middle[1] + length * math.sin(turn))
                for length, turn in ((root * 0.9, angle), (middle_of, (angle + bent) / 2), (far, bent))
            ]
            self._draw.line(
                self._at(*points),
                fill=int(random.integers(120, 256)),
                width=max(1, round(thick * random.uniform(0.6, 1.4))),
                joint="curve",
            )


def _colour(random: Random) -> Floats:
    return random.uniform(25, 225, 3).astype(np.float32)


def _shadow(matte: Image.Image) -> Image.Image:
    shift = (1, 0, -matte.width / 60, 0, 1, -matte.height / 50)
    moved = matte.transform(matte.size, Image.Transform.AFFINE, shift)
    return moved.filter(ImageFilter.GaussianBlur(matte.width / 60))


def _clouds(size: tuple[int, int], cell: int, random: Random) -> Floats:
    coarse = random.normal(size=(size[1] // cell + 3, size[0] // cell + 3)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.float32)


def _unit(mask: Image.Image) -> Floats:
    return np.asarray(mask, np.float32)[..., None] / np.float32(255)


def _picture(pixels: NDArray[np.floating]) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
