"""Masks in what models answer. These functions run in worker processes: no import here may lead to boto3."""

from io import BytesIO

from PIL import Image

from bg_pipeline.imaging import Fitted, Photo, fit, unfit
from bg_pipeline.masks import Mask
from bg_pipeline.masks.conventions import STORED, from_alpha
from bg_pipeline.masks.difference import mask_from_difference

MASK_SIDE = 2048
"""The longest side, in pixels, of a cut-out's mask in memory while the thread waits for the picture."""


def mask_from_words(made: bytes, fitted: Fitted, size: tuple[int, int]) -> Mask:
    """The mask that a model made from words, at ``size``."""
    return Mask(unfit(STORED.read_png(made), fitted, size), "words")


def mask_from_answer(photo: Photo, fitted: Fitted, answer: bytes) -> Mask | None:
    """What a model left of the photo as it was, at the size of ``photo``; None if that is no subject."""
    sent = fit(photo, fitted, media="png")
    with Image.open(BytesIO(sent)) as before, Image.open(BytesIO(answer)) as after:
        mask = mask_from_difference(before.convert("RGB"), after.convert("RGB"))
    return None if mask is None else Mask(unfit(mask.picture, fitted, photo.size), "difference")


def mask_of_cut_out(answer: bytes, fitted: Fitted) -> Mask | None:
    """The alpha of a model's cut-out, at most `MASK_SIDE` large; None if the answer has no transparency."""
    with Image.open(BytesIO(answer)) as picture:
        if not picture.has_transparency_data:
            return None
        alpha = from_alpha(picture)
    scale = min(1.0, MASK_SIDE / max(fitted.inner))
    width, height = (max(1, round(side * scale)) for side in fitted.inner)
    return Mask(unfit(alpha, fitted, (width, height)), "cut-out")
