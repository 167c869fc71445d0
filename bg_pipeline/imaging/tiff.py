"""TIFF files: the first full page, decoded by libvips, with the checks that libtiff omits."""

import zlib
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from bg_pipeline.errors import ImageError
from bg_pipeline.imaging import jpeg, vips
from bg_pipeline.imaging.colour import Colour, Deep
from bg_pipeline.imaging.source import (
    UNREADABLE,
    Pixels,
    Source,
    damaged,
    loaded,
    unsupported,
    why,
)
from bg_pipeline.imaging.tiff_tags import ORIENTATION, Directory, directories, resolution

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES, _TABLES = 273, 279, 324, 325, 347
_PLANES, _SEPARATE = 284, 2
_SAMPLES, _EXTRA, _FORMAT, _CHROMA, _ICC, _EXIF = 277, 338, 339, 530, 34675, 34665

_WHITE_IS_ZERO, _GREY, _RGB, _PALETTE, _INK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_MAX_SAMPLES = 32
# Parts of libvips' messages on types that it does not read. The messages of all threads are in one buffer, so what is
# in the header is checked here.
_UNSUPPORTED = ("not supported", "out of range", "LOGLUV")
_CODINGS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}
_JPEG, _DEFLATES = 7, (8, 32946)


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
    colours = {_RGB: 3, _INK: 4, _YCBCR: 3, _LAB: 3}.get(photometric, 1)
    extra = tags.numbers(_EXTRA)
    alpha = len(extra) > 0 and extra[0] in (1, 2) and samples > colours
    return Source(
        format="tiff",
        size=page.size,
        mode=_mode(photometric, bits, int(tags.number(_FORMAT, 1)), alpha=alpha),
        decode=lambda _: _decoded(data, page, colours, alpha=alpha),
        orientation=turned if 1 <= (turned := tags.number(ORIENTATION, 1)) <= 8 else 1,
        frames=max(1, full),
        has_alpha=alpha,
        has_exif=_EXIF in tags.entries,
        colour=Colour(icc=tags.content(_ICC)),
        dpi=resolution(tags),
    )


def _mode(photometric: int, bits: int, format: int, *, alpha: bool) -> str:
    if photometric == _INK:
        return "CMYK"
    if photometric == _LAB:
        return "LAB"
    if photometric == _PALETTE:
        return "P"
    if photometric in (_RGB, _YCBCR):
        return "RGBA" if alpha else "RGB"
    if format == 3:
        return "F"
    return "LA" if alpha else {1: "1", 16: "I;16", 32: "I"}.get(bits, "L")


def _decoded(data: bytes, page: _Page, colours: int, *, alpha: bool) -> Pixels:
    tags = page.tags
    photometric, bits, sample = tags.number(_PHOTOMETRIC, -1), tags.number(_BITS, 1), tags.number(_FORMAT, 1)
    if photometric == _LAB:
        if bits != 8 or page.below >= 0:
            raise unsupported("a TIFF in LAB of more than 8 bits")
        return _lab(data, page.number)
    if (photometric == _WHITE_IS_ZERO and (sample != 1 or bits > 16)) or (sample == 2 and bits <= 8):
        raise unsupported("a TIFF with signed or floating-point levels of a rare kind")
    chroma = photometric == _YCBCR and tags.number(_COMPRESSION, 1) != _JPEG
    if chroma and (tags.numbers(_CHROMA) != (1, 1) or bits != 8):
        raise unsupported("a TIFF in YCbCr with fewer colours than pixels")
    if tags.numbers(_TILES) and tags.number(_PLANES, 1) == _SEPARATE and tags.number(_SAMPLES, 1) > 1:
        raise unsupported("a TIFF in tiles of one colour each")
    _check_parts(data, tags)
    values, ink = _values(data, page, colours)
    if photometric == _PALETTE:
        colours = 3
    # Spot colours and masks follow the colours; only a channel that is marked as transparency is alpha.
    values = values[..., : colours + alpha]
    alpha = values.shape[2] > colours
    if chroma:
        return Image.fromarray(np.ascontiguousarray(values[..., :3]), "YCbCr")
    if values.dtype == np.uint8 and not (ink and alpha):
        return vips.picture(values, ink=ink)
    whole = values.dtype.kind in "ui"
    if values.dtype not in (np.uint8, np.uint16):
        values = values.astype(np.float32)
    return Deep(values, alpha=alpha, ink=ink, bits=bits if whole else 0)


def _values(data: bytes, page: _Page, colours: int) -> tuple[vips.Array, bool]:
    """The page's pixels with all their channels, and whether those are inks."""
    # libtiff also warns of channels that the header does not explain; those are dropped here.
    explained = colours + len(page.tags.numbers(_EXTRA)) == page.tags.number(_SAMPLES, 1)
    limit = "warning" if explained else "error"
    try:
        image = vips.opened("tiffload", data, page=page.number, subifd=page.below, fail_on=limit)
        return vips.array(image), image.interpretation == "cmyk"
    except ImageError as error:
        coding = page.tags.number(_COMPRESSION, 1)
        if coding not in _CODINGS:
            raise unsupported(f"a TIFF compressed by method {coding}") from None
        if any(words in why(error) for words in _UNSUPPORTED):
            raise unsupported(f"a TIFF ({why(error)})") from None
        raise


def _lab(data: bytes, number: int) -> Image.Image:
    """8-bit LAB pixels, decoded by Pillow: libvips does not read them."""
    try:
        image = Image.open(BytesIO(data), formats=("TIFF",))
        image.seek(number)
    except UNREADABLE as error:
        raise damaged(error) from None
    return loaded(image)


def _check_parts(data: bytes, tags: Directory) -> None:
    """Raises `ImageError` for strips and tiles beyond the file's end, and for damage that libtiff ignores."""
    starts = tags.numbers(_TILES) or tags.numbers(_STRIPS)
    lengths = tags.numbers(_TILE_BYTES) or tags.numbers(_STRIP_BYTES)
    if not starts or len(starts) != len(lengths):
        raise damaged("it does not say where its pixels are")
    compression = tags.number(_COMPRESSION, 1)
    parts = [(int(start), int(length)) for start, length in zip(starts, lengths, strict=True) if length]
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
