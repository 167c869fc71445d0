"""Writes requests, and makes the default request of a folder and the request of a retry."""

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
    has_control_character,
)
from bg_pipeline.domain.requests.resolved import image_settings


def write(request: BatchRequest) -> bytes:
    """The request as JSON for `read`; the same bytes for the same request. Fields that are not set are left out."""
    return orjson.dumps(_document(request), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _document(fields: ImageFields | Rendition) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name in sorted(KNOWN[type(fields)], key=lambda name: (name == "Images", name in IMAGE_FIELDS)):
        value = getattr(fields, name)
        if name in {"Images", "Renditions"} and value is not None:
            value = [_document(member) for member in value]
        if value is not None and not (name.endswith(("Prefix", "Bucket")) and value == ""):
            document[name] = value
    return document


def default_request(batch: Batch, bucket: str, prompt: str = "") -> BatchRequest:
    """The request of a folder without a request: every image in it with the default settings.

    Without a ``prompt`` the images have none; the caller has to check that (`ImageSettings.prompts`).
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
    """The request that asks again for ``images`` of ``request``, for any new batch; None if none can be asked for.

    It reads the same uploads and writes to the folders of the new batch. Its ``Id`` differs from that of ``request``
    and is the same for the same images. Images that need a prompt and have none, and images with a control character
    in their names, are left out, because a request with them is invalid. ``Sample`` is kept unless it was
    ``approved``. ``cap_usd`` is what is left of the request's cap (None: it has no cap); if nothing is left, the
    result is None.
    """
    settings = (image_settings(request, image, presets) for image in images)
    names = [
        asked.image
        for asked in settings
        if (asked.prompts or not asked.needs_prompt) and not has_control_character(asked.image)
    ]
    if not names or (cap_usd is not None and cap_usd <= 0):
        return None
    return replace(
        request,
        Id=str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([request.Id, *names]))),
        OutputS3Prefix="",
        StatusS3Prefix="",
        MaxCostUSD=request.MaxCostUSD if cap_usd is None else cap_usd,
        Sample=None if approved else request.Sample,
        RetryOf=request.Id,
        Images=tuple(request.entries.get(image) or ImageEntry(ImageName=image) for image in names),
    )
