"""JPEG files, read with libjpeg-turbo through simplejpeg, which turns warnings into errors.

Pillow ignores libjpeg's warnings and libvips reports only some of them, so that files with garbage in the middle are
opened; simplejpeg rejects every damaged file of the tests. A photo of 12 megapixels takes the same time as with
Pillow (80 ms, libvips 99 ms) for the same pixels, and the wheel is 1 MB.
"""

import re
import struct
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from bg_pipeline.imaging.colour import Colour
from bg_pipeline.imaging.source import Size, Source, damaged, unsupported
from bg_pipeline.imaging.tiff_tags import Exif, read_exif

MAX_SCANS = 500
"""Cameras and editors write about ten scans; thousands of empty ones keep a decoder busy for minutes."""

_KINDS = {
    0xC3: "a lossless JPEG",
    0xC5: "a hierarchical JPEG",
    0xC6: "a hierarchical JPEG",
    0xC7: "a hierarchical JPEG",
    0xC9: "an arithmetic-coded JPEG",
    0xCA: "an arithmetic-coded JPEG",
    0xCB: "a lossless JPEG",
    0xCD: "a hierarchical JPEG",
    0xCE: "a hierarchical JPEG",
    0xCF: "a hierarchical JPEG",
    0xF7: "a JPEG-LS picture",
}
_MODES = {1: "L", 3: "RGB", 4: "CMYK"}
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}

# In coded data FF is followed by 0, FF or a restart marker.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")

_SEQUENTIAL = (0xC0, 0xC1)

# What encoders write between the last pixel and the end marker: padding bits, a last restart marker.
_PADDING = re.compile(rb"(?:\xff[\xd0-\xd7]|[\x00\xff])*\Z")

# Some encoders pad with zeros before the end marker; more zeros than this are missing data.
_MAX_PADDING = 16


@dataclass
class _Header:
    """The content of the segments before the pixels."""

    kind: int = 0
    precision: int = 8
    size: Size = (0, 0)
    components: tuple[int, ...] = ()
    first_scan: int = 0
    segments: list[tuple[int, bytes]] = field(default_factory=list)
    exif: bytes = b""
    icc: dict[int, bytes] = field(default_factory=dict)
    dpi: tuple[float, float] | None = None


def read(data: bytes) -> Source:
    """The JPEG's header, with its decoder; raises `ImageError` for types that are not supported."""
    header = _header(data)
    if header.kind in _KINDS:
        raise unsupported(_KINDS[header.kind])
    if header.precision != 8:
        raise unsupported(f"a JPEG with {header.precision} bits a channel")
    mode = _MODES.get(len(header.components))
    if mode is None:
        raise unsupported(f"a JPEG of {len(header.components)} channels")
    if not header.size[1]:
        raise unsupported("a JPEG that tells its height only at its end")
    exif = read_exif(header.exif) if header.exif else Exif()
    icc = b"".join(header.icc[number] for number in sorted(header.icc))
    return Source(
        format="jpeg",
        size=header.size,
        mode=mode,
        decode=lambda inner: _decoded(data, header, mode, inner),
        orientation=exif.orientation,
        has_exif=bool(header.exif),
        colour=Colour(icc=icc, adobe_rgb=exif.adobe_rgb),
        dpi=header.dpi or exif.dpi,
    )


def _header(data: bytes) -> _Header:
    header, place = _Header(), 2
    while True:
        # Fill bytes (FF) may precede a marker; other bytes are an error of the writer, which libjpeg reports.
        found = _MARKER.search(data, place)
        if found is None:
            raise damaged("it ends before its pixels")
        marker, place = data[found.end() - 1], found.end()
        if marker == 0xD9:
            raise damaged("it has no pixels")
        if marker in (0x01, 0xD8):
            continue
        length = int.from_bytes(data[place : place + 2])
        content = data[place + 2 : place + length]
        if length < 2 or place + length > len(data):
            raise damaged("it ends before its pixels")
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            _frame(header, marker, content)
        elif marker == 0xDA:
            if not header.kind:
                raise damaged("its pixels come before their description")
            header.first_scan = place
            return header
        else:
            _application(header, marker, content)
        header.segments.append((marker, content))
        place += length


def _frame(header: _Header, marker: int, content: bytes) -> None:
    try:
        precision, height, width, channels = struct.unpack_from(">BHHB", content)
        components = tuple(content[6 + 3 * number] for number in range(channels))
    except (struct.error, IndexError):
        raise damaged("its description is too short") from None
    header.kind, header.precision, header.size, header.components = (
        marker,
        precision,
        (width, height),
        components,
    )


def _application(header: _Header, marker: int, content: bytes) -> None:
    if marker == 0xE0 and content[:5] == b"JFIF\0" and len(content) >= 12:
        unit, across, down = struct.unpack_from(">BHH", content, 7)
        scale = {1: 1.0, 2: 2.54}.get(unit)
        header.dpi = (across * scale, down * scale) if scale else None
    elif marker == 0xE1 and content[:4] == b"Exif" and not header.exif:
        header.exif = content
    elif marker == 0xE2 and content[:12] == b"ICC_PROFILE\0" and len(content) > 14:
        header.icc.setdefault(content[12], content[14:])


