"""Rendered product shots whose masks are known exactly."""

from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Backdrop = Literal["white", "grey", "cloudy", "blue", "black", "busy"]
Shape = Literal["bottle", "mug", "shoe", "two", "bust", "hair"]

OVERSAMPLED = 2


@dataclass(frozen=True)
class Scene:
    """A photo and its true mask (mode "L", 255 = subject, soft by a pixel)."""

    photo: Image.Image
    mask: Image.Image


def scene(
    shape: Shape,
    backdrop: Backdrop,
    size: tuple[int, int] = (800, 600),
    *,
    colour: tuple[int, int, int] = (150, 70, 40),
    shadow: bool = True,
    seed: int = 0,
) -> Scene:
    """A textured thing with a drop shadow on a backdrop, with grain, as a JPEG of quality 88 shows it."""
    random = np.random.default_rng(seed)
    mask = outline(shape, size).filter(ImageFilter.GaussianBlur(size[0] / 3000))
    alpha = _plane(mask)[..., None]
    behind = _backdrop(backdrop, size, random)
    if shadow:
        fallen = mask.transform(
            size, Image.Transform.AFFINE, (1, 0.12, -0.09 * size[1], 0, 1, -size[1] / 60)
        ).filter(ImageFilter.GaussianBlur(size[0] / 50))
        behind = behind * (1 - 0.3 * _plane(fallen)[..., None])
    across = np.linspace(1.1, 0.7, size[0], dtype=np.float32)[None, :, None]
    subject = np.array(colour, np.float32) * across + 15 * _clouds(size, size[0] // 20, random)[..., None]
    grain = random.normal(0, 2, (size[1], size[0], 1))
    pixels = subject * alpha + behind * (1 - alpha) + grain
    photo = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    with BytesIO() as file:
        photo.save(file, "JPEG", quality=88)
        return Scene(Image.open(BytesIO(file.getvalue())).convert("RGB"), mask)


def outline(shape: Shape, size: tuple[int, int]) -> Image.Image:
    """The shape in the middle of a picture, white on black, anti-aliased."""
    width, height = size[0] * OVERSAMPLED, size[1] * OVERSAMPLED
    picture = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(picture)
    unit = min(width, height)

    def at(*numbers: float, middle: float = 0.5) -> list[float]:
        return [
            unit * number + (middle * width if index % 2 == 0 else height / 2)
            for index, number in enumerate(numbers)
        ]

    if shape == "bottle":
        draw.rounded_rectangle(at(-0.13, -0.15, 0.13, 0.4), unit * 0.04, fill=255)
        draw.polygon(at(-0.13, -0.1, -0.05, -0.25, 0.05, -0.25, 0.13, -0.1), fill=255)
        draw.rectangle(at(-0.05, -0.4, 0.05, -0.2), fill=255)
    elif shape == "mug":
        draw.ellipse(at(0.1, -0.2, 0.38, 0.2), fill=255)
        draw.ellipse(at(0.14, -0.14, 0.33, 0.14), fill=0)
        draw.rounded_rectangle(at(-0.28, -0.28, 0.22, 0.3), unit * 0.04, fill=255)
    elif shape == "shoe":
        draw.polygon(
            at(-0.4, 0.2, -0.4, -0.05, -0.28, -0.15, -0.1, -0.08, 0.1, 0.04, 0.4, 0.12, 0.4, 0.2), fill=255
        )
        draw.rectangle(at(-0.41, 0.17, 0.41, 0.24), fill=255)
    elif shape == "two":
        draw.ellipse(at(-0.2, -0.2, 0.2, 0.2, middle=0.27), fill=255)
        draw.polygon(at(-0.2, 0.25, 0.2, 0.25, 0, -0.3, middle=0.73), fill=255)
    elif shape == "bust":
        draw.ellipse(at(-0.18, -0.4, 0.18, 0.1), fill=255)
        draw.rectangle(at(-0.07, 0, 0.07, 0.25), fill=255)
        draw.rounded_rectangle(at(-0.38, 0.2, 0.38, 0.9), unit * 0.1, fill=255)
    else:
        random = np.random.default_rng(3)
        draw.ellipse(at(-0.2, -0.22, 0.2, 0.22), fill=255)
        for angle in random.uniform(0, 2 * np.pi, 250):
            bent, reach = angle + random.uniform(-0.25, 0.25), random.uniform(0.24, 0.36)
            start, end = 0.19 * np.exp(1j * angle), reach * np.exp(1j * bent)
            draw.line(at(start.real, start.imag, end.real, end.imag), fill=255, width=max(1, unit // 700))
    return picture.resize(size, Image.Resampling.BOX)


def overlap(one: Image.Image, other: Image.Image) -> float:
    """Intersection over union of two masks, split at one half."""
    first, second = np.asarray(one) >= 128, np.asarray(other) >= 128
    return float((first & second).sum() / max(1, (first | second).sum()))


def _backdrop(kind: Backdrop, size: tuple[int, int], random: np.random.Generator) -> NDArray[np.float32]:
    width, height = size
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    across = np.linspace(0, 1, width, dtype=np.float32)[None, :, None]
    flat = np.ones((height, width, 3), np.float32)
    if kind == "white":
        return flat * 248
    if kind == "grey":
        return flat * (150 + 60 * down + 20 * across)
    if kind == "blue":
        return flat * (np.array((90, 130, 190), np.float32) + 30 * down)
    if kind == "black":
        return flat * (14 + 10 * down)
    if kind == "cloudy":
        return flat * (190 + 10 * _clouds(size, width // 6, random)[..., None])
    channels = [
        120 + 40 * _clouds(size, width // 8, random) + 30 * _clouds(size, 8, random) for _ in range(3)
    ]
    return np.stack(channels, axis=2)


def _clouds(size: tuple[int, int], cell: int, random: np.random.Generator) -> NDArray[np.float32]:
    coarse = random.normal(size=(size[1] // cell + 3, size[0] // cell + 3)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.float32)


def _plane(mask: Image.Image) -> NDArray[np.float32]:
    return np.asarray(mask, np.float32) / np.float32(255)
