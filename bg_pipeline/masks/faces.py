"""Head-and-shoulders shapes around faces, used where only the faces' boxes are known."""

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from bg_pipeline.masks import Mask
from bg_pipeline.masks.boxes import Box

# Drawn at this longer side: the shape is soft anyway.
LONG_SIDE = 512
# Rekognition's box ends at brows and chin; a head with hair is this much larger to each side and upwards.
HAIR_SIDE, HAIR_TOP, CHIN = 0.30, 0.45, 0.12
# In face heights below the chin, and in face widths to each side of the middle.
SHOULDERS_DOWN, SHOULDERS_OUT, NECK_OUT = 0.75, 1.55, 0.45
# The soft border, as a share of the largest face.
SOFT = 0.06


def portrait(faces: Sequence[Box], size: tuple[int, int], *, glasses: Sequence[Box] = ()) -> Mask:
    """The heads and shoulders of everyone in ``faces`` and their ``glasses``, as one soft shape of ``size``.

    A head is an ellipse around the face's box, the body goes from the neck over the shoulders straight down
    to the picture's lower edge. It is a guess at people sitting or standing upright, not a
    cut-out: it keeps some background and loses raised arms. No faces give an empty mask.
    """
    scale = min(1.0, LONG_SIDE / max(size))
    width, height = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    shape = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(shape)
    for face in faces:
        _draw_person(draw, face, width, height)
    softness = SOFT * max((face.width * width for face in faces), default=0.0)
    shape = shape.filter(ImageFilter.GaussianBlur(softness))
    return with_glasses(
        Mask(shape.resize(size, Image.Resampling.BICUBIC), "faces"), glasses, softness / scale
    )


def with_glasses(mask: Mask, glasses: Sequence[Box], softness: float = 0.0) -> Mask:
    """The mask joined with the boxes of ``glasses``, which may stick out of the head and are kept completely.

    ``softness`` is the width of their border in pixels.
    """
    if not glasses:
        return mask
    worn = Image.new("L", mask.picture.size, 0)
    for box in glasses:
        ImageDraw.Draw(worn).rectangle(_pixels(box.grown(0.1), worn.size), fill=255)
    worn = worn.filter(ImageFilter.GaussianBlur(softness / 2))
    return replace(mask, picture=ImageChops.lighter(mask.picture, worn))


def _draw_person(draw: ImageDraw.ImageDraw, face: Box, width: int, height: int) -> None:
    left, top, right, bottom = face.left * width, face.top * height, face.right * width, face.bottom * height
    wide, high, middle = right - left, bottom - top, (left + right) / 2
    draw.ellipse(
        (left - HAIR_SIDE * wide, top - HAIR_TOP * high, right + HAIR_SIDE * wide, bottom + CHIN * high),
        fill=255,
    )
    shoulders = bottom + SHOULDERS_DOWN * high
    round_off = (SHOULDERS_OUT - NECK_OUT) * wide * 0.55
    draw.rectangle(
        (middle - NECK_OUT * wide, bottom - 0.3 * high, middle + NECK_OUT * wide, shoulders), fill=255
    )
    draw.rounded_rectangle(
        (
            middle - SHOULDERS_OUT * wide,
            shoulders - 0.35 * high,
            middle + SHOULDERS_OUT * wide,
            max(height, shoulders) + 2 * round_off,
        ),
        round_off,
        fill=255,
    )


def _pixels(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = box.pixels(size)
    return left, top, right - 1, bottom - 1
