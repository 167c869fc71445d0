"""A mask that a person gave: read, checked, brought to the photo's size, or refused with the reason."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from bg_pipeline import imaging
from bg_pipeline.errors import ImageError
from bg_pipeline.masks import Mask, conventions

# Up to here a grey is meant as black, and from LIGHT on as white: nearer to it than to a middle grey.
DARK, LIGHT = 85, 170
# Anti-aliased and feathered edges stay well below this share of greys between DARK and LIGHT; above it, or above this
# share of one grey, the mask is a matte, whose greys are meant.
MOST_GREY = 0.05
MOST_OF_ONE_GREY = 0.02
# Edges of a JPEG or of an anti-aliased brush vary this much around black and white.
NOISE = 16
# A matte has at least this share of white, which is replaced; a mask of two middle greys could mean anything.
LEAST_WHITE = 0.01
# Channels that differ by more than this are a colour; JPEG noise stays below.
COLOURED = 48
# Colours are looked for in a copy with about this longer side.
COLOUR_SIDE = 1024


def read_user_mask(data: bytes, size: tuple[int, int], *, name: str = "the mask") -> Mask:
    """The mask in the picture file ``data``, at ``size``, the upright photo's (width, height).

    Black = subject, white = replaced; with translucent pixels, opaque = subject and colours mean nothing. Where
    nearly everything is black or white, greys are a soft edge; otherwise the mask is a matte, in which each grey
    keeps its share, and a note says so. A mask of another size but the same shape is resized, also with a note.
    Raises `ImageError` for another shape, for colours, for greys without white, and for a mask that keeps all or
    nothing. ``name`` (its key) is used in the sentences. Memory: about five bytes for each pixel of the mask file,
    one for each pixel of the photo.
    """
    try:
        photo = imaging.open_photo(data)
    except ImageError as error:
        if error.code == "FullyTransparent":
            raise _keeps_nothing(name) from None
        raise error.of(name) from None
    _refuse_other_shape(photo.size, size, name)
    notes: tuple[str, ...] = ()
    soft = photo.alpha is not None
    if photo.alpha is not None:
        kept = photo.alpha
    else:
        _refuse_colours(photo.image, name)
        dark = photo.image.convert("L")
        grey = _grey_share(dark)
        if grey:
            kept, soft = _matte(dark, name), True
            notes = (
                f"{name} is grey on {grey:.0%} of its pixels and is used as a matte: greys keep the subject in part",
            )
        else:
            kept = conventions.STORED.to_mask(_stretched(dark))
    kept, resized = _resized(kept, size, name, soft=soft)
    histogram = kept.histogram()
    # A matte may be translucent everywhere, such as cloth.
    if not any(histogram[: 255 - NOISE if soft else conventions.HALF]):
        raise ImageError(
            "MaskKeepsEverything",
            f"{name} marks every pixel as subject (black or opaque), so nothing would be replaced; "
            "paint the background white",
        )
    if not any(histogram[NOISE + 1 if soft else conventions.HALF :]):
        raise _keeps_nothing(name)
    return Mask(kept, "given", notes=(*notes, *resized))


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


def _refuse_colours(picture: Image.Image, name: str) -> None:
    small = picture.reduce(max(1, max(picture.size) // COLOUR_SIDE))
    pixels = np.asarray(small.convert("RGB"))
    coloured = float((np.ptp(pixels, axis=2) > COLOURED).mean())
    if coloured > MOST_GREY:
        raise ImageError(
            "MaskIsGrey",
            f"{name} has colours on {coloured:.0%} of its pixels, whose meaning is not known; save it with the "
            "subject black and the background white, or with alpha",
        )


def _grey_share(dark: Image.Image) -> float:
    """The share of pixels that are neither black nor white, 0 where they are no more than the subject's edge."""
    histogram = dark.histogram()
    pixels = dark.width * dark.height
    between = histogram[DARK + 1 : LIGHT]
    bands = (sum(between[start : start + 4]) for start in range(0, len(between), 4))
    if sum(between) > MOST_GREY * pixels or max(bands) > MOST_OF_ONE_GREY * pixels:
        return sum(between) / pixels
    return 0.0


def _matte(dark: Image.Image, name: str) -> Image.Image:
    """The kept share by the greys themselves; only the noise of black and white is cleaned."""
    white = sum(dark.histogram()[255 - NOISE :])
    if white < LEAST_WHITE * dark.width * dark.height:
        raise ImageError(
            "MaskIsGrey",
            f"{name} has greys where the background should be white, so it is not known what is replaced; paint the "
            "subject black and the background white",
        )
    span = 255 - 2 * NOISE
    return dark.point([255 - round(255 * min(1, max(0, (level - NOISE) / span))) for level in range(256)])


def _stretched(dark: Image.Image) -> Image.Image:
    """Nearly black and white pulled to 0 and 255; the greys of the edge stay in proportion."""
    histogram = dark.histogram()
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
