"""Masks from a SAM model behind the user's SageMaker endpoint.

SAM containers have no standard request and answer format, so the format is a setting (`SamForm`, BG_SAM_FORM as
JSON).
"""

import base64
import binascii
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageChops, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bg_pipeline.errors import CallError, ImageError, SettingsError
from bg_pipeline.masks import Mask, conventions
from bg_pipeline.masks.boxes import Box

if TYPE_CHECKING:
    from types_boto3_sagemaker_runtime import SageMakerRuntimeClient

# sagemaker-runtime 2017-05-13: the largest body of InvokeEndpoint, in and out.
MAX_BODY = 6_291_456

Size = tuple[int, int]
Ask = Callable[[bytes], tuple[bytes, str]]
"""Sends one request body and gives the answer's body and content type."""


class SamForm(BaseModel):
    """The request and answer format of one endpoint.

    ``request`` is the JSON body, in which the values "{image}" (base64), "{box}" or "{boxes}", "{point}" or
    "{points}" (the boxes' centres), "{width}" and "{height}" are replaced; with "{box}" or "{point}" there is one
    call for each box. With a ``content_type`` of image/… the body is the picture itself and boxes are not sent.
    ``unit`` and ``box`` give the form of coordinates ("corners": x1, y1, x2, y2; "sides": x, y, width, height); with
    ``box_as_text`` a box is a string.

    ``masks`` is the dotted path to the masks in the answer ("" = the answer itself), ``mask`` and ``score`` the
    paths within each of them. A mask is a picture in base64 or rows of numbers; an answer of type image/… is one
    mask. ``subject`` is the colour of the subject in it. ``choose`` selects which masks of a call are used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    content_type: str = "application/json"
    accept: str = "application/json"
    request: Any = Field(default={"image": "{image}", "boxes": "{boxes}"})
    unit: Literal["pixel", "ratio"] = "pixel"
    box: Literal["corners", "sides"] = "corners"
    box_as_text: bool = False
    masks: str = "masks"
    mask: str = ""
    score: str = ""
    subject: Literal["white", "black"] = "white"
    choose: Literal["all", "best", "largest", "first"] = "all"

    @classmethod
    def read(cls, text: str) -> "SamForm":
        """From the setting BG_SAM_FORM; empty is the default form. Raises `SettingsError` naming the field."""
        try:
            return cls.model_validate_json(text) if text.strip() else cls()
        except ValidationError as error:
            problem = error.errors()[0]
            field = ".".join(map(str, problem["loc"])) or "the whole"
            raise SettingsError(f"BG_SAM_FORM: {field}: {problem['msg']}") from None

    @property
    def sends_picture(self) -> bool:
        """Whether the body is the picture itself."""
        return self.content_type.startswith("image/")


def endpoint(client: "SageMakerRuntimeClient", name: str, form: SamForm) -> Ask:
    """A function that calls the endpoint ``name``; boto3's errors pass through (ModelError 424 and others).

    The container must answer within 60 s, so the client's read timeout should be about 70.
    """

    def ask(body: bytes) -> tuple[bytes, str]:
        answer = client.invoke_endpoint(
            EndpointName=name, Body=body, ContentType=form.content_type, Accept=form.accept
        )
        return answer["Body"].read(), answer["ContentType"]

    return ask


def sam_mask(ask: Ask, form: SamForm, picture: bytes, size: Size, boxes: Sequence[Box]) -> Mask:
    """The union of the endpoint's masks for ``boxes`` of ``picture`` (JPEG or PNG of ``size``), at ``size``.

    Raises `ImageError` if the picture is too large for the endpoint, `CallError` for an answer in another form than
    the one that was set, and what ``ask`` raises.
    """
    joined = Image.new("L", size, 0)
    scores = []
    for body in encode(form, picture, size, boxes):
        found = decode(form, *ask(body))
        for mask, score in _chosen(form, found):
            if abs(mask.width * size[1] - mask.height * size[0]) > 2 * max(size):
                raise _bad_answer(
                    f"a mask of {mask.width}×{mask.height} for a picture of {size[0]}×{size[1]}"
                )
            scores.append(score)
            joined = ImageChops.lighter(joined, mask.resize(size, Image.Resampling.BILINEAR))
    known = [score for score in scores if score is not None]
    return Mask(joined, "faces", min(known) if known else None)


def encode(form: SamForm, picture: bytes, size: Size, boxes: Sequence[Box]) -> list[bytes]:
    """The request bodies in order: one, or one for each box, as ``form`` demands."""
    if form.sends_picture:
        return [_small_enough(picture)]
    coordinates = [_coordinates(form, box, size) for box in boxes]
    centres = [_centre(form, box, size) for box in boxes]
    values: dict[str, Any] = {
        "{image}": base64.b64encode(picture).decode(),
        "{boxes}": coordinates,
        "{points}": centres,
        "{width}": size[0],
        "{height}": size[1],
    }
    template = json.dumps(form.request)
    if '"{box}"' not in template and '"{point}"' not in template:
        return [_body(form.request, values)]
    return [
        _body(form.request, values | {"{box}": box, "{point}": point})
        for box, point in zip(coordinates, centres, strict=True)
    ]


def decode(form: SamForm, body: bytes, content_type: str) -> list[tuple[Image.Image, float | None]]:
    """The masks of one answer (mode "L", 255 = subject, of the endpoint's size) with their scores.

    Raises `CallError` naming the part of the answer that does not fit ``form``.
    """
    if content_type.startswith("image/"):
        return [(_picture(form, body), None)]
    try:
        answer = json.loads(body)
    except ValueError:
        raise _bad_answer(f"{content_type or 'something'} that is not JSON") from None
    entries = _value_at(answer, form.masks)
    # One mask as rows of numbers is a list, too, like several masks.
    if not isinstance(entries, list) or _is_rows(entries):
        entries = [entries]
    return [
        (
            _mask(form, _value_at(entry, form.mask)),
            _score(_value_at(entry, form.score)) if form.score else None,
        )
        for entry in entries
    ]


def _chosen(
    form: SamForm, found: Sequence[tuple[Image.Image, float | None]]
) -> Sequence[tuple[Image.Image, float | None]]:
    if not found or form.choose == "all":
        return found
    if form.choose == "best":
        return [max(found, key=lambda pair: -1.0 if pair[1] is None else pair[1])]
    if form.choose == "largest":
        return [max(found, key=lambda pair: float(np.asarray(pair[0]).mean()))]
    return found[:1]


def _coordinates(form: SamForm, box: Box, size: Size) -> Any:
    if form.unit == "pixel":
        left, top, right, bottom = (float(side) for side in box.pixels(size))
        numbers = [round(number) for number in _sides(form, left, top, right, bottom)]
        return json.dumps(numbers) if form.box_as_text else numbers
    ratios = [round(number, 6) for number in _sides(form, box.left, box.top, box.right, box.bottom)]
    return json.dumps(ratios) if form.box_as_text else ratios


def _sides(form: SamForm, left: float, top: float, right: float, bottom: float) -> tuple[float, ...]:
    return (left, top, right, bottom) if form.box == "corners" else (left, top, right - left, bottom - top)


def _centre(form: SamForm, box: Box, size: Size) -> list[float]:
    x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    return [round(x * size[0]), round(y * size[1])] if form.unit == "pixel" else [round(x, 6), round(y, 6)]


def _body(request: Any, values: Mapping[str, Any]) -> bytes:
    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return values.get(value, value)
        if isinstance(value, dict):
            return {key: filled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [filled(item) for item in value]
        return value

    return _small_enough(json.dumps(filled(request)).encode())


def _small_enough(body: bytes) -> bytes:
    if len(body) > MAX_BODY:
        raise ImageError(
            "SamRequestTooLarge",
            f"the picture makes a request of {len(body):,} bytes for the SAM endpoint, which takes {MAX_BODY:,}",
        )
    return body


def _value_at(value: Any, path: str) -> Any:
    for step in filter(None, path.split(".")):
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, TypeError, ValueError):
            raise _bad_answer(f"no “{step}” of “{path}”") from None
    return value


def _is_rows(value: list[Any]) -> bool:
    return bool(value) and isinstance(value[0], list) and bool(value[0]) and not isinstance(value[0][0], list)


def _mask(form: SamForm, value: Any) -> Image.Image:
    if isinstance(value, str):
        try:
            return _picture(form, base64.b64decode(value.rpartition(",")[2], validate=True))
        except binascii.Error:
            raise _bad_answer("a mask that is text but not base64") from None
    try:
        rows = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        rows = np.zeros(0, np.float32)
    # Some containers wrap a mask in a list of one: [[[…]]].
    rows = rows.squeeze() if rows.ndim > 2 else rows
    if rows.ndim != 2 or not rows.size:
        raise _bad_answer("a mask that is neither a picture in base64 nor rows of numbers")
    scaled = rows * (255 if rows.max() <= 1 else 1)
    return _as_kept(form, Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8)))


def _picture(form: SamForm, data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return _as_kept(form, picture.convert("L"))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        raise _bad_answer("a mask that is not a picture") from None


def _as_kept(form: SamForm, mask: Image.Image) -> Image.Image:
    return mask if form.subject == "white" else conventions.STORED.to_mask(mask)


def _score(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _bad_answer(what: str) -> CallError:
    return CallError(
        "SamAnswer", f"the SAM endpoint answered with {what}; describe its answers in BG_SAM_FORM"
    )
