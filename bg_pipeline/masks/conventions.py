"""The one place where a mask is turned around: between the inside (255 = kept) and files and models.

Models disagree about what black means, and a mask sent the wrong way round is paid for like a right one.
Sources: the Titan, Nova Canvas and Stability pages quoted in the project's AWS facts, sections 1.3, 2.2, 3.3.
"""

import io
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageChops

# A soft pixel that is at least half subject belongs to the subject where only black and white exist.
HALF = 128


@dataclass(frozen=True)
class MaskConvention:
    """How one file or one model's task spells a mask.

    ``kept`` is the grey value of pixels that stay as they are. ``hard`` forms take only 0 and 255.
    ``mode`` is the Pillow mode written; it never has an alpha channel.
    """

    kept: Literal[0, 255]
    hard: bool
    mode: Literal["L", "RGB"]

    def write(self, mask: Image.Image) -> Image.Image:
        """``mask`` (255 = kept) in this form, of the same size; a hard form splits greys at one half."""
        picture = harden(mask) if self.hard else mask
        if self.kept == 0:
            picture = ImageChops.invert(picture)
        return picture.convert(self.mode)

    def to_mask(self, picture: Image.Image) -> Image.Image:
        """A picture in this form as an inside mask (mode "L", 255 = kept); any alpha in it is ignored."""
        grey = picture.convert("L")
        return ImageChops.invert(grey) if self.kept == 0 else grey

    def write_png(self, mask: Image.Image) -> bytes:
        """`write`, as the bytes of a PNG file."""
        with io.BytesIO() as file:
            self.write(mask).save(file, "PNG", compress_level=1)
            return file.getvalue()

    def read_png(self, data: bytes) -> Image.Image:
        """`read` from the bytes of a picture file this pipeline or a model wrote."""
        with Image.open(io.BytesIO(data)) as picture:
            return self.to_mask(picture)


# Masks people give, and masks stored for inspection: black = subject, white = replaced.
STORED = MaskConvention(kept=0, hard=False, mode="L")
# Outpainting repaints the white and keeps the black; inpainting repaints the black.
TITAN_OUTPAINTING = MaskConvention(kept=0, hard=True, mode="RGB")
TITAN_INPAINTING = MaskConvention(kept=255, hard=True, mode="RGB")
NOVA_OUTPAINTING = MaskConvention(kept=0, hard=True, mode="RGB")
NOVA_INPAINTING = MaskConvention(kept=255, hard=True, mode="RGB")
# White is fully repainted, black untouched, grey in proportion.
STABILITY_INPAINT = MaskConvention(kept=0, hard=False, mode="L")
STABILITY_ERASE = MaskConvention(kept=0, hard=False, mode="L")


def harden(mask: Image.Image) -> Image.Image:
    """``mask`` (mode "L") with nothing but 0 and 255, split at one half."""
    return mask.point([0] * HALF + [255] * (256 - HALF))


def from_alpha(picture: Image.Image) -> Image.Image:
    """The alpha of ``picture`` as an inside mask: opaque = subject. A picture without alpha is all subject."""
    return picture.convert("RGBA").getchannel("A")


def to_alpha(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """``picture`` as RGBA, opaque where ``mask`` (same size) keeps the subject."""
    cut = picture.convert("RGB")
    cut.putalpha(mask)
    return cut
