"""Photos as people send them, opened into the one form the rest of the pipeline works on: upright 8-bit sRGB."""

import functools
import re
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from bg_pipeline import formats
from bg_pipeline.errors import ImageError
from bg_pipeline.imaging.colour import in_srgb, is_srgb

MAX_PIXELS = formats.MAX_PIXELS
"""Photos up to 100 megapixels are opened; see `open_photo` for what that takes in memory."""

# Pillow warns from 89 megapixels on; here the limit is ours and checked on every file's header.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

SMALLER = Image.Resampling.BICUBIC
"""How pictures become smaller that are only looked at, by services, masks and eyes.

From a large JPEG's half size it takes three quarters of what LANCZOS does and ends 40 to 48 dB from it.
"""

# Halving with a box filter first takes a third of the time and ends 52 dB from where the filter alone does.
REDUCING_GAP = 1.4

# Pillow's name -> ours. Formats that run other programs (EPS) or are documents (PDF, PSD) are left out on purpose.
# MPO is what phones write: a JPEG with a preview or a gain map behind it.
FORMATS = {
    "JPEG": "jpeg",
    "MPO": "jpeg",
    "PNG": "png",
    "WEBP": "webp",
    "TIFF": "tiff",
    "BMP": "bmp",
    "GIF": "gif",
    "HEIF": "heif",
    "AVIF": "avif",
}

# What Pillow and the libraries below it raise on bytes that are not what they claim to be.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_STARTS = (
    ("a JPEG image", re.compile(rb"\xff\xd8\xff")),
    ("a PNG image", re.compile(rb"\x89PNG\r\n")),
    ("a WebP image", re.compile(rb"RIFF.{4}WEBP", re.DOTALL)),
    ("a TIFF image", re.compile(rb"II[*+]\0|MM\0[*+]")),
    ("a GIF image", re.compile(rb"GIF8[79]a")),
    ("an HEIC or AVIF image", re.compile(rb".{4}ftyp(hei|hev|mif1|msf1|avi[fs])", re.DOTALL)),
)

