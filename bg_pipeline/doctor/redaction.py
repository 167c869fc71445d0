"""Removes pictures, account numbers, links and names of the user's own from a document that is sent to strangers."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from PIL import Image, UnidentifiedImageError

PICTURE = "Picture"
"""The key under which `describe_picture` stands in a redacted document."""

_LONG = 200
"""Characters from which a text in base64 is replaced by its length."""

_PATTERNS = (
    (re.compile(r"https?://\S+\?\S+"), "<link>"),
    # ARNs of AWS's own models have no account number and are kept.
    (re.compile(r"\barn:aws[\w-]*:(?!bedrock:[\w-]*::)([\w-]+):[^\s,;\"')]+"), r"<ARN of \1>"),
    (re.compile(r"\bs3://[^\s,;\"')]+"), "<S3 address>"),
    (re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b"), "<access key>"),
    (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), "<e-mail address>"),
    (re.compile(r"(?<!\d)\d{12}(?!\d)"), "<account>"),
)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


def redact(value: Any, private: Mapping[str, str] | None = None) -> Any:
    """A copy of a JSON-like ``value`` without anything private.

    Picture files, as bytes or in base64, become ``{"Picture": …}`` with their format, size and length. ``private``
    maps further texts, such as the bucket's name, to what replaces them.
    """
    if isinstance(value, Mapping):
        return {str(key): redact(each, private) for key, each in value.items()}
    if isinstance(value, bytes | bytearray):
        return describe_picture(bytes(value)) or f"<{len(value):,} bytes>"
    if isinstance(value, str):
        return _redact_text(value, private or {})
    if isinstance(value, Sequence):
        return [redact(each, private) for each in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return _redact_text(str(value), private or {})


def _redact_text(text: str, private: Mapping[str, str]) -> Any:
    if len(text) > 40 and _BASE64.fullmatch(text):
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            data = b""
        if picture := describe_picture(data):
            return picture
        if len(text) >= _LONG:
            return f"<{len(text):,} characters>"
    for secret in sorted(filter(None, private), key=len, reverse=True):
        text = text.replace(secret, private[secret])
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def describe_picture(data: bytes) -> dict[str, Any] | None:
    """Format, size, mode and length of a picture file as ``{"Picture": …}``; None if it is not one."""
    try:
        with Image.open(BytesIO(data)) as image:
            return {
                PICTURE: {
                    "Format": (image.format or "").lower(),
                    "Width": image.width,
                    "Height": image.height,
                    "Mode": image.mode,
                    "Bytes": len(data),
                }
            }
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return None
