"""Amazon Rekognition: DetectLabels and DetectFaces, and helpers that Custom Labels uses too."""

import asyncio
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

import boto3
import pybase64
from botocore.exceptions import ClientError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_pascal

from bg_pipeline_local_aws import image_operations
from bg_pipeline_local_aws.control import Control
from bg_pipeline_local_aws.image_files import read_header, sha256
from bg_pipeline_local_aws.protocol import AwsError, Call
from bg_pipeline_local_aws.render_pool import RenderPool

MAX_BYTES = 5_242_880
MAX_S3_BYTES = 15_728_640

_MIDDLE = {"left": 0.25, "top": 0.25, "width": 0.5, "height": 0.5}
_CANNED = {
    "faces": [],
    "labels": [{"name": "Object", "confidence": 98.0, "parents": [], "boxes": [_MIDDLE]}],
}

_ATTRIBUTES = Literal[
    "DEFAULT", "ALL", "AGE_RANGE", "BEARD", "EMOTIONS", "EYE_DIRECTION", "EYEGLASSES", "EYES_OPEN", "GENDER",
    "MOUTH_OPEN", "MUSTACHE", "FACE_OCCLUDED", "SMILE", "SUNGLASSES",
]  # fmt: skip
Percent = Annotated[float, Field(ge=0, le=100)]


