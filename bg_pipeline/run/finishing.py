"""From a photo, a mask and a model's picture to finished files: original pixels put back, measured, encoded.

These functions run in worker processes: no import here may lead to boto3, Dagster or pandas.
"""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageFilter

from bg_pipeline.domain.requests import BLUR, ImageSettings, Rendition
from bg_pipeline.errors import ImageError
from bg_pipeline.imaging import (
    Fidelity,
    Fitted,
    Photo,
    composite,
    cut_out,
    measure,
    on_ground,
    open_photo,
    read_header,
    restore_subject,
    unfit,
    vips,
)
from bg_pipeline.imaging.fidelity import MAX_EDGE_HALO, failed_background_checks, failed_checks
from bg_pipeline.imaging.ground import blurred_ground
from bg_pipeline.imaging.parcels import Blob
from bg_pipeline.imaging.provenance import Provenance, provenance, read_rights
from bg_pipeline.imaging.scene import matched
from bg_pipeline.imaging.signing import Original, Signing, sign
from bg_pipeline.imaging.thumbnail import SIDE, thumbnail
from bg_pipeline.masks import FROM_USER, Mask
from bg_pipeline.masks.conventions import STORED
from bg_pipeline.masks.refine import enlarge
from bg_pipeline.masks.user_mask import read_user_mask
from bg_pipeline.masks.validation import validate_mask
from bg_pipeline.run.renditions import render

ROUNDS = 5
"""Time for a finished file, in decodes of its photo."""

BLEND = 4.0
"""How much wider the edge is in Mode DEFAULT, which may blend, than in PRECISE."""

AI_NOTE = "Background replaced with generative AI; the subject is a photograph."
CUT_NOTE = "Background removed; the subject is a photograph."
BLURRED_NOTE = "Background blurred; the subject is a photograph."
PLACED_NOTE = "The subject of a photograph, placed before another background."

SUBJECT_NOT_RESTORED = (
    "the model found the subject from words and nothing tells where it is, so the photo's own pixels "
    "were not put back: compare the subject with the source"
)

NOT_ON_GROUND = (
    "the subject is too high in its photo to stand on the scene's ground, so it has no shadow: compare"
)

MASK_SIDE = 2048
"""A stored mask is at most this large: as a PNG of 12 megapixels it would take as long as the result itself."""

MASK_TIGHTENING = (1, 2, 3)
"""Pixels, of a copy with a longer side of 1,024, by which a mask is drawn tighter to remove a halo."""


@dataclass(frozen=True)
class FinishedFile:
    """One finished file; ``complaints`` are the rules of its preset that it breaks, ``thumbnail`` a small JPEG."""

    data: Blob
    format: str
    complaints: tuple[str, ...]
    thumbnail: bytes


@dataclass(frozen=True)
class Finished:
    """The files of one picture, one for each rendition, and what was measured on it.

    ``mask`` is the PNG of the mask in use, None if there is none. ``faults`` are sentences on what did not pass in
    the picture itself; ``repaint`` says that another seed may do better. ``notes`` are the photo's, ``mask_notes``
    the mask's, and ``source_format`` is the photo's format. ``confidence``, 0..1, is the mask's, None if it has none.
    """

    files: tuple[FinishedFile, ...]
    source_format: str
    notes: tuple[str, ...]
    mask: Blob | None = None
    mask_notes: tuple[str, ...] = ()
    fidelity: Fidelity | None = None
    faults: tuple[str, ...] = ()
    repaint: bool = False
    confidence: float | None = None


def finish_painted(
    source: bytes,
    painted: bytes,
    fitted: Fitted,
    mask: Mask | None,
    user_mask: bytes | None,
    image_settings: ImageSettings,
    *,
    prompt: str,
    feather: float,
    signing: Signing | None = None,
) -> Finished:
    """The files of a photo with a background that a model ``painted``; with ``signing`` they are signed.

    ``fitted`` is where the photo lies on the painted picture. ``mask`` is what is kept of the photo, None if nobody
    knows; ``user_mask`` is the file of a mask that the request names. Raises `ImageError` as `open_photo`,
    `read_user_mask` and `render` do.
    """
    photo = open_photo(source)
    with Image.open(io.BytesIO(painted)) as picture:
        image = unfit(picture.convert("RGB"), fitted, photo.size)
    made = provenance(AI_NOTE, read_rights(source), painted=True)
    seal = _seal(signing, source, photo, made)
    if mask is None:
        files = _rendered(image, photo, None, image_settings, feather, made, seal)
        return Finished(tuple(files), photo.format, photo.notes, faults=(SUBJECT_NOT_RESTORED,))
    full = _full_mask(mask, photo, user_mask, image_settings)
    edge = feather * (BLEND if image_settings.mode == "DEFAULT" else 1.0)
    image, subject, fidelity = _put_back(photo, image, full.picture, edge, found=mask.source not in FROM_USER)
    # What the model itself took for the subject could not be judged before, and stays with another seed.
    wrong = validate_mask(mask).reasons if mask.source in ("words", "difference") else ()
    wrong = (*wrong, *_doubts(mask))
    return Finished(
        tuple(_rendered(image, photo, subject, image_settings, feather, made, seal)),
        photo.format,
        photo.notes,
        mask_file(subject),
        full.notes,
        fidelity,
        (*wrong, *failed_checks(fidelity, prompt)),
        # Another picture has the same mask: only a fault of the painted background is mended by one.
        repaint=bool(failed_background_checks(fidelity, prompt)) and not wrong,
        confidence=_confidence(mask),
    )


