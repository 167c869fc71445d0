"""A subject in a scene: the scene is laid so that its ground lies under the subject, which does not move.

So the subject's pixels stay the photo's own, in the photo's places, and everything that is made from a result
(frames, masks, measurements) holds as for any other background. Where the scene's ground begins and where its light
comes from is read from the scene itself.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from bg_pipeline.domain import shadows
from bg_pipeline.domain.shadows import Shadow
from bg_pipeline.imaging.edge import edge_boxes
from bg_pipeline.imaging.shadow import ground_shadow, lowest_row

Floats = npt.NDArray[np.float32]

_WIDTH: Final = 192
"""Width, in pixels, of the copy that is looked at."""

USUAL_HORIZON: Final = 0.64
"""Where a scene's ground begins if nothing in it shows that, as a share of its height."""

_HORIZONS: Final = (0.35, 0.86)
"""The range in which it is looked for."""

NEAREST, FARTHEST = 0.8, 0.14
"""A subject stands between these shares of the ground's depth, counted from its far edge."""

LARGEST_ZOOM: Final = 1.7
"""How far a scene is enlarged, beyond covering the frame, to bring its ground under the subject."""

_WRAP: Final = 0.55
"""How far the colour of a pixel on the subject's very edge goes to that of the scene around it."""

MATCH: Final = 0.08
"""The most by which colour matching changes a middle tone."""


@dataclass(frozen=True)
class SceneView:
    """What a scene shows: ``horizon`` is where its ground begins (share of its height).

    ``light`` is where the light comes from, from -1 (left) to 1 (right); ``from_behind`` is True if it comes from
    behind the ground. ``contrast`` is 0 to 1: hard light makes it high.
    """

    horizon: float
    light: float
    from_behind: bool
    contrast: float

    @property
    def shadow(self) -> Shadow:
        """The shadow that the scene's light throws."""
        side = 90.0 if self.light < 0 else 270.0
        toward = 22.0 if self.from_behind else -22.0
        direction = side + (toward if side == 90.0 else -toward)
        softness = float(np.clip(0.85 - 0.7 * self.contrast, 0.3, 0.85))
        strength = float(np.clip(0.5 + 0.25 * self.contrast, 0.5, 0.75))
        return Shadow(direction if abs(self.light) >= _NO_SIDE else None, softness, strength)


_NO_SIDE = 0.03


def view_of(scene: Image.Image) -> SceneView:
    """What a scene (RGB) shows."""
    small = scene.resize(
        (_WIDTH, max(8, round(_WIDTH * scene.height / scene.width))), Image.Resampling.BOX
    ).filter(ImageFilter.BoxBlur(1))
    colours = np.asarray(small, np.float32)
    horizon = _horizon(colours)
    light = colours @ np.array([0.299, 0.587, 0.114], np.float32)
    half = light.shape[1] // 2
    left, right = float(light[:, :half].mean()), float(light[:, half:].mean())
    row = round(horizon * len(light))
    above, ground = light[: max(1, row)], light[row:] if row < len(light) else light
    spread = float(np.percentile(light, 95) - np.percentile(light, 5)) / 255
    return SceneView(
        horizon=horizon,
        light=float(np.clip((right - left) / max(1.0, right + left) * 2.5, -1, 1)),
        from_behind=float(np.percentile(above, 90)) > float(ground.mean()) * 1.15,
        contrast=float(np.clip(spread, 0, 1)),
    )


