"""Files from one result: the frame, size and format of each rendition, and the rules of its preset.

A preset is data (``presets.toml``): defaults for the rendition, and rules that the finished file must keep.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageFilter

from bg_pipeline.domain import formats
from bg_pipeline.domain.presets import PRESETS, Background, Preset
from bg_pipeline.domain.requests import ImageSettings, Rendition, filled
from bg_pipeline.errors import ImageError
from bg_pipeline.imaging import (
    ImageHeader,
    Photo,
    cut_out,
    encode,
    open_photo,
    read_header,
    writable_format,
)
from bg_pipeline.imaging.provenance import Provenance
from bg_pipeline.imaging.signing import SIGNABLE
from bg_pipeline.masks.connected_components import components

Box = tuple[int, int, int, int]
Size = tuple[int, int]

# JPEG spreads the subject's edge by up to 16 pixels into a plain background, a block of halved colours: 4 times 4.
_BLOCK = 4
_EDGE_BLOCKS = 4

# Bytes by which the manifests of the same picture may differ.
_MANIFEST_SPREAD = 256

_SOLID = [0] * 128 + [255] * 128
_CLEAR = [255] + [0] * 255
_ANY = [0] + [255] * 255

# Alpha up to here, 1 %, cannot be seen: a matte's own traces, which a plain background is free of.
_TRACE = 2
_WITHOUT_TRACES = [0] * (_TRACE + 1) + list(range(_TRACE + 1, 256))

# Share of an edge of the photo from which on a subject that touches it may be cut off there.
_CUT_OFF = 0.01

# What differs from white by more than this is visible, but only so many pixels of it are a speck.
_VISIBLE = 5
_SPECK = 4

# Pixels by which JPEG visibly spreads the subject's edge; what is darker than this further away was not removed.
_NEAR_EDGE = 4
_NEARLY_WHITE = 235
_SOLID_SIDE = 5

# A piece of the subject is a speck if it has less than this share of the largest and lies apart from all others,
# by this share of the frame.
_LEAST_PIECE = 0.0002
_APART = 0.02


@dataclass(frozen=True)
class Rendered:
    """A finished file; ``complaints`` are sentences on the preset's rules that it breaks."""

    data: bytes
    format: str
    size: Size
    complaints: tuple[str, ...] = ()


def render(
    image: Image.Image,
    photo: Photo,
    subject: Image.Image,
    rendition: Rendition | None,
    *,
    feather: float = 2.0,
    made: Provenance | None = None,
    seal: Callable[[bytes, str], bytes] | None = None,
) -> Rendered:
    """The file that ``rendition`` asks for, made from a finished result.

    ``image`` is the result at the photo's size: RGB, or RGBA if it is a cut-out. ``subject`` is the mask it was made
    with (mode L, 255 = subject). Without a rendition the file is the whole picture in the photo's format.

    ``Width`` and ``Height`` are the file's exact size; one alone keeps the aspect. If their aspect differs from the
    picture's, it is cropped around the subject, never stretched. ``Margin`` crops to the subject and leaves that
    share of the frame free on each side. White and transparent backgrounds are extended for it; a scene is not, so
    its margins may be smaller. A subject that the photo cuts off stays at that edge.

    Without a ``Format``, JPEG (WebP for a cut-out) replaces a lossless format that cannot keep ``MaxBytes``.

    ``made`` is written into the file, and ``seal`` signs its bytes, given their format.

    Raises `ImageError` (``TooManyBytes``) if ``MaxBytes`` cannot be kept.
    """
    preset = PRESETS[rendition.Preset] if rendition and rendition.Preset else None
    file = filled(rendition or Rendition(), preset.file if preset else None)
    background = preset.background if preset else "scene"
    if background != "scene" and image.mode != "RGBA":
        image = cut_out(photo, subject, feather=feather)
    mask = subject
    if image.mode == "RGBA":
        mask = image.getchannel("A")
        if background != "scene":
            mask = mask.point(_WITHOUT_TRACES)
    format = file.Format or writable_format(
        photo.format, needs_alpha=image.mode == "RGBA" and background != "white"
    )
    frame = _frame(mask, file, extendable=image.mode == "RGBA")
    size = _size(frame, file)
    framed_mask = _framed(mask, frame, size, by=Image.Resampling.BILINEAR)
    if background == "white":
        # Scaled without its alpha, which would have to be multiplied in and divided out again.
        page = _on_white(image.crop(frame), mask.crop(frame))
        picture = _framed(page, (0, 0, *page.size), size)
    else:
        if background == "transparent":
            image = image.copy()
            image.putalpha(mask)
        picture = _framed(image, frame, size)

    def written(format: str) -> bytes:
        options: dict[str, Any] = {"provenance": made, "dpi": photo.dpi, "lossless": photo.lossless}
        data = encode(picture, format, max_bytes=file.MaxBytes, **options)
        if seal is None or format not in SIGNABLE:
            return data
        sealed = seal(data, format)
        if file.MaxBytes is None or len(sealed) <= file.MaxBytes:
            return sealed
        # The manifest takes its part of the bytes; two manifests differ by some bytes.
        room = file.MaxBytes - (len(sealed) - len(data)) - _MANIFEST_SPREAD
        return seal(encode(picture, format, max_bytes=max(room, 1), **options), format)

    try:
        data = written(format)
    except ImageError:
        if file.Format:
            raise
        # Only the number of bytes was asked for, and the photo's own lossless format cannot keep it.
        format = "webp" if picture.mode == "RGBA" else "jpeg"
        data = written(format)
    if preset is None:
        return Rendered(data, format, size)
    complaints = check(
        preset,
        data,
        framed_mask,
        shown=_area(mask.crop(frame)) / max(1, _area(mask)),
        enlarged=size[0] / (frame[2] - frame[0]),
        cut_off=cut_off_edges(mask),
    )
    return Rendered(data, format, size, tuple(complaints))


