"""Test pictures for the stand-in, and a helper that reads its error responses."""

import base64
import io
from collections.abc import Callable

import pytest
from botocore.exceptions import ClientError
from PIL import Image, ImageDraw

BALL = (120, 130, 270, 290)


def ball(size: tuple[int, int] = (384, 576), media: str = "PNG", mode: str = "RGB") -> bytes:
    """A red ball on a grey background; ``media`` is Pillow's format name."""
    image = Image.new("RGB", size, "#c8c8d0")
    ImageDraw.Draw(image).ellipse(BALL, fill="#a01818")
    return packed(image.convert(mode), media)


def ball_mask(
    size: tuple[int, int] = (384, 576), mode: str = "RGB", subject: str = "black", rest: str = "white"
) -> bytes:
    """A mask PNG of the ball."""
    image = Image.new("RGB", size, rest)
    ImageDraw.Draw(image).ellipse(BALL, fill=subject)
    return packed(image.convert(mode))


def packed(image: Image.Image, media: str = "PNG") -> bytes:
    """The encoded picture."""
    file = io.BytesIO()
    image.save(file, media)
    return file.getvalue()


def opened(text: str) -> Image.Image:
    """The picture of a base64 field."""
    return Image.open(io.BytesIO(base64.b64decode(text)))


def b64(data: bytes) -> str:
    """The bytes as base64 text."""
    return base64.b64encode(data).decode()


def refusal(call: Callable[[], object]) -> tuple[str, str, int]:
    """Code, message and HTTP status of the ClientError that the call must raise."""
    with pytest.raises(ClientError) as caught:
        call()
    error = caught.value.response
    return error["Error"]["Code"], error["Error"]["Message"], error["ResponseMetadata"]["HTTPStatusCode"]
