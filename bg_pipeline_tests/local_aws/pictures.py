"""Pictures for the tests of the stand-in, and how its refusals are read."""

import base64
import io
from collections.abc import Callable

import pytest
from botocore.exceptions import ClientError
from PIL import Image, ImageDraw

BALL = (120, 130, 270, 290)


def ball(size: tuple[int, int] = (384, 576), media: str = "PNG", mode: str = "RGB") -> bytes:
    """A red ball before a grey wall."""
    image = Image.new("RGB", size, "#c8c8d0")
    ImageDraw.Draw(image).ellipse(BALL, fill="#a01818")
    return packed(image.convert(mode), media)


def ball_mask(
    size: tuple[int, int] = (384, 576), mode: str = "RGB", subject: str = "black", rest: str = "white"
) -> bytes:
    """A mask of the ball, as PNG."""
    image = Image.new("RGB", size, rest)
    ImageDraw.Draw(image).ellipse(BALL, fill=subject)
    return packed(image.convert(mode))


def packed(image: Image.Image, media: str = "PNG") -> bytes:
    """The bytes of a picture."""
    file = io.BytesIO()
    image.save(file, media)
    return file.getvalue()


def opened(text: str) -> Image.Image:
    """The picture in a base64 answer."""
    return Image.open(io.BytesIO(base64.b64decode(text)))


def b64(data: bytes) -> str:
    """Base64 as a request holds it."""
    return base64.b64encode(data).decode()


def refusal(call: Callable[[], object]) -> tuple[str, str, int]:
    """Code, message and HTTP status of the refusal that a call ends in."""
    with pytest.raises(ClientError) as caught:
        call()
    error = caught.value.response
    return error["Error"]["Code"], error["Error"]["Message"], error["ResponseMetadata"]["HTTPStatusCode"]
