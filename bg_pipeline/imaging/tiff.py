"""TIFF files: the first full page, decoded by libvips, with the checks that libtiff omits."""

import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from bg_pipeline.errors import ImageError
from bg_pipeline.imaging import jpeg, vips
from bg_pipeline.imaging.colour import Colour, Deep, from_lab
from bg_pipeline.imaging.source import Pixels, Source, damaged, unsupported, why
from bg_pipeline.imaging.tiff_rewrite import one_page
from bg_pipeline.imaging.tiff_tags import ORIENTATION, Directory, directories, resolution

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIPS, _ROWS, _STRIP_BYTES, _TILES, _TILE_BYTES, _TABLES = 273, 278, 279, 324, 325, 347
_TILE_WIDTH, _TILE_HEIGHT, _INK_SET = 322, 323, 332
_PLANES, _SEPARATE = 284, 2
_SAMPLES, _EXTRA, _FORMAT, _CHROMA, _ICC, _EXIF = 277, 338, 339, 530, 34675, 34665

_WHITE_IS_ZERO, _GREY, _RGB, _PALETTE, _INK, _YCBCR, _LAB, _ICC_LAB = 0, 1, 2, 3, 5, 6, 8, 9
_NO_CMYK = 2
_RARE = {
    4: "a mask without its picture",
    10: "a TIFF in ITU LAB",
    32844: "a TIFF in LogL",
    32845: "a TIFF in LogLuv",
}
_MAX_SAMPLES = 32
# Parts of libvips' messages on types that it does not read. The messages of all threads are in one buffer, so what is
# in the header is checked here.
_UNSUPPORTED = ("not supported", "out of range", "LOGLUV")
_CODINGS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}
_JPEG, _DEFLATES = 7, (8, 32946)
_SIGNED, _FLOAT = 2, 3


@dataclass(frozen=True, eq=False)
class _Page:
    """A directory of a picture: its number, and if it is a sub-directory its number among those, else -1."""

    number: int
    tags: Directory
    below: int = -1

    @property
    def size(self) -> tuple[int, int]:
        return self.tags.number(_WIDTH, 0), self.tags.number(_HEIGHT, 0)

    @property
    def reduced(self) -> bool:
        """Whether it is a smaller version of another page, or a mask."""
        return bool(self.tags.number(254, 0) & 0b101) or self.tags.number(255, 1) == 2


def read(data: bytes) -> Source:
    """The TIFF's header, with its decoder; raises `ImageError` for types that are not supported."""
    pages = [_Page(number, tags) for number, tags in enumerate(directories(data)) if _WIDTH in tags.entries]
    if not pages:
        raise damaged("it has no page")
    under = [_Page(page.number, tags, at) for page in pages for at, tags in enumerate(page.tags.below(330))]
    page = next(
        (page for page in (*pages, *under) if not page.reduced), max(pages, key=lambda page: page.size)
    )
    tags, full = page.tags, sum(not page.reduced for page in pages)
    bits = max((int(each) for each in tags.numbers(_BITS)), default=1)
    if tags.number(_SAMPLES, 1) > _MAX_SAMPLES:
        raise unsupported(f"a TIFF of {tags.number(_SAMPLES, 1)} channels")
    samples, photometric = tags.number(_SAMPLES, 1), tags.number(_PHOTOMETRIC, -1)
    colours = {_RGB: 3, _INK: 4, _YCBCR: 3, _LAB: 3, _ICC_LAB: 3}.get(photometric, 1)
    # Spot colours and masks may precede the alpha; only a channel that is marked as transparency is alpha.
    extra = (int(each) for each in tags.numbers(_EXTRA))
    alpha = next((at for at, kind in enumerate(extra, colours) if kind in (1, 2) and at < samples), 0)
    lab = photometric in (_LAB, _ICC_LAB)
    return Source(
        format="tiff",
        size=page.size,
        mode=_mode(photometric, bits, int(tags.number(_FORMAT, 1)), alpha=alpha > 0),
        decode=lambda _: _decoded(data, page, colours, alpha),
        orientation=turned if 1 <= (turned := tags.number(ORIENTATION, 1)) <= 8 else 1,
        frames=max(1, full),
        has_alpha=alpha > 0,
        has_exif=_EXIF in tags.entries,
        colour=Colour() if lab else Colour(icc=tags.content(_ICC)),
        dpi=resolution(tags),
        notes=("converted from LAB",) if lab else (),
    )


