"""Subjects cut out on this machine, free: from a plain studio background, around faces, or by a model of one's own.

OpenCV and onnxruntime come with the extra ``masks`` and are imported on first use.
"""

import importlib
import importlib.util
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from bg_pipeline.errors import SettingsError
from bg_pipeline.masks import Mask, persons, refine
from bg_pipeline.masks.boxes import Box
from bg_pipeline.masks.faces import portrait
from bg_pipeline.masks.onnx_model import OnnxModel
from bg_pipeline.masks.plain_background import LONG_SIDE, PlainBackground

SMALLEST_SIDE = 48

_models: dict[Path, OnnxModel] = {}
_loading = threading.Lock()


def has_opencv() -> bool:
    """Whether `studio_cut` can work here: OpenCV is installed."""
    return "cv2" in sys.modules or importlib.util.find_spec("cv2") is not None


def cut_plain_background(image: Image.Image) -> Mask | None:
    """The subject in front of a plain studio background, at the picture's size; None unless that is near certain.

    White, grey, black, coloured, shaded and cloudy backdrops with soft shadows qualify; rooms, landscapes,
    hair against the light and subjects in the backdrop's own colour give None, as does a hole that could as well
    be a label. ``image`` is upright; its own alpha is ignored. The same picture gives the same mask.
    ``confidence`` is at least `studio.SURE`. About 0.1 s of one core, and `refine.enlarge`; a busy
    picture is turned down in milliseconds. Raises `SettingsError` without OpenCV.
    """
    cv2 = _imported("cv2", "cutting out studio photos", "take `studio` out of BG_MASK_SOURCES")
    size = _small_size(image, LONG_SIDE)
    if min(size) < SMALLEST_SIDE:
        return None
    # Threads do not speed GrabCut up and would make its answer depend on their number.
    cv2.setNumThreads(1)
    cv2.setRNGSeed(0)
    small = image.resize(size, Image.Resampling.BOX, reducing_gap=3.0).convert("RGB")
    found = PlainBackground(cv2, np.asarray(small)).cut()
    if found is None:
        return None
    matte, confidence = found
    return Mask(refine.enlarge(matte, image), "studio", confidence)


def cut_persons(image: Image.Image, faces: Sequence[Box]) -> Mask | None:
    """The people of ``faces``, at the picture's size; None where their colours do not tell them from what is behind.

    They are looked for in and around the head-and-shoulders shapes of `portrait`, and kept down to where they end.
    What they hold may be lost or kept. ``image`` is upright. The same picture gives the same mask. About
    0.2 s of one core, and `refine.enlarge`. Raises `SettingsError` without OpenCV.
    """
    cv2 = _imported("cv2", "cutting out people", "take `persons` out of BG_MASK_SOURCES")
    size = _small_size(image, persons.LONG_SIDE)
    if min(size) < SMALLEST_SIDE or not faces:
        return None
    # As for the studio's.
    cv2.setNumThreads(1)
    cv2.setRNGSeed(0)
    small = image.resize(size, Image.Resampling.BOX, reducing_gap=3.0).convert("RGB")
    matte = persons.cut(cv2, np.asarray(small), np.asarray(portrait(faces, size).picture), faces)
    return None if matte is None else Mask(refine.enlarge(matte, image), "persons")


def cut_with_onnx(image: Image.Image, path: Path) -> Mask:
    """The subject as the ONNX matting model at ``path`` sees it, at the picture's size.

    The model takes one RGB picture, (1, 3, H, W) or (1, H, W, 3), as floats, of a fixed size or any, and
    answers with one channel: 0..1, 0..255 or logits. A file ``<path>.json`` may hold what it was trained
    with (`matting.Training`). ``confidence``, 0..1, is how decided the answer is. Nothing is downloaded; a
    model is loaded once. Raises `SettingsError`, naming the path, for whatever is wrong with the model.
    """
    onnxruntime = _imported("onnxruntime", "a matting model", "leave BG_ONNX_MODEL empty")
    with _loading:
        if path not in _models:
            _models[path] = OnnxModel(onnxruntime, path)
        model = _models[path]
    matte = model.matte(image)
    alpha = np.asarray(matte, np.float32) / np.float32(255)
    seen = alpha > 0.05
    confidence = float(np.abs(2 * alpha[seen] - 1).mean()) if seen.any() else 0.0
    return Mask(refine.enlarge(matte, image), "onnx", confidence)


def _small_size(image: Image.Image, long_side: int) -> tuple[int, int]:
    scale = min(1.0, long_side / max(image.size))
    return round(image.width * scale), round(image.height * scale)


def _imported(module: str, purpose: str, otherwise: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SettingsError(
            f"{purpose} needs the extra `masks` (pip install 'bg-pipeline[masks]'), or {otherwise}: {error}"
        ) from None
