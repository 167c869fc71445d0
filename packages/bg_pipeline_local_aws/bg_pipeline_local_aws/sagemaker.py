"""A SageMaker endpoint that segments as SAM would: boxes in, a mask out.

There is no standard form for it; this one is the plainest that public samples use. JSON: ``image`` (base64) and
``bbox`` or ``boxes``, [left, top, right, bottom] in pixels, or in shares of the sides when none exceeds 1; without a
box it is what stands out. The answer is ``{"masks": [base64 of a PNG of the image's size]}``, white all subjects, the
same as ``mask``, or that PNG itself where ``Accept`` is image/png. An image alone may be sent as ``image/*``.
"""

import io

import orjson
import pybase64
from PIL import Image
from starlette.responses import Response

from bg_pipeline_local_aws import work
from bg_pipeline_local_aws.control import Control
from bg_pipeline_local_aws.pictures import canned, from_base64, sha256, to_base64
from bg_pipeline_local_aws.studio import Studio
from bg_pipeline_local_aws.wire import AwsError, Call, answer

MOST_BODY = 6_291_456


async def invoke_endpoint(call: Call, control: Control, studio: Studio) -> Response:
    """The mask, as JSON or PNG."""
    if len(call.body) > MOST_BODY:
        raise AwsError("ValidationError", f"The body is larger than {MOST_BODY} bytes.")
    try:
        image, boxes = _image_and_boxes(call)
        call.image = sha256(image)
        control.admit(call)
        width, height = Image.open(io.BytesIO(image)).size
        if control.switches.canned:
            mask = from_base64(canned("mask", width, height), "mask")
        else:
            pixels = any(edge > 1 for box in boxes for edge in box)
            sides = (width, height, width, height) if pixels else (1, 1, 1, 1)
            shares = tuple(tuple(edge / side for edge, side in zip(box, sides, strict=True)) for box in boxes)
            mask = await studio.do(work.segmented, image, shares)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        # What a container fails with, whatever it is, arrives as this.
        message = f"Received error from the container: {error}"
        raise AwsError("ModelError", message, OriginalStatusCode=400, OriginalMessage=str(error)) from error
    if call.headers.get("accept", "").startswith("image/"):
        return answer(mask, "image/png")
    text = to_base64(mask)
    return answer({"masks": [text], "mask": text})


def _image_and_boxes(call: Call) -> tuple[bytes, list[list[float]]]:
    if call.headers.get("content-type", "").startswith(("image/", "application/x-image")):
        return call.body, []
    body = orjson.loads(call.body)
    boxes = body.get("boxes", body.get("bbox", []))
    if isinstance(boxes, str):
        boxes = orjson.loads(boxes)
    if boxes and not isinstance(boxes[0], list):
        boxes = [boxes]
    return pybase64.b64decode(body["image"], validate=True), boxes
