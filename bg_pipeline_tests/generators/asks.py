"""The parameters of the golden requests, and an `Invoke` that returns golden answers."""

from collections.abc import Mapping
from typing import Any

import pybase64

from bg_pipeline.generators import Ask, Operation
from bg_pipeline_tests.golden import golden

_PARAMS = golden("titan/outpainting_mask.request")["outPaintingParams"]
PICTURE = pybase64.b64decode(_PARAMS["image"])
MASK = pybase64.b64decode(_PARAMS["maskImage"])
SIZE = (1152, 768)

WORDS_ASK = Ask(
    picture=PICTURE,
    size=SIZE,
    prompt="london city background",
    negative_prompt="low quality, low resolution",
    mask_prompt="Bus, Person",
    cfg_scale=8.0,
    seed=42,
)
MASK_ASK = Ask(
    picture=PICTURE,
    size=SIZE,
    prompt="london city background",
    negative_prompt="low quality, low resolution",
    mask=MASK,
    cfg_scale=8.0,
    seed=42,
)


class Recorded:
    """Answers every call with one golden answer, and records the calls."""

    def __init__(self, answer: str) -> None:
        self._answer = golden(answer)
        self.sent: list[tuple[Operation, Mapping[str, Any]]] = []

    def __call__(self, operation: Operation, body: Mapping[str, Any]) -> Mapping[str, Any]:
        self.sent.append((operation, body))
        return self._answer
