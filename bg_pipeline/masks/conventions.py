"""Conversion between masks inside the pipeline (255 = kept) and masks in files and calls (black = kept).

Nothing else inverts a mask: one that is sent inverted costs as much as a right one. Sources for the
meaning of black: the pages on Titan, Nova Canvas and Stability of the Amazon Bedrock and Nova user guides.
"""

import io
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageChops

# From here on a soft pixel counts as the subject where only black and white exist.
HALF = 128


@dataclass(frozen=True)
class MaskConvention:
    """How a file or a call represents a mask: black is the subject, white is replaced.

    With ``hard`` only 0 and 255 occur. ``mode`` is the Pillow mode written; it never has an alpha channel.
    """

    hard: bool
    mode: Literal["L", "RGB"]

    def write(self, mask: Image.Image) -> Image.Image:
        """``mask`` (255 = kept) in this form, of the same size; a hard form splits greys at one half."""
        return ImageChops.invert(harden(mask) if self.hard else mask).convert(self.mode)

    def to_mask(self, picture: Image.Image) -> Image.Image:
        """A picture in this form as a mask (mode "L", 255 = kept); any alpha in it is ignored."""
        return ImageChops.invert(picture.convert("L"))

    def write_png(self, mask: Image.Image) -> bytes:
        """The bytes of a PNG file of `write`."""
        with io.BytesIO() as file:
            self.write(mask).save(file, "PNG", compress_level=1)
            return file.getvalue()

    def read_png(self, data: bytes) -> Image.Image:
        """`to_mask` of a picture file that this pipeline or a model wrote."""
        with Image.open(io.BytesIO(data)) as picture:
            return self.to_mask(picture)


# Masks that people give, and masks stored for inspection.
STORED = MaskConvention(hard=False, mode="L")
# What every generator is given: Titan and Nova Canvas take nothing but pure black and white, in RGB.
FOR_MODELS = MaskConvention(hard=True, mode="RGB")


def harden(mask: Image.Image) -> Image.Image:
    """``mask`` (mode "L") with only 0 and 255, split at one half."""
    return mask.point([0] * HALF + [255] * (256 - HALF))


def from_alpha(picture: Image.Image) -> Image.Image:
    """The alpha of ``picture`` as a mask: opaque = subject. A picture without alpha is all subject."""
    return picture.convert("RGBA").getchannel("A")
