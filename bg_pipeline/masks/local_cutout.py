"""Subjects cut out on this machine, free: before a plain background, by a network, or around faces.

OpenCV and onnxruntime come with the extra ``masks`` and are imported on first use.
"""

import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Final

import numpy as np
from PIL import Image, ImageOps

from bg_pipeline.errors import SettingsError
from bg_pipeline.masks import Mask, Source, matting, persons, refine
from bg_pipeline.masks.boxes import Box
from bg_pipeline.masks.faces import portrait
from bg_pipeline.masks.label_boxes import parts
from bg_pipeline.masks.onnx_model import ModelConfig, OnnxModel
from bg_pipeline.masks.plain_background import LONG_SIDE, PlainBackground
from bg_pipeline.masks.second_opinion import DOUBTFUL, Seen, second_opinion

SMALLEST_SIDE = 48
NETWORK: Final = Path(__file__).with_name("networks") / "u2netp.onnx"
"""U²-Net small, which is part of the package (`networks/ORIGIN.md`)."""

# Part of the identity of pictures that were paid for around the network's masks: changed, they are paid for again.
_NETWORK_MASKS = "u2netp 1"
# The form is known: nothing has to be detected.
_NETWORK_CONFIG = ModelConfig(output="probability")

_models: dict[Path, OnnxModel | SettingsError] = {}
_loading = threading.Lock()


def has_opencv() -> bool:
    """Whether OpenCV is installed, without which `cut_plain_background` and `cut_persons` fail."""
    return "cv2" in sys.modules or importlib.util.find_spec("cv2") is not None


def opencv(purpose: str, otherwise: str) -> ModuleType:
    """OpenCV; raises `SettingsError` without it, which names the ``purpose`` and what to do ``otherwise``."""
    return _imported("cv2", purpose, otherwise)


def make_deterministic(cv2: ModuleType) -> None:
    """Makes the results of the calls that follow depend on their arguments only."""
    # Threads do not make GrabCut faster, and its result would depend on their number.
    cv2.setNumThreads(1)
    cv2.setRNGSeed(0)


def cut_plain_background(image: Image.Image) -> Mask | None:
    """The subject before a plain studio background, at the picture's size; None unless that is nearly certain.

    White, grey, black, coloured, shaded and cloudy backdrops with soft shadows qualify. Rooms, landscapes, hair
    against the light and subjects in the backdrop's own colour give None, as does a hole that could also be a label.
    ``image`` is upright; its own alpha is ignored. The same picture gives the same mask. ``confidence`` is at least
    `plain_background.SURE`. About 0.1 s of one core, and `refine.enlarge`; a busy picture takes some milliseconds.
    Raises `SettingsError` without OpenCV.
    """
    cv2 = opencv("cutting out studio photos", "take `studio` out of BG_MASK_SOURCES")
    size = _small_size(image, LONG_SIDE)
    if min(size) < SMALLEST_SIDE:
        return None
    make_deterministic(cv2)
    found = PlainBackground(cv2, _small_pixels(image, size)).cut()
    if found is None:
        return None
    matte, confidence = found
    return Mask(refine.enlarge(matte, image), "studio", confidence)


def cut_persons(image: Image.Image, faces: Sequence[Box]) -> Mask | None:
    """The people of ``faces``, at the picture's size; None where their colours do not differ from the background's.

    They are looked for in and around the head-and-shoulders shapes of `portrait`, and kept down to where they end.
    What they hold may be lost. ``image`` is upright. The same picture gives the same mask. About 0.2 s of one core,
    and `refine.enlarge`. Raises `SettingsError` without OpenCV.
    """
    cv2 = opencv("cutting out people", "take `persons` out of BG_MASK_SOURCES")
    size = _small_size(image, persons.LONG_SIDE)
    if min(size) < SMALLEST_SIDE or not faces:
        return None
    make_deterministic(cv2)
    matte = persons.cut(cv2, _small_pixels(image, size), np.asarray(portrait(faces, size).picture), faces)
    return None if matte is None else Mask(refine.enlarge(matte, image), "persons")


def cut_with_network(image: Image.Image) -> Mask:
    """The salient object of ``image`` by the network that is part of the package, at the picture's size.

    ``confidence``, 0..1, is how far the network's values are from one half; `validation.SURE_NETWORK` is the limit
    above which it is used. 0.25 to 0.45 s of one core and 0.4 GB while it runs, and `refine.enlarge`. Raises
    `SettingsError` where it cannot be used, because onnxruntime is not installed or the package's file is damaged.
    """
    matte, confidence = _matte(_network(), image)
    return _mask(image, matte, "network", confidence, computed_from=_NETWORK_MASKS)


