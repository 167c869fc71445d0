"""A photo's subject on a new background, at the photo's full resolution.

Only the subject's edge is computed pixel by pixel (see `edge`); everything else is one paste.
"""

from PIL import Image, ImageChops, ImageFilter, ImageOps

from bg_pipeline.domain import shadows
from bg_pipeline.imaging.edge import Edge, edge_boxes, softened
from bg_pipeline.imaging.photo import Photo, on_white
from bg_pipeline.imaging.scene import laid, shaded, view_of, wrapped
from bg_pipeline.imaging.shadow import ground_shadow

# The longer side of the picture that a shadow is drawn in: it is soft, so a small one is enough.
_COARSE = 512

# _FOOT is the lower share of the subject's height that throws a shadow. Each shadow is (height, drop, blur,
# darkness): height and drop are shares of the foot's height, blur of its width. The first is wide and faint, the
# second is near.
_FOOT = 0.25
_SHADOWS = ((0.7, 0.35, 0.05, 0.4), (0.35, 0.12, 0.012, 0.5))

_SOLID = [0] * 128 + [255] * 128
_CLEAR = [255] + [0] * 255


def restore_subject(
    photo: Photo, generated: Image.Image, subject: Image.Image, *, feather: float
) -> Image.Image:
    """The photo's subject, its own pixels, on the generated background: an RGB picture of the photo's size.

    ``generated`` and ``subject`` have the photo's size (see `unfit`). ``subject`` is mode L, 255 = subject, and may
    be soft. ``feather`` is the least width of the edge in pixels of the photo; a mask whose edge is at least that
    soft is used unchanged. Inside the edge pixels are bit-identical to the photo's, outside to ``generated``'s.
    Transparent parts of the photo do not belong to the subject.

    Memory: 7 bytes per pixel in addition to the arguments.
    """
    _must_fit(photo, generated, "generated")
    colours, matte = _cut(photo, subject, feather)
    colours.paste(generated, mask=ImageChops.invert(matte))
    return colours


def cut_out(photo: Photo, subject: Image.Image, *, feather: float) -> Image.Image:
    """The photo's subject alone, an RGBA picture of the photo's size; arguments as for `restore_subject`.

    Colours on the edge are the subject's own, so that there is no fringe on any background. Fully transparent pixels
    are black: the removed background is not in the file, where anyone could make it visible again.
    """
    colours, matte = _cut(photo, subject, feather)
    # A mask of mode 1 takes a fifth of the time of an L one, which blends.
    colours.paste("black", mask=matte.point(_CLEAR, "1"))
    colours.putalpha(matte)
    return colours


def composite(
    photo: Photo,
    subject: Image.Image,
    backdrop: Image.Image | str,
    *,
    shadow: str = shadows.NONE,
    feather: float = 2.0,
) -> Image.Image:
    """The photo's subject on a given picture or colour (``#rrggbb``): an RGB picture of the photo's size.

    A backdrop picture is scaled to cover the frame and cropped around its centre, never stretched; with a ``shadow``
    that has values it is laid under the subject as a scene is (`on_ground`). ``shadow`` is
    the request's (`shadows.read`); a subject that the lower edge of the frame cuts off gets none. See
    `restore_subject` for the other arguments.
    """
    if not isinstance(backdrop, str) and shadows.values_in(shadow):
        return on_ground(photo, subject, on_white(backdrop), shadow=shadow, feather=feather)[0]
    if isinstance(backdrop, str):
        scene = Image.new("RGB", photo.size, backdrop)
    else:
        scene = ImageOps.fit(on_white(backdrop), photo.size, Image.Resampling.LANCZOS)
    asked = shadows.read(shadow)
    if asked is not None:
        # Results with a plain ``soft`` look as they always did.
        plain = not shadows.values_in(shadow)
        scene.paste("black", mask=_shadow(subject) if plain else ground_shadow(subject, asked))
    return restore_subject(photo, scene, subject, feather=feather)


def on_ground(
    photo: Photo, subject: Image.Image, scene: Image.Image, *, shadow: str, feather: float
) -> tuple[Image.Image, bool]:
    """The photo's subject in a scene (RGB) whose ground is laid under it: an RGB picture of the photo's size.

    Also returns whether the subject stands on the scene's ground; otherwise it has no shadow. The shadow follows the
    subject's lower edge and, as far as the request's ``shadow`` does not say otherwise, the scene's light. On
    its edge the subject takes some of the scene's colour; inside it pixels are bit-identical to the photo's. See
    `restore_subject` for the other arguments.
    """
    _must_fit(photo, subject, "subject")
    view = view_of(scene)
    placed = laid(scene, view, photo.size, subject)
    if placed.stands:
        shaded(placed.ground, subject, shadow, view)
    colours, matte = _cut(photo, subject, feather)
    wrapped(colours, matte, placed.ground)
    colours.paste(placed.ground, mask=ImageChops.invert(matte))
    return colours, placed.stands


def _shadow(subject: Image.Image) -> Image.Image:
    """The darkness of the ground where the subject stands: mode L, of the subject's size."""
    step = max(1, round(max(subject.size) / _COARSE))
    small = subject.reduce(step)
    shade = Image.new("L", small.size)
    box = small.point(_SOLID).getbbox()
    if box is None or box[3] >= small.height - 1:
        return Image.new("L", subject.size)
    left, top, right, bottom = box
    depth = max(1, round((bottom - top) * _FOOT))
    foot = small.crop((left, bottom - depth, right, bottom))
    # Parts higher above the ground darken it less.
    foot = ImageChops.multiply(foot, Image.linear_gradient("L").resize(foot.size))
    for height, drop, blur, darkness in _SHADOWS:
        flat = foot.resize((foot.width, max(1, round(depth * height))))
        lying = Image.new("L", small.size)
        lying.paste(flat, (left, bottom - flat.height + round(depth * drop)))
        lying = lying.filter(ImageFilter.GaussianBlur(foot.width * blur))
        shade = ImageChops.add(shade, lying.point([round(level * darkness) for level in range(256)]))
    return shade.resize(subject.size, Image.Resampling.BILINEAR)


def _cut(photo: Photo, subject: Image.Image, feather: float) -> tuple[Image.Image, Image.Image]:
    """The photo as RGB with the subject's own colours along its edge, and the matte for it."""
    _must_fit(photo, subject, "subject")
    matte = softened(subject, feather)
    if photo.alpha:
        # Translucent pixels already have the subject's own colour.
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
