"""Answers that `bg-pipeline doctor --live` recorded, as golden answers: copy such a file into this folder.

The pictures in them are replaced by descriptions; tests put pictures of the same format, size and mode in their
place.
"""

from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import pybase64
from PIL import Image

from bg_pipeline.captioners import nova
from bg_pipeline.doctor.expectations import (
    compare_caption,
    compare_faces,
    compare_image_answer,
    compare_labels,
)
from bg_pipeline.doctor.redaction import PICTURE
from bg_pipeline.generators import Ask, generator
from bg_pipeline.labelers import faces, rekognition

LIVE_FILES = sorted(Path(__file__).parent.glob("*.json"))


def restored(value: Any) -> Any:
    """A recorded request or answer with pictures in base64 in the place of their descriptions."""
    if isinstance(value, dict):
        if value.keys() == {PICTURE}:
            return pybase64.b64encode_as_string(_picture(value[PICTURE]))
        return {name: restored(each) for name, each in value.items()}
    return [restored(each) for each in value] if isinstance(value, list) else value


def _picture(described: dict[str, Any]) -> bytes:
    image = Image.new(described["Mode"], (described["Width"], described["Height"]))
    out = BytesIO()
    image.save(out, described["Format"])
    return out.getvalue()


def replay(call: dict[str, Any]) -> Any:
    """Has the adapter read the recorded answer of a call and compares it again; returns what the adapter read.

    The comparison of fields must have the results that were recorded.
    """
    answer, request = restored(call["Answer"]), restored(call["Request"])
    compared, read = _read(call, answer, request)
    again = {each.field: each.matches for each in compared}
    recorded = {each["Field"]: each["Matches"] for each in call["Comparisons"]}
    assert again == {name: recorded[name] for name in again}, [asdict(each) for each in compared]
    return read


def _read(call: dict[str, Any], answer: Any, request: Any) -> Any:
    task = call["Task"]
    if task == "labels":
        return compare_labels(answer, request["MinConfidence"]), rekognition.document(answer)
    if task == "faces":
        return compare_faces(answer), [faces.face_boxes(answer)]
    if task == "caption":
        alt_text = 125 if "Alt text:" in nova.prompt_of(request) else 0
        tokens = nova.tokens_at_most(call["Model"], nova.prompt_of(request))
        tokens = (tokens[0], request["inferenceConfig"]["maxTokens"])
        return compare_caption(answer, tokens, alt_text), nova.read(answer, alt_text).text
    model, size = generator(call["Adapter"]), tuple(call["Size"])
    bare = call["Model"].removeprefix("us.")
    compared = compare_image_answer(bare, answer, request, size, cut_out=task == "remove")
    if task == "remove":
        return compared, model.remove(b"", size, lambda operation, body: answer)
    ask = Ask(picture=b"\x89PNG", size=size, prompt="x", seed=model.seeds[1], mask=_picture(_MASK))
    return compared, model.replace(ask, lambda operation, body: answer).images


_MASK = {"Mode": "RGB", "Width": 8, "Height": 8, "Format": "png"}
