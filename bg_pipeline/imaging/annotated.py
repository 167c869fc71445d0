"""Draws the boxes of labels on a small picture."""

import math
from collections.abc import Sequence
from io import BytesIO
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from bg_pipeline.imaging.thumbnail import MAX_BYTES

Box = tuple[float, float, float, float]
"""Left, top, width and height, each as a share (0 to 1) of the picture's width or height."""

LONGEST_NAME: Final = 24
_COLOURS: Final = ("#e11d48", "#2563eb", "#16a34a", "#d97706", "#7c3aed", "#0891b2")
_FONT_SIZE: Final = 12


def with_boxes(jpeg: bytes, boxes: Sequence[tuple[str, Box]]) -> bytes:
    """A JPEG with the named boxes drawn on it; boxes that are not finite or have no area are left out.

    ``jpeg`` is a small picture that this program made. Equal names have equal colours. Names are cut.
    """
    with Image.open(BytesIO(jpeg)) as opened:
        picture = opened.convert("RGB")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(_FONT_SIZE)
    colours = {name: _COLOURS[n % len(_COLOURS)] for n, name in enumerate(dict.fromkeys(n for n, _ in boxes))}
    for name, box in boxes:
        corners = _pixels(box, picture.size)
        if corners is None:
            continue
        left, top, right, bottom = corners
        draw.rectangle((left, top, right, bottom), outline=colours[name], width=2)
        text = name[:LONGEST_NAME]
        width, height = draw.textbbox((0, 0), text, font=font)[2:]
        draw.rectangle((left, top, left + width + 4, top + height + 3), fill=colours[name])
        draw.text((left + 2, top), text, fill="white", font=font)
    out = BytesIO()
    for quality in (75, 50, 30):
        out = BytesIO()
        picture.save(out, "JPEG", quality=quality)
        if out.tell() <= 2 * MAX_BYTES:
            break
    return out.getvalue()


def _pixels(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    if not all(map(math.isfinite, box)):
        return None
    (left, top, width, height), (across, down) = box, size
    corners = (left * across, top * down, (left + width) * across, (top + height) * down)
    limits = (across - 1, down - 1, across - 1, down - 1)
    inside = tuple(round(min(max(value, 0), limit)) for value, limit in zip(corners, limits, strict=True))
    return None if inside[2] <= inside[0] or inside[3] <= inside[1] else (*inside[:2], *inside[2:])  # type: ignore[return-value]
