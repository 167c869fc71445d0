"""The subject found from a model's answer: in PRECISE mode the model leaves its pixels unchanged."""

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from bg_pipeline.masks import Mask
from bg_pipeline.masks.connected_components import components

# The mean change around a pixel, of 255: re-encoding an unchanged picture stays below, painting rarely does.
UNCHANGED = 8
# A change between these could be either; where it is common, the model has retouched the subject, too.
FAINT, CLEAR = 4, 20
MOST_FAINT = 0.25
# Shares of the picture: a smaller unchanged piece is background that was painted in its old colours by chance; a
# smaller hole in the subject is noise.
SPECK, PINHOLE = 0.002, 0.0002
LEAST, MOST = 0.005, 0.97
MANY_PIECES = 12


def mask_from_difference(sent: Image.Image, answered: Image.Image) -> Mask | None:
    """The unchanged part of ``answered`` as a mask of the size of ``sent``; None if it does not look like a subject.

    For answers of modes that keep the subject's pixels. None where nearly nothing or nearly everything is unchanged,
    where a large part is only slightly changed, or where the unchanged part is scattered. Background that the model
    painted in its old colours next to the subject is included. Memory: about 20 bytes a pixel.
    """
    before = sent.convert("RGB")
    after = answered.convert("RGB")
    if after.size != before.size:
        after = after.resize(before.size, Image.Resampling.BICUBIC)
    red, green, blue = ImageChops.difference(before, after).split()
    change = ImageChops.lighter(ImageChops.lighter(red, green), blue).filter(ImageFilter.BoxBlur(1))
    histogram = change.histogram()
    pixels = change.width * change.height
    if sum(histogram[FAINT + 1 : CLEAR]) > MOST_FAINT * pixels:
        return None
    same = change.point([255] * (UNCHANGED + 1) + [0] * (255 - UNCHANGED))
    # Each pixel becomes what most of its neighbours are: this closes gaps from noise and drops chance matches.
    same = same.filter(ImageFilter.BoxBlur(2)).point([0] * 128 + [255] * 128)

    inside = np.asarray(same) > 0
    numbers, counts = components(inside)
    large = counts >= SPECK * pixels
    large[0] = False
    inside = large[numbers]
    numbers, counts = components(~inside)
    pinholes = counts < PINHOLE * pixels
    pinholes[0] = False
    inside |= pinholes[numbers]
    if not LEAST <= inside.mean() <= MOST or large.sum() > MANY_PIECES:
        return None
    shape = Image.fromarray(inside.astype(np.uint8) * 255)
    return Mask(shape.filter(ImageFilter.BoxBlur(1)), "difference")
