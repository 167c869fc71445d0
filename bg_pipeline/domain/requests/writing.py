"""Requests written: those that people make, a folder without one has, and a retry is."""

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.requests.fields import (
    IMAGE_FIELDS,
    KNOWN,
    NO_PRESETS,
    BatchRequest,
    ImageEntry,
    ImageFields,
    Rendition,
    holds_control,
)
from bg_pipeline.domain.requests.resolved import image_settings


def write(request: BatchRequest) -> bytes:
    """The request as JSON that `read` takes, the same bytes for the same request; what is not said is left out."""
    return orjson.dumps(_document(request), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _document(said: ImageFields | Rendition) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name in sorted(KNOWN[type(said)], key=lambda name: (name == "Images", name in IMAGE_FIELDS)):
        value = getattr(said, name)
        if name in {"Images", "Renditions"} and value is not None:
            value = [_document(member) for member in value]
        if value is not None and not (name.endswith(("Prefix", "Bucket")) and value == ""):
            document[name] = value
    return document


def default_request(batch: Batch, bucket: str, prompt: str = "") -> BatchRequest:
    """What a folder without a request asks for: every image in it, with the default settings.

    Without a ``prompt`` its images have none, which is for the caller to see (`ImageSettings.prompts`).
    """
    return BatchRequest(
        Id=batch.derived_id(bucket),
        S3Bucket=bucket,
        InputS3Prefix=batch.input_prefix,
        OutputS3Prefix=batch.output_prefix,
        StatusS3Prefix=batch.status_prefix,
        Prompt=prompt or None,
    )


def retry_request(
    request: BatchRequest,
    images: Iterable[str],
    presets: Mapping[str, ImageFields] = NO_PRESETS,
    *,
    approved: bool = False,
    cap_usd: float | None = None,
) -> BatchRequest | None:
    """The request that asks again for ``images`` of a request, wherever it is put; None if it would ask for nothing.

    It reads the same uploads and writes to the folders of the batch it becomes. Its ``Id`` is new, and the same
    for the same images. Images that have no prompt and need one are left out, as a request without it is not valid,
    and so are uploads with a control character in their names, which no request may name.
    ``Sample`` stays until it was ``approved``. ``cap_usd`` is what is left of the request's cap, None where it has
    none; with nothing left nothing is asked for.
    """
    settings = (image_settings(request, image, presets) for image in images)
    asked = [
        one.image
        for one in settings
        if (one.prompts or not one.needs_prompt) and not holds_control(one.image)
    ]
    if not asked or (cap_usd is not None and cap_usd <= 0):
        return None
    return replace(
        request,
        Id=str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([request.Id, *asked]))),
        OutputS3Prefix="",
        StatusS3Prefix="",
        MaxCostUSD=request.MaxCostUSD if cap_usd is None else cap_usd,
        Sample=None if approved else request.Sample,
        RetryOf=request.Id,
        Images=tuple(request.entries.get(image) or ImageEntry(ImageName=image) for image in asked),
    )
