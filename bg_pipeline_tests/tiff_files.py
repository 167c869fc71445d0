"""Writes TIFF files of kinds that Pillow cannot write: planes, tiles, floats, nested pages, both byte orders."""

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Tag = tuple[int, int, Sequence[int]]
SHORT, LONG, BYTE = 3, 4, 1


@dataclass(frozen=True, eq=False)
class Page:
    """One picture: ``values`` (height, width, channels) are stored unchanged.

    ``photometric`` is their PhotometricInterpretation (0 white is zero, 1 grey, 2 RGB, 5 CMYK). ``tags`` are further
    (tag, type, values), which replace earlier ones with the same number; ``below`` are pages in SubIFDs.
    """

    values: np.ndarray[Any, Any]
    photometric: int
    planar: bool = False
    tile: int = 0
    packed: bool = False
    extra: Sequence[int] = ()
    tags: Sequence[Tag] = ()
    below: Sequence["Page"] = ()

    def parts(self, order: str) -> list[bytes]:
        """The bytes of the strips or tiles."""
        pack: Callable[[bytes], bytes] = zlib.compress if self.packed else bytes
        stored = self.values.astype(self.values.dtype.newbyteorder(order))
        planes = np.split(stored, stored.shape[2], axis=2) if self.planar else [stored]
        return [pack(part.tobytes()) for plane in planes for part in self._cut(plane)]

    def _cut(self, plane: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        if not self.tile:
            return [plane]
        side, (height, width, channels) = self.tile, plane.shape
        whole = np.zeros((-(-height // side) * side, -(-width // side) * side, channels), plane.dtype)
        whole[:height, :width] = plane
        return [
            whole[top : top + side, left : left + side]
            for top in range(0, whole.shape[0], side)
            for left in range(0, whole.shape[1], side)
        ]

    def described(self, offsets: list[int], lengths: list[int]) -> dict[int, Tag]:
        """All tags except SubIFDs, by number."""
        height, width, channels = self.values.shape
        kind = {"u": 1, "i": 2, "f": 3}[self.values.dtype.kind]
        found: list[Tag] = [
            (256, LONG, [width]), (257, LONG, [height]), (258, SHORT, [self.values.dtype.itemsize * 8] * channels),
            (259, SHORT, [8 if self.packed else 1]), (262, SHORT, [self.photometric]), (277, SHORT, [channels]),
            (284, SHORT, [2 if self.planar else 1]), (339, SHORT, [kind] * channels),
        ]  # fmt: skip
        if self.tile:
            found += [
                (322, LONG, [self.tile]),
                (323, LONG, [self.tile]),
                (324, LONG, offsets),
                (325, LONG, lengths),
            ]
        else:
            found += [(273, LONG, offsets), (278, LONG, [height]), (279, LONG, lengths)]
        found += [(338, SHORT, self.extra)] if self.extra else []
        return {tag[0]: tag for tag in (*found, *self.tags)}


def tiff_file(*pages: Page, order: str = "<") -> bytes:
    """A TIFF file of these pages; ``order`` is "<" (little-endian) or ">"."""
    data = bytearray({"<": b"II*\0", ">": b"MM\0*"}[order] + bytes(4))
    link = 4
    for page in pages:
        place, following = _add(data, page, order)
        struct.pack_into(order + "L", data, link, place)
        link = following
    return bytes(data)


def _add(data: bytearray, page: Page, order: str) -> tuple[int, int]:
    """Appends the page; returns the offset of its directory, and where the offset of the next directory is stored."""
    offsets, lengths = [], []
    for part in page.parts(order):
        offsets.append(len(data))
        lengths.append(len(part))
        data += part + bytes(len(part) % 2)
    tags = page.described(offsets, lengths)
    if page.below:
        tags[330] = (330, LONG, [_add(data, each, order)[0] for each in page.below])
    entries = b""
    for number, kind, values in sorted(tags.values(), key=lambda tag: tag[0]):
        content = struct.pack(
            f"{order}{len(values)}{ {BYTE: 'B', SHORT: 'H', LONG: 'L', 2: 'B'}[kind] }", *values
        )
        if len(content) > 4:
            place = len(data)
            data += content + bytes(len(content) % 2)
            content = struct.pack(order + "L", place)
        entries += struct.pack(order + "HHL", number, kind, len(values)) + content.ljust(4, b"\0")
    place = len(data)
    data += struct.pack(order + "H", len(tags)) + entries + bytes(4)
    return place, len(data) - 4
