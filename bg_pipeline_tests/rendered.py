"""Rendered photos with exactly known mattes: soft edges, hair, glass and holes, on several backgrounds."""

import io
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Subject = Literal["vase", "fur", "glass", "chair", "shoes", "bust"]
Ground = Literal["studio", "dark", "cloudy", "room", "leaves"]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float32]

_OVERSAMPLED = 2

MARGIN = 8
"""Pixels within this distance of the subject's edge are not its interior: the widest feather reaches 7 pixels."""

RIM = 4
"""Width in pixels of the band around the subject in which a halo is measured."""


@dataclass(frozen=True)
class Rendered:
    """A photo, its subject's exact matte (mode "L", 255 = subject) and its background with the shadow."""

    photo: Image.Image
    matte: Image.Image
    ground: Image.Image


def rendered(subject: Subject, ground: Ground, size: tuple[int, int] = (400, 300), seed: int = 0) -> Rendered:
    """A photo of the subject on the background, with shadow and grain; the same arguments give the same picture."""
    random = np.random.default_rng(seed)
    matte = _matte(subject, size, random)
    behind = ground_pixels(ground, size, random) * (1 - 0.35 * _unit(_shadow(matte)))
    down = np.linspace(1.15, 0.8, size[1], dtype=np.float32)[:, None, None]
    colour = random.integers((120, 20, 20), (200, 90, 90)).astype(np.float32)
    front = colour * down + 14 * _clouds(size, max(2, size[0] // 40), random)[..., None]
    grain = random.normal(0, 1.5, (size[1], size[0], 1)).astype(np.float32)
    share = _unit(matte)
    return Rendered(_picture(front * share + behind * (1 - share) + grain), matte, _picture(behind + grain))


def inner(mask: Image.Image) -> Flags:
    """The pixels whose mask is 255 in a surrounding of `MARGIN` pixels."""
    full = Image.fromarray(np.uint8(255) * (np.asarray(mask) == 255))
    for _ in range(MARGIN):
        full = full.filter(ImageFilter.MinFilter(3))
    return np.asarray(full) == 255


def psnr(source: Image.Image, result: Image.Image, where: Flags) -> float:
    """The PSNR in decibels within ``where``; infinite if all bits are equal, NaN if ``where`` is empty."""
    before, after = (np.asarray(image.convert("RGB"), np.float32)[where] for image in (source, result))
    error = float(((before - after) ** 2).mean()) if before.size else math.nan
    return 10 * math.log10(255**2 / error) if error else math.inf


def old_ground(shot: Rendered, result: Image.Image, scene: Image.Image) -> float:
    """The share (0–1) of the old background that is visible in the result where the matte is not 255."""
    dilated = np.asarray(shot.matte.filter(ImageFilter.MaxFilter(2 * RIM + 1))) > 0
    edge = dilated & (np.asarray(shot.matte) < 255)
    share = _unit(shot.matte)[edge]
    pictures = (shot.photo, shot.ground, scene, result.convert("RGB"))
    photo, old, new, made = (np.asarray(picture, np.float32)[edge] for picture in pictures)
    towards_old = (1 - share) * (old - new)
    left = made - (photo - towards_old)
    return max(0.0, float((left * towards_old).sum() / max(1.0, (towards_old**2).sum())))


def as_mask(shot: Rendered) -> bytes:
    """The matte as a mask file of a request: a PNG whose opaque pixels are the subject."""
    opaque = shot.photo.copy()
    opaque.putalpha(shot.matte)
    return as_png(opaque)


def as_png(image: Image.Image) -> bytes:
    """The picture as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _matte(subject: Subject, size: tuple[int, int], random: np.random.Generator) -> Image.Image:
    large = Image.new("L", (size[0] * _OVERSAMPLED, size[1] * _OVERSAMPLED))
    draw, unit = ImageDraw.Draw(large), min(large.size)
    middle = np.array(large.size) / 2

    def at(*numbers: float) -> list[tuple[float, float]]:
        """Pixel positions of points given as shares of the shorter side, relative to the centre."""
        return [
            tuple(middle + unit * np.array(pair)) for pair in zip(numbers[::2], numbers[1::2], strict=True)
        ]

    match subject:
        case "vase":
            heights = np.linspace(-0.36, 0.36, 60)
            widths = 0.13 + 0.09 * np.sin((heights + 0.12) * 7)
            outline = [*zip(widths, heights, strict=True), *zip(-widths[::-1], heights[::-1], strict=True)]
            draw.polygon(at(*np.ravel(outline)), fill=255)
        case "fur":
            draw.ellipse(at(-0.24, -0.24, 0.24, 0.24), fill=255)
            for angle in random.uniform(0, 2 * np.pi, 900):
                root = 0.235 * np.array((np.cos(angle), np.sin(angle)))
                tip = root * random.uniform(1.1, 1.5) + random.normal(0, 0.02, 2)
                draw.line(at(*root, *tip), fill=int(random.integers(90, 255)), width=max(1, unit // 700))
        case "glass":
            draw.ellipse(at(-0.17, -0.38, 0.17, 0.08), fill=95)
            draw.ellipse(at(-0.17, -0.38, 0.17, 0.08), outline=220, width=max(2, unit // 90))
            draw.chord([*at(-0.16, -0.3, 0.16, 0.07)], 0, 180, fill=255)
            draw.rectangle(at(-0.012, 0.06, 0.012, 0.36), fill=200)
            draw.ellipse(at(-0.13, 0.33, 0.13, 0.39), fill=190)
        case "chair":
            draw.rectangle(at(-0.2, -0.36, -0.17, 0.38), fill=255)
            draw.rectangle(at(0.17, 0.02, 0.2, 0.38), fill=255)
            draw.rectangle(at(-0.2, 0, 0.2, 0.06), fill=255)
            for top in (-0.34, -0.24, -0.14):
                draw.rectangle(at(-0.19, top, 0.12, top + 0.045), fill=255)
            draw.rectangle(at(0.09, -0.36, 0.12, 0.02), fill=255)
        case "shoes":
            for left in (-0.45, 0.05):
                points = (0, 0.2, 0, -0.08, 0.1, -0.14, 0.2, -0.02, 0.36, 0.08, 0.4, 0.2)
                moved = [number + (left if index % 2 == 0 else 0) for index, number in enumerate(points)]
                draw.polygon(at(*moved), fill=255)
        case "bust":
            draw.ellipse(at(-0.16, -0.38, 0.16, 0.06), fill=255)
            draw.rectangle(at(-0.07, 0, 0.07, 0.25), fill=255)
            draw.rounded_rectangle(at(-0.36, 0.2, 0.36, 2), unit * 0.1, fill=255)
    soft = large.filter(ImageFilter.GaussianBlur(max(1.0, unit / 1500)))
    return soft.resize(size, Image.Resampling.BOX)


def _shadow(matte: Image.Image) -> Image.Image:
    """The matte shifted to the lower right and blurred."""
    shift = (1, 0, -matte.width / 60, 0, 1, -matte.height / 50)
    return matte.transform(matte.size, Image.Transform.AFFINE, shift).filter(
        ImageFilter.GaussianBlur(matte.width / 60)
    )


def ground_pixels(kind: Ground, size: tuple[int, int], random: np.random.Generator) -> Floats:
    width, height = size
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    flat = np.ones((height, width, 3), np.float32)
    match kind:
        case "studio":
            return flat * (222 + 18 * down)
        case "dark":
            return flat * (16 + 14 * down) * np.array((1, 1, 1.3), np.float32)
        case "cloudy":
            return flat * (185 + 14 * _clouds(size, width // 6, random)[..., None])
        case "room":
            room = flat * np.array((205, 196, 178), np.float32)
            for _ in range(9):
                left, top = random.integers(0, width), random.integers(0, height)
                wide, tall = (
                    random.integers(width // 12, width // 4),
                    random.integers(height // 12, height // 3),
                )
                room[top : top + tall, left : left + wide] = random.integers(60, 235, 3)
            return room
        case "leaves":
            fine = [60 * _clouds(size, max(2, width // 30), random) for _ in range(3)]
            return np.stack(fine, axis=2) * 0.5 + np.array((80, 130, 60), np.float32)


def _clouds(size: tuple[int, int], cell: int, random: np.random.Generator) -> Floats:
    coarse = random.normal(size=(size[1] // cell + 3, size[0] // cell + 3)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.float32)


def _unit(mask: Image.Image) -> Floats:
    return np.asarray(mask, np.float32)[..., None] / np.float32(255)


def _picture(pixels: NDArray[np.floating]) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
