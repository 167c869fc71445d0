"""Photos as people send them, opened into the one form the rest of the pipeline works on: upright 8-bit sRGB."""

from dataclasses import dataclass

from PIL import Image

from bg_pipeline.domain import formats
from bg_pipeline.errors import ImageError
from bg_pipeline.imaging import file_types
from bg_pipeline.imaging.colour import in_srgb, is_srgb
from bg_pipeline.imaging.source import Size, Source

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

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageHeader:
    """What the header of an image file says, without decoding it.

    ``size`` is upright (width, height): EXIF ``orientation`` (1-8) is already applied to it. ``mode`` is
    Pillow's; ``has_alpha`` says that the file can be transparent, not that it is; ``plain`` that it is an upright
    sRGB JPEG, which can go as it is wherever a picture is only looked at, once it is known to be whole. ``lossless``
    is a WebP's: other formats always are, or never.
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
    lossless: bool = False


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded picture: upright, 8 bits a channel, sRGB.

    ``image`` is RGB, or RGBA if at least one pixel is translucent. ``format`` is the source's format, a
    key of `EXTENSIONS`. ``notes`` are sentences on what opening it changed. ``dpi`` is the resolution the file
    names, if any. ``lossless`` says that the source is a lossless WebP.
    """

    image: Image.Image
    format: str
    notes: tuple[str, ...] = ()
    dpi: tuple[float, float] | None = None
    lossless: bool = False

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


def _header(data: bytes, max_pixels: int) -> Source:
    """The file's header; raises `ImageError` as `open_photo` does."""
    if not data:
        raise ImageError("EmptyFile", "the file is empty (0 bytes); upload it again")
    try:
        source = file_types.read(data)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels("the image", max_pixels) from None
    width, height = source.size
    if width * height > max_pixels:
        raise _too_many_pixels(f"with {width} × {height} pixels the image", max_pixels)
    if width < 1 or height < 1:
        raise ImageError("DamagedImage", f"the image has no pixels ({width} × {height})")
    return source


def read_header(data: bytes) -> ImageHeader:
    """The facts in an image's header, without decoding it; raises `ImageError` as `open_photo` does."""
    source = _header(data, MAX_PIXELS)
    turned = source.orientation
    plain = source.format == "jpeg" and turned == 1 and source.mode in ("RGB", "L")
    return ImageHeader(
        format=source.format,
        size=source.size[::-1] if turned >= 5 else source.size,
        orientation=turned,
        mode=source.mode,
        frames=source.frames,
        has_alpha=source.has_alpha,
        has_exif=source.has_exif,
        plain=plain and is_srgb(source.colour, source.mode),
        bytes=len(data),
        lossless=source.lossless,
    )


def open_photo(data: bytes, *, max_pixels: int = MAX_PIXELS, within: Size | None = None) -> Photo:
    """The picture in ``data``, upright, in 8-bit sRGB, with its first frame if it has several.

    ``within`` scales it down to lie in a (width, height) box, its aspect kept; a large JPEG is then decoded at a
    fraction of its size.

    EXIF orientation is applied once. Colours are converted by the embedded profile (relative colorimetric with
    black point compensation), or by what else the file says of them, as browsers do; HDR becomes SDR with diffuse
    white at 203 nit. What had to be assumed or was lost is in the notes. Too many pixels are refused from the
    header, before anything is decoded, and what a decoder warns of is damage.

    Memory (measured): 8 bytes per pixel of the source beside ``data`` at the worst moment (turning, or leaving
    CMYK), 4 bytes per pixel afterwards: 0.8 GB and 0.4 GB for 100 megapixels. Of 16 bits a channel it takes 17 at
    worst, of floats 38.

    Raises `ImageError` with the codes ``EmptyFile``, ``NotAnImage``, ``UnsupportedImage`` (a picture of a kind that
    is not opened, such as camera RAW), ``DamagedImage``, ``TooManyPixels``, ``FullyTransparent``.
    """
    source = _header(data, max_pixels)
    turned = source.orientation
    inner = scaled_down(source.size, within[::-1] if turned >= 5 else within) if within else source.size
    notes = [*source.notes]
    if source.frames > 1:
        notes.append(_frame_note(source.format, source.frames))
    image, colour_notes = in_srgb(source.decode(inner), source.colour)
    notes += colour_notes
    if image.size != inner:
        image = image.resize(inner, SMALLER, reducing_gap=REDUCING_GAP)
    if image.mode == "RGBA":
        lowest, highest = image.getchannel("A").getextrema()
        if highest == 0:
            raise ImageError(
                "FullyTransparent",
                "every pixel of the image is fully transparent; save it without its alpha channel",
            )
        if lowest == 255:
            image = image.convert("RGB")
    image = upright(image, turned)
    # What Pillow found in the file must not find its way into a file made from it.
    image.info = {}
    return Photo(image, source.format, tuple(dict.fromkeys(notes)), _dpi(source), source.lossless)


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


def _frame_note(source_format: str, frames: int) -> str:
    if source_format in ("tiff", "heif"):
        return f"several pictures in one file: first of {frames} used"
    return f"animated: first of {frames} frames used"


def _dpi(source: Source) -> tuple[float, float] | None:
    if source.dpi is None:
        return None
    across, down = (float(value) for value in source.dpi)
    return (across, down) if 1 <= across <= 10_000 and 1 <= down <= 10_000 else None


def _too_many_pixels(image: str, max_pixels: int) -> ImageError:
    limit = f"{max_pixels / 1e6:g} megapixels"
    return ImageError("TooManyPixels", f"{image} is larger than the {limit} allowed; scale it down")