def _decoded(data: bytes, header: _Header, mode: str, inner: Size) -> Image.Image:
    _check_scans(data, header)
    width, height = header.size
    # libjpeg decodes at a half, a quarter or an eighth of the size in less time.
    factor = next(
        f for f in (8, 4, 2, 1) if (-(-width // f) >= inner[0] and -(-height // f) >= inner[1]) or f == 1
    )
    smallest = (-(-width // factor), -(-height // factor))
    try:
        return _undamaged(data, header, mode, smallest)
    except ValueError:
        repaired = _repaired(data, header)
    try:
        return _undamaged(repaired, _header(repaired), mode, smallest)
    except ValueError as error:
        if "subsampling" in str(error):
            return _with_rare_subsampling(repaired)
        raise damaged(error) from None


def check(data: bytes) -> None:
    """Raises `ImageError` if the JPEG cannot be decoded without a warning; takes half the time of decoding it."""
    source = read(data)
    source.decode((1, 1))


def _undamaged(data: bytes, header: _Header, mode: str, smallest: Size) -> Image.Image:
    """The pixels; raises ValueError if libjpeg warns, or does not need all of the data."""
    image = _pixels(data, mode, smallest)
    if header.kind in _SEQUENTIAL and _one_scan(data, header):
        _check_last_byte(data, header)
    return image


def _check_last_byte(data: bytes, header: _Header) -> None:
    """Raises ValueError if the last pixels do not need the last byte.

    Damage may leave up to 8 bytes unused that libjpeg has already buffered and does not warn of. An undamaged file
    cannot be decoded without its last byte.
    """
    import simplejpeg

    end = data.find(b"\xff\xd9", header.first_scan)
    if end < 0:
        return  # libjpeg warns of that
    tail = data[max(header.first_scan, end - 64) : end]
    end -= len(tail) - len(_PADDING.sub(b"", tail)) + 1
    space = "CMYK" if len(header.components) == 4 else "GRAY"
    try:
        simplejpeg.decode_jpeg(data[:end] + b"\xff\xd9", space, min_width=1, min_height=1, min_factor=8)
    except ValueError:
        return
    raise ValueError("data are left over behind its last pixel")


def _pixels(data: bytes, mode: str, smallest: Size) -> Image.Image:
    import simplejpeg

    values = simplejpeg.decode_jpeg(
        data, _SPACES[mode], min_width=smallest[0], min_height=smallest[1], strict=True
    )
    if mode == "CMYK":
        # Four channels are stored as by Adobe, 255 = no ink.
        values = np.subtract(255, values, out=values)
    return Image.fromarray(values[..., 0] if mode == "L" else values, mode)


def _one_scan(data: bytes, header: _Header) -> bool:
    return data[header.first_scan + 2 : header.first_scan + 3] == bytes([len(header.components)])


def _repaired(data: bytes, header: _Header) -> bytes:
    """The JPEG without faults that libjpeg warns of although every pixel is present.

    These are a missing end marker, a few zeros before it, bytes between segments, and versions, profiles and spectral
    parameters that no decoder needs.
    """
    parts = [b"\xff\xd8"]
    for marker, content in header.segments:
        if marker == 0xE0 and content[:5] == b"JFIF\0":
            content = content[:5] + b"\1\1" + content[7:]
        elif (
            marker == 0xEE and content[:5] == b"Adobe" and content[11:12] <= b"\2"
        ) or not 0xE0 <= marker <= 0xFE:
            pass
        else:
            continue
        parts.append(bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2) + content)
    start = header.first_scan
    head_end = start + int.from_bytes(data[start : start + 2])
    scan = data[start:head_end]
    if header.kind in _SEQUENTIAL:
        scan = scan[:-3] + b"\0\x3f\0"
    end = data.find(b"\xff\xd9", head_end)
    coded = data[head_end : end if end >= 0 else len(data)]
    kept = coded.rstrip(b"\0")
    coded = kept if len(coded) - len(kept) <= _MAX_PADDING else coded
    return b"".join((*parts, b"\xff\xda", scan, coded, b"\xff\xd9"))


def _with_rare_subsampling(data: bytes) -> Image.Image:
    """The pixels of a JPEG whose chroma subsampling TurboJPEG does not know, decoded by libvips."""
    from bg_pipeline.imaging import vips

    return vips.image(vips.opened("jpegload", data))


def _check_scans(data: bytes, header: _Header) -> None:
    """Raises `ImageError` for missing scans, which libjpeg does not warn of, and for far too many."""
    if header.kind in _SEQUENTIAL and _one_scan(data, header):
        return
    place, scans, ended = header.first_scan, 0, False
    exact: dict[int, int] = {}
    while True:
        length = int.from_bytes(data[place : place + 2])
        count = data[place + 2] if place + 2 < len(data) else 0
        chosen, tail = (
            data[place + 3 : place + 3 + 2 * count : 2],
            data[place + 3 + 2 * count : place + length],
        )
        if len(tail) == 3:
            for component in chosen:
                exact[component] = exact.get(component, 0) | _exact(*tail)
        scans += 1
        if scans > MAX_SCANS:
            raise damaged(f"it has more than {MAX_SCANS} scans, which no camera writes")
        place += length
        while found := _MARKER.search(data, place):
            marker, place = data[found.end() - 1], found.end()
            if marker in (0xDA, 0xD9):
                break
            place += int.from_bytes(data[place : place + 2]) if marker not in (0x01, 0xD8) else 0
        else:
            break
        ended = marker == 0xD9
        if ended:
            break
    progressive = header.kind == 0xC2
    # A file with an end marker may leave out the finest detail; a file without one was cut.
    wanted = _ALL if progressive and not ended else _LIGHT
    if any(exact.get(component, 0) & wanted != wanted for component in header.components):
        raise damaged("a part of its scans is missing")


_LIGHT, _ALL = 1, 2**64 - 1


def _exact(first: int, last: int, approximation: int) -> int:
    """The coefficients of a block that are known after a scan, as bits: the mean at once, others when exact."""
    if approximation & 15 and first:
        return 0
    return sum(1 << number for number in range(first, min(last, 63) + 1))
