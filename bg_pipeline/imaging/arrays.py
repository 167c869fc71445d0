"""Pictures as numpy arrays: colour planes, local averages, and parts of enlarged pictures."""

import numpy as np
import numpy.typing as npt
from PIL import Image

Box = tuple[int, int, int, int]
Floats = npt.NDArray[np.float32]
Levels = npt.NDArray[np.uint8]


def to_array(image: Image.Image) -> Floats:
    """A colour picture as floats (channels, height, width): numpy is slow if the shortest axis is the last."""
    return np.moveaxis(np.asarray(image), -1, 0).astype(np.float32, order="C")


def to_image(values: Floats) -> Image.Image:
    """The picture whose planes `to_array` returned; values are rounded to 8 bits."""
    return Image.fromarray(np.ascontiguousarray(np.moveaxis(levels(values), 0, -1)))


def levels(values: Floats) -> Levels:
    """Values of 0 to 255 rounded to 8 bits."""
    return np.rint(values).astype(np.uint8)


def enlarged(coarse: Image.Image, step: int, box: Box) -> Levels:
    """The pixels in a box of a picture that is ``step`` times as large as ``coarse``, interpolated from that."""
    size = (box[2] - box[0], box[3] - box[1])
    left, top, right, bottom = (side / step for side in box)
    return np.asarray(coarse.resize(size, Image.Resampling.BILINEAR, (left, top, right, bottom)))


def average(values: Floats, weights: Floats, radius: int) -> Floats:
    """The weighted mean in a square around each pixel; the plain mean where all weights are 0.

    ``values`` are planes as of `to_array`, ``weights`` one plane; the square has 2 · ``radius`` + 1 pixels a side.
    """
    weights = weights + np.float32(1e-6)
    sums = _sums(weights, radius)
    means = np.empty_like(values)
    # Plane by plane: what fits into the processor's cache takes down to half the time.
    for plane, mean in zip(values, means, strict=True):
        np.divide(_sums(plane * weights, radius), sums, out=mean)
    return means


def _sums(values: Floats, radius: int) -> Floats:
    """The sum over a square around each pixel; outside the picture values are 0."""
    ends = [(0, 0)] * (values.ndim - 2) + [(radius, radius)] * 2
    sums: Floats = np.pad(values, ends)
    for axis in (-2, -1):
        sums = window_sums(sums, 2 * radius + 1, axis)
    return sums


def window_sums(values: Floats, width: int, axis: int) -> Floats:
    """The sum of every ``width`` neighbours along rows (-1) or columns (-2); that axis becomes ``width`` - 1 shorter.

    Sums of 1, 2, 4, 8 … neighbours are added up. That takes a tenth of the time of running sums and needs no more
    than 32 bits for the same precision, because nothing is subtracted.
    """

    def part(array: Floats, start: int, length: int) -> Floats:
        rows_or_columns = slice(start, start + length)
        return array[..., rows_or_columns] if axis == -1 else array[..., rows_or_columns, :]

    length = values.shape[axis] - width + 1
    total: Floats | None = None
    summed, size = 0, 1
    while True:
        if width & size:
            more = part(values, summed, length)
            total = more if total is None else total + more
            summed += size
        if total is not None and summed == width:
            return total
        pairs = values.shape[axis] - size
        values = part(values, 0, pairs) + part(values, size, pairs)
        size *= 2