def finish_cut_out(
    source: bytes,
    mask: Mask,
    user_mask: bytes | None,
    image_settings: ImageSettings,
    *,
    feather: float,
    signing: Signing | None = None,
) -> Finished:
    """The files of a photo's subject on a transparent ground, or on what its renditions ask for."""
    photo = open_photo(source)
    full = _full_mask(mask, photo, user_mask, image_settings)
    image = cut_out(photo, full.picture, feather=feather)
    made = provenance(CUT_NOTE, read_rights(source))
    seal = _seal(signing, source, photo, made)
    files = _rendered(image, photo, full.picture, image_settings, feather, made, seal)
    return Finished(
        tuple(files),
        photo.format,
        photo.notes,
        mask_file(full.picture),
        full.notes,
        faults=_doubts(full),
        confidence=_confidence(mask),
    )


def _backdrop(data: bytes, image_settings: ImageSettings) -> Image.Image:
    try:
        return open_photo(data).flattened()
    except ImageError as error:
        raise error.of(image_settings.backdrop or "the backdrop") from None


def finish_on_backdrop(
    source: bytes,
    mask: Mask,
    user_mask: bytes | None,
    backdrop: bytes | str,
    image_settings: ImageSettings,
    *,
    feather: float,
    signing: Signing | None = None,
) -> Finished:
    """The files of a photo's subject on a backdrop: a picture file, a colour ``#rrggbb``, or `BLUR`."""
    photo = open_photo(source)
    full = _full_mask(mask, photo, user_mask, image_settings)
    subject = full.picture
    scene: Image.Image | str
    if backdrop == BLUR:
        scene = blurred_ground(photo.image, subject)
    else:
        scene = backdrop if isinstance(backdrop, str) else _backdrop(backdrop, image_settings)
    image = composite(photo, subject, scene, shadow=image_settings.shadow, feather=feather)
    fidelity = measure(photo, image, subject)
    others = () if isinstance(backdrop, str) else (read_rights(backdrop),)
    note = BLURRED_NOTE if backdrop == BLUR else PLACED_NOTE
    made = provenance(note, read_rights(source), *others)
    seal = _seal(signing, source, photo, made)
    # A plain colour, or the old background out of focus, is no fault if it was asked for.
    judged = fidelity
    if isinstance(backdrop, str):
        judged = replace(fidelity, uniform=False, background_changed=1.0)
    if backdrop == BLUR:
        judged = replace(judged, edge_halo=0.0)
    return Finished(
        tuple(_rendered(image, photo, subject, image_settings, feather, made, seal)),
        photo.format,
        photo.notes,
        mask_file(subject),
        full.notes,
        fidelity,
        (*_doubts(full), *failed_checks(judged)),
        confidence=_confidence(mask),
    )


def finish_on_scene(
    source: bytes,
    mask: Mask,
    user_mask: bytes | None,
    scene: bytes,
    image_settings: ImageSettings,
    *,
    matching: float,
    feather: float,
    signing: Signing | None = None,
) -> Finished:
    """The files of a photo's subject in a painted ``scene``, whose ground is laid under it.

    ``matching`` (0 to 1) draws the subject's colours to those of the scene.
    """
    photo = open_photo(source)
    full = _full_mask(mask, photo, user_mask, image_settings)
    picture = open_photo(scene).flattened()
    own = replace(photo, image=matched(photo.image, picture, matching)) if matching else photo
    image, stands = on_ground(own, full.picture, picture, shadow=image_settings.shadow, feather=feather)
    fidelity = measure(own, image, full.picture)
    made = provenance(AI_NOTE, read_rights(source), painted=True)
    seal = _seal(signing, source, photo, made)
    return Finished(
        tuple(_rendered(image, own, full.picture, image_settings, feather, made, seal)),
        photo.format,
        photo.notes,
        mask_file(full.picture),
        (*full.notes, *(() if stands else (NOT_ON_GROUND,))),
        fidelity,
        (*_doubts(full), *failed_checks(fidelity, image_settings.scene or "")),
    )


