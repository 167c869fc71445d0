"""Small test photos: a rendered subject on a studio background, distinct for each number."""

import io
import math

import numpy as np
from PIL import Image, ImageDraw


def photo(
    number: int = 0, *, size: tuple[int, int] = (240, 180), format: str = "JPEG", background: str = "#d9dcdf"
) -> bytes:
    """An image file of a disc with a stem on a plain background; ``number`` changes its colour and position."""
    picture, _ = photo_and_mask(number, size=size, background=background)
    out = io.BytesIO()
    picture.save(out, format, quality=95)
    return out.getvalue()


def photo_and_mask(
    number: int = 0, *, size: tuple[int, int] = (240, 180), background: str = "#d9dcdf"
) -> tuple[Image.Image, Image.Image]:
    """The picture (RGB) and its exact mask (L, 255 = subject)."""
    scale = 4
    large = (size[0] * scale, size[1] * scale)
    mask = Image.new("L", large, 0)
    draw = ImageDraw.Draw(mask)
    middle = (large[0] * (0.5 + 0.08 * math.sin(number)), large[1] * 0.45)
    radius = min(large) * 0.27
    draw.ellipse((middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius), fill=255)
    draw.rectangle(
        (middle[0] - radius / 3, middle[1], middle[0] + radius / 3, middle[1] + radius * 1.6), fill=255
    )
    mask = mask.resize(size, Image.Resampling.BOX)
    random = np.random.default_rng(1000 + number)
    shade = np.linspace(0.8, 1.2, size[1])[:, None, None] * random.integers(10, 110, 3)
    texture = random.normal(0, 4, (size[1], size[0], 1))
    subject = Image.fromarray(np.clip(shade + texture, 0, 255).astype(np.uint8))
    picture = Image.new("RGB", size, background)
    picture.paste(subject, mask=mask)
    return picture, mask
