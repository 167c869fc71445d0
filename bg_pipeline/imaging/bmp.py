"""BMP files, decoded by Pillow."""

from io import BytesIO

from PIL import Image

from bg_pipeline.imaging.source import UNREADABLE, Source, damaged, loaded


def read(data: bytes) -> Source:
    """The header of a BMP and a way to its pixels; raises `ImageError` if it is damaged."""
    try:
        image = Image.open(BytesIO(data), formats=("BMP",))
    except UNREADABLE as error:
        raise damaged(error) from None
    return Source(
        format="bmp",
        size=image.size,
        mode=image.mode,
        decode=lambda _: _opaque_if_empty(loaded(image)),
        has_alpha=image.has_transparency_data,
        dpi=image.info.get("dpi"),
    )


def _opaque_if_empty(image: Image.Image) -> Image.Image:
    """The image without its alpha channel if that is all zeros: programs leave the fourth byte unused."""
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")
    return image
