"""Decoding with libvips: TIFF, PNG and AVIF, which Pillow decodes wrongly or without reporting damage.

libvips reads planar, tiled, floating-point and inverted TIFFs and 16 bits a channel, and fails when libtiff or libaom
warn; Pillow scrambles these or ignores the warnings. It takes 0.7 times Pillow's time for a PNG, 1.4 times for a TIFF
and 3 times for an AVIF. Its wheel has 18 MB.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bg_pipeline.imaging.source import damaged

Array = npt.NDArray[Any]


def opened(loader: str, data: bytes, **options: Any) -> Any:
    """The libvips image of a file whose header was read; raises `ImageError` if that fails.

    ``loader`` is libvips' name of the decoder, such as ``pngload``: libvips must not guess the format.
    """
    import pyvips

    # Each photo is opened once, and the cache of operations would keep its bytes.
    pyvips.cache_set_max(0)
    try:
        load = getattr(pyvips.Image, f"{loader}_buffer")
        return load(data, **{"access": "sequential", "fail_on": "warning", **options})
    except pyvips.Error as error:
        raise damaged(reason(error)) from None


def array(image: Any) -> Array:
    """The pixels as (height, width, channels); raises `ImageError` if they are damaged."""
    import pyvips

    try:
        values: Array = np.asarray(image.numpy())
    except pyvips.Error as error:
        raise damaged(reason(error)) from None
    return values.reshape(image.height, image.width, image.bands)


def image(opened_image: Any) -> Image.Image:
    """An 8-bit libvips image as a Pillow image; raises `ImageError` if the pixels are damaged."""
    return picture(array(opened_image), ink=opened_image.interpretation == "cmyk")


def picture(values: Array, *, ink: bool = False) -> Image.Image:
    """An array (height, width, channels) of 8 bits as a Pillow image."""
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "CMYK" if ink else "RGBA"}[values.shape[2]]
    values = np.ascontiguousarray(values)
    return Image.fromarray(values[..., 0] if mode == "L" else values, mode)


def from_picture(picture: Image.Image) -> Any:
    """A Pillow image of mode L, LA, RGB or RGBA as a libvips image."""
    import pyvips

    values = np.asarray(picture)
    bands = pyvips.Image.new_from_array(values if values.ndim == 3 else values[..., None])
    return bands.copy(interpretation="b-w" if picture.mode in ("L", "LA") else "srgb")


def reduced(loader: str, data: bytes, side: int) -> Image.Image:
    """A file of 8 bits, all of which is decoded, as a picture of about ``side`` pixels or its own size, if smaller.

    Raises `ImageError` if it is damaged.
    """
    import pyvips

    try:
        small = opened(loader, data).thumbnail_image(side, size="down")
        return picture(np.asarray(small.numpy()).reshape(small.height, small.width, small.bands))
    except pyvips.Error as error:
        raise damaged(reason(error)) from None


def reason(error: Exception) -> str:
    """The last useful line of a libvips error message."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next(
        (line for line in reversed(lines) if line and not line.startswith("unable to")), "it cannot be read"
    )
