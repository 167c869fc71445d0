"""Pictures as they travel in a model's JSON: whole files in base64."""

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
    """The picture file in an answer of ``model``.

    Raises `OutcomeUnknown` when it is none: the picture asked for is not to blame, and the call may be billed.
    """
    if isinstance(text, str):
        try:
            data = pybase64.b64decode(text, validate=True)
        except ValueError:
            data = b""
        if data.startswith(_SIGNATURES):
            return data
    raise OutcomeUnknown("BadAnswer", f"{model} answered with something that is not a picture")


def rgb_mask(mask: bytes) -> bytes:
    """The mask PNG with three channels and no alpha, which is the only kind that the Titan family takes."""
    if mask[_PNG_COLOUR_TYPE] == _PNG_RGB:
        return mask
    with Image.open(BytesIO(mask)) as picture:
        out = BytesIO()
        picture.convert("L").convert("RGB").save(out, "PNG", compress_level=1)
    return out.getvalue()
