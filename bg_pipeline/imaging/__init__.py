"""Pictures: opened safely, fitted to a model's sizes, put together again at full resolution, measured, written.

Nothing here knows S3, Bedrock or requests: bytes and settings go in, bytes, pictures and facts come out. `kinds`
tells what a file is and which module reads it; libjpeg-turbo, libvips, libheif and Pillow decode, and Pillow does the
rest. They release the interpreter lock while they work, so threads scale.
"""

from bg_pipeline.imaging.compose import composite, cut_out, put_back
from bg_pipeline.imaging.encode import WITH_ALPHA, WRITABLE, encode, writable_format
from bg_pipeline.imaging.fidelity import Fidelity, measure
from bg_pipeline.imaging.fit import (
    AllowedSizes,
    Bounds,
    Fitted,
    Sizes,
    fit,
    fit_mask,
    small_jpeg,
    unfit,
)
from bg_pipeline.imaging.photo import MAX_PIXELS, Facts, Photo, look, open_photo

__all__ = [
    "MAX_PIXELS",
    "WITH_ALPHA",
    "WRITABLE",
    "AllowedSizes",
    "Bounds",
    "Facts",
    "Fidelity",
    "Fitted",
    "Photo",
    "Sizes",
    "composite",
    "cut_out",
    "encode",
    "fit",
    "fit_mask",
    "look",
    "measure",
    "open_photo",
    "put_back",
    "small_jpeg",
    "unfit",
    "writable_format",
]