def _mode(photometric: int, bits: int, format: int, *, alpha: bool) -> str:
    if photometric == _INK:
        return "CMYK"
    if photometric in (_LAB, _ICC_LAB):
        return "LAB"
    if photometric == _PALETTE:
        return "P"
    if photometric in (_RGB, _YCBCR):
        return "RGBA" if alpha else "RGB"
    if format == 3:
        return "F"
    return "LA" if alpha else {1: "1", 16: "I;16", 32: "I"}.get(bits, "L")


def _decoded(data: bytes, page: _Page, colours: int, alpha: int) -> Pixels:
    """The page's pixels; ``alpha`` is the number of the channel that is transparency, 0 if none is."""
    tags = page.tags
    photometric, bits, sample = tags.number(_PHOTOMETRIC, -1), tags.number(_BITS, 1), tags.number(_FORMAT, 1)
    _check_kind(tags, colours)
    lab = photometric in (_LAB, _ICC_LAB)
    starts, lengths = _parts(data, tags)
    _check_parts(data, tags, starts, lengths)
    # libvips has no LAB in planes, none by the ICC's rule and none with alpha: it reads the channels as they are.
    values, ink = _values(data, page, colours, {_PHOTOMETRIC: (_RGB,)} if lab else {}, lengths)
    if photometric == _PALETTE:
        colours, alpha = 3, 3 if alpha else 0
    kept = values[..., :colours]
    if alpha and alpha < values.shape[2]:
        kept = (
            np.concatenate([kept, values[..., alpha : alpha + 1]], 2)
            if alpha > colours
            else values[..., : alpha + 1]
        )
    values, clear = kept, kept.shape[2] > colours
    if lab:
        return from_lab(values, alpha=clear, signed=photometric == _LAB)
    if photometric == _YCBCR and tags.number(_COMPRESSION, 1) != _JPEG:
        return Image.fromarray(np.ascontiguousarray(values[..., :3]), "YCbCr")
    if values.dtype == np.uint8 and not (ink and clear):
        return vips.picture(values, ink=ink)
    whole = values.dtype.kind in "ui"
    if values.dtype not in (np.uint8, np.uint16):
        if sample == _SIGNED and values.min(initial=0) < 0:
            raise unsupported("a TIFF with levels below zero")
        bits -= sample == _SIGNED and bits == 16
        values = values.astype(np.float32)
    return Deep(values, alpha=clear, ink=ink, bits=bits if whole else 0)


def _check_kind(tags: Directory, colours: int) -> None:
    """Raises `ImageError` for valid pixels of kinds that are not decoded."""
    photometric, bits, sample = tags.number(_PHOTOMETRIC, -1), tags.number(_BITS, 1), tags.number(_FORMAT, 1)
    samples, chroma = (
        tags.number(_SAMPLES, 1),
        photometric == _YCBCR and tags.number(_COMPRESSION, 1) != _JPEG,
    )
    if photometric in _RARE:
        raise unsupported(_RARE[photometric])
    if not 0 <= photometric <= _ICC_LAB or photometric == 7:
        raise unsupported("a TIFF that does not tell what its channels mean")
    if bits not in (8, 16, 32, 64) and (bits not in (1, 2, 4) or samples > 1):
        raise unsupported(f"a TIFF with {bits} bits a channel")
    if photometric == _INK and (tags.number(_INK_SET, 1) == _NO_CMYK or samples < colours):
        raise unsupported("a TIFF of other inks than CMYK")
    if photometric in (_LAB, _ICC_LAB) and (bits > 16 or sample == _FLOAT or samples < colours):
        raise unsupported("a TIFF in LAB of a rare kind")
    if (photometric == _WHITE_IS_ZERO and (sample != 1 or bits > 16)) or (sample == _SIGNED and bits <= 8):
        raise unsupported("a TIFF with signed or floating-point levels of a rare kind")
    if chroma and (tags.numbers(_CHROMA) != (1, 1) or bits != 8):
        raise unsupported("a TIFF in YCbCr with fewer colours than pixels")
    if tags.numbers(_TILES) and tags.number(_PLANES, 1) == _SEPARATE and samples > 1:
        raise unsupported("a TIFF in tiles of one colour each")


