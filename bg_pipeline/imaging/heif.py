"""HEIC files, decoded by libheif, and AVIF files, by libvips, with their boxes (ISO/IEC 14496-12, 23008-12)."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bg_pipeline.imaging import vips
from bg_pipeline.imaging.colour import Colour, Deep, transfer_known
from bg_pipeline.imaging.source import UNREADABLE, Pixels, Source, damaged, loaded, unsupported

_MAX_BOXES = 20_000

# Transfer functions of video, which browsers treat as sRGB's (13) in pictures.
_VIDEO_AS_SRGB = {1: 13, 6: 13, 14: 13, 15: 13}

# These bytes do not occur in a unit of HEVC, where they are escaped with a 3, but in data overwritten with zeros.
_NOT_HEVC = re.compile(rb"\0\0[\0-\2]")


@dataclass
class Boxes:
    """The content of the meta box. ``properties`` are (type, content) in file order; ``items`` maps item to type."""

    primary: int = 0
    items: dict[int, bytes] = field(default_factory=dict)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    belongs: dict[int, list[int]] = field(default_factory=dict)
    places: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    sequence: bool = False

    def of_primary(self, kind: bytes) -> list[bytes]:
        """The contents of the primary picture's properties of one type."""
        numbers = self.belongs.get(self.primary, [])
        found = (self.properties[number - 1] for number in numbers if 0 < number <= len(self.properties))
        return [content for name, content in found if name == kind]

    def any_of(self, kind: bytes) -> bool:
        """Whether any picture has a property of one type."""
        return any(name == kind for name, _ in self.properties)

    @property
    def depth(self) -> int:
        """The bits of the deepest channel."""
        return max((max(content[5:], default=8) for content in self.of_primary(b"pixi")), default=8)

    @property
    def cicp(self) -> tuple[int, int] | None:
        """The primaries and the transfer (ITU-T H.273), if the file has them and they are supported."""
        for content in self.of_primary(b"colr"):
            if content[:4] == b"nclx" and len(content) >= 10:
                primaries, transfer = struct.unpack_from(">2H", content, 4)
                transfer = _VIDEO_AS_SRGB.get(transfer, transfer)
                primaries, transfer = (
                    (1 if primaries == 2 else primaries),
                    (13 if transfer == 2 else transfer),
                )
                return (primaries, transfer) if transfer_known(primaries, transfer) else None
        return None

    @property
    def icc(self) -> bytes:
        found = (content[4:] for content in self.of_primary(b"colr") if content[:4] in (b"prof", b"rICC"))
        return next(found, b"")


def read(data: bytes) -> Source:
    """The header of a HEIC or AVIF, with its decoder; raises `ImageError` for types that are not supported."""
    boxes = read_boxes(data)
    return _avif(data, boxes) if boxes.any_of(b"av1C") and not boxes.any_of(b"hvcC") else _heic(data, boxes)


def _avif(data: bytes, boxes: Boxes) -> Source:
    # libaom in libvips fails on damage that the decoder in Pillow hides.
    image = vips.opened("heifload", data, unlimited=False)
    deep = image.format == "ushort"
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[image.bands]

    def decode(_: tuple[int, int]) -> Pixels:
        opened = vips.opened("heifload", data, unlimited=False)
        if not deep:
            return vips.image(opened)
        return Deep(_all_bits(vips.array(opened), boxes.depth), opened.bands in (2, 4), bits=boxes.depth)

    frames = _frames_avif(data) if boxes.sequence else 1
    return Source(
        format="avif",
        size=(image.width, image.height),
        mode=mode,
        decode=decode,
        frames=frames,
        has_alpha=image.bands in (2, 4),
        has_exif=b"Exif" in boxes.items.values(),
        colour=Colour(icc=boxes.icc) if boxes.icc else Colour(cicp=boxes.cicp),
    )


