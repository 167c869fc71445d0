"""Backgrounds painted from a prompt, a seed and a size.

A prompt without a known word gets an abstract picture whose colours and shapes come from the prompt's hash, so that
different prompts always look different.
"""

import hashlib

import cv2
import numpy as np
from numpy.typing import NDArray

from bg_pipeline_local_aws.backdrops import (
    paint_abstract,
    paint_room,
    paint_space,
    paint_studio,
    paint_underwater,
)
from bg_pipeline_local_aws.brushes import Plane
from bg_pipeline_local_aws.landscapes import paint_landscape
from bg_pipeline_local_aws.prompt_words import parse_prompt

MIN_SIDE, MAX_SIDE = 480, 960
"""Limits of the longer side of the canvas, in pixels; the finished canvas is resized to the requested size."""


def paint_background(prompt: str, negative: str, seed: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """RGB pixels (height, width, 3) of a scene for the prompt; the same arguments give the same pixels.

    Words of ``negative`` are ignored in the prompt. ``size`` is width and height in pixels.
    """
    width, height = size
    scale = min(max(max(size), MIN_SIDE), MAX_SIDE) / max(size)
    shape = max(32, round(height * scale)), max(32, round(width * scale))
    normalized = " ".join(prompt.lower().split())
    random = np.random.default_rng([seed, *hashlib.sha256(normalized.encode()).digest()[:8]])
    canvas = _compose(normalized, negative, random, shape)
    if (height, width) != shape:
        interpolation = cv2.INTER_CUBIC if scale < 1 else cv2.INTER_AREA
        canvas = np.asarray(cv2.resize(canvas, size, interpolation=interpolation), np.float32)
    canvas += 0.012 * random.standard_normal((height, width, 1), np.float32)
    return np.asarray(np.clip(canvas * 255 + 0.5, 0, 255), np.uint8)


def _compose(prompt: str, negative: str, random: np.random.Generator, shape: tuple[int, int]) -> Plane:
    words = parse_prompt(prompt, negative)
    if words.has("city", "paris", "beach", "sea", "mountain", "forest", "desert", "field", "flower", "snow"):
        return paint_landscape(words, random, shape)
    if words.has("space"):
        return paint_space(words, random, shape)
    if words.has("underwater"):
        return paint_underwater(random, shape)
    if words.has("room"):
        return paint_room(words, random, shape)
    if words.has("studio", "marble", "wood", "concrete"):
        return paint_studio(words, random, shape)
    if words.has("sunset", "dawn", "night", "grey"):
        return paint_landscape(words, random, shape)
    if words.colours:
        return paint_studio(words, random, shape)
    return paint_abstract(prompt, random, shape)
