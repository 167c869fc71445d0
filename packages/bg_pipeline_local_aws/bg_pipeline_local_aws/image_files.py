"""Pictures as bytes: what their header says, base64 as the services want it, and the canned ones."""

import hashlib
import io
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import pybase64
from PIL import Image, UnidentifiedImageError

from bg_pipeline_local_aws.wire import unfit

# Sizes are checked from the header, by each service's own limits, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None

_TRANSLUCENT = ("RGBA", "LA", "PA", "RGBa", "La")


@dataclass(frozen=True, slots=True)
class Header:
    """What an image file says of itself: Pillow's format name in lower case, its size as stored, its mode."""

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
        """The longer side over the shorter one."""
        return max(self.width, self.height) / max(1, min(self.width, self.height))


def header(data: bytes) -> Header | None:
    """The header of an image file without decoding it, or None when it is none."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            transparency = image.mode in _TRANSLUCENT or "transparency" in image.info
            return Header((image.format or "").lower(), *image.size, image.mode, transparency)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return None


def from_base64(text: str, where: str) -> bytes:
    """The bytes of a base64 field; Bedrock takes neither data URIs nor line breaks in it."""
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError as error:
        raise unfit(f"#/{where}: not a base64 string") from error


def sha256(data: bytes) -> str:
    """The name of a picture in the books: the SHA-256 of its bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def to_base64(data: bytes) -> str:
    """The base64 of an answer."""
    return pybase64.b64encode(data).decode("ascii")


@lru_cache(maxsize=128)
def canned(kind: Literal["picture", "cut-out", "mask"], width: int, height: int, least_bytes: int = 0) -> str:
    """The base64 of a PNG made once for each size: a picture, one with an ellipse as alpha, or a black ellipse."""
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
    return to_base64(_padded(file.getvalue(), least_bytes))


def _padded(png: bytes, least_bytes: int) -> bytes:
    """The PNG with a private, ignorable chunk before its end that makes it as heavy as a real answer."""
    missing = least_bytes - len(png) - 12
    return with_chunk(png, b"paDd", bytes(missing)) if missing > 0 else png


def with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    """The PNG with one more chunk before its end; ``kind`` is four letters."""
    check = zlib.crc32(kind + data).to_bytes(4)
    return b"".join((png[:-12], len(data).to_bytes(4), kind, data, check, png[-12:]))
