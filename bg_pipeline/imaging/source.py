"""What every decoder gives for a file of which it has read the header: facts, and a way to the pixels."""

from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image

from bg_pipeline.errors import ImageError
from bg_pipeline.imaging.colour import Colour, Deep

Size = tuple[int, int]
Pixels = Image.Image | Deep

# What Pillow and the libraries below it raise on bytes that are not what they claim to be.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    RuntimeError,
)


@dataclass(frozen=True, eq=False)
class Source:
    """An image file whose header is read.

    ``size`` is as stored, before ``orientation`` (1-8) is applied. ``decode`` gives the pixels, at least as large as
    the size it is asked for (a fraction of the full size where the format allows that), and raises `ImageError`
    if they are damaged. ``mode`` is Pillow's name for the kind of pixels.
    """

    format: str
    size: Size
    mode: str
    decode: Callable[[Size], Pixels]
    orientation: int = 1
    frames: int = 1
    has_alpha: bool = False
    has_exif: bool = False
    colour: Colour = field(default_factory=Colour)
    dpi: tuple[float, float] | None = None
    lossless: bool = False
    notes: tuple[str, ...] = ()


def damaged(reason: object) -> ImageError:
    """The error for a picture whose decoder failed or warned."""
    words = " ".join(str(reason).split())
    return ImageError("DamagedImage", f"the image is damaged or cut short ({words}); upload it again")


def why(error: ImageError) -> str:
    """The reason that `damaged` was given."""
    return str(error).partition("(")[2].rpartition(")")[0]


def unsupported(what: str) -> ImageError:
    """The error for a true picture of a kind that is not opened; ``what`` is its name with an article."""
    return ImageError(
        "UnsupportedImage",
        f"the file is {what}, of a kind that cannot be read; export it as JPEG, PNG or TIFF",
    )


def loaded(image: Image.Image) -> Image.Image:
    """The image with its pixels; `ImageError` if they are damaged."""
    try:
        image.load()
    except UNREADABLE as error:
        raise damaged(error) from None
    return image