def _horizon(colours: Floats) -> float:
    """The row where a band across the whole picture changes most; `USUAL_HORIZON` if none stands out."""
    height = len(colours)
    reach = max(2, height // 24)
    sums = np.cumsum(np.pad(colours, ((1, 0), (0, 0), (0, 0))), axis=0)
    rows = np.arange(reach, height - reach)
    above = (sums[rows] - sums[rows - reach]) / reach
    below = (sums[rows + reach] - sums[rows]) / reach
    # The lower quartile over the columns: an edge across the whole picture counts, a thing in it does not.
    step = np.percentile(np.abs(below - above).sum(axis=2), 25, axis=1)
    shares = rows / height
    inside = (shares >= _HORIZONS[0]) & (shares <= _HORIZONS[1])
    if not inside.any():
        return USUAL_HORIZON
    likely = step * np.exp(-(((shares - USUAL_HORIZON) / 0.3) ** 2)) * inside
    best = int(np.argmax(likely))
    if step[best] < max(9.0, 2.0 * float(np.median(step))):
        return USUAL_HORIZON
    return float(shares[best])


@dataclass(frozen=True)
class Placed:
    """A scene laid behind a subject; ``stands`` is whether its ground lies under the subject."""

    ground: Image.Image
    stands: bool


def laid(scene: Image.Image, view: SceneView, size: tuple[int, int], subject: Image.Image) -> Placed:
    """The scene scaled and cropped to a frame, its ground under the subject (mode L); never stretched.

    A subject that the frame's lower edge cuts off, or that has no lower edge, needs no ground: the scene's middle is
    shown.
    """
    cover = max(size[0] / scene.width, size[1] / scene.height)
    foot = lowest_row(subject)
    box = subject.getbbox()
    middle = (box[0] + box[2]) / 2 / size[0] if box else 0.5
    if foot is None:
        return Placed(_cropped(scene, size, cover, 0.5, 0.5), stands=True)
    depth = 1 - view.horizon
    shares = np.linspace(view.horizon + FARTHEST * depth, view.horizon + NEAREST * depth, 25)
    # The frame's rows above and below the foot have to be covered by the scene's.
    zooms = np.maximum(foot / (shares * scene.height), (size[1] - foot) / ((1 - shares) * scene.height))
    zooms = np.maximum(zooms, cover)
    preferred = view.horizon + 0.45 * depth
    best = int(np.argmin(zooms / cover + 0.25 * np.abs(shares - preferred)))
    zoom, share = float(zooms[best]), float(shares[best])
    stands = zoom <= cover * LARGEST_ZOOM
    zoom = min(zoom, cover * LARGEST_ZOOM)
    free = scene.height * zoom - size[1]
    down = 0.0 if free <= 0 else float(np.clip((share * scene.height * zoom - foot) / free, 0, 1))
    return Placed(_cropped(scene, size, zoom, 0.5 + 0.3 * (middle - 0.5), down), stands)


def _cropped(
    scene: Image.Image, size: tuple[int, int], zoom: float, across: float, down: float
) -> Image.Image:
    """A frame of the scene at a scale; ``across`` and ``down`` are shares of what is left over."""
    width, height = size[0] / zoom, size[1] / zoom
    left, top = (scene.width - width) * across, (scene.height - height) * down
    box = (max(0.0, left), max(0.0, top), min(scene.width, left + width), min(scene.height, top + height))
    return scene.resize(size, Image.Resampling.LANCZOS, box, reducing_gap=2.0)


def shaded(ground: Image.Image, subject: Image.Image, text: str, view: SceneView) -> None:
    """Draws the shadow of the request's text on the ground; what the text leaves open follows the scene's light."""
    asked = shadows.read(text)
    if asked is None:
        return
    own = view.shadow
    given = shadows.values_in(text)
    shadow = Shadow(
        asked.direction if "direction" in given else own.direction,
        asked.softness if "softness" in given else own.softness,
        asked.strength if "strength" in given else own.strength,
    )
    cast = 1.0 if "direction" in given else min(1.0, abs(view.light) / 0.2)
    ground.paste("black", mask=ground_shadow(subject, shadow, cast=cast))


def wrapped(colours: Image.Image, matte: Image.Image, ground: Image.Image) -> None:
    """Lets the scene's light into the subject's edge: half-transparent pixels take some of the colour behind them.

    Pixels whose matte is 255 stay as they are.
    """
    radius = max(2, round(max(ground.size) / 160))
    for box in edge_boxes(matte):
        share = np.asarray(matte.crop(box), np.float32) / np.float32(255)
        weight = np.where((share > 0) & (share < 1), np.float32(_WRAP) * (1 - share), 0)[..., None]
        if not weight.any():
            continue
        reach = 2 * radius
        around = (
            max(0, box[0] - reach),
            max(0, box[1] - reach),
            min(ground.width, box[2] + reach),
            min(ground.height, box[3] + reach),
        )
        blurred = ground.crop(around).filter(ImageFilter.BoxBlur(radius))
        inner = (box[0] - around[0], box[1] - around[1], box[2] - around[0], box[3] - around[1])
        behind = np.asarray(blurred.crop(inner), np.float32)
        own = np.asarray(colours.crop(box), np.float32)
        mixed = np.rint(own + weight * (behind - own)).astype(np.uint8)
        colours.paste(Image.fromarray(mixed), box)


def matched(picture: Image.Image, scene: Image.Image, strength: float) -> Image.Image:
    """The picture (RGB or RGBA) with its middle tones drawn gently to the scene's colour of light.

    ``strength`` is 0 to 1. Black and white stay, and no tone changes by more than about `MATCH`.
    """
    mean = np.asarray(scene.resize((1, 1), Image.Resampling.BOX), np.float32).reshape(3) + 1
    tint = (mean / mean.mean()) ** np.float32(0.35)
    gains = np.clip(1 + strength * (tint - 1), 1 - MATCH, 1 + MATCH)
    tones = np.linspace(0, 1, 256)
    # An exponent keeps black and white; at half brightness it multiplies by the gain.
    exponents = [1 - np.log2(float(gain)) for gain in gains]
    table = [round(255 * float(tone**exponent)) for exponent in exponents for tone in tones]
    if picture.mode == "RGBA":
        table += list(range(256))
    return picture.point(table)
