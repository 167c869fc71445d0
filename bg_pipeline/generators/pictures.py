"""Conversion of pictures to and from base64 in the JSON of models."""

from io import BytesIO
from typing import Any

import pybase64
from PIL import Image

from bg_pipeline.errors import OutcomeUnknown

_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")
_PNG_COLOUR_TYPE = 25
_PNG_RGB = 2


def to_base64_png(data: bytes) -> str:
    """The file in base64, without a data-URI prefix."""
    return pybase64.b64encode_as_string(data)


def from_base64(text: Any, model: str) -> bytes:
    """Decodes a picture file in a response of ``model``.

    Raises `OutcomeUnknown` if it is not a PNG, JPEG or WebP: the request is not at fault, and the call may be billed.
    """
    if isinstance(text, str):
        try:
            data = pybase64.b64decode(text, validate=True)
        except ValueError:
            data = b""
        if data.startswith(_SIGNATURES):
            return data
    raise OutcomeUnknown("BadAnswer", f"{model} answered with data that is not a picture")


def rgb_mask(mask: bytes) -> bytes:
    """The mask as an RGB PNG without alpha, the only kind that Titan and Nova Canvas accept."""
    if mask[_PNG_COLOUR_TYPE] == _PNG_RGB:
        return mask
    with Image.open(BytesIO(mask)) as picture:
        out = BytesIO()
        picture.convert("L").convert("RGB").save(out, "PNG", compress_level=1)
    return out.getvalue()
