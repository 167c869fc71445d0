"""Image operations on encoded bytes, which `RenderPool` runs in its processes.

OpenCV is imported inside the functions, so that the server process, which only dispatches them, starts fast.
"""

import io
from typing import Any

import orjson
from PIL import Image, ImageChops, ImageFilter

from bg_pipeline_local_aws.image_files import add_png_chunk


def analyze_image(data: bytes) -> dict[str, Any]:
    """`subject_detection.ImageAnalysis` as plain data, plus its ``caption``; ValueError if it cannot be decoded."""
    from bg_pipeline_local_aws import subject_detection

    seen = subject_detection.analyze(data)
    plain = orjson.loads(orjson.dumps(seen, option=orjson.OPT_SERIALIZE_NUMPY))
    return {**plain, "caption": subject_detection.describe(seen)}


def subject_mask(
    data: bytes, words: str | None = None, box: tuple[float, float, float, float] | None = None
) -> bytes | None:
    """A mask PNG (L, 255 = subject) selected by words or a box (left, top, width, height, 0–1); None if not found."""
    from bg_pipeline_local_aws import subject_detection

    return subject_detection.subject_mask(data, words, subject_detection.Box(*box) if box else None)


def segment_boxes(data: bytes, boxes: tuple[tuple[float, float, float, float], ...]) -> bytes:
    """A mask PNG (L, 255 = subject) of the subjects in all boxes (left, top, right, bottom, 0–1).

    Without boxes it is the mask of the salient subject.
    """
    places: list[tuple[float, float, float, float] | None] = [
        (left, top, right - left, bottom - top) for left, top, right, bottom in boxes
    ]
    width, height = _open(data).size
    union = Image.new("L", (width, height))
    for place in places or [None]:
        mask = subject_mask(data, box=place)
        if mask:
            union = ImageChops.lighter(union, _open(mask).convert("L"))
    return encode_png(union)


def subject_from_black(mask: bytes) -> bytes:
    """A mask PNG (L, 255 = subject) from a request's mask image, whose subject is black.

    ValueError if the image contains other values than pure black and pure white.
    """
    grey = _open(mask).convert("RGB")
    red, green, blue = grey.split()
    if (
        any(red.histogram()[1:255])
        or ImageChops.difference(red, green).getbbox()
        or ImageChops.difference(red, blue).getbbox()
    ):
        raise ValueError("the mask must consist of pure black and pure white pixels only")
    return encode_png(ImageChops.invert(red))


def is_translucent(data: bytes) -> bool:
    """True if any pixel is not fully opaque."""
    alpha = _open(data).convert("RGBA").getchannel("A")
    return alpha.getextrema() != (255, 255)


def outpaint(
    data: bytes,
    mask: bytes,
    prompt: str,
    negative: str,
    seed: int,
    precise: bool,
    note: bool,
    size: tuple[int, int],
) -> bytes:
    """A PNG of the given size: the subject (mask 255) on a new background."""
    from bg_pipeline_local_aws import painting

    result = painting.outpaint(
        data, prompt=prompt, negative=negative, seed=seed, mask_png=mask, precise=precise, note=note
    )
    return _with_software_tag(_resize(result, size))


def inpaint(data: bytes, mask: bytes, prompt: str, seed: int, note: bool, size: tuple[int, int]) -> bytes:
    """A PNG of the given size, repainted where the mask is 255."""
    from bg_pipeline_local_aws import painting

    return _with_software_tag(
        _resize(painting.inpaint(data, prompt=prompt, seed=seed, strength_png=mask, note=note), size)
    )


def paint_scene(prompt: str, negative: str, seed: int, note: bool, size: tuple[int, int]) -> bytes:
    """A PNG of the given size with an empty scene."""
    from bg_pipeline_local_aws import painting

    return _with_software_tag(
        painting.paint_scene(prompt=prompt, negative=negative, seed=seed, size=size, note=note)
    )


def cut_out(data: bytes, mask: bytes) -> bytes:
    """A PNG (RGBA) of the subject (mask 255) on transparency."""
    from bg_pipeline_local_aws import painting

    return _with_software_tag(painting.cut_out(data, mask))


def _with_software_tag(png: bytes) -> bytes:
    """The PNG with a ``Software`` text, so that it cannot be mistaken for a real model's output."""
    return add_png_chunk(png, b"tEXt", b"Software\0the stand-in for AWS")


def response_mask(mask: bytes) -> bytes:
    """A mask (255 = subject) in the form of the models' answers: an RGB PNG with a black subject on white."""
    binary = _open(mask).point(lambda value: 0 if value > 127 else 255)
    return encode_png(binary.convert("RGB"))


def invert(mask: bytes) -> bytes:
    """The mask with black and white swapped, as an L PNG."""
    return encode_png(ImageChops.invert(_open(mask).convert("L")))


def inpaint_strength(data: bytes, mask: bytes | None, grow: int) -> bytes | None:
    """Stability's inpaint mask (L PNG, 255 = repaint) in the picture's size, dilated and blurred by ``grow`` pixels.

    Without ``mask`` it is derived from the picture's alpha channel; None if there is none.
    """
    picture = _open(data)
    if mask is not None:
        strength = _open(mask).convert("L").resize(picture.size)
    elif picture.has_transparency_data:
        strength = ImageChops.invert(picture.convert("RGBA").getchannel("A"))
    else:
        return None
    if grow:
        grown = strength.filter(ImageFilter.MaxFilter(2 * grow + 1)).filter(
            ImageFilter.GaussianBlur(grow / 2)
        )
        strength = ImageChops.lighter(strength, grown)
    return encode_png(strength)


def encode(data: bytes, kind: str) -> bytes:
    """The PNG re-encoded as jpeg, png (unchanged) or webp."""
    if kind == "png":
        return data
    image = _open(data)
    file = io.BytesIO()
    (image.convert("RGB") if kind == "jpeg" else image).save(file, kind, quality=95)
    return file.getvalue()


def encode_png(image: Image.Image) -> bytes:
    """PNG bytes, compressed for speed."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except OSError as error:
        raise ValueError(f"not a readable image: {error}") from error
    return image


def _resize(png: bytes, size: tuple[int, int]) -> bytes:
    image = _open(png)
    return png if image.size == size else encode_png(image.resize(size))