def refuse_impossible(settings: ImageSettings, size: Size) -> None:
    """Raises `ImageError` (``TooLarge``) if a rendition of a photo of this size is too large for its format.

    To be called before anything is paid. Sizes that depend on the subject's box are not known yet and are accepted.
    """
    for rendition in settings.renditions:
        preset = PRESETS[rendition.Preset] if rendition.Preset else None
        file = filled(rendition, preset.file if preset else None)
        if file.Margin is not None and not (file.Width and file.Height):
            continue
        if problem := formats.size_problem(*_size((0, 0, *size), file), file.Format):
            raise ImageError("TooLarge", problem)


def cut_off_edges(mask: Image.Image) -> tuple[str, ...]:
    """The edges of the photo (left, top, right, bottom) at which its frame may cut off the subject."""
    inside = np.asarray(mask) >= 128
    edges = {"left": inside[:, 0], "top": inside[0], "right": inside[:, -1], "bottom": inside[-1]}
    return tuple(name for name, line in edges.items() if line.mean() >= _CUT_OFF)


def check(
    preset: Preset,
    data: bytes,
    subject: Image.Image,
    *,
    shown: float = 1.0,
    enlarged: float = 1.0,
    cut_off: tuple[str, ...] = (),
) -> list[str]:
    """A sentence for each rule of the preset that a finished file breaks.

    Everything is read from the file's bytes except what they do not contain: the mask of the ``subject`` (mode L, of
    the file's size), the share of the subject's area in the frame, the factor by which the photo was enlarged, and
    the photo's edges at which the subject is ``cut_off``.
    """
    finished = _Finished(data, subject, shown, enlarged, cut_off)
    complaints = (_RULES[name](finished, wanted) for name, wanted in preset.rules.items())
    return [sentence for sentence in (*complaints, _not_srgb(finished), _private(finished)) if sentence]


# Frames


def _frame(mask: Image.Image, file: Rendition, *, extendable: bool) -> Box:
    """The box of the picture that the file shows; it may exceed an extendable picture."""
    whole = (0, 0, *mask.size)
    box = mask.point(_SOLID).getbbox() or whole
    subject = box[2] - box[0], box[3] - box[1]
    aspect = file.Width / file.Height if file.Width and file.Height else None
    width, height = float(mask.width), float(mask.height)
    if file.Margin is not None:
        width, height = (side / (1 - 2 * file.Margin) for side in subject)
        if aspect:
            width, height = max(width, height * aspect), max(height, width / aspect)
    elif aspect:
        width, height = min(width, height * aspect), min(height, width / aspect)
    else:
        return whole
    if extendable:
        scale = max(1.0, subject[0] / width, subject[1] / height)
    else:
        scale = min(1.0, mask.width / width, mask.height / height)
    left, right = _span(width * scale, box[0], box[2], mask.width, extendable)
    # If the subject is too tall for the frame its upper part is kept, where people have their faces.
    lowest = min(box[3], box[1] + round(height * scale))
    top, bottom = _span(height * scale, box[1], lowest, mask.height, extendable)
    return left, top, right, bottom


