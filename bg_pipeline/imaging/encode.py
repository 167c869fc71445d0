"""Pictures as files: sRGB, deterministic, without private metadata, with their provenance in XMP."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

from PIL import Image, ImageCms, TiffImagePlugin

from bg_pipeline.domain.formats import size_problem
from bg_pipeline.errors import ImageError
from bg_pipeline.imaging import vips
from bg_pipeline.imaging.photo import on_white
from bg_pipeline.imaging.provenance import SOFTWARE, Provenance, xmp_packet

WITH_ALPHA = frozenset({"png", "webp", "tiff", "avif"})
"""Formats that keep transparency; in the others transparent parts become white."""

WRITABLE = WITH_ALPHA | {"jpeg", "bmp"}

QUALITY = 97
"""At this JPEG quality grainy surfaces keep 46 dB; at 95 they keep 42, and some photos less than 45."""

LOWEST_QUALITY = 30
"""The lowest quality of JPEG, WebP and AVIF that is tried to keep a number of bytes."""

# PNG's signature and its first chunk, IHDR, which always has 13 bytes.
_PNG_HEADER = 8 + 12 + 13


def _srgb_profile() -> bytes:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # The header has the time of creation (ICC.1, 7.2.8), but the same picture must give the same bytes.
    profile[24:36] = bytes.fromhex("07e8 0001 0001 0000 0000 0000")
    return bytes(profile)


SRGB = _srgb_profile()
"""The ICC profile that every file is tagged with."""


def writable_format(source_format: str, needs_alpha: bool = False) -> str:
    """The format of a result if the request names none.

    The source's own if it can be written and can hold the picture; else JPEG for an opaque HEIC, and PNG.
    """
    if source_format in (WITH_ALPHA if needs_alpha else WRITABLE):
        return source_format
    return "jpeg" if source_format == "heif" and not needs_alpha else "png"


def encode(
    image: Image.Image,
    format: str,
    *,
    quality: int = QUALITY,
    lossless: bool = False,
    max_bytes: int | None = None,
    provenance: Provenance | None = None,
    dpi: tuple[float, float] | None = None,
) -> bytes:
    """The picture (RGB, RGBA, L or LA) as a file that is tagged sRGB and has no EXIF, GPS or other metadata.

    The same arguments give the same bytes. ``provenance`` is written into XMP (JPEG, PNG, WebP, TIFF, AVIF; BMP has
    no place for it). Transparent parts become white if the format has no transparency.
    ``quality`` 1-100 is for JPEG, WebP and AVIF. WebP is lossless at 100, and with ``lossless`` (for a lossless
    source) if that keeps ``max_bytes``. To keep ``max_bytes`` the quality is lowered as far as needed, not below 30.

    Raises `ImageError` if ``max_bytes`` cannot be kept (``TooManyBytes``) or a side is too long for the format
    (``TooLarge``), ValueError for an unknown format.
    """
    if format not in WRITABLE:
        raise ValueError(f"{format!r} cannot be written; {', '.join(sorted(WRITABLE))} can be")
    if problem := size_problem(*image.size, format):
        raise ImageError("TooLarge", problem)
    if image.info:
        # Pillow writes some of these by itself, such as comments and transparency.
        image = image.copy()
        image.info = {}
    if image.mode not in ("RGB", "L") and format not in WITH_ALPHA:
        image = on_white(image)
    if format == "bmp":
        return _within_bytes(_encoded(image, "BMP", dpi=dpi), "BMP", max_bytes)
    tags: dict[str, Any] = {
        "icc_profile": SRGB,
        "xmp": xmp_packet(provenance) if provenance else None,
        "dpi": dpi,
    }
    match format:
        case "jpeg":
            return jpeg(image, quality=quality, sampling=0, max_bytes=max_bytes, **tags)
        case "png":
            return png(image, max_bytes=max_bytes, **tags)
        case "tiff":
            return _within_bytes(_tiff(image, **tags), "TIFF", max_bytes)
        case "webp":
            if quality >= 100 or lossless:
                data = _encoded(image, "WEBP", lossless=True, exact=True, quality=0, method=1, **tags)
                if quality >= 100 or max_bytes is None or len(data) <= max_bytes:
                    return _within_bytes(data, "WebP", max_bytes)
            return _at_best_quality(
                lambda q: _encoded(image, "WEBP", quality=q, method=2, **tags), "WebP", quality, max_bytes
            )
        case _:
            return _at_best_quality(
                # libaom's output depends on its number of threads; one thread gives the same bytes everywhere.
                lambda q: _encoded(
                    image, "AVIF", quality=q, speed=9, subsampling="4:4:4", max_threads=1, **tags
                ),
                "AVIF",
                quality,
                max_bytes,
            )


def jpeg(
    image: Image.Image, *, quality: int, sampling: int, max_bytes: int | None = None, **tags: Any
) -> bytes:
    """An RGB or L picture as JPEG; ``sampling`` 0 keeps full colour resolution, 2 halves it in both directions.

    If ``max_bytes`` needs a quality below 85 it is always halved: that is less visible than a lower quality.
    """

    def make(level: int) -> bytes:
        halved = level < min(85, quality)
        return _encoded(image, "JPEG", quality=level, subsampling=2 if halved else sampling, **tags)

    return _at_best_quality(make, "JPEG", quality, max_bytes)


def png(
    image: Image.Image,
    *,
    max_bytes: int | None = None,
    xmp: bytes | None = None,
    icc_profile: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> bytes:
    """A picture as PNG, compressed fast; only if that is larger than ``max_bytes``, as small as possible."""
    chunks = b""
    if icc_profile:
        chunks += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc_profile))
    if dpi:
        across, down = (round(each / 0.0254) for each in dpi)
        chunks += _chunk(b"pHYs", struct.pack(">IIB", across, down, 1))
    if xmp:
        chunks += _chunk(b"tEXt", b"Software\0" + SOFTWARE.encode())
        chunks += _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    # Level 2 of libvips' zlib-ng takes a third of the time of Pillow's level 1, and gives 10 % fewer bytes.
    data = _png(image, chunks, compression=2, filter="up")
    if max_bytes is None or len(data) <= max_bytes:
        return data
    return _within_bytes(_png(image, chunks, compression=9, filter="all"), "PNG", max_bytes)


def _png(image: Image.Image, chunks: bytes, *, compression: int, filter: str) -> bytes:
    """The pixels as libvips writes them, with ``chunks`` behind the header."""
    pixels = vips.from_picture(image)
    data: bytes = pixels.write_to_buffer(".png", compression=compression, filter=filter, keep="none")
    return data[:_PNG_HEADER] + chunks + data[_PNG_HEADER:]


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _tiff(image: Image.Image, *, xmp: bytes | None, **tags: Any) -> bytes:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    if xmp:
        directory[305] = SOFTWARE
        directory[700] = xmp
        directory.tagtype[700] = 1
    return _encoded(image, "TIFF", compression="tiff_lzw", tiffinfo=directory, **tags)


def _encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, format, **{name: value for name, value in options.items() if value is not None})
    return file.getvalue()


def _within_bytes(data: bytes, name: str, max_bytes: int | None) -> bytes:
    if max_bytes is not None and len(data) > max_bytes:
        raise ImageError(
            "TooManyBytes",
            f"as {name} the picture takes {len(data):,} bytes, more than the {max_bytes:,} allowed; "
            "ask for a smaller Width, for more MaxBytes, or for JPEG",
        )
    return data


def _at_best_quality(make: Callable[[int], bytes], name: str, quality: int, max_bytes: int | None) -> bytes:
    """The bytes that ``make`` returns for the highest quality up to ``quality`` that keeps ``max_bytes``."""
    data = make(quality)
    if max_bytes is None or len(data) <= max_bytes:
        return data
    low, high = min(LOWEST_QUALITY, quality), quality - 1
    best = _within_bytes(make(low), name, max_bytes)
    while low < high:
        middle = (low + high + 1) // 2
        data = make(middle)
        if len(data) <= max_bytes:
            low, best = middle, data
        else:
            high = middle - 1
    return best
