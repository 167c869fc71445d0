"""Directories of tags in TIFF files and EXIF blocks; a damaged directory ends early and never raises."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

ORIENTATION = 0x0112

SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_CODES = {
    1: "B",
    3: "H",
    4: "L",
    6: "b",
    8: "h",
    9: "l",
    11: "f",
    12: "d",
    13: "L",
    16: "Q",
    17: "q",
    18: "Q",
}

# More than any camera or scanner writes; also ends a loop of directories.
_MAX_DIRECTORIES = 1000
_MAX_VALUES = 2_000_000


@dataclass(frozen=True, eq=False)
class Directory:
    """One directory; ``entries`` maps a tag to its type, number of values and offset."""

    data: bytes
    order: str
    entries: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def numbers(self, tag: int) -> tuple[float, ...]:
        """The tag's values; empty if it is missing, cut short or not numeric. Rationals are divided."""
        kind, count, start = self.entries.get(tag, (0, 0, 0))
        try:
            if kind in (5, 10):
                pairs = struct.unpack_from(
                    f"{self.order}{2 * count}{'L' if kind == 5 else 'l'}", self.data, start
                )
                return tuple(
                    top / below if below else 0.0 for top, below in zip(pairs[::2], pairs[1::2], strict=True)
                )
            return struct.unpack_from(f"{self.order}{count}{_CODES[kind]}", self.data, start)
        except (struct.error, KeyError):
            return ()

    def number(self, tag: int, default: int) -> int:
        """The tag's first value as an integer, or ``default``."""
        values = self.numbers(tag)
        return int(values[0]) if values and abs(values[0]) < 2**63 else default

    def content(self, tag: int) -> bytes:
        """The tag's bytes as they are stored."""
        kind, count, start = self.entries.get(tag, (0, 0, 0))
        return self.data[start : start + count * SIZES.get(kind, 0)]

    def text(self, tag: int) -> str:
        """The tag's text without its terminating zero."""
        return self.content(tag).split(b"\0")[0].decode("latin-1").strip()

    def below(self, tag: int) -> list["Directory"]:
        """The directories whose offsets are the tag's values."""
        places = [int(place) for place in self.numbers(tag)[:64]]
        found = (directory_at(self.data, self.order, place, big=False) for place in places)
        return [directory for directory, _ in found if directory.entries]


def directories(data: bytes) -> Iterator[Directory]:
    """The chain of directories of a TIFF file, including BigTIFF and camera RAW that is built like a TIFF."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return
    big = data[2:4] in (b"+\0", b"\0+")
    try:
        (place,) = struct.unpack_from(order + ("Q" if big else "L"), data, 8 if big else 4)
    except struct.error:
        return
    seen: set[int] = set()
    while place and place not in seen and len(seen) < _MAX_DIRECTORIES:
        seen.add(place)
        directory, place = directory_at(data, order, place, big=big)
        if not directory.entries:
            return
        yield directory


def directory_at(data: bytes, order: str, place: int, *, big: bool) -> tuple[Directory, int]:
    """The directory at an offset, without entries if there is none, and the offset of the next one."""
    directory = Directory(data, order)
    head, entry, size = ("Q", "HHQ8s", 20) if big else ("H", "HHL4s", 12)
    try:
        (count,) = struct.unpack_from(order + head, data, place)
        start = place + struct.calcsize(order + head)
        for at in range(start, start + size * min(count, 4096), size):
            tag, kind, values, _ = struct.unpack_from(order + entry, data, at)
            length = values * SIZES.get(kind, 0)
            inline = at + size - (8 if big else 4)
            where = inline
            if length > (8 if big else 4):
                (where,) = struct.unpack_from(order + ("Q" if big else "L"), data, inline)
            if values <= _MAX_VALUES and tag not in directory.entries:
                directory.entries[tag] = (kind, values, where)
        (following,) = struct.unpack_from(order + ("Q" if big else "L"), data, start + size * count)
    except struct.error:
        return directory, 0
    return directory, int(following)


@dataclass(frozen=True)
class Exif:
    """The facts in an EXIF block that change how a picture looks."""

    orientation: int = 1
    adobe_rgb: bool = False
    dpi: tuple[float, float] | None = None


def read_exif(block: bytes) -> Exif:
    """The facts in an EXIF block, with or without its ``Exif`` prefix, as far as it can be read.

    The orientation may be stored as any type of number, and in the EXIF directory if the first one has none. Adobe
    RGB is declared by DCF's interoperability index R03, by some cameras with ColorSpace 2.
    """
    # After the name comes a zero and a byte that some programs do not set to zero.
    data = block[6:] if block.startswith(b"Exif\0") and not block.startswith(b"Exif\0\0\0") else block
    data = data.removeprefix(b"Exif").lstrip(b"\0")
    main = next(directories(data), None)
    if main is None:
        return Exif()
    more = main.below(0x8769)
    turned = next((n for n in (each.number(ORIENTATION, 0) for each in (main, *more)) if n), 1)
    space = more[0].number(0xA001, 1) if more else 1
    index = [each.text(1) for part in (main, *more) for each in part.below(0xA005)]
    return Exif(
        orientation=turned if 1 <= turned <= 8 else 1,
        adobe_rgb=space == 2 or (space == 0xFFFF and "R03" in index),
        dpi=resolution(main),
    )


def resolution(directory: Directory) -> tuple[float, float] | None:
    """The dots per inch in a directory; None if it has none."""
    across, down = directory.numbers(282), directory.numbers(283)
    unit = {2: 1.0, 3: 2.54}.get(directory.number(296, 2))
    return (across[0] * unit, down[0] * unit) if across and down and unit else None
