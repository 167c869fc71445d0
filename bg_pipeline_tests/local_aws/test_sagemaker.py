"""The SAM-like endpoint of the stand-in."""

import io
import json
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from PIL import Image

from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.local_aws.pictures import BALL, b64, ball, opened, refusal

if TYPE_CHECKING:
    from types_boto3_sagemaker_runtime import SageMakerRuntimeClient

SIZE = (384, 576)


@pytest.fixture
def sagemaker(control: ControlClient) -> "SageMakerRuntimeClient":
    """A client of SageMaker endpoints."""
    return boto3.client("sagemaker-runtime")


def around(margin: int) -> list[float]:
    """A box around the ball, in pixels."""
    return [BALL[0] - margin, BALL[1] - margin, BALL[2] + margin, BALL[3] + margin]


@pytest.mark.parametrize("form", ["pixels", "shares", "text", "several"])
def test_the_subject_in_the_box_is_white_in_the_mask(sagemaker: "SageMakerRuntimeClient", form: str) -> None:
    box = around(20)
    shares = [edge / side for edge, side in zip(box, SIZE * 2, strict=True)]
    forms: dict[str, dict[str, Any]] = {
        "pixels": {"bbox": box},
        "shares": {"bbox": shares},
        "text": {"bbox": json.dumps(box)},
        "several": {"boxes": [box, box]},
    }
    body = json.dumps({"image": b64(ball()), **forms[form]})
    answer = sagemaker.invoke_endpoint(EndpointName="sam", Body=body, ContentType="application/json")
    found = json.loads(answer["Body"].read())
    assert found["masks"] == [found["mask"]]
    mask = opened(found["mask"])
    assert (mask.size, mask.mode) == (SIZE, "L")
    assert (mask.getpixel((195, 210)), mask.getpixel((5, 5))) == (255, 0)


def test_request_and_answer_can_be_plain_images(sagemaker: "SageMakerRuntimeClient") -> None:
    answer = sagemaker.invoke_endpoint(
        EndpointName="sam", Body=ball(), ContentType="image/png", Accept="image/png"
    )
    assert answer["ContentType"] == "image/png"
    assert Image.open(io.BytesIO(answer["Body"].read())).size == SIZE


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"image": 3}', b'{"image": "aGVsbG8="}', b'{"image": "", "bbox": [1, 2]}']
)
def test_invalid_bodies_are_model_errors(sagemaker: "SageMakerRuntimeClient", body: bytes) -> None:
    code, _, status = refusal(lambda: sagemaker.invoke_endpoint(EndpointName="sam", Body=body))
    assert (code, status) == ("ModelError", 424)


def test_a_body_above_6_megabytes_is_refused(sagemaker: "SageMakerRuntimeClient") -> None:
    code, _, status = refusal(lambda: sagemaker.invoke_endpoint(EndpointName="sam", Body=bytes(6_291_457)))
    assert (code, status) == ("ValidationError", 400)