def _put_back(
    photo: Photo, painted: Image.Image, mask: Image.Image, feather: float, *, found: bool
) -> tuple[Image.Image, Image.Image, Fidelity]:
    """The photo's subject on the painted picture, the mask that was used, and what was measured.

    Where the old background shows along the edge of a mask that was ``found``, the mask is drawn tighter until it
    does not, which costs nothing; a person's own mask is used as it is.
    """
    image = restore_subject(photo, painted, mask, feather=feather)
    fidelity = measure(photo, image, mask)
    step = max(1, round(max(photo.size) / 1024))
    for pixels in MASK_TIGHTENING if found and fidelity.edge_halo > MAX_EDGE_HALO else ():
        tight = mask.filter(ImageFilter.MinFilter(2 * pixels * step + 1))
        if tight.getbbox() is None:
            break
        tried = restore_subject(photo, painted, tight, feather=feather)
        measured = measure(photo, tried, tight)
        if measured.edge_halo < fidelity.edge_halo:
            image, mask, fidelity = tried, tight, measured
        if fidelity.edge_halo <= MAX_EDGE_HALO:
            break
    return image, mask, fidelity


def _full_mask(mask: Mask, photo: Photo, user_mask: bytes | None, image_settings: ImageSettings) -> Mask:
    """The mask at the photo's size, its edge following the photo's own."""
    if mask.source == "alpha" and photo.alpha is not None:
        return replace(mask, picture=photo.alpha)
    if user_mask is not None and image_settings.mask_key:
        full = read_user_mask(user_mask, photo.size, name=image_settings.mask_key)
        return replace(full, notes=(*full.notes, *mask.notes))
    return replace(mask, picture=enlarge(mask.picture, photo.image))


def _doubts(mask: Mask) -> tuple[str, ...]:
    return (mask.doubt,) if mask.doubt else ()


def _confidence(mask: Mask) -> float | None:
    """The mask's confidence after its second opinion; None for a person's own mask and for rough shapes."""
    return mask.confidence if mask.drawn_from else None


def mask_file(mask: Image.Image) -> Blob:
    """The mask in use for inspection, as a PNG: black is the subject, white what was replaced."""
    step = math.ceil(max(mask.size) / MASK_SIDE)
    return Blob(STORED.write_png(mask.reduce(step) if step > 1 else mask))


def _rendered(
    image: Image.Image,
    photo: Photo,
    mask: Image.Image | None,
    image_settings: ImageSettings,
    feather: float,
    made: Provenance,
    seal: Callable[[bytes, str], bytes] | None,
) -> Iterator[FinishedFile]:
    renditions: Sequence[Rendition | None] = image_settings.renditions or (None,)
    # Without a mask nothing can be framed around the subject: the whole picture counts as it.
    subject = mask or Image.new("L", photo.size, 255)
    for rendition in renditions:
        file = render(image, photo, subject, rendition, feather=feather, made=made, seal=seal)
        yield FinishedFile(Blob(file.data), file.format, file.complaints, _checked_thumbnail(file.data))


def _seal(
    signing: Signing | None, source: bytes, photo: Photo, made: Provenance
) -> Callable[[bytes, str], bytes] | None:
    """A function that signs a finished file, given its bytes and format; None without a certificate."""
    if signing is None:
        return None
    original = Original(source, photo.format)
    return lambda data, format: sign(signing, data, format, original, made)


def _checked_thumbnail(data: bytes) -> bytes:
    """A small picture of a finished file, all of which was decoded; `ImageError` if it does not open."""
    try:
        if read_header(data).format == "png":
            return thumbnail(vips.reduced("pngload", data, 2 * SIDE))
        picture = Image.open(io.BytesIO(data))
        # Decoding a JPEG at an eighth of its size still walks through all of its data.
        picture.draft(None, (SIDE, SIDE))
        picture.load()
    except (ImageError, OSError, SyntaxError) as error:
        raise ImageError("BadResult", f"the result does not open ({error})") from error
    step = min(picture.size) // (2 * SIDE)
    if step > 1 and picture.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return thumbnail(picture.reduce(step))
    return thumbnail(picture)
