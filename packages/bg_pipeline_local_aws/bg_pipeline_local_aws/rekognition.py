"""Amazon Rekognition: DetectLabels and DetectFaces, and what they share with Custom Labels."""

import asyncio
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

import boto3
import pybase64
from botocore.exceptions import ClientError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_pascal

from bg_pipeline_local_aws import work
from bg_pipeline_local_aws.control import Control
from bg_pipeline_local_aws.pictures import header, sha256
from bg_pipeline_local_aws.studio import Studio
from bg_pipeline_local_aws.wire import AwsError, Call

MOST_BYTES = 5_242_880
MOST_S3_BYTES = 15_728_640

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


class Body(BaseModel):
    """A request of Rekognition's: PascalCase, nothing unknown."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_pascal)


Request = TypeVar("Request", bound=Body)


class _S3Object(Body):
    bucket: str
    name: str
    version: str = ""


class Picture(Body):
    """``Bytes`` (base64) or ``S3Object``."""

    bytes: str | None = None
    s3_object: _S3Object | None = None


class _Filters(Body):
    label_inclusion_filters: list[str] = []
    label_exclusion_filters: list[str] = []


class _LabelSettings(Body):
    general_labels: _Filters = _Filters()


class LabelsRequest(Body):
    """DetectLabels; image properties and categories of labels are not offered."""

    image: Picture
    max_labels: Annotated[int, Field(ge=0)] = 1000
    min_confidence: Percent = 55.0
    features: list[Literal["GENERAL_LABELS"]] = []
    settings: _LabelSettings = _LabelSettings()


class FacesRequest(Body):
    """DetectFaces."""

    image: Picture
    attributes: list[_ATTRIBUTES] = ["DEFAULT"]


async def detect_labels(call: Call, control: Control, studio: Studio) -> dict[str, Any]:
    """Labels, surest first, with boxes where something was found."""
    request = parsed(LabelsRequest, call)
    image = await received(request.image, call, control)
    check(image, shortest=80, longest=10_000)
    seen = await looked_at(image, control, studio)
    filters = request.settings.general_labels
    found = [
        {
            "Name": label["name"],
            "Confidence": label["confidence"],
            "Instances": [
                {"BoundingBox": box(place), "Confidence": label["confidence"]} for place in label["boxes"]
            ],
            "Parents": [{"Name": parent} for parent in label["parents"]],
            "Aliases": [],
            "Categories": [],
        }
        for label in seen["labels"]
        if label["confidence"] >= request.min_confidence
        and label["name"] not in filters.label_exclusion_filters
        and label["name"] in (filters.label_inclusion_filters or [label["name"]])
    ]
    return {"Labels": found[: request.max_labels], "LabelModelVersion": "3.0"}


async def detect_faces(call: Call, control: Control, studio: Studio) -> dict[str, Any]:
    """The faces seen from the front, largest first, with five landmarks each."""
    request = parsed(FacesRequest, call)
    image = await received(request.image, call, control)
    check(image, shortest=80, longest=10_000)
    seen = await looked_at(image, control, studio)
    return {
        "FaceDetails": [
            {
                "BoundingBox": box(face["box"]),
                "Confidence": face["confidence"],
                "Landmarks": [
                    {"Type": mark["name"], "X": mark["x"], "Y": mark["y"]} for mark in face["landmarks"]
                ],
                "Pose": {"Roll": 0.0, "Yaw": 0.0, "Pitch": 0.0},
                "Quality": {"Brightness": 80.0, "Sharpness": 80.0},
            }
            for face in seen["faces"][:100]
        ]
    }


def parsed(kind: type[Request], call: Call) -> Request:
    """The request of a call, or InvalidParameterException."""
    try:
        return kind.model_validate(call.json())
    except ValidationError as error:
        found = error.errors()[0]
        raise _bad(f"{'.'.join(map(str, found['loc']))}: {found['msg']}") from error


def _bad(problem: str) -> AwsError:
    return AwsError("InvalidParameterException", f"Request has invalid parameters: {problem}")


async def received(picture: Picture, call: Call, control: Control, most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of the picture that a call is about, once the call is admitted."""
    if (picture.bytes is None) == (picture.s3_object is None):
        raise _bad("Image takes Bytes or S3Object.")
    if picture.s3_object:
        data, most_bytes = await asyncio.to_thread(_stored, picture.s3_object, call.region), MOST_S3_BYTES
    else:
        data = pybase64.b64decode(picture.bytes or "")
    call.image = sha256(data)
    control.admit(call)
    if len(data) > most_bytes:
        raise AwsError(
            "ImageTooLargeException", f"The image has {len(data)} bytes; {most_bytes} are allowed."
        )
    return data


@cache
def _s3(region: str) -> Any:
    return boto3.client("s3", region_name=region)


def _stored(place: _S3Object, region: str) -> bytes:
    version = {"VersionId": place.version} if place.version else {}
    try:
        return bytes(_s3(region).get_object(Bucket=place.bucket, Key=place.name, **version)["Body"].read())
    except ClientError as error:
        message = "Unable to get object metadata from S3. Check object key, region and/or access permissions."
        raise AwsError("InvalidS3ObjectException", message) from error


def check(image: bytes, *, shortest: int, longest: int, aspect: float = float("inf")) -> None:
    """Refuse what is no PNG or JPEG of the allowed sides."""
    found = header(image)
    if found is None or found.format not in ("png", "jpeg"):
        raise AwsError("InvalidImageFormatException", "Request has invalid image format")
    sides = f"Input image dimensions {found.width} x {found.height}"
    if max(found.width, found.height) > longest:
        message = f"{sides} exceed maximum dimension size of {longest} pixels"
        raise AwsError("ImageTooLargeException", message)
    if min(found.width, found.height) < shortest or found.aspect > aspect:
        raise _bad(f"{sides} are below {shortest} pixels or too far from square")


async def looked_at(image: bytes, control: Control, studio: Studio) -> dict[str, Any]:
    """What is seen in a picture, as `work.look` tells it."""
    if control.switches.canned:
        return _CANNED
    try:
        return await studio.do(work.look, image)
    except ValueError as error:
        raise AwsError("InvalidImageFormatException", "Request has invalid image format") from error


def box(found: dict[str, float]) -> dict[str, float]:
    """A BoundingBox."""
    return {"Left": found["left"], "Top": found["top"], "Width": found["width"], "Height": found["height"]}
