"""PNG files, decoded by libvips from the chunks of the picture alone: damage in other chunks does not matter."""

import binascii
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from bg_pipeline.errors import ImageError
from bg_pipeline.imaging import vips
from bg_pipeline.imaging.colour import Colour, Deep, transfer_known
from bg_pipeline.imaging.source import Pixels, Source, damaged, unsupported
from bg_pipeline.imaging.tiff_tags import Exif, read_exif

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# Chunks that a decoder may skip but that change how the picture looks: a note says if one is damaged.
_VISIBLE = {b"tRNS": "transparency", b"iCCP": "colour profile", b"cICP": "colour space", b"gAMA": "gamma"}
_LOOK = frozenset((*_VISIBLE, b"cHRM", b"sRGB"))
_READ = (*_VISIBLE, b"cHRM", b"sRGB", b"pHYs", b"acTL", b"eXIf")

# Bytes; colour profiles and EXIF have kilobytes, rarely a few megabytes.
_MAX_INFLATED = 8_000_000
# Bytes of pixels that are looked at together.
_PIECE = 1 << 20

# Left, top, and distance across and down of the pixels in each pass of an interlaced picture.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))

# Large PNGs have ten thousand chunks; each takes time.
_MAX_CHUNKS = 200_000


@dataclass(frozen=True, eq=False)
class _Chunk:
    """A chunk; ``stored`` is its name, content and checksum."""

    name: bytes
    stored: memoryview

    @property
    def content(self) -> memoryview:
        return self.stored[4:-4]

    @property
    def whole(self) -> bool:
        """Whether the checksum is right."""
        return zlib.crc32(self.stored[:-4]) == int.from_bytes(self.stored[-4:])

    @property
    def critical(self) -> bool:
        """Whether a decoder that does not know the chunk must fail."""
        return not self.name[0] & 0x20


