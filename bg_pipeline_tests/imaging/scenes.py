"""A subject with an exactly known matte before an old and a new background."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from bg_pipeline.imaging import Photo

SIZE = (400, 300)


def textured(seed: int, low: int, high: int) -> Image.Image:
    """A picture of smooth spots between two levels, with a little noise."""
    random = np.random.default_rng(seed)
    blotches = random.integers(low, high, (8, 10, 3), np.uint8)
    large = np.asarray(Image.fromarray(blotches).resize(SIZE, Image.Resampling.BICUBIC), np.float32)
    return Image.fromarray(np.clip(large + random.normal(0, 2, large.shape), 0, 255).astype(np.uint8))


def shape(*, hair: bool = False) -> Image.Image:
    """A matte with a lens' softness: a disc with a soft edge and fine lines that leave it."""
    large = Image.new("L", (SIZE[0] * 4, SIZE[1] * 4))
    draw = ImageDraw.Draw(large)
    draw.ellipse((480, 300, 1120, 940), fill=255)
    if hair:
        random = np.random.default_rng(5)
        for angle in random.uniform(0, 2 * np.pi, 80):
            way = np.array([np.cos(angle), np.sin(angle)])
            start, end = 800 + 300 * way, 800 + (340 + random.uniform(20, 140)) * way
            draw.line((start[0], start[1] - 180, end[0], end[1] - 180), fill=255, width=5)
    return large.filter(ImageFilter.GaussianBlur(3)).resize(SIZE, Image.Resampling.BOX)


SUBJECT, OLD, NEW = textured(1, 20, 110), textured(2, 170, 250), textured(3, 60, 200)


def shot(matte: Image.Image) -> Photo:
    """A photo of the subject before the old background."""
    return Photo(Image.composite(SUBJECT, OLD, matte), "png")