class RequestBody(BaseModel):
    """Base of request bodies: PascalCase field names, unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_pascal)


Request = TypeVar("Request", bound=RequestBody)


class _S3Object(RequestBody):
    bucket: str
    name: str
    version: str = ""


class ImageParameter(RequestBody):
    """The ``Image`` parameter: ``Bytes`` (base64) or ``S3Object``."""

    bytes: str | None = None
    s3_object: _S3Object | None = None


class _Filters(RequestBody):
    label_inclusion_filters: list[str] = []
    label_exclusion_filters: list[str] = []


class _LabelSettings(RequestBody):
    general_labels: _Filters = _Filters()


class LabelsRequest(RequestBody):
    """DetectLabels; image properties and label categories are not supported."""

    image: ImageParameter
    max_labels: Annotated[int, Field(ge=0)] = 1000
    min_confidence: Percent = 55.0
    features: list[Literal["GENERAL_LABELS"]] = []
    settings: _LabelSettings = _LabelSettings()


class FacesRequest(RequestBody):
    """DetectFaces."""

    image: ImageParameter
    attributes: list[_ATTRIBUTES] = ["DEFAULT"]


async def detect_labels(call: Call, control: Control, pool: RenderPool) -> dict[str, Any]:
    """Labels by descending confidence, with instances except for scenes."""
    request = parse_request(LabelsRequest, call)
    image = await admit_image(request.image, call, control)
    check_dimensions(image, shortest=80, longest=10_000)
    analysis = await analyze_image(image, control, pool)
    filters = request.settings.general_labels
    labels = [
        {
            "Name": label["name"],
            "Confidence": label["confidence"],
            "Instances": [
                {"BoundingBox": bounding_box(box), "Confidence": label["confidence"]}
                for box in label["boxes"]
            ],
            "Parents": [{"Name": parent} for parent in label["parents"]],
            "Aliases": [],
            "Categories": [],
        }
        for label in analysis["labels"]
        if label["confidence"] >= request.min_confidence
        and label["name"] not in filters.label_exclusion_filters
        and label["name"] in (filters.label_inclusion_filters or [label["name"]])
    ]
    return {"Labels": labels[: request.max_labels], "LabelModelVersion": "3.0"}


async def detect_faces(call: Call, control: Control, pool: RenderPool) -> dict[str, Any]:
    """Frontal faces, largest first, with five landmarks each."""
    request = parse_request(FacesRequest, call)
    image = await admit_image(request.image, call, control)
    check_dimensions(image, shortest=80, longest=10_000)
    analysis = await analyze_image(image, control, pool)
    return {
        "FaceDetails": [
            {
                "BoundingBox": bounding_box(face["box"]),
                "Confidence": face["confidence"],
                "Landmarks": [
                    {"Type": mark["name"], "X": mark["x"], "Y": mark["y"]} for mark in face["landmarks"]
                ],
                "Pose": {"Roll": 0.0, "Yaw": 0.0, "Pitch": 0.0},
                "Quality": {"Brightness": 80.0, "Sharpness": 80.0},
            }
            for face in analysis["faces"][:100]
        ]
    }


def parse_request(kind: type[Request], call: Call) -> Request:
    """The validated body of a call; InvalidParameterException if it does not fit."""
    try:
        return kind.model_validate(call.json())
    except ValidationError as error:
        details = error.errors()[0]
        raise _invalid_parameter(f"{'.'.join(map(str, details['loc']))}: {details['msg']}") from error


def _invalid_parameter(problem: str) -> AwsError:
    return AwsError("InvalidParameterException", f"Request has invalid parameters: {problem}")


async def admit_image(
    picture: ImageParameter, call: Call, control: Control, max_bytes: int = MAX_BYTES
) -> bytes:
    """Reads the picture of a call, admits the call and returns the picture's bytes.

    ``max_bytes`` limits pictures sent as bytes; those in S3 may have `MAX_S3_BYTES`.
    """
    if (picture.bytes is None) == (picture.s3_object is None):
        raise _invalid_parameter("Image takes Bytes or S3Object.")
    if picture.s3_object:
        data, max_bytes = await asyncio.to_thread(_read_from_s3, picture.s3_object, call.region), MAX_S3_BYTES
    else:
        data = pybase64.b64decode(picture.bytes or "")
    call.image = sha256(data)
    control.admit(call)
    if len(data) > max_bytes:
        raise AwsError("ImageTooLargeException", f"The image has {len(data)} bytes; {max_bytes} are allowed.")
    return data


@cache
def _s3(region: str) -> Any:
    return boto3.client("s3", region_name=region)


def _read_from_s3(place: _S3Object, region: str) -> bytes:
    version = {"VersionId": place.version} if place.version else {}
    try:
        return bytes(_s3(region).get_object(Bucket=place.bucket, Key=place.name, **version)["Body"].read())
    except ClientError as error:
        message = "Unable to get object metadata from S3. Check object key, region and/or access permissions."
        raise AwsError("InvalidS3ObjectException", message) from error


def check_dimensions(image: bytes, *, shortest: int, longest: int, aspect: float = float("inf")) -> None:
    """Refuses pictures that are not PNG or JPEG, or whose sides (pixels) or aspect are outside of these limits."""
    header = read_header(image)
    if header is None or header.format not in ("png", "jpeg"):
        raise AwsError("InvalidImageFormatException", "Request has invalid image format")
    sides = f"Input image dimensions {header.width} x {header.height}"
    if max(header.width, header.height) > longest:
        message = f"{sides} exceed maximum dimension size of {longest} pixels"
        raise AwsError("ImageTooLargeException", message)
    if min(header.width, header.height) < shortest or header.aspect > aspect:
        raise _invalid_parameter(f"{sides} are below {shortest} pixels or too far from square")


async def analyze_image(image: bytes, control: Control, pool: RenderPool) -> dict[str, Any]:
    """The result of `image_operations.analyze_image`, or a fixed one if pictures are canned."""
    if control.switches.canned:
        return _CANNED
    try:
        return await pool.run(image_operations.analyze_image, image)
    except ValueError as error:
        raise AwsError("InvalidImageFormatException", "Request has invalid image format") from error


def bounding_box(box: dict[str, float]) -> dict[str, float]:
    """A box of an analysis as Rekognition's BoundingBox."""
    return {"Left": box["left"], "Top": box["top"], "Width": box["width"], "Height": box["height"]}
