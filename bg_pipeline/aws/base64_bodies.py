"""Pictures inside the JSON requests of a boto3 client, put there in base64 by pybase64 and not by botocore.

botocore encodes them with the standard library and walks through the text once more for what JSON must escape: a call
with a picture of 400 kB then takes 3.2 ms of CPU up to its sending, and 0.9 with this.
"""

import os
from collections.abc import Mapping
from typing import Any

import pybase64

OPERATIONS = {
    "rekognition": ("DetectLabels", "DetectFaces", "DetectCustomLabels"),
    "bedrock-runtime": ("Converse",),
}
"""By service, what gets a picture as a blob inside a JSON body."""

LEAST_BYTES = 4_096
"""Smaller ones are left to botocore."""

# It stands for the picture while botocore builds the request. 18 bytes need no padding, and nobody can guess them.
_MARK = os.urandom(18)
_MARK_IN_JSON = pybase64.b64encode(_MARK)
_TAKEN = "bg-pipeline-picture"


def use_fast_base64(client: Any) -> None:
    """Has the client send the picture of each of its `OPERATIONS` so; call it once."""
    service = client.meta.service_model.service_id.hyphenize()
    for operation in OPERATIONS.get(client.meta.service_model.service_name, ()):
        client.meta.events.register(f"provide-client-params.{service}.{operation}", _take_out)
        client.meta.events.register(f"before-call.{service}.{operation}", _put_in)


def _take_out(params: Mapping[str, Any], context: dict[str, Any], **_: object) -> Mapping[str, Any] | None:
    pictures: list[bytes] = []
    lighter: Mapping[str, Any] = _marked(params, pictures)
    if len(pictures) != 1:
        return None
    (context[_TAKEN],) = pictures
    return lighter


def _put_in(params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
    picture = context.pop(_TAKEN, None)
    if picture is not None:
        before, found, after = params["body"].partition(_MARK_IN_JSON)
        if not found:
            raise RuntimeError("the request has no place for its picture; it was not sent")
        params["body"] = b"".join((before, pybase64.b64encode(picture), after))


def _marked(value: Any, pictures: list[bytes]) -> Any:
    """A copy with a mark for each picture, which is added to ``pictures``."""
    match value:
        case dict():
            return {name: _marked(part, pictures) for name, part in value.items()}
        case list():
            return [_marked(part, pictures) for part in value]
        case bytes() if len(value) >= LEAST_BYTES:
            pictures.append(value)
            return _MARK
    return value