def _all_bits(values: Any, depth: int) -> Any:
    """Values of 10 or 12 bits scaled to 16 bits, if the library has not done so."""
    if values.max(initial=0) < 1 << depth <= 1 << 15:
        return (values.astype(np.uint32) * 65535 // ((1 << depth) - 1)).astype(np.uint16)
    return values


def _frames_avif(data: bytes) -> int:
    """The frames of an image sequence: the samples of its first track."""
    place = data.find(b"stsz")
    return max(1, int.from_bytes(data[place + 12 : place + 16])) if place > 0 else 1


def _heic(data: bytes, boxes: Boxes) -> Source:
    import pillow_heif

    try:
        file = pillow_heif.open_heif(data, convert_hdr_to_8bit=False)
        picture = file[file.primary_index]
    except UNREADABLE as error:
        if "nsupported" in str(error):
            raise unsupported("a HEIF picture whose coding is not known") from None
        raise damaged(error) from None
    info: dict[str, Any] = picture.info
    deep = ";16" in picture.mode
    alpha = picture.mode.startswith(("RGBA", "LA", "RGBa"))

    def decode(_: tuple[int, int]) -> Pixels:
        _check_hevc(data, boxes)
        try:
            if not deep:
                return loaded(picture.to_pillow())
            values = np.asarray(picture)
        except UNREADABLE as error:
            raise damaged(error) from None
        return Deep(
            values if values.ndim == 3 else values[..., None], alpha, bits=info.get("bit_depth", boxes.depth)
        )

    icc = info.get("icc_profile") or boxes.icc
    return Source(
        format="heif",
        size=picture.size,
        mode=picture.mode.split(";")[0],
        decode=decode,
        frames=len(file),
        has_alpha=alpha,
        has_exif=bool(info.get("exif")),
        colour=Colour(icc=icc) if icc else Colour(cicp=boxes.cicp),
    )


def _check_hevc(data: bytes, boxes: Boxes) -> None:
    """Raises `ImageError` for data that cannot be HEVC: the decoder hides damage and reports nothing."""
    for item, kind in boxes.items.items():
        if kind != b"hvc1":
            continue
        places = boxes.places.get(item, [])
        if any(start + length > len(data) for start, length in places):
            raise damaged("a part of its data is missing")
        coded = b"".join(data[start : start + length] for start, length in places)
        place = 0
        while place + 4 < len(coded):
            end = place + 4 + int.from_bytes(coded[place : place + 4])
            if end > len(coded) or _NOT_HEVC.search(coded, place + 4, end):
                raise damaged("a part of its data is overwritten")
            place = end


def read_boxes(data: bytes) -> Boxes:
    """The boxes that describe the picture, as far as they can be read."""
    boxes = Boxes()
    try:
        for kind, content in _walk(data, 0, len(data)):
            if kind == b"moov":
                boxes.sequence = True
            elif kind == b"meta":
                _read_meta(data, *content, boxes)
    except (struct.error, IndexError):
        pass  # the decoder reports what is missing
    return boxes


def _walk(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """The boxes from ``start`` to ``end``: type, and start and end of the content."""
    for _ in range(_MAX_BOXES):
        if start + 8 > end:
            return
        size, kind = struct.unpack_from(">L4s", data, start)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", data, start + 8), 16
        elif size == 0:
            size = end - start
        if size < head:
            return
        yield kind, (start + head, min(end, start + size))
        start += size


def _read_meta(data: bytes, start: int, end: int, boxes: Boxes) -> None:
    for kind, (first, last) in _walk(data, start + 4, end):
        content = data[first:last]
        if kind == b"pitm":
            boxes.primary = int.from_bytes(content[4:6] if content[0] == 0 else content[4:8])
        elif kind == b"iinf":
            count = 6 if content[0] == 0 else 8
            for name, (begin, stop) in _walk(data, first + count, last):
                if name == b"infe" and stop - begin >= 12:
                    wide = data[begin] >= 3
                    item = int.from_bytes(data[begin + 4 : begin + (8 if wide else 6)])
                    kind_at = begin + (10 if wide else 8)
                    boxes.items[item] = data[kind_at : kind_at + 4]
        elif kind == b"iloc":
            _read_places(content, boxes)
        elif kind == b"iprp":
            for name, (begin, stop) in _walk(data, first, last):
                if name == b"ipco":
                    boxes.properties = [(what, data[a:b]) for what, (a, b) in _walk(data, begin, stop)]
                elif name == b"ipma":
                    _read_associations(data[begin:stop], boxes)


def _read_associations(content: bytes, boxes: Boxes) -> None:
    version, flags = content[0], content[3]
    (count,) = struct.unpack_from(">L", content, 4)
    place = 8
    for _ in range(min(count, _MAX_BOXES)):
        wide = 4 if version >= 1 else 2
        item, number = int.from_bytes(content[place : place + wide]), content[place + wide]
        place += wide + 1
        size = 2 if flags & 1 else 1
        for _ in range(number):
            value = int.from_bytes(content[place : place + size])
            boxes.belongs.setdefault(item, []).append(value & (0x7FFF if size == 2 else 0x7F))
            place += size


def _read_places(content: bytes, boxes: Boxes) -> None:
    """Reads the offsets of items in the file (construction method 0 only)."""
    version = content[0]
    offset_size, length_size = content[4] >> 4, content[4] & 15
    base_size, index_size = content[5] >> 4, content[5] & 15 if version in (1, 2) else 0
    wide = 4 if version == 2 else 2
    count, place = int.from_bytes(content[6 : 6 + wide]), 6 + wide

    def number(size: int) -> int:
        nonlocal place
        place += size
        return int.from_bytes(content[place - size : place])

    for _ in range(min(count, _MAX_BOXES)):
        item = number(wide)
        method = number(2) & 15 if version in (1, 2) else 0
        number(2)
        base, places = number(base_size), []
        for _ in range(number(2)):
            number(index_size)
            start = base + number(offset_size)
            places.append((start, number(length_size)))
        if method == 0 and place <= len(content):
            boxes.places[item] = places
