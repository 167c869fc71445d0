"""Tiny photos that are identified by their subject's colour."""

import io
from functools import cache
from typing import Final

from PIL import Image

SIDE: Final = 64
SUBJECT: Final = (16, 16, 48, 48)
"""The subject's left, top, right, bottom in pixels; whole JPEG blocks, so that JPEG keeps its colour."""
BOX: Final = {"Left": 0.25, "Top": 0.25, "Width": 0.5, "Height": 0.5}
GROUND: Final = (228, 228, 228)
_STEPS: Final = 12

Colour = tuple[int, int, int]


def colour(number: int) -> Colour:
    """The subject's colour in photo ``number`` (below 1,728), distinct from all others and from backgrounds."""
    red, rest = divmod(number, _STEPS * _STEPS)
    green, blue = divmod(rest, _STEPS)
    return 20 + red * 18, 20 + green * 18, 20 + blue * 18


@cache
def photo(number: int) -> bytes:
    """A photo as a PNG."""
    picture = Image.new("RGB", (SIDE, SIDE), GROUND)
    picture.paste(colour(number), SUBJECT)
    return png(picture)


@cache
def number_in(data: bytes) -> int:
    """The number of the photo in this image, in any format and size; -1 if it is none."""
    with Image.open(io.BytesIO(data)) as picture:
        seen = picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2))
    parts = [round((value - 20) / 18) for value in seen]  # type: ignore[union-attr]
    near = all(abs(value - 20 - part * 18) <= 9 for value, part in zip(seen, parts, strict=True))  # type: ignore[arg-type]
    if not near or not all(0 <= part < _STEPS for part in parts):
        return -1
    return (parts[0] * _STEPS + parts[1]) * _STEPS + parts[2]


def ground_of_call(number: int) -> Colour:
    """The background colour of the model's call ``number``, unique to that call."""
    return 5 + number % 200, 5 + number // 200, 150


def call_in(data: bytes) -> int:
    """The number of the call that painted a picture, from the colour of its corner; -1 if none did."""
    with Image.open(io.BytesIO(data)) as picture:
        red, green, blue = picture.convert("RGB").getpixel((1, 1))  # type: ignore[misc]
    return (red - 5) + (green - 5) * 200 if abs(blue - 150) <= 2 and red >= 5 and green >= 5 else -1


@cache
def painted(number: int, size: tuple[int, int]) -> bytes:
    """A picture of only the background of call ``number``."""
    return png(Image.new("RGB", size, ground_of_call(number)))


def painted_around(number: int, source: bytes) -> bytes:
    """The background of call ``number`` around the unchanged subject of ``source``."""
    with Image.open(io.BytesIO(source)) as photo:
        size = photo.size
        kept = photo.convert("RGB").crop(_subject_in(size))
    picture = Image.new("RGB", size, ground_of_call(number))
    picture.paste(kept, _subject_in(size))
    return png(picture)


@cache
def cut(number: int, size: tuple[int, int]) -> bytes:
    """A cut-out of the subject by call ``number``, whose colour is in the transparent pixels."""
    picture = Image.new("RGBA", size, (*ground_of_call(number), 0))
    picture.paste((120, 120, 120, 255), _subject_in(size))
    return png(picture)


@cache
def mask(size: tuple[int, int]) -> bytes:
    """A mask PNG with a black subject on white."""
    picture = Image.new("L", size, 255)
    picture.paste(0, _subject_in(size))
    return png(picture)


def _subject_in(size: tuple[int, int]) -> tuple[int, int, int, int]:
    # In a size that is not square the photo is padded or stretched around its centre.
    left, top, right, bottom = (edge / SIDE for edge in SUBJECT)
    return round(left * size[0]), round(top * size[1]), round(right * size[0]), round(bottom * size[1])


def png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()
