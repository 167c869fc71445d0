"""Whether a picture that was painted around one mask serves a mask that a person mended."""

from PIL import Image, ImageFilter

from bg_pipeline.masks.conventions import HALF
from bg_pipeline.masks.user_mask import read_user_mask

COMPARED_SIDE = 2048
"""The longer side of the masks that are compared, in pixels: stored masks are no larger."""
EDGE = 3
"""Width of the square, in these pixels, within which an edge may move inwards: resizing moves it by one pixel."""


def check_mended(mended: bytes, size: tuple[int, int], before: bytes | None) -> bool:
    """Whether ``mended`` keeps all that the mask file ``before`` keeps, but for a pixel along its edge.

    Then the painted background serves: what is kept besides comes from the photo. Where the mended mask keeps less,
    the painted picture shows the photo's old background. Without ``before`` it is not known what was kept, so
    nothing that may be missing was painted either. ``size`` is the photo's. Raises `ImageError`, as `read_user_mask`
    does, if ``mended`` is no mask for the photo.
    """
    new = read_user_mask(mended, size).picture
    if before is None:
        return True
    old = read_user_mask(before, size, name="the present mask").picture
    scale = min(1.0, COMPARED_SIDE / max(size))
    compared = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    inside = _kept(old, compared).filter(ImageFilter.MinFilter(EDGE))
    return Image.composite(inside, Image.new("L", compared, 0), _not_kept(new, compared)).getbbox() is None


def _kept(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    return mask.resize(size, Image.Resampling.BOX).point([0] * HALF + [255] * (256 - HALF))


def _not_kept(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    return mask.resize(size, Image.Resampling.BOX).point([255] * HALF + [0] * (256 - HALF))
