"""The mask in a model's cut-out: its alpha, with an edge precise enough to put full-size pixels back."""

from PIL import Image

from bg_pipeline.errors import ImageError
from bg_pipeline.imaging import Fitted
from bg_pipeline.masks import Mask, Source, conventions, refine


def read_cutout(
    cutout: Image.Image, photo: Image.Image, fitted: Fitted | None = None, *, source: Source = "cut-out"
) -> Mask:
    """The subject of ``photo`` (upright) as ``cutout`` shows it: opaque = subject, at the photo's size.

    ``fitted`` is how the photo was sent, if it was padded. The edge follows the photo's own where the
    cut-out is smaller (`refine.enlarge`, also for its memory). Raises `ImageError` for a cut-out without alpha or,
    without ``fitted``, of another shape than the photo.
    """
    if not cutout.has_transparency_data:
        raise ImageError(
            "CutOutWithoutAlpha", f"the cut-out is {cutout.mode} and has no alpha to make a mask of"
        )
    alpha = conventions.from_alpha(cutout)
    if fitted is None and abs(alpha.width * photo.height - alpha.height * photo.width) > 2 * max(photo.size):
        raise ImageError(
            "CutOutShapeDiffers",
            f"the cut-out is {alpha.width}×{alpha.height} and the photo {photo.width}×{photo.height}: "
            "the shapes differ",
        )
    return Mask(full_size(alpha, photo, fitted), source)


def full_size(mask: Image.Image, photo: Image.Image, fitted: Fitted | None = None) -> Image.Image:
    """``mask`` (255 = kept) as made from a sent picture, without that one's padding, at the photo's size."""
    if fitted is not None:
        across, down = mask.width / fitted.canvas[0], mask.height / fitted.canvas[1]
        left, top = fitted.offset[0] * across, fitted.offset[1] * down
        width, height = fitted.inner[0] * across, fitted.inner[1] * down
        mask = mask.resize(
            (max(1, round(width)), max(1, round(height))),
            Image.Resampling.BICUBIC,
            box=(left, top, min(left + width, mask.width), min(top + height, mask.height)),
        )
    return refine.enlarge(mask, photo)
