"""Reads and checks a request, whose writer is not trusted."""

import itertools
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.requests.fields import (
    MAX_IMAGES,
    NO_PRESETS,
    BatchRequest,
    ImageEntry,
    ImageFields,
)
from bg_pipeline.domain.requests.problems import MAX_PROBLEMS, field_of, first_of, problems_of
from bg_pipeline.domain.requests.rules import violations
from bg_pipeline.domain.requests.text import parse_object
from bg_pipeline.errors import RequestError

MAX_BYTES: Final = 20_000_000
"""Maximum size of a request in bytes: about 100,000 images with a prompt of their own."""


def read(
    data: bytes,
    *,
    bucket: str,
    batch: Batch,
    allowed_buckets: Collection[str] = (),
    presets: Mapping[str, ImageFields] = NO_PRESETS,
) -> BatchRequest:
    """The request in ``data``, the object ``batch.request_key`` in ``bucket``: checked, with bucket and prefixes set.

    Its writer is not trusted: it may name only ``bucket`` and ``allowed_buckets``, only prefixes under the right
    top-level prefix and never another batch's output or status folder, masks and backdrops only under
    ``image-files/`` and ``assets/``. Raises `RequestError` with all problems by field.
    """
    document = _parsed(data)
    errors: list[ErrorDetails] = []
    try:
        request: BatchRequest | None = _REQUEST.validate_python(document)
    except ValidationError:
        errors, checked = _errors(document)
        if checked:
            raise RequestError(
                first_of(problems_of(errors), where=f" in the first {checked:,} images")
            ) from None
        request = _without_wrong_fields(document, errors)
    problems = problems_of(errors)
    if request is not None:
        reported = {field_of(error["loc"]) for error in errors}
        if any(_ON_PROMPTS.search(field) for field in reported):
            reported.add("Prompt")
        found = violations(request, bucket, allowed_buckets, batch, presets)
        broken = dict.fromkeys(itertools.islice(found, _IMAGES_AT_ONCE))
        problems += [(field, text) for field, text in broken if field not in reported]
    if problems or request is None:
        raise RequestError(first_of(problems))
    return replace(
        request,
        S3Bucket=request.S3Bucket or bucket,
        InputS3Prefix=request.InputS3Prefix.removesuffix("/") or batch.input_prefix,
        OutputS3Prefix=request.OutputS3Prefix.removesuffix("/") or batch.output_prefix,
        StatusS3Prefix=request.StatusS3Prefix.removesuffix("/") or batch.status_prefix,
    )


def read_image_fields(document: Mapping[str, Any]) -> ImageFields:
    """The fields of a preset, checked as in a request. Raises `RequestError` with all problems by field."""
    try:
        return TypeAdapter(ImageFields).validate_python(document)
    except ValidationError as error:
        raise RequestError(first_of(problems_of(error.errors()))) from None


def _parsed(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise RequestError(
            [("", f"the request has {len(data):,} bytes and may have {MAX_BYTES:,}; split it")]
        )
    return parse_object(data)


_REQUEST = TypeAdapter(BatchRequest)
_ENTRIES = TypeAdapter(list[ImageEntry])
_IMAGES_AT_ONCE: Final = 10_000
"""Images that are checked before the next part is, so that a large request with many problems is refused quickly."""
_ON_PROMPTS = re.compile(r"(^|\.)(Prompts?|Task|Backdrop|Scene|Preset)(\[\d+\])?$|^Images$|Renditions")


def _errors(document: dict[str, Any]) -> tuple[list[ErrorDetails], int]:
    """The errors of the fields, and the number of images that were checked if that was not all of them, else 0."""
    images = document.get("Images")
    if not isinstance(images, list) or not 0 < len(images) <= MAX_IMAGES:
        return _errors_of(_REQUEST, document), 0
    errors = _errors_of(_REQUEST, {**document, "Images": None})
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        part = _errors_of(_ENTRIES, images[start : start + _IMAGES_AT_ONCE])
        for error in part:
            number, *rest = error["loc"]
            error["loc"] = ("Images", start + int(number), *rest)
        errors += part
        checked = start + _IMAGES_AT_ONCE
        if len(errors) >= MAX_PROBLEMS and checked < len(images):
            return errors, checked
    return errors, 0


def _errors_of(kind: TypeAdapter[Any], value: Any) -> list[ErrorDetails]:
    try:
        kind.validate_python(value)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def _without_wrong_fields(document: dict[str, Any], errors: Iterable[ErrorDetails]) -> BatchRequest | None:
    """The request without its wrong fields, so that the other rules can be checked; None if it is still invalid."""
    for error in errors:
        _drop(document, error["loc"])
    document.setdefault("Id", "absent")
    try:
        return _REQUEST.validate_python(document)
    except ValidationError:
        return None


def _drop(document: Any, place: tuple[int | str, ...]) -> None:
    """Removes the field at ``place`` from the document; list members stay, so that the others keep their numbers."""
    *path, name = place
    try:
        for step in path:
            document = document[step]
    except (KeyError, IndexError):
        return
    if isinstance(document, dict):
        document.pop(name, None)
