"""Colour: converts pixels to 8-bit sRGB with the file's ICC profile, or with its other colour information."""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageCms

Floats = npt.NDArray[np.float32]
Values = npt.NDArray[Any]

DIFFUSE_WHITE = 203.0
"""The luminance, in nit, of diffuse white in an HDR picture (ITU-R BT.2408); it becomes white (255)."""

_BROKEN_PROFILE = (ImageCms.PyCMSError, OSError, ValueError, TypeError)

_SAMPLE_COLOURS = tuple(itertools.product(range(0, 256, 51), repeat=3))

_BROKEN_NOTE = "the embedded colour profile is damaged or does not fit the picture and was ignored"

_INK_NOTE = "converted from CMYK without a colour profile by the plain formula: colours are a guess"

# White, red, green and blue (x, y) of ITU-T H.273's colour primaries.
_D65 = (0.3127, 0.3290)
_PRIMARIES: dict[int, tuple[str, tuple[float, ...]]] = {
    1: ("BT.709", (*_D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060)),
    4: ("BT.470 M", (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08)),
    5: ("BT.601 (625 lines)", (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06)),
    6: ("BT.601 (525 lines)", (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070)),
    7: ("SMPTE 240M", (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070)),
    8: ("film", (0.310, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049)),
    9: ("BT.2020", (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046)),
    11: ("DCI-P3", (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
    12: ("Display P3", (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
    22: ("EBU 3213", (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077)),
}
_D50 = np.array([0.9642, 1.0, 0.8249])
_ADOBE = (*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
_ADOBE_GAMMA = 256 / 563

_SRGB, _PQ, _HLG = 13, 16, 18
_VIDEO = (1, 6, 11, 12, 14, 15)

# Pixels that are converted at a time, as a few megabytes of floats.
_STRIPE = 400_000


@dataclass(frozen=True)
class Colour:
    """A file's colour information; none means sRGB.

    ``cicp`` are the numbers of primaries and transfer in ITU-T H.273. ``gamma`` is the exponent that was applied to
    linear light; ``primaries`` are x and y of white, red, green and blue.
    """

    icc: bytes = b""
    cicp: tuple[int, int] | None = None
    gamma: float | None = None
    primaries: tuple[float, ...] = ()
    adobe_rgb: bool = False


@dataclass(frozen=True, eq=False)
class Deep:
    """Pixels of more than 8 bits: (height, width, channels), floats or integers of the full range of their type.

    Channels are grey; or red, green, blue; or with ``ink`` cyan, magenta, yellow, black; with ``alpha`` then alpha.
    ``bits`` are the bits per channel in the file, 0 if as many as the type has.
    """

    values: Values
    alpha: bool = False
    ink: bool = False
    bits: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.values.shape[1], self.values.shape[0]

    def on_canvas(self, size: tuple[int, int], place: tuple[int, int]) -> "Deep":
        """The pixels at a place of a larger picture that is transparent elsewhere."""
        values = self.values
        if not self.alpha:
            opaque = np.full((*values.shape[:2], 1), np.iinfo(values.dtype).max, values.dtype)
            values = np.concatenate([values, opaque], axis=2)
        canvas = np.zeros((size[1], size[0], values.shape[2]), values.dtype)
        canvas[place[1] : place[1] + self.size[1], place[0] : place[0] + self.size[0]] = values
        return Deep(canvas, alpha=True)


def is_srgb(colour: Colour, mode: str) -> bool:
    """Whether 8-bit pixels of this mode already are sRGB."""
    if colour.icc:
        return _is_srgb(colour.icc, mode)
    return _Conversion.of(colour) is None


@functools.lru_cache(maxsize=16)  # the photos of a camera or a shop have the same profile
def _is_srgb(icc: bytes, mode: str) -> bool:
    try:
        return _is_identity(_to_srgb(ImageCms.getOpenProfile(BytesIO(icc)), mode), mode)
    except _BROKEN_PROFILE:
        return True


def transfer_known(primaries: int, transfer: int) -> bool:
    """Whether colours with these H.273 numbers can be converted."""
    return primaries in _PRIMARIES and (transfer in _VIDEO or transfer in _TRANSFERS)


def in_srgb(pixels: Image.Image | Deep, colour: Colour) -> tuple[Image.Image, list[str]]:
    """The pixels as 8-bit sRGB (RGB or RGBA), and sentences on what was converted.

    An image may be converted in place.
    """
    if isinstance(pixels, Deep):
        return _deep_in_srgb(pixels, colour)
    return _image_in_srgb(pixels, colour)


def _image_in_srgb(image: Image.Image, colour: Colour) -> tuple[Image.Image, list[str]]:
    notes: list[str] = []
    icc = colour.icc
    if image.mode == "CMYK" and not icc:
        notes.append(_INK_NOTE)
    elif image.mode in ("CMYK", "YCbCr", "HSV"):
        notes.append(f"converted from {image.mode}")
    if image.has_transparency_data and image.mode != "LA":
        image = image.convert("RGBA")
    elif image.mode not in ("L", "LA", "RGB", "CMYK"):
        image = image.convert("RGB")
    if icc:
        image, note = _managed(image, icc)
        notes += [note] if note else []
    elif image.mode != "CMYK" and (conversion := _Conversion.of(colour)):
        image = _converted(np.asarray(image), image.mode in ("LA", "RGBA"), conversion)
        notes.append(conversion.note)
    if image.mode not in ("RGB", "RGBA"):
        image = image.convert("RGBA" if image.mode == "LA" else "RGB")
    return image, notes


def _managed(image: Image.Image, icc: bytes) -> tuple[Image.Image, str]:
    """The image with its embedded profile applied, and a sentence on that; unchanged if it already is sRGB."""
    try:
        profile = ImageCms.getOpenProfile(BytesIO(icc))
        space = profile.profile.xcolor_space.strip()
        if image.mode in ("L", "LA") and space == "RGB":
            image = image.convert("RGBA" if image.mode == "LA" else "RGB")
        transform = _to_srgb(profile, image.mode)
        if _is_identity(transform, image.mode):
            return image, ""
        note = f"colours converted from {_named(profile)}"
        if image.mode in ("RGB", "RGBA"):
            ImageCms.applyTransform(image, transform, inPlace=True)
            return image, note
        alpha = image.getchannel("A") if image.mode == "LA" else None
        image = _applied(transform, image.getchannel("L") if alpha else image)
        if alpha:
            image.putalpha(alpha)
        return image, note
    except _BROKEN_PROFILE:
        return image, _BROKEN_NOTE


def _named(profile: ImageCms.ImageCmsProfile) -> str:
    return (profile.profile.profile_description or "the embedded profile").strip()


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


def _is_identity(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether the profile is equivalent to sRGB: no sample colour changes by more than 2 levels."""
    if mode in ("L", "LA"):
        probe = Image.frombytes("L", (256, 1), bytes(range(256)))
    elif mode in ("RGB", "RGBA"):
        probe = Image.frombytes(
            "RGB", (216, 1), bytes(level for colour in _SAMPLE_COLOURS for level in colour)
        ).convert(mode)
    else:
        return False
    moved = ImageChops.difference(probe.convert("RGB"), _applied(transform, probe).convert("RGB"))
    return int(np.asarray(moved).max()) <= 2


# Colour information other than a profile


@dataclass(frozen=True)
class _Conversion:
    """How code values become linear light and how that becomes linear sRGB, with a sentence on it."""

    linear: Callable[[Floats], Floats]
    matrix: npt.NDArray[np.float32] | None
    note: str
    hlg: bool = False

    @staticmethod
    def of(colour: Colour) -> "_Conversion | None":
        """The conversion for colour information other than a profile; None if that is sRGB."""
        if colour.cicp:
            primaries, transfer = colour.cicp
            if primaries in (1, 2) and transfer in (2, _SRGB):
                return None
            name, chromaticities = _PRIMARIES.get(primaries, _PRIMARIES[1])
            kind = {_PQ: " PQ", _HLG: " HLG", 8: ", linear"}.get(transfer, "")
            hdr = transfer in (_PQ, _HLG)
            note = f"colours converted from {name}{kind}"
            note += (
                f" (HDR): what is brighter than paper white ({DIFFUSE_WHITE:.0f} nit) is white" if hdr else ""
            )
            linear = _bt709 if transfer in _VIDEO else _TRANSFERS.get(transfer, _srgb_linear)
            return _Conversion(linear, _matrix(chromaticities), note, hlg=transfer == _HLG)
        if colour.adobe_rgb:
            note = "colours converted from Adobe RGB, which the camera's EXIF data name"
            return _Conversion(functools.partial(_power, 1 / _ADOBE_GAMMA), _matrix(_ADOBE), note)
        if colour.gamma:
            matrix = _matrix(colour.primaries) if colour.primaries else None
            note = f"colours converted from gamma {1 / colour.gamma:.3g}" + (
                " and the file's own primaries" if colour.primaries else ""
            )
            return _Conversion(functools.partial(_power, 1 / colour.gamma), matrix, note)
        return None


def _power(exponent: float, values: Floats) -> Floats:
    return np.power(np.maximum(values, 0), np.float32(exponent), dtype=np.float32)


def _srgb_linear(values: Floats) -> Floats:
    return np.where(values <= 0.04045, values / 12.92, _power(2.4, (values + 0.055) / 1.055)).astype(
        np.float32
    )


def _bt709(values: Floats) -> Floats:
    return np.where(values < 0.081, values / 4.5, _power(1 / 0.45, (values + 0.099) / 1.099)).astype(
        np.float32
    )


def _smpte240(values: Floats) -> Floats:
    return np.where(values < 0.0913, values / 4, _power(1 / 0.45, (values + 0.1115) / 1.1115)).astype(
        np.float32
    )


def _pq(values: Floats) -> Floats:
    """Linear light in units of diffuse white (SMPTE ST 2084)."""
    raised = _power(1 / 78.84375, values)
    return _power(
        1 / 0.1593017578125, np.maximum(raised - 0.8359375, 0) / (18.8515625 - 18.6875 * raised)
    ) * np.float32(10_000 / DIFFUSE_WHITE)


def _hlg(values: Floats) -> Floats:
    """Linear light of the scene (ITU-R BT.2100); see `_hlg_gain` for the light of the display."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    low, high = values**2 / 3, (np.exp((values - c) / a) + b) / 12
    return np.where(values <= 0.5, low, high).astype(np.float32)


_TRANSFERS: dict[int, Callable[[Floats], Floats]] = {
    4: functools.partial(_power, 2.2),
    5: functools.partial(_power, 2.8),
    7: _smpte240,
    8: functools.partial(_power, 1.0),
    _SRGB: _srgb_linear,
    _PQ: _pq,
    17: lambda values: _power(2.6, values) * np.float32(52.37 / 48),
    _HLG: _hlg,
}


def _xyz(chromaticities: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """The matrix from linear RGB to XYZ; the luminance of white is 1."""
    white, *colours = ((x, y) for x, y in zip(chromaticities[::2], chromaticities[1::2], strict=True))
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in colours]).T
    target = np.array([white[0] / white[1], 1.0, (1 - white[0] - white[1]) / white[1]])
    made: npt.NDArray[np.float64] = columns * np.linalg.solve(columns, target)
    return made


def _matrix(chromaticities: tuple[float, ...]) -> npt.NDArray[np.float32] | None:
    """The matrix from linear RGB of these primaries to linear sRGB; None if they are not valid."""
    try:
        source, target = _xyz(chromaticities), _xyz(_PRIMARIES[1][1])
        matrix = np.linalg.inv(target) @ _adaptation(source.sum(axis=1), target.sum(axis=1)) @ source
    except (ZeroDivisionError, FloatingPointError, np.linalg.LinAlgError):
        return None
    return matrix.astype(np.float32) if np.isfinite(matrix).all() else None


def _adaptation(source: npt.NDArray[np.float64], target: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The matrix from XYZ under one white to XYZ under another, by Bradford as in colour management systems."""
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    cones, wanted = bradford @ source, bradford @ target
    adapted: npt.NDArray[np.float64] = np.linalg.inv(bradford) @ np.diag(wanted / cones) @ bradford
    return adapted


@functools.cache
def _encoding() -> npt.NDArray[np.uint8]:
    """The sRGB levels of linear light from 0 to 1 in 65,536 steps."""
    light = np.linspace(0, 1, 65536)
    curve = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    levels: npt.NDArray[np.uint8] = np.rint(curve * 255).astype(np.uint8)
    return levels


def _converted(values: Values, alpha: bool, conversion: _Conversion) -> Image.Image:
    """Grey or RGB values of any depth as an sRGB picture."""
    values = values if values.ndim == 3 else values[..., None]
    height, width, channels = values.shape
    colours = channels - alpha
    made = np.empty((height, width, 3 + alpha), np.uint8)
    table = None
    if values.dtype.kind == "u":
        top = np.iinfo(values.dtype).max
        table = conversion.linear(np.arange(top + 1, dtype=np.float32) / np.float32(top))
    rows = max(1, _STRIPE // max(1, width))
    for start in range(0, height, rows):
        part = values[start : start + rows]
        light = (
            table[part[..., :colours]]
            if table is not None
            else conversion.linear(_clean(part[..., :colours]))
        )
        if conversion.hlg:
            light = light * _hlg_gain(light)
        if colours == 3 and conversion.matrix is not None:
            light = light @ conversion.matrix.T
        made[start : start + rows, :, :3] = _encoding()[
            np.rint(np.clip(light, 0, 1) * 65535).astype(np.uint16)
        ]
        if alpha:
            made[start : start + rows, :, 3] = _eight_bits(part[..., -1])
    return Image.fromarray(made)


def from_lab(values: Values, *, alpha: bool, signed: bool) -> Image.Image:
    """CIE LAB (D50) of 8 or 16 bits in TIFF's integers as an sRGB picture.

    ``signed`` means TIFF's own rule: a and b are signed. Otherwise ICC's rule: they have an offset of half the range.
    """
    height, width, channels = values.shape
    deep = values.dtype == np.uint16
    made = np.empty((height, width, channels), np.uint8)
    matrix = _from_d50()
    rows = max(1, _STRIPE // max(1, width))
    for start in range(0, height, rows):
        part = values[start : start + rows]
        steps = part[..., 1:3].astype(np.uint16 if deep else np.uint8, copy=False)
        if signed:
            steps = steps.view(np.int16 if deep else np.int8)
        opponents = steps.astype(np.float32) / (256 if deep else 1) - (0 if signed else 128)
        full = (65535 if signed else 65280) if deep else 255
        lightness = part[..., 0].astype(np.float32) * np.float32(100 / full)
        middle = (lightness + 16) / 116
        cubes = np.stack([middle + opponents[..., 0] / 500, middle, middle - opponents[..., 1] / 200], -1)
        light = np.where(cubes > 6 / 29, cubes**3, (cubes - 4 / 29) * np.float32(108 / 841)) @ matrix.T
        made[start : start + rows, :, :3] = _encoding()[
            np.rint(np.clip(light, 0, 1) * 65535).astype(np.uint16)
        ]
        if alpha:
            made[start : start + rows, :, 3] = _eight_bits(part[..., -1])
    return Image.fromarray(made)


def _from_d50() -> npt.NDArray[np.float32]:
    """The matrix from XYZ, in units of the white D50, to linear sRGB."""
    target, adapted = _xyz(_PRIMARIES[1][1]), _adaptation(_D50, _xyz(_PRIMARIES[1][1]).sum(axis=1))
    matrix: npt.NDArray[np.float64] = np.linalg.inv(target) @ adapted @ np.diag(_D50)
    return matrix.astype(np.float32)


def _hlg_gain(light: Floats) -> Floats:
    """The factor from scene light to the light of a 1,000 nit display, in units of diffuse white."""
    luminance = (
        light @ np.array([0.2627, 0.6780, 0.0593], np.float32) if light.shape[2] == 3 else light[..., 0]
    )
    return (_power(0.2, luminance) * np.float32(1000 / DIFFUSE_WHITE))[..., None]


# More than 8 bits


def _deep_in_srgb(deep: Deep, colour: Colour) -> tuple[Image.Image, list[str]]:
    floating = deep.values.dtype.kind == "f"
    colours = deep.values.shape[2] - deep.alpha
    kind = "grey" if colours == 1 else "CMYK" if deep.ink else "colour"
    bits = deep.bits or (0 if floating else 8 * deep.values.dtype.itemsize)
    notes = (
        []
        if bits == 8
        else [f"converted from {f'{bits}-bit' if bits else 'floating point'} {kind} to 8 bits a channel"]
    )
    if deep.ink:
        notes.append("converted from CMYK" if colour.icc else _INK_NOTE)
    if floating:
        deep, ranged = _ranged(deep)
        notes += ranged
    if colour.icc:
        made = _deep_managed(deep, colour.icc)
        if made is not None:
            image, name = made
            return image, notes + ([f"colours converted from {name}"] if name else [])
        notes.append(_BROKEN_NOTE)
    elif not deep.ink and (conversion := _Conversion.of(colour)):
        return _converted(deep.values, deep.alpha, conversion), [*notes, conversion.note]
    return _plain(deep), notes


def _plain(deep: Deep) -> Image.Image:
    """The pixels with 8 bits and no colour conversion; CMYK by the plain formula."""
    values = _eight_bits(deep.values)
    channels = values.shape[2]
    if deep.ink:
        image = Image.fromarray(np.ascontiguousarray(values[..., :4]), "CMYK").convert("RGB")
        if deep.alpha:
            image.putalpha(Image.fromarray(np.ascontiguousarray(values[..., 4])))
        return image
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    image = Image.fromarray(values[..., 0] if mode == "L" else values, mode)
    return image.convert("RGBA" if deep.alpha else "RGB")


def _deep_managed(deep: Deep, icc: bytes) -> tuple[Image.Image, str] | None:
    """The pixels converted with their profile at full depth, and its name; None if the profile does not fit."""
    import pyvips

    channels = deep.values.shape[2] - deep.alpha
    values = deep.values
    if values.dtype.kind == "f":
        values = np.rint(np.clip(values, 0, 1) * np.float32(65535)).astype(np.uint16)
    try:
        profile = ImageCms.getOpenProfile(BytesIO(icc))
        space = profile.profile.xcolor_space.strip()
        if channels == 1 and space == "RGB":
            values = np.concatenate([values[..., :1]] * 3 + [values[..., 1:]], axis=2)
            channels = 3
        if {"GRAY": 1, "RGB": 3, "CMYK": 4}.get(space) != channels:
            return None
        mode = {1: "L", 3: "RGB", 4: "CMYK"}[channels]
        if _is_srgb(icc, mode):
            return _plain(Deep(values, deep.alpha)), ""
        meant = {1: "grey16", 3: "rgb16", 4: "cmyk"}[channels]
        image = pyvips.Image.new_from_array(np.ascontiguousarray(values)).copy(interpretation=meant)
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
        image = image.icc_transform(
            "srgb", embedded=True, intent="relative", black_point_compensation=True, depth=8
        )
        made = np.asarray(image.numpy())
    except (*_BROKEN_PROFILE, pyvips.Error):
        return None
    if made.dtype != np.uint8:
        made = _eight_bits(made)
    return Image.fromarray(np.ascontiguousarray(made), "RGBA" if deep.alpha else "RGB"), _named(profile)


def _ranged(deep: Deep) -> tuple[Deep, list[str]]:
    """The values scaled to 0-1 from the first range that includes all: 0-1 (floats only), 0-255, 0-65535, their own.

    Negative and undefined values are black. Values a little above 1 are highlights and become 1.
    """
    values = _clean(deep.values)
    highest = float(values.max())
    ranges = sorted((255.0, 65535.0, 2.0**deep.bits - 1)) if deep.bits else [1.0, 255.0, 65535.0]
    top = next((limit for limit in ranges if highest <= limit * 1.0001), highest)
    if 1 < highest < 16 and not deep.bits:
        top = 1.0
    notes = [] if highest <= top * 1.0001 else ["values above 1 are white"]
    values /= np.float32(top)
    return Deep(np.clip(values, 0, 1, out=values), deep.alpha, deep.ink, deep.bits), notes


def _clean(values: Values) -> Floats:
    """A copy as floats; undefined values become 0."""
    return np.nan_to_num(np.array(values, np.float32), copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def _eight_bits(values: Values) -> npt.NDArray[np.uint8]:
    """Integers of their type's full range, or floats from 0 to 1, as 8-bit levels."""
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    made = np.empty(values.shape, np.uint8)
    rows = max(1, _STRIPE // max(1, values[0].size))
    for start in range(0, len(values), rows):
        part = values[start : start + rows]
        if part.dtype == np.uint16:
            # v · 255 / 65535, rounded, in integers.
            made[start : start + rows] = (part.astype(np.uint32) + 128) // 257
        else:
            made[start : start + rows] = np.rint(np.clip(_clean(part), 0, 1) * np.float32(255))
    return made
