"""A photo's subject on a new background, at the photo's full resolution.

Only the subject's edge is worked on pixel by pixel (see `edge`); all the rest is one paste.
"""

from PIL import Image, ImageChops, ImageFilter, ImageOps

from bg_pipeline.imaging.edge import Edge, edge_boxes, softened
from bg_pipeline.imaging.photo import Photo, on_white

# A shadow is made at this size: it is soft anyway.
_COARSE = 512

# What of a subject's height, from below, throws a shadow, and the shadow as (height, drop, blur, darkness): the first
# two as shares of that part's height, the blur as one of its width. Once wide and faint, once close to the ground.
_FOOT = 0.25
_SHADOWS = ((0.7, 0.35, 0.05, 0.4), (0.35, 0.12, 0.012, 0.5))

_SOLID = [0] * 128 + [255] * 128


def restore_subject(
    photo: Photo, generated: Image.Image, subject: Image.Image, *, feather: float
) -> Image.Image:
    """The photo's subject, its own pixels, on the generated background: an RGB picture of the photo's size.

    ``generated`` and ``subject`` have the photo's size (see `unfit`); ``subject`` is L, 255 = subject, and may be
    soft. ``feather`` is the least width of the edge in pixels of the photo: a mask whose own edge is as soft as
    that is used as it is. Inside that edge the pixels are bit-identical to the photo's, outside of it to
    ``generated``. A photo's own transparency limits its subject.

    Memory: 7 bytes per pixel beside the arguments.
    """
    _must_fit(photo, generated, "generated")
    colours, matte = _cut(photo, subject, feather)
    colours.paste(generated, mask=ImageChops.invert(matte))
    return colours


def cut_out(photo: Photo, subject: Image.Image, *, feather: float) -> Image.Image:
    """The photo's subject alone, an RGBA picture of the photo's size; arguments as for `restore_subject`.

    On the edge its colours are the subject's own, so that it can be laid on anything without a fringe.
    """
    colours, matte = _cut(photo, subject, feather)
    colours.putalpha(matte)
    return colours


def composite(
    photo: Photo,
    subject: Image.Image,
    backdrop: Image.Image | str,
    *,
    shadow: bool = False,
    feather: float = 2.0,
) -> Image.Image:
    """The photo's subject on a given picture or colour (``#rrggbb``): an RGB picture of the photo's size.

    The backdrop picture covers the frame, its centre kept, never stretched. ``shadow`` lays a soft shadow on it
    where the subject stands; a subject cut off by the lower edge of the frame gets none. See `restore_subject` for
    the other arguments.
    """
    if isinstance(backdrop, str):
        scene = Image.new("RGB", photo.size, backdrop)
    else:
        scene = ImageOps.fit(on_white(backdrop), photo.size, Image.Resampling.LANCZOS)
    if shadow:
        scene.paste("black", mask=_shadow(subject))
    return restore_subject(photo, scene, subject, feather=feather)


def _shadow(subject: Image.Image) -> Image.Image:
    """How dark the ground is around the place where the subject stands: L, of the subject's size."""
    step = max(1, round(max(subject.size) / _COARSE))
    small = subject.reduce(step)
    shade = Image.new("L", small.size)
    box = small.point(_SOLID).getbbox()
    if box is None or box[3] >= small.height - 1:
        return Image.new("L", subject.size)
    left, top, right, bottom = box
    depth = max(1, round((bottom - top) * _FOOT))
    foot = small.crop((left, bottom - depth, right, bottom))
    # What is higher above the ground darkens it less.
    foot = ImageChops.multiply(foot, Image.linear_gradient("L").resize(foot.size))
    for height, drop, blur, darkness in _SHADOWS:
        flat = foot.resize((foot.width, max(1, round(depth * height))))
        lying = Image.new("L", small.size)
        lying.paste(flat, (left, bottom - flat.height + round(depth * drop)))
        lying = lying.filter(ImageFilter.GaussianBlur(foot.width * blur))
        shade = ImageChops.add(shade, lying.point([round(level * darkness) for level in range(256)]))
    return shade.resize(subject.size, Image.Resampling.BILINEAR)


def _cut(photo: Photo, subject: Image.Image, feather: float) -> tuple[Image.Image, Image.Image]:
    """The photo as RGB with the subject's own colours along its edge, and the matte that goes with it."""
    _must_fit(photo, subject, "subject")
    matte = softened(subject, feather)
    if photo.alpha:
        # Translucent pixels of a file hold the subject's own colour already.
        return photo.image.convert("RGB"), ImageChops.darker(matte, photo.alpha)
    colours = photo.image.copy()
    boxes = edge_boxes(matte)
    if boxes:
        matte = matte.copy() if matte is subject else matte
        edge = Edge(photo.image, matte)
        for box in boxes:
            alone, share = edge.unmixed(box)
            colours.paste(alone, box)
            matte.paste(share, box)
    return colours, matte


def _must_fit(photo: Photo, image: Image.Image, name: str) -> None:
    if image.size != photo.size:
        raise ValueError(f"{name} has {image.size} pixels and the photo {photo.size}")
