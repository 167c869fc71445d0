"""What picture formats can hold: the one place that both a request's check and the encoder take it from."""

from collections.abc import Mapping
from typing import Final

MAX_PIXELS: Final = 100_000_000
"""The largest picture that is read or made; with its copies it is what a worker's memory holds."""

LONGEST_SIDE: Final[Mapping[str, int]] = {"jpeg": 65_500, "webp": 16_383, "avif": 65_535}
"""The longest side in pixels by format, of those that have such a limit (JPEG's is libjpeg's own)."""


def size_problem(width: int, height: int, format: str | None) -> str | None:
    """Why no file of this size can be made, in a sentence, or None; ``format`` is None where it is not known yet."""
    if width * height > MAX_PIXELS:
        return (
            f"{width:,} x {height:,} pixels are larger than can be made, which is {MAX_PIXELS:,} pixels in all; "
            "ask for less"
        )
    longest = LONGEST_SIDE.get(format or "")
    if longest and max(width, height) > longest:
        return f"{format} holds {longest:,} pixels a side and the picture has {max(width, height):,}"
    return None


def least_bytes(width: int, height: int, format: str | None) -> int:
    """A number of bytes that no picture of this size can be pressed below, whatever it shows.

    It is what a picture of one colour takes at the lowest quality, a little less to be sure; without a ``format``
    that of the format that presses most.
    """
    if format is None:
        return min(least_bytes(width, height, each) for each in _LEAST)
    overhead, pixels_a_byte = _LEAST[format]
    if format == "jpeg":
        # Each block of 8 x 8 pixels takes at least two codes, whole bytes or not: 3 bytes for 16 x 16.
        return overhead + 3 * (-(-width // 16)) * (-(-height // 16))
    if format == "bmp":
        return overhead + height * (-(-width * 3 // 4) * 4)
    return overhead + int(width * height / pixels_a_byte)


# Bytes of an empty file with its colour profile, and pixels that a byte can hold at most.
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
"""File name extensions by picture format, the one that is written first."""
