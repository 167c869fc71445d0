"""A SageMaker endpoint that segments like SAM: boxes in, a mask out.

There is no standard format; this is the simplest one in public samples. The request is JSON with ``image`` (base64)
and ``bbox`` or ``boxes``: [left, top, right, bottom] in pixels, or in shares (0–1) if no value exceeds 1. Without a
box the salient subject is segmented. A picture alone can be sent as ``image/*``. The answer is
``{"masks": [...], "mask": ...}`` with the base64 of one PNG of the image's size, white where any subject is, or that
PNG itself if ``Accept`` is ``image/*``.
"""

import io

import orjson
import pybase64
from PIL import Image
from starlette.responses import Response

from bg_pipeline_local_aws import image_operations
from bg_pipeline_local_aws.control import Control
from bg_pipeline_local_aws.image_files import canned_image, decode_base64, encode_base64, sha256
from bg_pipeline_local_aws.protocol import AwsError, Call, make_response
from bg_pipeline_local_aws.render_pool import RenderPool

MAX_BODY_BYTES = 6_291_456


async def invoke_endpoint(call: Call, control: Control, pool: RenderPool) -> Response:
    """The mask, as JSON or PNG; every failure is a ModelError, as from a container."""
    if len(call.body) > MAX_BODY_BYTES:
        raise AwsError("ValidationError", f"The body is larger than {MAX_BODY_BYTES} bytes.")
    try:
        image, boxes = _parse_body(call)
        call.image = sha256(image)
        control.admit(call)
        width, height = Image.open(io.BytesIO(image)).size
        if control.switches.canned:
            mask = decode_base64(canned_image("mask", width, height), "mask")
        else:
            pixels = any(edge > 1 for box in boxes for edge in box)
            sides = (width, height, width, height) if pixels else (1, 1, 1, 1)
            shares = tuple(tuple(edge / side for edge, side in zip(box, sides, strict=True)) for box in boxes)
            mask = await pool.run(image_operations.segment_boxes, image, shares)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        # SageMaker wraps any failure of a container in a ModelError.
        message = f"Received error from the container: {error}"
        raise AwsError("ModelError", message, OriginalStatusCode=400, OriginalMessage=str(error)) from error
    if call.headers.get("accept", "").startswith("image/"):
        return make_response(mask, "image/png")
    text = encode_base64(mask)
    return make_response({"masks": [text], "mask": text})


def _parse_body(call: Call) -> tuple[bytes, list[list[float]]]:
    if call.headers.get("content-type", "").startswith(("image/", "application/x-image")):
        return call.body, []
    body = orjson.loads(call.body)
    boxes = body.get("boxes", body.get("bbox", []))
    if isinstance(boxes, str):
        boxes = orjson.loads(boxes)
    if boxes and not isinstance(boxes[0], list):
        boxes = [boxes]
    return pybase64.b64decode(body["image"], validate=True), boxes
