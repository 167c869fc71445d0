"""The picture work itself, as functions of bytes that the studio runs in its processes.

OpenCV is imported inside the functions: the server that hands the work out must stay small and start at once.
"""

import io
from typing import Any

import orjson
from PIL import Image, ImageChops, ImageFilter

from bg_pipeline_local_aws.pictures import with_chunk


def look(data: bytes) -> dict[str, Any]:
    """What is seen in a picture, as plain data, with a caption; ValueError when it cannot be decoded."""
    from bg_pipeline_local_aws import sight

    seen = sight.see(data)
    plain = orjson.loads(orjson.dumps(seen, option=orjson.OPT_SERIALIZE_NUMPY))
    return {**plain, "caption": sight.caption(seen)}


def subject(
    data: bytes, words: str | None = None, box: tuple[float, float, float, float] | None = None
) -> bytes | None:
    """A mask PNG (L, 255 = subject) of what the words or the box (ratios) name, or None if that is nowhere."""
    from bg_pipeline_local_aws import sight

    return sight.subject_mask(data, words, sight.Box(*box) if box else None)


def segmented(data: bytes, boxes: tuple[tuple[float, float, float, float], ...]) -> bytes:
    """A mask PNG (L, 255 = subject) of everything that lies in the boxes (left, top, right, bottom as ratios)."""
    places: list[tuple[float, float, float, float] | None] = [
        (x, y, right - x, low - y) for x, y, right, low in boxes
    ]
    width, height = _opened(data).size
    union = Image.new("L", (width, height))
    for place in places or [None]:
        mask = subject(data, box=place)
        if mask:
            union = ImageChops.lighter(union, _opened(mask).convert("L"))
    return png(union)


def given_subject(mask: bytes) -> bytes:
    """The mask (L, 255 where black) in a picture of pure black and pure white; ValueError for any other."""
    grey = _opened(mask).convert("RGB")
    red, green, blue = grey.split()
    if (
        any(red.histogram()[1:255])
        or ImageChops.difference(red, green).getbbox()
        or ImageChops.difference(red, blue).getbbox()
    ):
        raise ValueError("the mask must consist of pure black and pure white pixels only")
    return png(ImageChops.invert(red))


def translucent(data: bytes) -> bool:
    """True if a pixel of the picture is not fully opaque."""
    alpha = _opened(data).convert("RGBA").getchannel("A")
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
    """A PNG of the given size: the subject (mask 255) before a new background."""
    from bg_pipeline_local_aws import paint

    made = paint.outpaint(
        data, prompt=prompt, negative=negative, seed=seed, mask_png=mask, precise=precise, note=note
    )
    return _named(_sized(made, size))


def inpaint(data: bytes, mask: bytes, prompt: str, seed: int, note: bool, size: tuple[int, int]) -> bytes:
    """A PNG of the given size, repainted where the mask is 255."""
    from bg_pipeline_local_aws import paint

    return _named(_sized(paint.inpaint(data, prompt=prompt, seed=seed, strength_png=mask, note=note), size))


def cut_out(data: bytes, mask: bytes) -> bytes:
    """A PNG (RGBA) of the subject (mask 255) alone."""
    from bg_pipeline_local_aws import paint

    return _named(paint.cut_out(data, mask))


def _named(made: bytes) -> bytes:
    """The PNG with its maker in its metadata: nobody shall take it for a model's."""
    return with_chunk(made, b"tEXt", b"Software\0the stand-in for AWS")


def wire_mask(mask: bytes) -> bytes:
    """A mask (255 = subject) as the models return it: black subject on white, RGB PNG."""
    hard = _opened(mask).point(lambda value: 0 if value > 127 else 255)
    return png(hard.convert("RGB"))


def inverted(mask: bytes) -> bytes:
    """The mask with black and white exchanged."""
    return png(ImageChops.invert(_opened(mask).convert("L")))


def strength(data: bytes, mask: bytes | None, grow: int) -> bytes | None:
    """Stability's mask (L, 255 = repaint) in the picture's size, grown with a blur; without one, from its alpha."""
    picture = _opened(data)
    if mask is not None:
        strong = _opened(mask).convert("L").resize(picture.size)
    elif picture.has_transparency_data:
        strong = ImageChops.invert(picture.convert("RGBA").getchannel("A"))
    else:
        return None
    if grow:
        grown = strong.filter(ImageFilter.MaxFilter(2 * grow + 1)).filter(ImageFilter.GaussianBlur(grow / 2))
        strong = ImageChops.lighter(strong, grown)
    return png(strong)


def encoded(data: bytes, kind: str) -> bytes:
    """The picture as jpeg, png or webp."""
    if kind == "png":
        return data
    image = _opened(data)
    file = io.BytesIO()
    (image.convert("RGB") if kind == "jpeg" else image).save(file, kind, quality=95)
    return file.getvalue()


def png(image: Image.Image) -> bytes:
    """PNG bytes, packed fast."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _opened(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except OSError as error:
        raise ValueError(f"not a readable image: {error}") from error
    return image


def _sized(made: bytes, size: tuple[int, int]) -> bytes:
    image = _opened(made)
    return made if image.size == size else png(image.resize(size))