def _span(length: float, start: int, end: int, limit: int, extendable: bool) -> tuple[int, int]:
    """Start and end of a frame of this length around a subject from ``start`` to ``end``, in one direction."""
    frame = max(1, round(length))
    first = round((start + end - frame) / 2)
    if not extendable:
        first = min(max(first, 0), limit - frame)
    elif (start == 0) != (end == limit):
        # The photo cuts the subject off on this side, so there must be no free background there.
        first = 0 if start == 0 else limit - frame
    return first, first + frame


def _size(frame: Box, file: Rendition) -> Size:
    width, height = frame[2] - frame[0], frame[3] - frame[1]
    if file.Width and file.Height:
        return file.Width, file.Height
    if file.Width:
        return file.Width, max(1, round(file.Width * height / width))
    if file.Height:
        return max(1, round(file.Height * width / height)), file.Height
    return width, height


def _framed(
    image: Image.Image, frame: Box, size: Size, *, by: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    part = image if frame == (0, 0, *image.size) else image.crop(frame)
    return part if part.size == size else part.resize(size, by, reducing_gap=2.0)


def _on_white(image: Image.Image, alpha: Image.Image) -> Image.Image:
    page = Image.new("RGB", image.size, "white")
    page.paste(image, mask=alpha)
    return page


def _area(mask: Image.Image) -> float:
    return float(np.asarray(mask).sum(dtype=np.int64)) / 255


# Rules


@dataclass(frozen=True)
class _Finished:
    """A finished file; its pixels are decoded when a rule needs them."""

    data: bytes
    subject: Image.Image
    shown: float
    enlarged: float
    cut_off: tuple[str, ...]

    @cached_property
    def facts(self) -> ImageHeader:
        return read_header(self.data)

    @cached_property
    def photo(self) -> Photo:
        return open_photo(self.data)

    @cached_property
    def box(self) -> Box:
        return self.subject.point(_SOLID).getbbox() or (0, 0, 0, 0)

    @cached_property
    def background(self) -> Image.Image:
        """The pixels that certainly do not belong to the subject: mode L, 255 there and 0 elsewhere."""
        # In blocks of pixels: a blur at full size would take longer than the rest of the check.
        blocks = self.subject.point(_ANY).reduce(_BLOCK).point(_ANY)
        far = blocks.filter(ImageFilter.BoxBlur(_EDGE_BLOCKS)).point(_CLEAR)
        box = (0, 0, self.subject.width / _BLOCK, self.subject.height / _BLOCK)
        return far.resize(self.subject.size, Image.Resampling.NEAREST, box)

    def share_of_background(self, channel: Image.Image, level: int) -> float:
        """The share of the background's pixels with this level; 1 if there is no background."""
        counts = channel.histogram(self.background)
        return counts[level] / sum(counts) if any(counts) else 1.0


def _formats(file: _Finished, wanted: list[str]) -> str:
    return (
        "" if file.facts.format in wanted else f"the format is {file.facts.format}, not {' or '.join(wanted)}"
    )


def _min_side(file: _Finished, wanted: int) -> str:
    longest = max(file.facts.size)
    return "" if longest >= wanted else f"the longer side has {longest} pixels, fewer than {wanted}"


def _aspect(file: _Finished, wanted: list[int]) -> str:
    width, height = file.facts.size
    # Exact to whole pixels.
    if abs(width * wanted[1] - height * wanted[0]) <= max(wanted):
        return ""
    return f"the frame is {width} × {height}, not {wanted[0]}:{wanted[1]}"


def _max_bytes(file: _Finished, wanted: int) -> str:
    return "" if len(file.data) <= wanted else f"the file has {len(file.data):,} bytes, more than {wanted:,}"


def _subject(file: _Finished, wanted: float) -> str:
    left, top, right, bottom = file.box
    filled = max((right - left) / file.subject.width, (bottom - top) / file.subject.height)
    # A frame of odd size can miss the share by one pixel.
    if filled * max(file.subject.size) >= wanted * max(file.subject.size) - 1:
        return ""
    return f"the subject fills {filled:.0%} of the frame, less than {wanted:.0%}"


def _shown(file: _Finished, wanted: float) -> str:
    return "" if file.shown >= wanted else f"{1 - file.shown:.0%} of the subject lies outside the frame"


def _head_room(file: _Finished, wanted: float) -> str:
    free = file.box[1] / file.subject.height
    return "" if free >= wanted else "the head touches the upper edge of the frame"


def _enlarged(file: _Finished, wanted: float) -> str:
    if file.enlarged <= wanted:
        return ""
    return f"the photo had to be enlarged {file.enlarged:.1f} times; a larger one would be sharper"


def _background(file: _Finished, wanted: Background) -> str:
    alpha = file.photo.alpha
    if wanted == "transparent":
        if alpha is None:
            return "nothing in the picture is transparent"
        clear = file.share_of_background(alpha, 0)
        return "" if clear >= 0.999 else f"{1 - clear:.1%} of the background is not fully transparent"
    if alpha is not None:
        return "parts of the picture are transparent"
    if wanted == "white":
        return _not_white(file)
    return ""


def _not_white(file: _Finished) -> str:
    lowest = reduce(ImageChops.darker, file.photo.image.split())
    white = file.share_of_background(lowest, 255)
    if white < 0.999:
        return f"{1 - white:.1%} of the background is not pure white (255)"
    darkest, background = np.asarray(lowest), np.asarray(file.background) == 255
    if background.any():
        specks = background & (darkest < 255 - _VISIBLE)
        if specks.sum() >= _SPECK:
            return f"{specks.sum()} pixels of the background are not white, {_place(specks)}"
    # Holes are narrower than the margin above. JPEG darkens single pixels beside an edge, but no solid area.
    near = np.asarray(file.subject.filter(ImageFilter.BoxBlur(_NEAR_EDGE))) == 0
    off = near & (darkest < _NEARLY_WHITE)
    if _has_solid_square(off, _SOLID_SIDE):
        return f"{off.sum()} pixels beside the subject or in its holes are not white, {_place(off)}"
    return ""


def _has_solid_square(where: npt.NDArray[np.bool], side: int) -> bool:
    """Whether all pixels of some square of this side are set; its half may lie beyond the frame."""
    where = np.pad(where, side // 2, mode="edge")
    # Most of these pixels are single ones, and Pillow's filter would look at 25 around each of the picture.
    for axis in (0, 1):
        length = where.shape[axis] - side + 1
        where = where.swapaxes(0, axis)
        where = reduce(np.logical_and, (where[first : first + length] for first in range(side)))
        where = where.swapaxes(0, axis)
    return bool(where.any())


def _pieces(file: _Finished, _: bool) -> str:
    """A small part of the mask far from the rest: dust or a crumb that was kept with the subject."""
    step = max(1, max(file.subject.size) // 400)
    inside = np.asarray(file.subject) >= 64
    inside = inside[: inside.shape[0] // step * step, : inside.shape[1] // step * step]
    # Rows first: numpy adds whole rows many times as fast as small squares.
    bands = inside.reshape(-1, step, inside.shape[1]).sum(axis=1, dtype=np.uint8)
    pixels = bands.reshape(len(bands), -1, step).sum(axis=2, dtype=np.uint16)
    numbers = components(pixels > 0)[0]
    exact = np.bincount(numbers.ravel(), weights=pixels.ravel())
    exact[0] = 0
    apart = max(2, round(_APART * max(pixels.shape)))
    for piece in np.flatnonzero((exact > 0) & (exact < _LEAST_PIECE * exact.max(initial=0))):
        own = numbers == piece
        rows, columns = np.nonzero(own)
        around = numbers[
            max(0, rows.min() - apart) : rows.max() + 1 + apart,
            max(0, columns.min() - apart) : columns.max() + 1 + apart,
        ]
        if not ((around > 0) & (around != piece)).any():
            where = np.repeat(np.repeat(own, step, axis=0), step, axis=1)
            return f"a speck of {exact[piece]:.0f} pixels was kept with the subject, {_place(where)}"
    return ""


def _place(where: npt.NDArray[np.bool]) -> str:
    """Where in the file somebody has to look."""
    rows, columns = np.nonzero(where)
    middle = len(rows) // 2
    return f"for example at {columns[middle]}, {rows[middle]} (pixels from the left and the top)"


def _whole(file: _Finished, _: bool) -> str:
    if not file.cut_off:
        return ""
    edges = " and ".join(file.cut_off)
    return (
        f"the photo may cut the subject off: it reaches the {edges} edge; photograph it with space around it"
    )


def _not_srgb(file: _Finished) -> str:
    conversions = [note for note in file.photo.notes if "converted" in note or "profile" in note]
    return f"the picture is not plain sRGB: {conversions[0]}" if conversions else ""


def _private(file: _Finished) -> str:
    return "the file holds EXIF data" if file.facts.has_exif else ""


_RULES: Mapping[str, Callable[[_Finished, Any], str]] = {
    "formats": _formats,
    "min_side": _min_side,
    "aspect": _aspect,
    "max_bytes": _max_bytes,
    "subject": _subject,
    "shown": _shown,
    "head_room": _head_room,
    "background": _background,
    "enlarged": _enlarged,
    "whole": _whole,
    "pieces": _pieces,
}
