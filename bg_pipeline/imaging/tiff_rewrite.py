"""One page of a TIFF with a new directory, which holds only what a decoder needs for the pixels.

libtiff warns of faults in tags that no pixel needs (text without its zero, tags twice or out of order, a chain that
leads nowhere), and a warning cannot be told from one about damaged pixels. With the new directory a warning is about
the pixels.
"""

import struct
from collections.abc import Mapping, Sequence

from bg_pipeline.imaging.tiff_tags import SIZES, Directory

PHOTOMETRIC = 262

# Sizes, coding, channels, strips and tiles, colour map, JPEG tables, chroma; ICC profiles and texts are not needed.
_NEEDED = frozenset((
    256, 257, 258, 259, PHOTOMETRIC, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325,
    332, 338, 339, 347, 512, 513, 514, 515, 519, 520, 521, 529, 530, 531, 532,
))  # fmt: skip
_SHORT, _LONG, _LONG8 = 3, 4, 16


def one_page(data: bytes, page: Directory, changes: Mapping[int, Sequence[int]]) -> bytes:
    """The file with a directory for this page alone at its end.

    ``changes`` maps tags to new values, integers; a tag with no values is left out.
    """
    big = data[2:4] in (b"+\0", b"\0+")
    wide, inline = ("Q", 8) if big else ("L", 4)
    order = page.order
    tags: dict[int, tuple[int, int, bytes]] = {}
    for tag in _NEEDED & page.entries.keys():
        kind, count, start = page.entries[tag]
        content = data[start : start + count * SIZES.get(kind, 0)]
        if content:
            tags[tag] = (kind, count, content)
    for tag, values in changes.items():
        tags.pop(tag, None)
        if values:
            kind = _SHORT if max(values) < 1 << 16 else _LONG if max(values) < 1 << 32 else _LONG8
            code = {_SHORT: "H", _LONG: "L", _LONG8: "Q"}[kind]
            tags[tag] = (kind, len(values), struct.pack(f"{order}{len(values)}{code}", *values))
    padding = bytes(len(data) % 2)
    place = len(data) + len(padding)
    long_values, entries = bytearray(), bytearray()
    for tag, (kind, count, content) in sorted(tags.items()):
        if len(content) > inline:
            stored = struct.pack(order + wide, place + len(long_values))
            long_values += content + bytes(len(content) % 2)
        else:
            stored = content.ljust(inline, b"\0")
        entries += struct.pack(f"{order}HH{wide}", tag, kind, count) + stored
    directory = struct.pack(order + ("Q" if big else "H"), len(tags)) + entries + bytes(inline)
    first = struct.pack(order + wide, place + len(long_values))
    head = 8 if big else 4
    return b"".join((data[:head], first, data[head + inline :], padding, long_values, directory))
