"""The subject recovered from a model's answer: in PRECISE mode it is what the model left as it was."""

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from bg_pipeline.masks import Mask
from bg_pipeline.masks.connected_components import components

# The mean change around a pixel, of 255: encoding an unchanged picture again stays below, painting rarely does.
UNCHANGED = 8
# A change between these is neither; where it is common, the model has retouched the subject, too.
FAINT, CLEAR = 4, 20
MOST_FAINT = 0.25
# What the model happened to paint as it was, as a share of the picture, is not a piece of the subject;
# a hole in the subject this small is noise.
SPECK, PINHOLE = 0.002, 0.0002
LEAST, MOST = 0.005, 0.97
MANY_PIECES = 12


def mask_from_difference(sent: Image.Image, answered: Image.Image) -> Mask | None:
    """What is the same in ``answered`` as in ``sent``, as a mask of the size of ``sent``; None if that is no subject.

    For answers of modes that keep the subject's pixels. None where nearly nothing or nearly all is the same, where
    much is only slightly changed, or where what is the same lies scattered. A background the model painted
    in its old colours next to the subject cannot be told from it. Memory: about 20 bytes a pixel.
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
    # Each pixel as most of its neighbours: joins what noise has split, drops what chance has matched.
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
