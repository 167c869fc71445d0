"""Photos in the sizes that a service takes, and results back in the photo's size: padded, never stretched."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from bg_pipeline.errors import ImageError
from bg_pipeline.imaging import jpeg as jpeg_file
from bg_pipeline.imaging.encode import jpeg, png
from bg_pipeline.imaging.photo import (
    REDUCING_GAP,
    SMALLER,
    ImageHeader,
    Photo,
    on_white,
    open_photo,
    read_header,
    scaled_down,
)

Size = tuple[int, int]

_JPEG_SIDE = 65_500

_HARD = [0] * 128 + [255] * 128


@dataclass(frozen=True)
class Fitted:
    """Where a photo is on the canvas that is sent: ``inner`` is its scaled size, ``offset`` its top left corner.

    ``inner`` has the photo's aspect to within half a pixel of the canvas. `unfit` maps ``inner`` onto the photo's
    full size again, which undoes even that, so that nothing is displaced.
    """

    inner: Size
    canvas: Size
    offset: Size


class Sizes(Protocol):
    """The picture sizes a model takes."""

    def canvas(self, size: Size) -> Fitted:
        """How a photo of this size is scaled and padded for the model."""


@dataclass(frozen=True)
class AllowedSizes:
    """A fixed list of (width, height) pairs, as Titan has.

    Of the pairs that need the least padding, or up to 2 % of the canvas more, the smallest is chosen that does not
    shrink the photo; if there is none, the one that shrinks it least.
    """

    pairs: Sequence[Size]

    def canvas(self, size: Size) -> Fitted:
        """How a photo of this size is scaled and padded."""
        candidates = [(pair, _inside(size, pair)) for pair in self.pairs]
        padding = {pair: 1 - inner[0] * inner[1] / (pair[0] * pair[1]) for pair, inner in candidates}
        least = min(padding.values())
        good = [(pair, inner) for pair, inner in candidates if padding[pair] <= least + 0.02]
        enough = [(pair, inner) for pair, inner in good if inner[0] >= size[0]]
        if enough:
            pair, inner = min(enough, key=lambda each: each[1][0] * each[1][1])
        else:
            pair, inner = max(good, key=lambda each: each[1][0] * each[1][1])
        return _centred(inner, pair)


@dataclass(frozen=True)
class Bounds:
    """Inclusive limits on sides, pixels and aspect, as Nova Canvas and Stability have them.

    A photo within the limits is sent in its own size. A larger one is shrunk, a smaller one enlarged as far as its
    longer side allows; a side that is still too short is padded. ``multiple_of`` pads each side to a multiple.
    """

    min_side: int
    max_side: int
    max_pixels: int
    max_aspect: float
    multiple_of: int = 1

    def canvas(self, size: Size) -> Fitted:
        """How a photo of this size is scaled and padded."""
        step = self.multiple_of
        long, short = max(size), min(size)
        top = self.max_side // step * step
        # Every limit except the number of pixels, for a canvas around the scaled photo.
        scale = max(1.0, self.min_side / short)
        scale = min(scale, top / long)
        padded_short = max(short * scale, self.min_side, long * scale / self.max_aspect)
        scale *= min(1.0, math.sqrt(self.max_pixels / (long * scale * padded_short)))
        while True:
            inner = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
            canvas = self._around(inner)
            if max(canvas) <= top and canvas[0] * canvas[1] <= self.max_pixels:
                return _centred(inner, canvas)
            # Rounding up to the step exceeded a limit: one pixel less on the longer side, until it fits.
            scale = (max(inner) - 1) / long

    def _around(self, inner: Size) -> Size:
        least = max(self.min_side, math.ceil(max(inner) / self.max_aspect))
        width, height = (math.ceil(max(side, least) / self.multiple_of) * self.multiple_of for side in inner)
        # Rounding up only the longer side may exceed the aspect again.
        while max(width, height) > self.max_aspect * min(width, height):
            width, height = (
                (width + self.multiple_of, height) if width < height else (width, height + self.multiple_of)
            )
        return width, height


def fit(
    photo: Photo | bytes,
    fitted: Fitted,
    *,
    media: Literal["png", "jpeg"] = "png",
    max_bytes: int | None = None,
) -> bytes:
    """The photo, decoded or as a file, as a model is sent it: ``fitted.canvas`` large, opaque, its edges repeated.

    ``media`` "jpeg" is quality 95 without chroma subsampling, or lower to keep ``max_bytes``; "png" is lossless.
    Raises `ImageError` (``TooManyBytes``) if ``max_bytes`` cannot be kept.
    """
    if isinstance(photo, bytes):
        photo = open_photo(photo)
    inner = photo.image.resize(fitted.inner, SMALLER, reducing_gap=REDUCING_GAP)
    padded = _padded(on_white(inner), fitted)
    if media == "jpeg":
        return jpeg(padded, quality=95, sampling=0, max_bytes=max_bytes)
    return png(padded, max_bytes=max_bytes)


def fit_mask(mask: Image.Image, fitted: Fitted) -> Image.Image:
    """The mask on the model's canvas; every pixel is 0 or 255, and the padding is background (0).

    ``mask`` is mode L, 255 = subject, of any size with the photo's aspect.
    """
    inner = mask.resize(fitted.inner, Image.Resampling.BILINEAR, reducing_gap=REDUCING_GAP).point(_HARD)
    canvas = Image.new("L", fitted.canvas, 0)
    canvas.paste(inner, fitted.offset)
    return canvas


def unfit(image: Image.Image, fitted: Fitted, size: Size) -> Image.Image:
    """A model's picture of a fitted photo, without the padding, scaled to the photo's ``size``.

    ``image`` may be larger or smaller than the canvas; the photo's box on it is scaled accordingly. Registration is
    exact to half a pixel.
    """
    across, down = image.width / fitted.canvas[0], image.height / fitted.canvas[1]
    left, top = fitted.offset[0] * across, fitted.offset[1] * down
    right, bottom = left + fitted.inner[0] * across, top + fitted.inner[1] * down
    # Cropped first, because resizing reads pixels outside its box, which are the padding.
    first = math.floor(left), math.floor(top)
    inner = image.crop((*first, min(math.ceil(right), image.width), min(math.ceil(bottom), image.height)))
    if inner.size == size:
        return inner
    box = (
        left - first[0],
        top - first[1],
        min(right - first[0], inner.width),
        min(bottom - first[1], inner.height),
    )
    return inner.resize(size, Image.Resampling.BICUBIC, box)


def small_jpeg(
    source: bytes | Photo,
    *,
    within: Size,
    quality: int = 90,
    min_side: int | None = None,
    max_bytes: int | None = None,
    header: ImageHeader | None = None,
) -> bytes:
    """An upright sRGB JPEG of the picture, scaled down into a box, for services that only analyse it.

    The aspect is kept, so that relative boxes in it are valid for the source. A picture whose shorter side would be
    below ``min_side`` is enlarged to it, even beyond the box. Transparent parts are white. Bytes that already are
    such a JPEG are returned unchanged; another large JPEG is decoded at a fraction of its size. ``header`` is that of
    the bytes, if it is known.

    Raises `ImageError` as `open_photo` does; ``TooManyBytes`` if ``max_bytes`` cannot be kept.
    """
    if isinstance(source, Photo):
        photo, target = source, _target(source.size, within, min_side)
    else:
        header = header or read_header(source)
        target = _target(header.size, within, min_side)
        if target == header.size and header.plain and len(source) <= (max_bytes or len(source)):
            # The service is paid, so damage must be found before.
            jpeg_file.check(source)
            return source
        photo = open_photo(source, within=(max(within[0], target[0]), max(within[1], target[1])))
    image = photo.image
    if image.size != target:
        image = image.resize(target, SMALLER, reducing_gap=REDUCING_GAP)
    return jpeg(on_white(image), quality=quality, sampling=2, max_bytes=max_bytes)


def _inside(size: Size, box: Size) -> Size:
    """The largest size with this aspect that fits into the box."""
    scale = min(box[0] / size[0], box[1] / size[1])
    return (
        max(1, min(box[0], round(size[0] * scale))),
        max(1, min(box[1], round(size[1] * scale))),
    )


def _target(size: Size, within: Size, min_side: int | None) -> Size:
    """The size scaled down into the box, or up until its shorter side has ``min_side``."""
    target = scaled_down(size, within)
    if min_side is not None and min(target) < min_side:
        scale = min_side / min(size)
        target = (max(min_side, round(size[0] * scale)), max(min_side, round(size[1] * scale)))
    if max(target) > _JPEG_SIDE:
        raise ImageError(
            "TooNarrow", f"the image is too long and narrow ({size[0]} × {size[1]} pixels); crop it"
        )
    return target


def _centred(inner: Size, canvas: Size) -> Fitted:
    return Fitted(inner, canvas, ((canvas[0] - inner[0]) // 2, (canvas[1] - inner[1]) // 2))


def _padded(image: Image.Image, fitted: Fitted) -> Image.Image:
    """The image on its canvas; the padding repeats its edge pixels."""
    if image.size == fitted.canvas:
        return image
    (left, top), (width, height) = fitted.offset, fitted.inner
    right, bottom = fitted.canvas[0] - left - width, fitted.canvas[1] - top - height
    edges = ((top, bottom), (left, right), (0, 0))
    return Image.fromarray(np.pad(np.asarray(image), edges, mode="edge"))