_OTHERS = (
    (b"<svg", "an SVG drawing"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<?xml", "an XML file"),
    (b"%pdf-", "a PDF document"),
    (b"%!ps", "a PostScript program"),
    (b"8bps", "a Photoshop file"),
    (b"pk\x03\x04", "a ZIP archive"),
    (b"ftyp", "a film"),
    (b"data:image/", "a data URI and not the picture itself"),
)


@dataclass(frozen=True)
class Facts:
    """What the header of an image file says, without decoding it.

    ``size`` is upright (width, height): EXIF ``orientation`` (1-8) is already applied to it. ``mode`` is
    Pillow's; ``has_alpha`` says that the file can be transparent, not that it is; ``plain`` that it is an upright
    sRGB JPEG, which can go as it is wherever a picture is only looked at.
    """

    format: str
    size: tuple[int, int]
    orientation: int
    mode: str
    frames: int
    has_alpha: bool
    has_exif: bool
    plain: bool
    bytes: int


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded picture: upright, 8 bits a channel, sRGB.

    ``image`` is RGB, or RGBA if at least one pixel is translucent. ``format`` is the source's format as in
    `FORMATS`. ``notes`` are sentences on what opening it changed. ``dpi`` is the resolution the file names, if any.
    """

    image: Image.Image
    format: str
    notes: tuple[str, ...] = ()
    dpi: tuple[float, float] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, upright."""
        return self.image.size

    @property
    def alpha(self) -> Image.Image | None:
        """The source's own transparency as an L picture, or None if every pixel is opaque."""
        return self.image.getchannel("A") if self.image.mode == "RGBA" else None

    def flattened(self) -> Image.Image:
        """The picture as RGB, transparent parts on white."""
        return on_white(self.image)


@functools.cache
def _readable() -> list[str]:
    """Pillow's names of the formats that are opened; the first call loads Pillow's plugins and teaches it HEIC."""
    import pillow_heif

    Image.init()
    pillow_heif.register_heif_opener(thumbnails=False)
    return [name for name in FORMATS if name in Image.OPEN]


def open_header(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A Pillow image of which only the header has been read; raises `ImageError` as `open_photo` does."""
    if not data:
        raise ImageError("EmptyFile", "the file is empty (0 bytes); upload it again")
    try:
        image = Image.open(BytesIO(data), formats=_readable())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels("the image", max_pixels) from None
    except _UNREADABLE:
        raise _unreadable(data) from None
    width, height = image.size
    if width * height > max_pixels:
        raise _too_many_pixels(f"with {width} × {height} pixels the image", max_pixels)
    if width < 1 or height < 1:
        raise ImageError("DamagedImage", f"the image has no pixels ({width} × {height})")
    return image


def look(data: bytes) -> Facts:
    """The facts in an image's header, in well under a millisecond; raises `ImageError` as `open_photo` does."""
    image = open_header(data)
    turned = orientation(image, data)
    format = FORMATS[str(image.format)]
    return Facts(
        format=format,
        size=image.size[::-1] if turned >= 5 else image.size,
        orientation=turned,
        mode=image.mode,
        frames=_frames(image),
        has_alpha=image.has_transparency_data,
        has_exif=bool(image.info.get("exif")),
        plain=format == "jpeg" and turned == 1 and image.mode in ("RGB", "L") and is_srgb(image),
        bytes=len(data),
    )


def open_photo(data: bytes, *, max_pixels: int = MAX_PIXELS, within: tuple[int, int] | None = None) -> Photo:
    """The picture in ``data``, upright, in 8-bit sRGB, with its first frame if it has several.

    ``within`` scales it down to lie in a (width, height) box, its aspect kept; a large JPEG is then decoded at a
    fraction of its size.

    EXIF orientation is applied once; an embedded colour profile is honoured (relative colorimetric with black
    point compensation); CMYK without a profile is converted by the plain formula. Too many pixels are refused
    from the header, before anything is decoded.

    Memory (measured): 8 bytes per pixel of the source beside ``data`` at the worst moment (turning, or leaving
    CMYK), 4 bytes per pixel afterwards: 0.8 GB and 0.4 GB for 100 megapixels. Float TIFFs take 17 at worst.

    Raises `ImageError` with the codes ``EmptyFile``, ``NotAnImage``, ``DamagedImage``, ``TooManyPixels``.
    """
    image = open_header(data, max_pixels)
    source_format = FORMATS[str(image.format)]
    frames = _frames(image)
    notes: list[str] = []
    if frames > 1 and image.format != "MPO":
        notes.append(_frame_note(source_format, frames))
    turned = orientation(image, data)
    inner = scaled_down(image.size, within[::-1] if turned >= 5 else within) if within else image.size
    image.draft(None, inner)
    decode(image)
    dpi = _dpi(image)
    image, colour_notes = in_srgb(image)
    notes += colour_notes
    if image.size != inner:
        image = image.resize(inner, SMALLER, reducing_gap=REDUCING_GAP)
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB")
    image = upright(image, turned)
    if frames > 1:
        # A plain picture, without the way to its other frames, which some encoders would take.
        image = image.copy()
    # What Pillow found in the file must not find its way into a file made from it.
    image.info = {}
    return Photo(image, source_format, tuple(notes), dpi)


def decode(image: Image.Image) -> None:
    """Reads the pixels of an image of which only the header was read; raises `ImageError` if they are damaged."""
    try:
        image.load()
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise ImageError(
            "DamagedImage", f"the image is damaged or cut short ({reason}); upload it again"
        ) from None


def scaled_down(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """The size of a picture that was scaled down, if it must be, to lie in a box."""
    scale = min(1.0, box[0] / size[0], box[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def upright(image: Image.Image, turned: int) -> Image.Image:
    """The image with its EXIF orientation (1-8) undone."""
    return image.transpose(_UPRIGHT[turned]) if turned in _UPRIGHT else image


def on_white(image: Image.Image) -> Image.Image:
    """An RGB picture; what was transparent is white."""
    if image.mode == "RGB":
        return image
    if image.mode not in ("RGBA", "LA"):
        return image.convert("RGB")
    page = Image.new("RGB", image.size, "white")
    page.paste(image.convert("RGB"), mask=image.getchannel("A"))
    return page


def orientation(image: Image.Image, data: bytes) -> int:
    """The EXIF orientation (1-8) that is still to be applied to ``image``; 1 if there is none or it is damaged.

    Read here because Pillow's EXIF reader parses every tag and prints warnings about damaged ones. For TIFF
    and HEIC Pillow and libheif turn the pixels themselves.
    """
    if image.format in ("TIFF", "HEIF"):
        return 1
    exif = image.info.get("exif") or (_png_exif(data) if image.format == "PNG" else b"")
    exif = exif.removeprefix(b"Exif\x00\x00")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "L", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(order + "HH", exif, entry)
            if tag == 0x0112 and kind == 3:
                (value,) = struct.unpack_from(order + "H", exif, entry + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def _frame_note(source_format: str, frames: int) -> str:
    if source_format in ("tiff", "heif"):
        return f"several pictures in one file: first of {frames} used"
    return f"animated: first of {frames} frames used"


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
    return (across, down) if 1 <= across <= 10_000 and 1 <= down <= 10_000 else None


def _frames(image: Image.Image) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except _UNREADABLE:
        return 1


def _png_exif(data: bytes) -> bytes:
    """The EXIF of a PNG that has it behind the pixels, where Pillow has not looked yet."""
    name = data.rfind(b"eXIf")
    if name < 8:
        return b""
    end = name + 4 + int.from_bytes(data[name - 4 : name])
    whole = zlib.crc32(data[name:end]) == int.from_bytes(data[end : end + 4])
    return data[name + 4 : end] if whole else b""


def _too_many_pixels(image: str, max_pixels: int) -> ImageError:
    limit = f"{max_pixels / 1e6:g} megapixels"
    return ImageError("TooManyPixels", f"{image} is larger than the {limit} allowed; scale it down")


def _unreadable(data: bytes) -> ImageError:
    for kind, start in _STARTS:
        if start.match(data):
            return ImageError(
                "DamagedImage", f"the file begins as {kind} but is damaged or cut short; upload it again"
            )
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    kind = next((name for sign, name in _OTHERS if sign in head), "")
    found = (
        f"the file is {kind}, not a photo" if kind else "the file is not an image of a kind that can be read"
    )
    return ImageError("NotAnImage", f"{found}; JPEG, PNG, WebP, TIFF, BMP, GIF, HEIC and AVIF can be")
