"""Small pictures for reports and pages, and masks to lay over pictures."""

from collections.abc import Sequence
from io import BytesIO
from typing import Final

from PIL import Image, ImageFilter, ImageOps

from bg_pipeline.imaging.photo import on_white, open_photo, scaled_down

SIDE: Final = 192
"""Length of the longer side in pixels."""
MAX_BYTES: Final = 8_000
"""Target size of a thumbnail; a larger one is encoded again at a lower JPEG quality (60, 40, 20)."""

OVERLAY_COLOUR: Final = (30, 90, 230, 140)
"""Red, green, blue and opacity of what a mask replaces."""
DOUBT_COLOUR: Final = (220, 20, 20, 190)
"""Those of the places where a mask is doubtful, also where they lie on what it replaces."""


def marked_thumbnail(picture: Image.Image, where: Image.Image, side: int = SIDE) -> bytes:
    """The thumbnail with the places in ``where`` (mode "L", 255 = there, any size) in red, the rest paler."""
    small = on_white(picture).resize(scaled_down(picture.size, (side, side)), Image.Resampling.BILINEAR)
    marks = where.resize(small.size, Image.Resampling.BOX).point(
        [min(255, 3 * level) for level in range(256)]
    )
    pale = Image.blend(small, Image.new("RGB", small.size, "white"), 0.3)
    pale.paste((220, 20, 20), mask=marks.point([level * 3 // 4 for level in range(256)]))
    return thumbnail(pale, side)


def thumbnail(picture: Image.Image | bytes, side: int = SIDE, *, max_bytes: int = MAX_BYTES) -> bytes:
    """A JPEG of at most ``side`` pixels, transparent parts white; upright, if it is made from a file.

    It is encoded at a lower quality while it is larger than ``max_bytes``.

    Raises `ImageError` as `open_photo` does.
    """
    if isinstance(picture, bytes):
        picture = open_photo(picture, within=(side, side)).image
    size = scaled_down(picture.size, (side, side))
    small = on_white(picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.0))
    for quality in (60, 40, 20):
        out = BytesIO()
        small.save(out, "JPEG", quality=quality)
        if out.tell() <= max_bytes:
            break
    return out.getvalue()


def strip(thumbnails: Sequence[bytes], side: int = 96, gap: int = 6) -> bytes:
    """Thumbnails, as `thumbnail` makes them, cut to squares and put beside each other on white."""
    sheet = Image.new("RGB", (len(thumbnails) * (side + gap) - gap, side), "white")
    for number, data in enumerate(thumbnails):
        with Image.open(BytesIO(data)) as picture:
            sheet.paste(ImageOps.fit(picture.convert("RGB"), (side, side)), (number * (side + gap), 0))
    out = BytesIO()
    sheet.save(out, "JPEG", quality=80)
    return out.getvalue()


def mask_overlay(data: bytes, side: int, *, opaque: bool = False) -> bytes:
    """A PNG to lay over the photo of a mask: blue where the mask replaces, clear where it keeps.

    With ``opaque`` the blue hides the photo, so that the opacity is exactly the replaced share.

    ``data`` is a mask file: black is kept, or what is opaque if it has translucent pixels. The longer side of the PNG
    is at most ``side`` pixels. Raises `ImageError` as `open_photo` does.
    """
    photo = open_photo(data, within=(side, side))
    replaced = ImageOps.invert(photo.alpha) if photo.alpha is not None else photo.image.convert("L")
    replaced = replaced.resize(scaled_down(replaced.size, (side, side)), Image.Resampling.BILINEAR)
    return _tinted(replaced, (*OVERLAY_COLOUR[:3], 255) if opaque else OVERLAY_COLOUR)


def doubt_overlay(data: bytes) -> bytes:
    """A PNG of the same size to lay over a photo: red where the picture in the file ``data`` is white.

    Raises `ImageError` as `open_photo` does.
    """
    places = open_photo(data).image.convert("L")
    # The places are as thin as one pixel of a small picture; larger ones are found at a glance.
    return _tinted(places.filter(ImageFilter.MaxFilter(3)), DOUBT_COLOUR)


def _tinted(where: Image.Image, colour: tuple[int, int, int, int]) -> bytes:
    tint = Image.new("RGBA", where.size, colour)
    tint.putalpha(where.point(lambda value: value * colour[3] // 255))
    out = BytesIO()
    tint.save(out, "PNG")
    return out.getvalue()
