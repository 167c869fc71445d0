"""Photos as people upload them, decoded into the form that the pipeline works on: upright, 8-bit sRGB."""

from dataclasses import dataclass

from PIL import Image

from bg_pipeline.domain import formats
from bg_pipeline.errors import ImageError
from bg_pipeline.imaging import file_types
from bg_pipeline.imaging.colour import in_srgb, is_srgb
from bg_pipeline.imaging.source import Size, Source

MAX_PIXELS = formats.MAX_PIXELS
"""Larger photos are refused; see `open_photo` for the memory that this takes."""

# Pillow would warn from 89 megapixels on. This limit is checked in every file's header as well.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

SMALLER = Image.Resampling.BICUBIC
"""The filter for pictures that are only analysed or previewed.

From half the size of a large JPEG it takes three quarters of LANCZOS' time and differs from it by 40 to 48 dB.
"""

# Reducing with a box filter first takes a third of the time and differs from the filter alone by 52 dB.
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
    """The facts in the header of an image file, which is not decoded for them.

    ``size`` is (width, height) with EXIF ``orientation`` (1-8) applied. ``mode`` is Pillow's. ``has_alpha`` means
    that the file can be transparent, not that it is. ``plain`` means an upright sRGB JPEG: its bytes can be sent as
    they are to a service, once they are known to be undamaged. ``lossless`` is set for a lossless WebP only.
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
    key of `EXTENSIONS`. ``notes`` are sentences on what decoding changed. ``dpi`` is the resolution in the file, if
    any. ``lossless`` is set for a lossless WebP.
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
        """The picture as RGB; transparent parts are white."""
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
    """The facts in the header of an image file; raises `ImageError` as `open_photo` does."""
    source = _header(data, MAX_PIXELS)
    orientation = source.orientation
    plain = source.format == "jpeg" and orientation == 1 and source.mode in ("RGB", "L")
    return ImageHeader(
        format=source.format,
        size=source.size[::-1] if orientation >= 5 else source.size,
        orientation=orientation,
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

    ``within`` is a (width, height) box that the picture is scaled down into, its aspect kept; a large JPEG is then
    decoded at a fraction of its size.

    EXIF orientation is applied. Colours are converted with the embedded profile (relative colorimetric, black point
    compensation) or else with the file's other colour information, as browsers do; HDR becomes SDR with diffuse white
    at 203 nit. The notes list what was assumed or lost. Too many pixels are refused before anything is decoded, and a
    decoder's warning counts as damage.

    Memory (measured), in addition to ``data``: at most 8 bytes per pixel of the source (while rotating, or converting
    from CMYK) and 4 afterwards, so 0.8 GB and 0.4 GB for 100 megapixels. At most 17 bytes per pixel for 16 bits a
    channel, 38 for floats.

    Raises `ImageError` with the codes ``EmptyFile``, ``NotAnImage``, ``UnsupportedImage`` (a valid picture of a type
    that is not supported, such as camera RAW), ``DamagedImage``, ``TooManyPixels``, ``FullyTransparent``.
    """
    source = _header(data, max_pixels)
    orientation = source.orientation
    decoded_size = (
        scaled_down(source.size, within[::-1] if orientation >= 5 else within) if within else source.size
    )
    notes = [*source.notes]
    if source.frames > 1:
        notes.append(_frame_note(source.format, source.frames))
    image, colour_notes = in_srgb(source.decode(decoded_size), source.colour)
    notes += colour_notes
    if image.size != decoded_size:
        image = image.resize(decoded_size, SMALLER, reducing_gap=REDUCING_GAP)
    if image.mode == "RGBA":
        lowest, highest = image.getchannel("A").getextrema()
        if highest == 0:
            raise ImageError(
                "FullyTransparent",
                "every pixel of the image is fully transparent; save it without its alpha channel",
            )
        if lowest == 255:
            image = image.convert("RGB")
    image = upright(image, orientation)
    # Metadata that Pillow read must not get into a file that is made from the picture.
    image.info = {}
    return Photo(image, source.format, tuple(dict.fromkeys(notes)), _dpi(source), source.lossless)


def scaled_down(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """The size of a picture after it is scaled down into a box; unchanged if it already fits."""
    scale = min(1.0, box[0] / size[0], box[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image rotated and mirrored as its EXIF orientation (1-8) demands."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def on_white(image: Image.Image) -> Image.Image:
    """The image as RGB; transparent parts are white."""
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
