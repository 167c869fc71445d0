"""A SageMaker endpoint that segments as SAM would: boxes in, a mask out.

There is no standard form for it; this one is the plainest that public samples use. JSON: ``image`` (base64) and
``bbox`` or ``boxes``, [left, top, right, bottom] in pixels, or in shares of the sides when none exceeds 1; without a
box it is what stands out. The answer is ``{"mask": base64 of a PNG of the image's size}``, white the subject, or that
PNG itself where ``Accept`` is image/png. An image alone may be sent as ``image/*``.
"""

from typing import Any

import orjson
from starlette.responses import Response

from bg_pipeline.local_aws import work
from bg_pipeline.local_aws.control import Control
from bg_pipeline.local_aws.pictures import canned, from_base64, header, sha256, to_base64
from bg_pipeline.local_aws.studio import Studio
from bg_pipeline.local_aws.wire import AwsError, Call, answer

MOST_BODY = 6_291_456


async def invoke_endpoint(call: Call, control: Control, studio: Studio) -> Response:
    """The mask, as JSON or PNG."""
    if len(call.body) > MOST_BODY:
        raise _refused(f"The body is larger than {MOST_BODY} bytes.")
    image, boxes = _image_and_boxes(call)
    call.image = sha256(image)
    control.admit(call)
    found = header(image)
    if found is None:
        raise _failed("The image could not be decoded.")
    if control.switches.canned:
        mask = from_base64(canned("mask", found.width, found.height), "mask")
    else:
        sides = (1, 1, 1, 1)
        if any(edge > 1 for place in boxes for edge in place):
            sides = (found.width, found.height, found.width, found.height)
        shares = [tuple(edge / side for edge, side in zip(place, sides, strict=True)) for place in boxes]
        try:
            mask = await studio.do(work.segmented, image, tuple(shares))
        except ValueError as error:
            raise _failed(str(error)) from error
    if call.headers.get("accept", "").startswith("image/"):
        return answer(mask, "image/png")
    return answer({"mask": to_base64(mask)}, "application/json")


def _image_and_boxes(call: Call) -> tuple[bytes, list[list[float]]]:
    if call.headers.get("content-type", "").startswith(("image/", "application/x-image")):
        return call.body, []
    try:
        body = orjson.loads(call.body)
        boxes: Any = body.get("boxes", body.get("bbox", []))
        if isinstance(boxes, str):
            boxes = orjson.loads(boxes)
        if boxes and not isinstance(boxes[0], list):
            boxes = [boxes]
        boxes = [[float(edge) for edge in place] for place in boxes]
        if any(len(place) != 4 for place in boxes):
            raise ValueError("a box has four edges")
        return from_base64(body["image"], "image"), boxes
    except (ValueError, KeyError, TypeError, AttributeError, AwsError) as error:
        raise _failed(f"The container does not understand the request: {error}") from error


def _refused(message: str) -> AwsError:
    return AwsError("ValidationError", message)


def _failed(message: str) -> AwsError:
    return AwsError("ModelError", message, OriginalStatusCode=400, OriginalMessage=message, LogStreamArn="")
