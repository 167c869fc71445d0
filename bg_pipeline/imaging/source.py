"""What every decoder returns for a file: the facts in its header, and a function that decodes its pixels."""

from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image

from bg_pipeline.errors import ImageError
from bg_pipeline.imaging.colour import Colour, Deep

Size = tuple[int, int]
Pixels = Image.Image | Deep

# What Pillow and its libraries raise for damaged or unexpected bytes.
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
    """An image file whose header was read.

    ``size`` is the stored one, before ``orientation`` (1-8) is applied. ``decode`` takes the least size that is
    needed and returns the pixels, which may be larger; some formats decode a fraction of the full size. It raises
    `ImageError` if they are damaged. ``mode`` is Pillow's.
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
    """The error for a file whose decoder failed or warned."""
    words = " ".join(str(reason).split())
    return ImageError("DamagedImage", f"the image is damaged or cut short ({words}); upload it again")


def why(error: ImageError) -> str:
    """The reason in an error that `damaged` returned."""
    return str(error).partition("(")[2].rpartition(")")[0]


def unsupported(what: str) -> ImageError:
    """The error for a valid file of a type that is not supported; ``what`` is its name with an article."""
    return ImageError(
        "UnsupportedImage",
        f"the file is {what}, of a kind that cannot be read; export it as JPEG, PNG or TIFF",
    )


def loaded(image: Image.Image) -> Image.Image:
    """The image with its pixels decoded; raises `ImageError` if they are damaged."""
    try:
        image.load()
    except UNREADABLE as error:
        raise damaged(error) from None
    return image