def cut_with_onnx(image: Image.Image, path: Path) -> Mask:
    """The subject by the user's ONNX file at ``path`` (`OnnxModel`), at the picture's size.

    ``confidence`` as with `cut_with_network`. Nothing is downloaded; a file is loaded once per process, or refused
    once. Raises `SettingsError`, naming the path, for whatever is wrong with it.
    """
    matte, confidence = _matte(_own_model(path), image)
    return _mask(image, matte, "onnx", confidence)


# Found at a few hundred pixels: every edge is redrawn.
_COARSE_SOURCES = ("network", "onnx", "persons")


def examine(
    image: Image.Image, mask: Mask, boxes: Sequence[Box] = (), *, whole: bool = False, network: bool = True
) -> Mask:
    """``mask`` with its edge redrawn where the photo's is (`matting`), and with the second opinion on it.

    Its ``confidence`` becomes that of the opinion, 0..1, and what speaks against it is added to its ``doubt``. Its
    identity stays. ``boxes`` are those whose parts the mask has, for `parts` with ``whole``; ``network`` says that
    the network may be asked. 0.4 s of one core and the time of the network, for its own mask twice that.
    """
    drawn = mask.picture
    # A plain background's matte comes from the colours on both sides of the edge already.
    if mask.source != "studio":
        exact = mask.source not in _COARSE_SOURCES and not mask.computed_from
        drawn = matting.draw_edge(drawn, image.convert("RGB"), exact=exact)
    opinion = second_opinion(image, drawn, _seen(image, mask, boxes, whole=whole) if network else None)
    confidence, doubt = opinion.confidence, mask.doubt or opinion.doubt
    if mask.doubt:
        confidence = min(confidence, DOUBTFUL / 2)
    return replace(
        mask,
        picture=drawn,
        confidence=confidence,
        doubt=doubt,
        where=opinion.where,
        drawn_from=mask.digest(),
    )


def _seen(image: Image.Image, mask: Mask, boxes: Sequence[Box], *, whole: bool) -> Seen | None:
    """What the network sees of the subject; None where it cannot be used."""
    try:
        model = _network()
        everything = model.matte(image)
        mirrored = ImageOps.mirror(model.matte(ImageOps.mirror(image))) if mask.computed_from else None
    except SettingsError:
        return None
    if not boxes:
        return Seen(everything, mirrored)

    def part(picture: Image.Image) -> Image.Image | None:
        found = parts(Mask(picture, "network"), boxes, whole=whole)
        return None if found is None else found.picture

    subject = part(everything)
    if subject is None:
        return None
    return Seen(subject, mirrored and part(mirrored), everything)


def check_network(path: Path | None = None) -> None:
    """Loads the package's network, or the user's file at ``path``; raises `SettingsError` where that fails."""
    _ = _network() if path is None else _own_model(path)


def _network() -> OnnxModel:
    return _loaded(
        NETWORK,
        lambda runtime: OnnxModel(
            runtime, NETWORK, name=f"the package's network {NETWORK}", config=_NETWORK_CONFIG
        ),
        "take `network` out of BG_MASK_SOURCES",
    )


def _own_model(path: Path) -> OnnxModel:
    return _loaded(
        path,
        lambda runtime: OnnxModel(runtime, path, name=f"BG_ONNX_MODEL {path}"),
        "leave BG_ONNX_MODEL empty",
    )


def _loaded(path: Path, load: Callable[[ModuleType], OnnxModel], otherwise: str) -> OnnxModel:
    """The network of this process; a file that was refused once is not read again."""
    runtime = _imported("onnxruntime", f"the network {path.name}", otherwise)
    with _loading:
        if path not in _models:
            try:
                _models[path] = load(runtime)
            except SettingsError as error:
                _models[path] = error
        model = _models[path]
    if isinstance(model, SettingsError):
        raise SettingsError(str(model))
    return model


def _matte(model: OnnxModel, image: Image.Image) -> tuple[Image.Image, float]:
    """The network's mask of its own size, and how far its values are from one half, 0..1."""
    matte = model.matte(image)
    alpha = np.asarray(matte, np.float32) / np.float32(255)
    visible = alpha > 0.05
    return matte, float(np.abs(2 * alpha[visible] - 1).mean()) if visible.any() else 0.0


def _mask(
    image: Image.Image, matte: Image.Image, source: Source, confidence: float, *, computed_from: str = ""
) -> Mask:
    return Mask(refine.enlarge(matte, image), source, confidence, computed_from=computed_from)


def _small_size(image: Image.Image, long_side: int) -> tuple[int, int]:
    scale = min(1.0, long_side / max(image.size))
    return round(image.width * scale), round(image.height * scale)


def _small_pixels(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(image.resize(size, Image.Resampling.BOX, reducing_gap=3.0).convert("RGB"))


def _imported(module: str, purpose: str, otherwise: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SettingsError(
            f"{purpose} needs the extra `masks` (pip install 'bg-pipeline[masks]'), or {otherwise}: {error}"
        ) from None
