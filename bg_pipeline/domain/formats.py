"""Limits of picture formats, used both to check requests and to encode files."""

from collections.abc import Mapping
from typing import Final

MAX_PIXELS: Final = 100_000_000
"""Pixels of the largest picture that is read or made; with its copies it fits into a worker's memory."""

LONGEST_SIDE: Final[Mapping[str, int]] = {"jpeg": 65_500, "webp": 16_383, "avif": 65_535}
"""Longest side in pixels of the formats with such a limit (that of JPEG is libjpeg's)."""


def size_problem(width: int, height: int, format: str | None) -> str | None:
    """A sentence that explains why no file of this size can be made, or None; ``format`` is None if not known yet."""
    if width * height > MAX_PIXELS:
        return (
            f"{width:,} x {height:,} pixels are larger than can be made, which is {MAX_PIXELS:,} pixels in all; "
            "ask for a smaller size"
        )
    longest = LONGEST_SIDE.get(format or "")
    if longest and max(width, height) > longest:
        return f"{format} allows {longest:,} pixels per side and the picture has {max(width, height):,}"
    return None


def least_bytes(width: int, height: int, format: str | None) -> int:
    """A lower bound for the bytes of any picture of this size.

    It is slightly less than the size of a picture of one colour at the lowest quality. Without a ``format`` it is
    that of the format with the strongest compression.
    """
    if format is None:
        return min(least_bytes(width, height, each) for each in _LEAST)
    overhead, pixels_per_byte = _LEAST[format]
    if format == "jpeg":
        # Each block of 8 x 8 pixels takes at least two codes, which need not be whole bytes: 3 bytes for 16 x 16.
        return overhead + 3 * (-(-width // 16)) * (-(-height // 16))
    if format == "bmp":
        return overhead + height * (-(-width * 3 // 4) * 4)
    return overhead + int(width * height / pixels_per_byte)


# Bytes of an empty file with its colour profile, and the maximum number of pixels per byte.
_LEAST: Final[Mapping[str, tuple[int, float]]] = {
    "jpeg": (1_100, 0),
    "png": (400, 1032 / 3),  # deflate's best ratio is 1032 : 1
    "webp": (600, 2_000),
    "avif": (800, 10_000),
    "tiff": (600, 200),
    "bmp": (54, 0),
}


EXTENSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "jpeg": ("jpg", "jpeg", "jpe", "jfif"),
    "png": ("png",),
    "webp": ("webp",),
    "tiff": ("tif", "tiff"),
    "bmp": ("bmp",),
    "gif": ("gif",),
    "heif": ("heic", "heif"),
    "avif": ("avif",),
}
"""File name extensions by picture format; the first one is used for new files."""
