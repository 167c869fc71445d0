"""Backgrounds painted from a prompt, a seed and a size.

Words that are not understood choose colours and shapes by their hash: different prompts always look different.
"""

import hashlib

import cv2
import numpy as np
from numpy.typing import NDArray

from bg_pipeline_local_aws.backdrops import abstract, room, space, studio, underwater
from bg_pipeline_local_aws.outdoors import landscape
from bg_pipeline_local_aws.strokes import Plane
from bg_pipeline_local_aws.wish import understood

LEAST_SIDE, MOST_SIDE = 480, 960
"""The longer side that is painted at, in pixels; the result is then brought to the size asked for."""


def painted(prompt: str, negative: str, seed: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """RGB pixels of a scene for the words, (height, width, 3); the same arguments give the same pixels.

    What `negative` names is left out. `size` is width and height.
    """
    width, height = size
    scale = min(max(max(size), LEAST_SIDE), MOST_SIDE) / max(size)
    shape = max(32, round(height * scale)), max(32, round(width * scale))
    words = " ".join(prompt.lower().split())
    random = np.random.default_rng([seed, *hashlib.sha256(words.encode()).digest()[:8]])
    canvas = _composed(words, negative, random, shape)
    if (height, width) != shape:
        way = cv2.INTER_CUBIC if scale < 1 else cv2.INTER_AREA
        canvas = np.asarray(cv2.resize(canvas, size, interpolation=way), np.float32)
    canvas += 0.012 * random.standard_normal((height, width, 1), np.float32)
    return np.asarray(np.clip(canvas * 255 + 0.5, 0, 255), np.uint8)


def _composed(words: str, negative: str, random: np.random.Generator, shape: tuple[int, int]) -> Plane:
    wish = understood(words, negative)
    if wish.has("city", "paris", "beach", "sea", "mountain", "forest", "desert", "field", "flower", "snow"):
        return landscape(wish, random, shape)
    if wish.has("space"):
        return space(wish, random, shape)
    if wish.has("underwater"):
        return underwater(random, shape)
    if wish.has("room"):
        return room(wish, random, shape)
    if wish.has("studio", "marble", "wood", "concrete"):
        return studio(wish, random, shape)
    if wish.has("sunset", "dawn", "night", "grey"):
        return landscape(wish, random, shape)
    if wish.colours:
        return studio(wish, random, shape)
    return abstract(words, random, shape)