def read(data: bytes) -> Source:
    """The PNG's header, with its decoder; raises `ImageError` for types that are not supported."""
    chunks = list(_chunks(data))
    header = next((bytes(chunk.content) for chunk in chunks[:1] if chunk.name == b"IHDR"), b"")
    pixels = [chunk for chunk in chunks if chunk.name == b"IDAT"]
    if len(header) != 13 or not pixels:
        raise damaged("it has no pixels")
    width, height, depth, kind, *methods = struct.unpack(">2L5B", header)
    if depth not in _DEPTHS.get(kind, ()) or methods[:2] != [0, 0] or methods[2] > 1:
        raise damaged("its header is not valid")
    palette = next((chunk for chunk in chunks if chunk.name == b"PLTE"), None)
    if kind == 3 and palette is None:
        raise damaged("its palette is missing")
    in_place = _in_place(chunks, kind)
    others = {chunk.name: bytes(chunk.content) for chunk in reversed(in_place) if chunk.whole}
    lost = dict.fromkeys(
        chunk.name for chunk in in_place if chunk.name in _VISIBLE and chunk.name not in others
    )
    if kind == 3 and palette is not None and b"tRNS" in others:
        # libpng ignores a list that is longer than the palette; browsers take its beginning.
        others[b"tRNS"] = others[b"tRNS"][: len(palette.content) // 3]
    exif_block = others.get(b"eXIf") or _raw_exif(chunks)
    exif = read_exif(exif_block) if exif_block else Exif()
    colour, notes = _colour(others)
    frame = _hidden_default(chunks)
    return Source(
        format="png",
        size=(width, height),
        mode="1" if (kind, depth) == (0, 1) else _MODES[kind],
        decode=lambda _: _decoded(chunks[0], header, palette, others.get(b"tRNS"), pixels, frame),
        orientation=exif.orientation,
        frames=_frames(others),
        has_alpha=kind in (4, 6) or b"tRNS" in others or frame is not None,
        has_exif=bool(exif_block),
        colour=colour,
        dpi=_dpi(others) or exif.dpi,
        notes=(*notes, *(f"its {_VISIBLE[name]} is damaged and was ignored" for name in lost)),
    )


def _in_place(chunks: list[_Chunk], kind: int) -> list[_Chunk]:
    """The chunks that are read, without those where browsers ignore them: nothing behind the pixels changes these."""
    found, seen = [], set[bytes]()
    for chunk in chunks:
        late = b"IDAT" in seen or (chunk.name == b"tRNS" and kind == 3 and b"PLTE" not in seen)
        if chunk.name in _READ and not (late and chunk.name in _LOOK):
            found.append(chunk)
        seen.add(chunk.name)
    return found


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """The chunks up to the end; a file that lacks only the IEND chunk is undamaged."""
    view, place, number, pixels = memoryview(data), len(_SIGNATURE), 0, False
    while place + 8 <= len(data):
        end = place + 12 + int.from_bytes(view[place : place + 4])
        name = bytes(view[place + 4 : place + 8])
        number += 1
        if name == b"IEND":
            return
        if name == b"CgBI":
            raise unsupported("a PNG in Apple's own form for apps (CgBI)")
        chunk = _Chunk(name, view[place + 4 : end])
        if number > _MAX_CHUNKS or not name.isalpha():
            raise damaged("its chunks make no sense")
        if end > len(data):
            if chunk.critical or not pixels:
                raise damaged("a part of its data is missing")
            return  # the pixels are complete, and only metadata after them is cut
        if chunk.critical and name not in (b"IHDR", b"PLTE", b"IDAT"):
            raise damaged(
                f"it has a chunk {name.decode('ascii')} that must be understood and is in no standard"
            )
        pixels |= name == b"IDAT"
        yield chunk
        place = end


def _decoded(
    first: _Chunk,
    header: bytes,
    palette: _Chunk | None,
    clear: bytes | None,
    pixels: list[_Chunk],
    frame: tuple[bytes, list[memoryview]] | None,
) -> Pixels:
    for chunk in (first, palette, *pixels):
        if chunk is not None and not chunk.whole:
            raise damaged(f"the checksum of its {chunk.name.decode('ascii')} is wrong")
    coded = [bytes(chunk.content) for chunk in pixels]
    size = place = None
    if frame is not None:
        control, parts = frame
        width, height, left, top = struct.unpack_from(">4L", control, 4)
        whole = struct.unpack_from(">2L", header)
        if not width or not height or left + width > whole[0] or top + height > whole[1]:
            raise damaged("its first frame lies outside of the picture")
        if (width, height) != whole:
            size, place = whole, (left, top)
        header = struct.pack(">2L", width, height) + header[8:]
        coded = [bytes(part) for part in parts]
    try:
        image, values = _opened(_file(header, palette, clear, coded))
    except ImageError:
        sound = _sound_stream(b"".join(coded), header)
        if sound is None:
            raise
        image, values = _opened(_file(header, palette, clear, [sound]))
    if header[8] == 16:
        return _deep_on_canvas(Deep(values, image.bands in (2, 4)), size, place)
    return _on_canvas(vips.picture(values), size, place)


def _opened(file: bytes) -> tuple[Any, vips.Array]:
    image = vips.opened("pngload", file)
    return image, vips.array(image)


def _sound_stream(coded: bytes, header: bytes) -> bytes | None:
    """The compressed pixels with a right head and checksum, which browsers ignore; None if pixels are missing."""
    reader, sum_of_all, count, needed = zlib.decompressobj(-15), 1, 0, _inflated_size(header)
    rest = coded[2:]
    try:
        while rest and not reader.eof and count <= 2 * needed + _PIECE:
            part = reader.decompress(rest, _PIECE)
            sum_of_all, count, rest = (
                zlib.adler32(part, sum_of_all),
                count + len(part),
                reader.unconsumed_tail,
            )
    except zlib.error:
        return None
    if not reader.eof or count < needed:
        return None
    deflated = coded[2 : len(coded) - len(reader.unused_data)]
    return b"\x78\x01" + deflated + sum_of_all.to_bytes(4)


def _inflated_size(header: bytes) -> int:
    """The bytes of all rows, each with its filter, as PNG's header demands."""
    width, height, depth, kind, *_, interlaced = struct.unpack(">2L5B", header)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    passes = ((0, 0, 1, 1),) if not interlaced else _ADAM7
    sizes = ((-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in passes)
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)


def _file(header: bytes, palette: _Chunk | None, clear: bytes | None, coded: list[bytes]) -> bytes:
    """A PNG file with the chunks of the picture alone."""
    chunks = [(b"IHDR", header)]
    chunks += [(b"PLTE", bytes(palette.content))] if palette else []
    chunks += [(b"tRNS", clear)] if clear is not None else []
    chunks += [(b"IDAT", part) for part in coded] + [(b"IEND", b"")]
    parts = [_SIGNATURE]
    for name, content in chunks:
        parts += [
            struct.pack(">L", len(content)),
            name,
            content,
            struct.pack(">L", zlib.crc32(name + content)),
        ]
    return b"".join(parts)


def _on_canvas(
    image: Image.Image, size: tuple[int, int] | None, place: tuple[int, int] | None
) -> Image.Image:
    """A frame on its transparent canvas."""
    if size is None or place is None:
        return image
    canvas = Image.new("RGBA", size)
    canvas.paste(image.convert("RGBA"), place)
    return canvas


def _deep_on_canvas(frame: Deep, size: tuple[int, int] | None, place: tuple[int, int] | None) -> Deep:
    return frame if size is None or place is None else frame.on_canvas(size, place)


def _hidden_default(chunks: list[_Chunk]) -> tuple[bytes, list[memoryview]] | None:
    """The first frame of an animation whose IDAT is only for programs that do not know animations; else None."""
    names = [chunk.name for chunk in chunks]
    if b"acTL" not in names or b"fcTL" not in names or names.index(b"fcTL") < names.index(b"IDAT"):
        return None
    first = names.index(b"fcTL")
    parts = []
    for chunk in chunks[first + 1 :]:
        if chunk.name == b"fcTL":
            break
        if chunk.name == b"fdAT":
            if not chunk.whole:
                raise damaged("the checksum of its first frame is wrong")
            parts.append(chunk.content[4:])
    if not parts or len(chunks[first].content) < 20 or not chunks[first].whole:
        return None
    return bytes(chunks[first].content), parts


def _frames(others: dict[bytes, bytes]) -> int:
    return max(1, int.from_bytes(others.get(b"acTL", b"")[:4]))


def _colour(others: dict[bytes, bytes]) -> tuple[Colour, tuple[str, ...]]:
    """The colours in the order of browsers: cICP, then ICC profile, then sRGB, then gamma and primaries."""
    cicp = others.get(b"cICP", b"")
    if len(cicp) == 4:
        primaries, transfer, matrix, _ = cicp
        if matrix == 0 and transfer_known(primaries, transfer):
            return Colour(cicp=(primaries, transfer)), ()
    icc = _profile(others.get(b"iCCP", b""))
    if icc:
        return Colour(icc=icc), ()
    notes = ("the embedded colour profile is damaged and was ignored",) if b"iCCP" in others else ()
    gamma = int.from_bytes(others.get(b"gAMA", b"")) / 100_000
    if b"sRGB" in others or not 0.01 <= gamma <= 10:
        return Colour(), notes
    corners = others.get(b"cHRM", b"")
    if len(corners) == 32:
        # With primaries, even sRGB's, browsers apply the gamma exactly.
        return Colour(
            gamma=gamma, primaries=tuple(each / 100_000 for each in struct.unpack(">8L", corners))
        ), notes
    # Alone, a gamma near 1/2.2 means the curve of sRGB.
    return (Colour() if abs(gamma * 2.2 - 1) < 0.05 else Colour(gamma=gamma)), notes


def _profile(content: bytes) -> bytes:
    _, _, packed = content.partition(b"\0")
    return _inflated(packed[1:]) if packed[:1] == b"\0" else b""


def _inflated(packed: bytes) -> bytes:
    """The inflated bytes; empty if they are damaged or far too many."""
    reader = zlib.decompressobj()
    try:
        content = reader.decompress(packed, _MAX_INFLATED)
    except zlib.error:
        return b""
    return content if reader.eof else b""


def _raw_exif(chunks: list[_Chunk]) -> bytes:
    """EXIF as ImageMagick stored it before PNG had a chunk for it: a text of hexadecimal digits."""
    for chunk in chunks:
        if chunk.name in (b"zTXt", b"tEXt") and bytes(chunk.content[:22]) == b"Raw profile type exif\0":
            text = bytes(chunk.content[22:])
            text = _inflated(text[1:]) if chunk.name == b"zTXt" else text
            try:
                block = binascii.unhexlify(b"".join(text.split()[2:]))
            except binascii.Error:
                return b""
            return block.removeprefix(b"Exif\0\0")
    return b""


def _dpi(others: dict[bytes, bytes]) -> tuple[float, float] | None:
    content = others.get(b"pHYs", b"")
    if len(content) != 9 or content[8] != 1:
        return None
    across, down = struct.unpack_from(">2L", content)
    return across * 0.0254, down * 0.0254
