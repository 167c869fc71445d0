"""Encoded pictures: headers, base64 fields, PNG chunks, and canned pictures for tests without image work."""

import hashlib
import io
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import pybase64
from PIL import Image, UnidentifiedImageError

from bg_pipeline_local_aws.protocol import malformed_request

# Each service checks its own size limits against the header before decoding.
Image.MAX_IMAGE_PIXELS = None

_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Header of an image file: Pillow's format name in lower case, size as stored (EXIF ignored), Pillow's mode."""

    format: str
    width: int
    height: int
    mode: str
    transparency: bool

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height

    @property
    def aspect(self) -> float:
        """Longer side divided by the shorter side."""
        return max(self.width, self.height) / max(1, min(self.width, self.height))


def read_header(data: bytes) -> ImageHeader | None:
    """The header of an image file, read without decoding it; None if the data is not an image."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            transparency = image.mode in _ALPHA_MODES or "transparency" in image.info
            return ImageHeader((image.format or "").lower(), *image.size, image.mode, transparency)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return None


def decode_base64(text: str, where: str) -> bytes:
    """The bytes of base64 field ``where``; ValidationException for data URIs and line breaks, as in Bedrock."""
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError as error:
        raise malformed_request(f"#/{where}: not a base64 string") from error


def sha256(data: bytes) -> str:
    """The SHA-256 of a picture's bytes in hex, by which the call log identifies it."""
    return hashlib.sha256(data).hexdigest()


def encode_base64(data: bytes) -> str:
    """The bytes as base64 text."""
    return pybase64.b64encode(data).decode("ascii")


@lru_cache(maxsize=128)
def canned_image(
    kind: Literal["picture", "cut-out", "mask"], width: int, height: int, min_bytes: int = 0
) -> str:
    """The base64 of a cached PNG: a picture, the same with an ellipse as alpha, or a black ellipse on white.

    ``min_bytes`` is the minimum file size.
    """
    ellipse = Image.radial_gradient("L").resize((width, height)).point(lambda value: 255 * (value < 110))
    if kind == "mask":
        image = ellipse.point(lambda value: 255 - value).convert("RGB")
    else:
        slope = Image.linear_gradient("L").resize((width, height))
        image = Image.merge(
            "RGB", (slope, Image.radial_gradient("L").resize((width, height)), slope.rotate(180))
        )
        if kind == "cut-out":
            image.putalpha(ellipse)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return encode_base64(_pad_to_size(file.getvalue(), min_bytes))


def _pad_to_size(png: bytes, min_bytes: int) -> bytes:
    """The PNG padded to ``min_bytes`` with a private ancillary chunk before its end."""
    missing = min_bytes - len(png) - 12
    return add_png_chunk(png, b"paDd", bytes(missing)) if missing > 0 else png


def add_png_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    """The PNG with one more chunk before its end; ``kind`` is the chunk type of four letters."""
    check = zlib.crc32(kind + data).to_bytes(4)
    return b"".join((png[:-12], len(data).to_bytes(4), kind, data, check, png[-12:]))
