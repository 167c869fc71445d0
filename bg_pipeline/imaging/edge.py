"""The edge of a subject: where its mask is soft, and the subject's own colours there.

On the edge the pixels of a photo are a mixture of subject and old background. Pasted as they are they show as a
fringe of the old background, so the colour of the subject alone is estimated there ("decontaminated"). Work is done
in tiles along the edge; a photo's plain areas cost next to nothing.
"""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from bg_pipeline.imaging.arrays import (
    Box,
    Floats,
    Levels,
    average,
    enlarged,
    levels,
    to_array,
    to_image,
)

Places = npt.NDArray[np.intp]

_TILE = 64

# The colours on both sides of the edge are estimated on a copy whose longer side is about this.
_COARSE = 448


def softened(matte: Image.Image, feather: float) -> Image.Image:
    """The matte, blurred so that its edge is at least ``feather`` pixels wide."""
    boxes = edge_boxes(matte, margin=math.ceil(feather))
    partial, crossed = 0, 0.0
    for box in boxes:
        values = np.asarray(matte.crop(box), np.int16)
        partial += int(np.count_nonzero((values > 0) & (values < 255)))
        crossed += sum(float(np.abs(np.diff(values, axis=axis)).sum()) / 255 for axis in (0, 1))
    # Rows and columns together cross a line of any direction 4/pi times per pixel of its length.
    width = partial / max(1.0, crossed * math.pi / 4)
    if not boxes or width >= feather:
        return matte
    # A Gaussian blur turns a step into a ramp, 90 % of which lies within 3.3 standard deviations.
    deviation = math.sqrt(feather**2 - width**2) / 3.3
    reach = math.ceil(3 * deviation) + 1
    soft = matte.copy()
    for box in boxes:
        soft.paste(filtered(matte, ImageFilter.GaussianBlur(deviation), box, reach), box)
    return soft


def filtered(image: Image.Image, by: ImageFilter.MultibandFilter, box: Box, reach: int) -> Image.Image:
    """The part of a filtered image in a box; ``reach`` is the filter's radius in pixels."""
    left, top = max(0, box[0] - reach), max(0, box[1] - reach)
    right, bottom = min(image.width, box[2] + reach), min(image.height, box[3] + reach)
    around = image.crop((left, top, right, bottom)).filter(by)
    return around.crop((box[0] - left, box[1] - top, box[2] - left, box[3] - top))


def edge_boxes(matte: Image.Image, margin: int = 0) -> list[Box]:
    """Boxes without overlap that cover all pixels with both 0 and more, or 255 and less, within ``margin`` pixels."""
    width, height = matte.size
    values = np.pad(np.asarray(matte), ((0, -height % _TILE), (0, -width % _TILE)), mode="edge")
    rows = values.reshape(-1, _TILE, values.shape[1])
    lowest = Image.fromarray(rows.min(axis=1).reshape(len(rows), -1, _TILE).min(axis=-1))
    highest = Image.fromarray(rows.max(axis=1).reshape(len(rows), -1, _TILE).max(axis=-1))
    around = 2 * math.ceil(margin / _TILE) + 1
    low = np.asarray(lowest.filter(ImageFilter.MinFilter(around)))
    high = np.asarray(highest.filter(ImageFilter.MaxFilter(around)))
    edge = (low != high) | ((low > 0) & (low < 255))
    boxes = []
    for row, tops in enumerate(edge):
        ends = np.flatnonzero(np.diff(tops, prepend=False, append=False)) * _TILE
        top, bottom = row * _TILE, min((row + 1) * _TILE, height)
        boxes += [(int(left), top, min(int(right), width), bottom) for left, right in ends.reshape(-1, 2)]
    return boxes


class Edge:
    """The subject's edge, where each pixel is a mixture C = a·F + (1-a)·B of subject and old background.

    F and B are first averaged around each pixel on a small copy, weighted towards pixels that are surely the one or
    the other. The difference between the pixel and that mixture is then distributed to F and B by least squares.
    After Forte, "Approximate Fast Foreground Colour Estimation" (2021); weighting by the fourth power of ``a`` and
    least squares halve its error on thin detail.
    """

    def __init__(self, photo: Image.Image, matte: Image.Image) -> None:
        self._photo, self._matte = photo, matte
        self._step = max(1, round(max(photo.size) / _COARSE))
        colours = to_array(photo.reduce(self._step))
        share = np.asarray(matte.reduce(self._step), np.float32) / np.float32(255)
        inside = average(colours, np.square(np.square(share)), 8)
        outside = average(colours, np.square(np.square(1 - share)), 8)
        inside, outside = _explained(colours, share, inside, outside)
        self._inside = to_image(average(inside, share, 1))
        self._outside = to_image(average(outside, 1 - share, 1))

    def unmixed(self, box: Box) -> tuple[Image.Image, Image.Image]:
        """The photo in a box with the subject's own colours on the edge, and the matte of the box."""
        matte = np.array(self._matte.crop(box))
        photo = np.array(self._photo.crop(box))
        edge = np.flatnonzero((matte > 0) & (matte < 255))
        share = _chosen(matte, edge)[0] / np.float32(255)
        colours = _chosen(photo, edge)
        inside, outside = self._finely(self._inside, box, edge), self._finely(self._outside, box, edge)
        share = _trimmed(share, colours, inside, outside)
        inside, _ = _explained(colours, share, inside, outside)
        photo.reshape(-1, 3)[edge] = levels(inside).T
        matte.reshape(-1)[edge] = levels(share * 255)
        return Image.fromarray(photo), Image.fromarray(matte)

    def _finely(self, coarse: Image.Image, box: Box, edge: Places) -> Floats:
        return _chosen(enlarged(coarse, self._step, box), edge)


def _chosen(pixels: Levels, places: Places) -> Floats:
    """The pixels at these places: (channels, places)."""
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    return pixels.reshape(-1, channels).take(places, axis=0).T.astype(np.float32, order="C")


def _trimmed(share: Floats, colours: Floats, inside: Floats, outside: Floats) -> Floats:
    """The matte, lowered on its soft edge where a pixel clearly has the old background's colour.

    Masks are rarely exact to the pixel; one that is a little too wide would leave a rim of the old background.
    """
    apart = inside - outside
    distance = np.sqrt((apart * apart).sum(axis=0))
    seen = ((colours - outside) * apart).sum(axis=0) / np.maximum(distance * distance, 1)
    surplus = np.clip(share - np.maximum(seen, 0) - np.float32(0.1), 0, 1)
    # Colours closer than 20 levels do not separate the two sides; from 40 levels on they do.
    certain = np.clip((distance - 20) / 20, 0, 1)
    # Towards the inside the mask is trusted more than the colour.
    lowered: Floats = share - certain * surplus * np.minimum(1, (1 - share) * 8)
    return lowered


def _explained(colours: Floats, share: Floats, inside: Floats, outside: Floats) -> tuple[Floats, Floats]:
    """Both sides' colours, changed as little as possible so that their mixture is the pixel's colour."""
    rest = (colours - share * inside - (1 - share) * outside) / (share**2 + (1 - share) ** 2)
    return np.clip(inside + share * rest, 0, 255), np.clip(outside + (1 - share) * rest, 0, 255)
