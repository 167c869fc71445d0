"""Colour: whatever a file holds becomes 8-bit sRGB, with its embedded profile honoured."""

import functools
import itertools
from io import BytesIO

import numpy as np
from PIL import Image, ImageChops, ImageCms

_BROKEN_PROFILE = (ImageCms.PyCMSError, OSError, ValueError, TypeError)

_CUBE = tuple(itertools.product(range(0, 256, 51), repeat=3))


def is_srgb(image: Image.Image) -> bool:
    """Whether an RGB or L image of which at least the header was read needs no conversion to be sRGB."""
    icc = image.info.get("icc_profile")
    return not icc or _is_srgb(icc, image.mode)


@functools.lru_cache(maxsize=16)  # the photos of a camera or a shop have the same profile
def _is_srgb(icc: bytes, mode: str) -> bool:
    try:
        return _changes_nothing(_to_srgb(ImageCms.getOpenProfile(BytesIO(icc)), mode), mode)
    except _BROKEN_PROFILE:
        return True


def in_srgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """The loaded image as 8-bit sRGB (RGB or RGBA), and sentences on what had to be converted.

    The image itself may be converted in place.
    """
    notes: list[str] = []
    icc = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        notes.append("converted from floating point" if image.mode == "F" else "converted from 16-bit grey")
        image = _eight_bits(image)
    elif image.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        notes.append(f"converted from {image.mode}")
    if image.mode == "LAB":
        icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    elif image.has_transparency_data and image.mode != "LA":
        image = image.convert("RGBA")
    elif image.mode not in ("L", "LA", "RGB", "CMYK"):
        image = image.convert("RGB")
    if icc:
        image, note = _managed(image, icc)
        notes += [note] if note else []
    if image.mode not in ("RGB", "RGBA"):
        image = image.convert("RGBA" if image.mode == "LA" else "RGB")
    return image, notes


def _managed(image: Image.Image, icc: bytes) -> tuple[Image.Image, str]:
    """The image with its embedded profile applied, and a sentence on it; untouched if it is sRGB already."""
    try:
        profile = ImageCms.getOpenProfile(BytesIO(icc))
        space = profile.profile.xcolor_space.strip()
        if image.mode in ("L", "LA") and space == "RGB":
            image = image.convert("RGBA" if image.mode == "LA" else "RGB")
        transform = _to_srgb(profile, image.mode)
        if _changes_nothing(transform, image.mode):
            return image, ""
        note = f"colours converted from {(profile.profile.profile_description or 'the embedded profile').strip()}"
        if image.mode in ("RGB", "RGBA"):
            ImageCms.applyTransform(image, transform, inPlace=True)
            return image, note
        alpha = image.getchannel("A") if image.mode == "LA" else None
        image = _applied(transform, image.getchannel("L") if alpha else image)
        if alpha:
            image.putalpha(alpha)
        return image, note
    except _BROKEN_PROFILE:
        return image, "the embedded colour profile is damaged or does not fit the picture and was ignored"


def _to_srgb(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        profile,
        ImageCms.createProfile("sRGB"),
        "L" if mode == "LA" else mode,
        "RGBA" if mode == "RGBA" else "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


def _applied(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # noqa: S101 - None only in place
    return converted


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether the profile is sRGB in all but name: no probe colour moves by more than 2 levels."""
    if mode in ("L", "LA"):
        probe = Image.frombytes("L", (256, 1), bytes(range(256)))
    elif mode in ("RGB", "RGBA"):
        probe = Image.frombytes(
            "RGB", (216, 1), bytes(level for colour in _CUBE for level in colour)
        ).convert(mode)
    else:
        return False
    moved = ImageChops.difference(probe.convert("RGB"), _applied(transform, probe).convert("RGB"))
    return int(np.asarray(moved).max()) <= 2


def _eight_bits(image: Image.Image) -> Image.Image:
    """Integer and float greys as L.

    16-bit integers are scaled from 0-65535; the others from the first of 0-1 (floats only), 0-255, 0-65535 and
    their own range that holds all values. Negative and undefined values are black.
    """
    values = np.asarray(image, np.float32)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    if image.mode.startswith("I;16"):
        top = 65535.0
    else:
        highest = float(values.max())
        ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        top = next((limit for limit in ranges if highest <= limit), highest)
    values *= 255.0 / top
    return Image.fromarray(np.clip(np.rint(values, out=values), 0, 255, out=values).astype(np.uint8))