def _values(
    data: bytes, page: _Page, colours: int, changes: dict[int, tuple[int, ...]], lengths: tuple[int, ...]
) -> tuple[vips.Array, bool]:
    """The page's pixels with all their channels, and whether those are inks.

    ``changes`` are tags with the values that the decoder shall see instead of the file's.
    """
    # libtiff also warns of channels that the header does not explain; those are dropped here.
    explained = colours + len(page.tags.numbers(_EXTRA)) == page.tags.number(_SAMPLES, 1)
    limit = "warning" if explained else "error"
    try:
        if not changes:
            try:
                return _opened(data, page=page.number, subifd=page.below, fail_on=limit)
            except ImageError:
                pass  # of the pixels, or of a tag that no pixel needs
        tiled = bool(page.tags.numbers(_TILES))
        sound = one_page(data, page.tags, {_TILE_BYTES if tiled else _STRIP_BYTES: lengths, **changes})
        return _opened(sound, fail_on=limit)
    except ImageError as error:
        coding = page.tags.number(_COMPRESSION, 1)
        if coding not in _CODINGS:
            raise unsupported(f"a TIFF compressed by method {coding}") from None
        if any(words in why(error) for words in _UNSUPPORTED):
            raise unsupported(f"a TIFF ({why(error)})") from None
        raise


def _opened(data: bytes, **options: int | str) -> tuple[vips.Array, bool]:
    image = vips.opened("tiffload", data, **options)
    return vips.array(image), image.interpretation == "cmyk"


def _parts(data: bytes, tags: Directory) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The offsets and lengths of strips or tiles.

    Old programs leave the lengths out or write zeros; they are then what uncompressed pixels take, or end with the
    next part or the file.
    """
    tiles = tags.numbers(_TILES)
    starts = tuple(int(each) for each in tiles or tags.numbers(_STRIPS))
    lengths = tuple(int(each) for each in tags.numbers(_TILE_BYTES if tiles else _STRIP_BYTES))
    plain = tags.number(_COMPRESSION, 1) == 1
    if plain and starts:
        sizes = _plain_sizes(tags, len(starts), tiled=bool(tiles))
        if len(lengths) != len(starts) or not any(lengths):
            return starts, sizes
        return starts, tuple(min(pair) if pair[0] else 0 for pair in zip(lengths, sizes, strict=True))
    if starts and (len(lengths) != len(starts) or not any(lengths)):
        ends = (min((later for later in starts if later > start), default=len(data)) for start in starts)
        lengths = tuple(max(0, end - start) for start, end in zip(starts, ends, strict=True))
    return starts, lengths


def _plain_sizes(tags: Directory, count: int, *, tiled: bool) -> tuple[int, ...]:
    """The bytes of each strip or tile if it is not compressed."""
    planes = tags.number(_SAMPLES, 1) if tags.number(_PLANES, 1) == _SEPARATE else 1
    width, height = (
        (tags.number(_TILE_WIDTH, 1), tags.number(_TILE_HEIGHT, 1))
        if tiled
        else (tags.number(_WIDTH, 0), tags.number(_HEIGHT, 0))
    )
    line = -(-width * tags.number(_BITS, 1) * (tags.number(_SAMPLES, 1) // planes) // 8)
    if tiled:
        return (line * height,) * count
    rows = max(1, min(height, tags.number(_ROWS, height)))
    strips = -(-height // rows)
    return tuple(line * min(rows, max(0, height - rows * (number % strips))) for number in range(count))


def _check_parts(data: bytes, tags: Directory, starts: tuple[int, ...], lengths: tuple[int, ...]) -> None:
    """Raises `ImageError` for strips and tiles beyond the file's end, and for damage that libtiff ignores."""
    if not starts or len(starts) != len(lengths):
        raise damaged("it does not say where its pixels are")
    compression = tags.number(_COMPRESSION, 1)
    parts = [(start, length) for start, length in zip(starts, lengths, strict=True) if length]
    if any(start + length > len(data) for start, length in parts):
        raise damaged("a part of its pixels is missing")
    if sum(length for _, length in parts) > 4 * len(data):
        raise damaged("its parts lie over each other")
    if compression in _DEFLATES:
        for start, length in parts:
            _check_deflated(data[start : start + length])
    elif compression == _JPEG:
        tables = tags.content(_TABLES)
        for start, length in parts:
            part = data[start : start + length]
            jpeg.check(tables[:-2] + part[2:] if len(tables) > 4 else part)


def _check_deflated(part: bytes) -> None:
    """Raises `ImageError` for a wrong checksum, which libtiff never reads because it stops at the last pixel."""
    reader = zlib.decompressobj()
    try:
        reader.decompress(part, 0)
        while not reader.eof and reader.unconsumed_tail:
            reader.decompress(reader.unconsumed_tail, 1 << 20)
    except zlib.error as error:
        raise damaged(error) from None
