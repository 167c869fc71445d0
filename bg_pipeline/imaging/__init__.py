"""Pictures: decoded, fitted to a model's sizes, composed at full resolution, measured and encoded.

Nothing here knows S3, Bedrock or requests: bytes and settings go in, bytes, pictures and headers come out.
`file_types` detects what a file is and which module reads it. libjpeg-turbo, libvips, libheif and Pillow decode,
and Pillow does the rest. `workers` runs these functions in processes that may crash or hang without harm.
"""

from bg_pipeline.imaging.compose import composite, cut_out, on_ground, restore_subject
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
from bg_pipeline.imaging.photo import MAX_PIXELS, ImageHeader, Photo, open_photo, read_header

__all__ = [
    "MAX_PIXELS",
    "WITH_ALPHA",
    "WRITABLE",
    "AllowedSizes",
    "Bounds",
    "Fidelity",
    "Fitted",
    "ImageHeader",
    "Photo",
    "Sizes",
    "composite",
    "cut_out",
    "encode",
    "fit",
    "fit_mask",
    "measure",
    "on_ground",
    "open_photo",
    "read_header",
    "restore_subject",
    "small_jpeg",
    "unfit",
    "writable_format",
]
