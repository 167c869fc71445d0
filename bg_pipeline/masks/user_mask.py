"""A mask that a person gave: read, checked, brought to the photo's size, or refused with what is wrong."""

from collections.abc import Sequence

from PIL import Image

from bg_pipeline import imaging
from bg_pipeline.errors import ImageError
from bg_pipeline.masks import Mask, conventions

# Up to here a grey is meant as black, and from LIGHT on as white: nearer to it than to a middle grey.
DARK, LIGHT = 85, 170
# Anti-aliased and feathered edges stay well below this share of greys between DARK and LIGHT.
MOST_GREY = 0.05
# A soft edge spreads over all greys; one grey this common is a third colour, and nobody knows its meaning.
MOST_OF_ONE_GREY = 0.02
# Edges of a JPEG or of an anti-aliased brush vary this much around black and white.
NOISE = 16


def read_user_mask(data: bytes, size: tuple[int, int], *, name: str = "the mask") -> Mask:
    """The mask in the picture file ``data``, at ``size``, the upright photo's (width, height).

    Black = subject, white = replaced; with translucent pixels, opaque = subject and colours mean nothing.
    A mask of another size but the same shape is resized, and a note says so. Greys are taken as a soft
    edge where nearly everything else is black or white. Raises `ImageError` for another shape, for greys
    or colours that could mean anything, and for a mask that keeps all or nothing. ``name`` (its key) is
    used in the sentences. Memory: about five bytes for each pixel of the mask file, one for each of the photo.
    """
    try:
        photo = imaging.open_photo(data)
    except ImageError as error:
        if error.code == "FullyTransparent":
            raise _keeps_nothing(name) from None
        raise
    _refuse_other_shape(photo.size, size, name)
    if photo.alpha is not None:
        kept = photo.alpha
        soft = True
    else:
        dark = photo.image.convert("L")
        kept = conventions.STORED.to_mask(_stretched(dark, name))
        soft = False
    kept, notes = _resized(kept, size, name, soft=soft)
    histogram = kept.histogram()
    if not any(histogram[: conventions.HALF]):
        raise ImageError(
            "MaskKeepsEverything",
            f"{name} marks every pixel as subject (black or opaque), so nothing would be replaced; "
            "paint the background white",
        )
    if not any(histogram[conventions.HALF :]):
        raise _keeps_nothing(name)
    return Mask(kept, "given", notes=notes)


def _keeps_nothing(name: str) -> ImageError:
    return ImageError(
        "MaskKeepsNothing",
        f"{name} marks no pixel as subject (black or opaque), so nothing would be kept; paint the subject black",
    )


def _refuse_other_shape(given: tuple[int, int], size: tuple[int, int], name: str) -> None:
    def rounding(width: int, height: int) -> bool:
        # Scaling rounds each side to whole pixels: what one pixel of the mask's sides explains is no distortion.
        return abs(width * size[1] - height * size[0]) <= max(size)

    if rounding(*given):
        return
    cause = (
        f"{name} is {given[0]}×{given[1]} pixels and the photo {size[0]}×{size[1]}: the shapes differ, "
        "so it is not known where the mask belongs; "
    )
    if rounding(given[1], given[0]):
        cause += "it looks turned by 90°: paint it over the photo as it is seen upright"
    else:
        cause += "give a mask of the photo's size, or one scaled without cropping"
    raise ImageError("MaskShapeDiffers", cause)


def _stretched(dark: Image.Image, name: str) -> Image.Image:
    """Nearly black and white pulled to 0 and 255; the greys of the edge stay in proportion."""
    histogram = dark.histogram()
    pixels = dark.width * dark.height
    between = histogram[DARK + 1 : LIGHT]
    bands = (sum(between[start : start + 4]) for start in range(0, len(between), 4))
    if sum(between) > MOST_GREY * pixels or max(bands) > MOST_OF_ONE_GREY * pixels:
        raise ImageError(
            "MaskIsGrey",
            f"{name} has greys or colours on {sum(between) / pixels:.0%} of its pixels that are neither black "
            "(subject) nor white (replaced); save it in pure black and white, or with alpha",
        )
    low = _mean(histogram, range(DARK + 1), 0) + NOISE
    high = _mean(histogram, range(LIGHT, 256), 255) - NOISE
    table = [round(255 * min(1.0, max(0.0, (level - low) / (high - low)))) for level in range(256)]
    return dark.point(table)


def _mean(histogram: Sequence[int], levels: range, empty: float) -> float:
    pixels = sum(histogram[level] for level in levels)
    return sum(level * histogram[level] for level in levels) / pixels if pixels else empty


def _resized(
    kept: Image.Image, size: tuple[int, int], name: str, *, soft: bool
) -> tuple[Image.Image, tuple[str, ...]]:
    if kept.size == size:
        return kept, ()
    note = f"{name} was resized from {kept.width}×{kept.height} to the photo's {size[0]}×{size[1]}"
    scale = size[0] / kept.width
    resized = kept.resize(size, Image.Resampling.BICUBIC)
    if scale > 1 and not soft:
        # Enlarging spreads an edge over `scale` pixels; a drawn edge is one or two pixels wide.
        steep = [round(min(255.0, max(0.0, 127.5 + (level - 127.5) * scale))) for level in range(256)]
        resized = resized.point(steep)
    return resized, (note,)
