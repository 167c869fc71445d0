"""BMP files, decoded by Pillow; pixels with masks of their own, which Pillow knows few of, are decoded here."""

import struct
from collections.abc import Callable
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from bg_pipeline.imaging.colour import Colour
from bg_pipeline.imaging.source import UNREADABLE, Size, Source, damaged, loaded, unsupported

_MASKS, _ALPHA_MASKS = 3, 6
_RARE = {4: "a JPEG inside a BMP", 5: "a PNG inside a BMP"}
_INK = (11, 12, 13)
_DEPTHS = (1, 4, 8, 16, 24, 32)

# Offsets from the beginning of the file.
_INFO, _MASK_PLACE, _KIND_OF_COLOUR, _PROFILE = 14, 54, 70, 126
_EMBEDDED = b"DEBM"

# Pixels that are converted at a time.
_STRIPE = 2_000_000


def read(data: bytes) -> Source:
    """The header of a BMP and a way to its pixels; raises `ImageError` if it is damaged or of a rare kind."""
    header = _long_header(data)
    if header:
        width, height, bits, compression = header
        if compression in _RARE:
            raise unsupported(_RARE[compression])
        if compression in _INK:
            raise unsupported("a BMP in CMYK")
        if bits not in _DEPTHS:
            raise unsupported(f"a BMP with {bits} bits a pixel")
        if compression in (_MASKS, _ALPHA_MASKS) and bits in (16, 32):
            return _masked(data, (width, height), bits, compression)
    try:
        image = Image.open(BytesIO(data), formats=("BMP",))
    except UNREADABLE as error:
        raise damaged(error) from None
    return _source(data, image.size, image.mode, lambda: loaded(image), clear=image.has_transparency_data)


def _source(data: bytes, size: Size, mode: str, decode: Callable[[], Image.Image], *, clear: bool) -> Source:
    icc, notes = _profile(data)
    return Source(
        format="bmp",
        size=size,
        mode=mode,
        decode=lambda _: _opaque_if_empty(decode()),
        has_alpha=clear,
        colour=Colour(icc=icc),
        dpi=_dpi(data),
        notes=notes,
    )


def _long_header(data: bytes) -> tuple[int, int, int, int] | None:
    """Width, height (negative from the top down), bits a pixel and compression; None for OS/2's short header."""
    try:
        size, width, height, _, bits, compression = struct.unpack_from("<L2l2HL", data, _INFO)
    except struct.error:
        raise damaged("its header is cut short") from None
    return (width, height, bits, compression) if size >= 40 else None


def _dpi(data: bytes) -> tuple[float, float] | None:
    if _long_header(data) is None or len(data) < _INFO + 32:
        return None
    across, down = struct.unpack_from("<2l", data, _INFO + 24)
    return (across * 0.0254, down * 0.0254) if across > 0 and down > 0 else None


def _profile(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The embedded colour profile of a header of version 5, and a note if it is missing."""
    if len(data) < 138 or int.from_bytes(data[14:18], "little") < 124:
        return b"", ()
    if data[_KIND_OF_COLOUR : _KIND_OF_COLOUR + 4] != _EMBEDDED:
        return b"", ()
    place, size = struct.unpack_from("<2L", data, _PROFILE)
    found = data[_INFO + place : _INFO + place + size]
    if len(found) < size or size < 128:
        return b"", ("the embedded colour profile is damaged and was ignored",)
    return found, ()


def _masked(data: bytes, stored: Size, bits: int, compression: int) -> Source:
    """A BMP whose channels are told by masks; alpha too in headers of version 3 and later."""
    if len(data) < _MASK_PLACE + 16:
        raise damaged("its header is cut short")
    info = int.from_bytes(data[_INFO : _INFO + 4], "little")
    masks = list(struct.unpack_from("<4L", data, _MASK_PLACE))
    if info < 56 and compression == _MASKS:
        masks[3] = 0
    channels = masks if masks[3] else masks[:3]
    for number, mask in enumerate(channels):
        straight = mask >> _shift(mask)
        others = sum(other for place, other in enumerate(channels) if place != number)
        if mask >> bits or mask & others or straight & (straight + 1):
            raise damaged("its channels make no sense")
    width, height = stored[0], abs(stored[1])
    place = int.from_bytes(data[10:14], "little")
    line = -(-width * bits // 32) * 4

    def decode() -> Image.Image:
        if place + line * height - (line - width * bits // 8) > len(data):
            raise damaged("a part of its pixels is missing")
        return _unmasked(data, place, (width, height), line, bits, channels, upside_down=stored[1] > 0)

    mode = "RGBA" if masks[3] else "RGB"
    return _source(data, (max(0, width), height), mode, decode, clear=masks[3] > 0)


def _shift(mask: int) -> int:
    return (mask & -mask).bit_length() - 1 if mask else 0


def _unmasked(
    data: bytes, place: int, size: Size, line: int, bits: int, masks: list[int], *, upside_down: bool
) -> Image.Image:
    width, height = size
    made = np.empty((height, width, len(masks)), np.uint8)
    rows = max(1, _STRIPE // max(1, width))
    for start in range(0, height, rows):
        count = min(rows, height - start)
        first = height - start - count if upside_down else start
        content = data[place + first * line : place + (first + count) * line].ljust(count * line, b"\0")
        part: npt.NDArray[np.uint32] = (
            np.frombuffer(content, f"<u{bits // 8}").reshape(count, -1)[:, :width].astype(np.uint32)
        )
        part = part[::-1] if upside_down else part
        for number, mask in enumerate(masks):
            top = mask >> _shift(mask)
            levels = (part & np.uint32(mask)) >> np.uint32(_shift(mask))
            made[start : start + count, :, number] = np.rint(levels * (255 / top)) if top else np.uint8(0)
    return Image.fromarray(made)


def _opaque_if_empty(image: Image.Image) -> Image.Image:
    """The image without its alpha channel if that is all zeros: programs leave the fourth byte unused."""
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")
    return image
