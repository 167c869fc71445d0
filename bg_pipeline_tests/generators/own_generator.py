"""An example of a custom generator: a picture service in the user's account, here called `Sepia`.

It is named in the settings as ``BG_IMAGE_MODELS=bg_pipeline_tests.generators.own_generator:Sepia``.
"""

import base64
from collections.abc import Mapping
from typing import Any

from bg_pipeline import errors
from bg_pipeline.generators import Ask, Invoke, Made, Operation, Size
from bg_pipeline.imaging import Bounds


class Sepia:
    """Repaints the background in one call; cannot cut subjects out, so that another source has to."""

    name = "sepia"
    replaces: Operation | None = Operation("SEPIA", "acme.sepia-v1")
    removes: Operation | None = None
    sizes = Bounds(min_side=256, max_side=2048, max_pixels=2048 * 2048, max_aspect=3.0, multiple_of=8)
    max_picture_bytes = 4_000_000
    prompt_limit = 300
    takes_words = False
    returns_mask = False
    images_per_call = 1
    seeds = range(1000)

    def replace(self, ask: Ask, invoke: Invoke) -> Made:
        answer = invoke(
            self.replaces,
            {
                "scene": ask.prompt,
                "photo": _text(ask.picture),
                "keep": _text(ask.mask or b""),
                "seed": ask.seed,
            },
        )
        return Made(images=(_result(answer),), seeds=(ask.seed,))

    def remove(self, picture: bytes, size: Size, invoke: Invoke) -> bytes:
        raise errors.UsageError("sepia cannot remove a background")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _result(answer: Mapping[str, Any]) -> bytes:
    if answer.get("refused"):
        raise errors.Blocked("Refused", answer["refused"])
    return base64.b64decode(answer["result"])
