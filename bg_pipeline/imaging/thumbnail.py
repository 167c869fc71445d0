"""Small pictures for reports and pages."""

from io import BytesIO
from typing import Final

from PIL import Image

from bg_pipeline.imaging.photo import on_white, open_photo, scaled_down

SIDE: Final = 192
"""Length of the longer side in pixels."""
MAX_BYTES: Final = 8_000
"""Target size of a thumbnail; a larger one is encoded again at a lower JPEG quality (60, 40, 20)."""


def marked_thumbnail(picture: Image.Image, where: Image.Image, side: int = SIDE) -> bytes:
    """The thumbnail with the places in ``where`` (mode "L", 255 = there, any size) in red, the rest paler."""
    small = on_white(picture).resize(scaled_down(picture.size, (side, side)), Image.Resampling.BILINEAR)
    marks = where.resize(small.size, Image.Resampling.BOX).point(
        [min(255, 3 * level) for level in range(256)]
    )
    pale = Image.blend(small, Image.new("RGB", small.size, "white"), 0.3)
    pale.paste((220, 20, 20), mask=marks.point([level * 3 // 4 for level in range(256)]))
    return thumbnail(pale, side)


def thumbnail(picture: Image.Image | bytes, side: int = SIDE) -> bytes:
    """A JPEG of at most ``side`` pixels, transparent parts white; upright, if it is made from a file.

    Raises `ImageError` as `open_photo` does.
    """
    if isinstance(picture, bytes):
        picture = open_photo(picture, within=(side, side)).image
    size = scaled_down(picture.size, (side, side))
    small = on_white(picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.0))
    for quality in (60, 40, 20):
        out = BytesIO()
        small.save(out, "JPEG", quality=quality)
        if out.tell() <= MAX_BYTES:
            break
    return out.getvalue()
