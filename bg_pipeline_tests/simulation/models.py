"""In-memory models and services that record their calls and bills, and the boto3-like clients for them."""

import base64
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from botocore.response import StreamingBody
from PIL import Image

from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline_tests.simulation import photos
from bg_pipeline_tests.simulation.s3 import BrokenStream
from bg_pipeline_tests.simulation.scheduler import Process, active

READ_TIMEOUT: Final = {"bedrock-runtime": 330.0, "rekognition": 60.0}

SECONDS: Final = {
    "labels": (0.2, 1.0),
    "captions": (1.0, 4.0),
    "cut-out": (2.0, 6.0),
    "picture": (3.0, 12.0),
    "scene": (3.0, 12.0),
}
"""Minimum and maximum duration of a call, by its kind."""

OPERATIONS: Final = {
    "amazon.titan-image-generator-v2:0": "TITAN_V2",
    "stability.stable-image-inpaint-v1:0": "STABILITY_INPAINT",
    "stability.stable-image-remove-background-v1:0": "STABILITY_REMOVE_BACKGROUND",
    "stability.stable-image-ultra-v1:1": "STABLE_IMAGE_ULTRA",
}
FAMILIES: Final = {
    "titan-v2": ("amazon.titan-image-generator-v2:0",),
    "stability": tuple(OPERATIONS)[1:3],
    "scenes": ("stability.stable-image-ultra-v1:1",),
}
"""Models that are retired together, by their name in the settings."""

NO_PHOTO: Final = -2
"""The photo of a call that is made for a whole batch."""

FORBIDDEN: Final = "forbidden"
"""Content policy refuses every prompt with this word."""

_ERRORS: Final = {
    "ThrottlingException": (429, "Too many requests"),
    "InternalServerException": (500, "The system met an unexpected error"),
    "ServiceUnavailableException": (503, "The service is unavailable"),
    "ModelErrorException": (424, "The model could not process the request"),
    "AccessDeniedException": (403, "You don't have access to the model with the specified model ID."),
    "refused": (400, "This request has been blocked by our content filters."),
    "malformed": (400, "Malformed input request"),
    "dead": (404, "This model version has reached the end of its life."),
}
_CODES: Final = {
    "refused": "ValidationException",
    "malformed": "ValidationException",
    "dead": "ResourceNotFoundException",
}


@dataclass
class Call:
    """One call of a model, its caller and its outcome.

    ``asked`` is a digest that is equal for equal requests about one photo. ``billed`` is the time when the work was
    done, ``arrived`` when the caller received the answer, ``stored`` when it was first stored; None if that did not
    happen.
    """

    number: int
    kind: str
    operation: str
    asked: str
    photo: int
    process: Process
    sent: float
    prompt: str = ""
    seed: int | None = None
    model: str = ""
    fault: str = ""
    usd: float = 0.0
    billed: float | None = None
    arrived: float | None = None
    ended: float | None = None
    stored: float | None = None
    digests: list[str] = field(default_factory=list)
    bad: bool = False


class Models:
    """All models of all Regions.

    ``fault_at`` is called with the operation's kind, the model and "before" or "after" the work; it returns the name
    of a fault, or "".
    """

    def __init__(self, fault_at: Callable[[str, str, str], str]) -> None:
        self._fault_at = fault_at
        self.calls: list[Call] = []
        self.dead: set[str] = set()
        self.by_digest: dict[str, Call] = {}

    @property
    def billed_usd(self) -> float:
        return sum(call.usd for call in self.calls if call.billed is not None)

    def die(self, family: str) -> None:
        self.dead.update(FAMILIES[family])

    def make(
        self,
        kind: str,
        operation: str,
        model: str,
        asked: dict[str, Any],
        photo: int,
        work: Callable[[Call], tuple[Any, float | None]],
    ) -> Any:
        """Makes a call; ``work`` returns its answer and its cost in USD."""
        clock = active()
        if clock.current is None:
            raise AssertionError("a model is called outside of any process")
        digest = hashlib.sha256(json.dumps([kind, photo, asked], sort_keys=True).encode()).hexdigest()[:16]
        call = Call(
            len(self.calls),
            kind,
            operation,
            digest,
            photo,
            clock.current.process,
            clock.now,
            prompt=str(asked.get("prompt", "")),
            seed=asked.get("seed"),
            model=model,
        )
        self.calls.append(call)
        fault = self._fault_at(kind, model, "before")
        call.fault = fault
        clock.sleep(clock.random.uniform(*SECONDS[kind]))
        service = "rekognition" if kind == "labels" else "bedrock-runtime"
        if model in self.dead:
            fault = "dead"
        elif FORBIDDEN in call.prompt:
            fault = "refused"
        if fault == "unreachable":
            raise EndpointConnectionError(endpoint_url=f"https://{service}")
        if fault == "timeout":
            clock.sleep(READ_TIMEOUT[service])
            call.ended = clock.now
            raise ReadTimeoutError(endpoint_url=f"https://{service}")
        if fault in _ERRORS:
            status, message = _ERRORS[fault]
            call.ended = clock.now
            response: Any = {
                "Error": {"Code": _CODES.get(fault, fault), "Message": message},
                "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}},
            }
            raise ClientError(response, operation)
        call.bad = fault == "bad picture"
        answer, usd = work(call)
        call.billed, call.usd = clock.now, usd or 0.0
        lost = self._fault_at(kind, model, "after")
        if fault == "lost" or lost == "lost":
            clock.sleep(READ_TIMEOUT[service])
            call.ended = clock.now
            raise ReadTimeoutError(endpoint_url=f"https://{service}")
        clock.sleep(clock.random.uniform(0.01, 0.1))
        call.ended = clock.now
        if fault == "cut" and isinstance(answer, bytes):
            stream: Any = BrokenStream("cut")
            return StreamingBody(stream, len(answer))
        call.arrived = clock.now
        return StreamingBody(io.BytesIO(answer), len(answer)) if isinstance(answer, bytes) else answer

    def remember(self, call: Call, data: bytes) -> None:
        """Records the digest of an answer, to recognize it when it is stored."""
        digest = hashlib.sha256(data).hexdigest()
        call.digests.append(digest)
        self.by_digest[digest] = call


class _Runtime:
    """``bedrock-runtime``."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def invoke_model(self, *, modelId: str, body: bytes, **_: object) -> dict[str, Any]:  # noqa: N803
        model = modelId.removeprefix("us.")
        asked = json.loads(body)
        operation = OPERATIONS[model]
        make = {
            "TITAN_V2": self._titan,
            "STABILITY_INPAINT": self._inpaint,
            "STABILITY_REMOVE_BACKGROUND": self._remove,
            "STABLE_IMAGE_ULTRA": self._scene,
        }[operation]
        return {"body": make(operation, model, asked)}

    def _inpaint(self, operation: str, model: str, asked: dict[str, Any]) -> Any:
        source = base64.b64decode(asked["image"])
        question = {
            "prompt": asked["prompt"],
            "negative": asked.get("negative_prompt", ""),
            "seed": asked["seed"],
            "mask": _digest(asked["mask"]),
        }

        def work(call: Call) -> tuple[bytes, float | None]:
            data = source if call.bad else photos.painted(call.number, _size(source))
            self._models.remember(call, data)
            answer = {"images": [_text(data)], "seeds": [asked["seed"]], "finish_reasons": [None]}
            return json.dumps(answer).encode(), facts_of(operation, model).cost(images=1)

        return self._models.make("picture", operation, model, question, photos.number_in(source), work)

    def _scene(self, operation: str, model: str, asked: dict[str, Any]) -> Any:
        def work(call: Call) -> tuple[bytes, float | None]:
            broken = b"\x89PNG\r\n\x1a\n" + str(call.number).encode()
            data = broken if call.bad else photos.painted(call.number, (96, 96))
            self._models.remember(call, data)
            answer = {"images": [_text(data)], "seeds": [asked["seed"]], "finish_reasons": [None]}
            return json.dumps(answer).encode(), facts_of(operation, model).cost(images=1)

        question = {
            name: asked.get(name, "") for name in ("prompt", "negative_prompt", "seed", "aspect_ratio")
        }
        return self._models.make("scene", operation, model, question, NO_PHOTO, work)

    def _remove(self, operation: str, model: str, asked: dict[str, Any]) -> Any:
        source = base64.b64decode(asked["image"])

        def work(call: Call) -> tuple[bytes, float | None]:
            data = photos.cut(call.number, _size(source))
            self._models.remember(call, data)
            answer = {"images": [_text(data)], "finish_reasons": [None]}
            return json.dumps(answer).encode(), facts_of(operation, model).cost(images=1)

        return self._models.make("cut-out", operation, model, {}, photos.number_in(source), work)

    def _titan(self, operation: str, model: str, asked: dict[str, Any]) -> Any:
        if asked["taskType"] == "BACKGROUND_REMOVAL":
            return self._remove(operation, model, asked["backgroundRemovalParams"])
        params, config = asked["outPaintingParams"], asked["imageGenerationConfig"]
        source = base64.b64decode(params["image"])
        question = {
            "prompt": params["text"],
            "negative": params.get("negativeText", ""),
            "seed": config["seed"],
            "images": config["numberOfImages"],
            "mask": params.get("maskPrompt") or _digest(params["maskImage"]),
        }

        def work(call: Call) -> tuple[bytes, float | None]:
            size = _size(source)
            # The pictures of one call differ only in their size in bytes: their colour identifies the call.
            made = [
                source if call.bad else photos.painted_around(call.number, source) + b"\0" * number
                for number in range(config["numberOfImages"])
            ]
            for data in made:
                self._models.remember(call, data)
            answer: dict[str, Any] = {"images": [_text(data) for data in made]}
            if "maskPrompt" in params:
                answer["maskImage"] = _text(photos.mask(size))
            return json.dumps(answer).encode(), facts_of(operation, model).cost(images=len(made))

        return self._models.make("picture", operation, model, question, photos.number_in(source), work)

    def converse(self, *, modelId: str, messages: Any, **_: object) -> Any:  # noqa: N803
        picture, words = (messages[0]["content"][index] for index in (0, 1))
        source = picture["image"]["source"]["bytes"]
        model = modelId.removeprefix("us.")

        def work(call: Call) -> tuple[Any, float | None]:
            text = f"A thing on grey, seen in call {call.number}."
            usage = {"inputTokens": 1000, "outputTokens": 60, "totalTokens": 1060}
            answer = {
                "output": {
                    "message": {
                        "content": [{"text": f"Alt text: A thing {call.number}.\nDescription: {text}"}]
                    }
                },
                "stopReason": "end_turn",
                "usage": usage,
            }
            return answer, facts_of("CAPTION", modelId).cost(input_tokens=1000, output_tokens=60)

        return self._models.make(
            "captions", "CAPTION", model, {"words": words["text"]}, photos.number_in(source), work
        )


class _Rekognition:
    def __init__(self, models: Models) -> None:
        self._models = models

    def detect_labels(self, *, Image: dict[str, bytes], MinConfidence: float, **_: object) -> Any:  # noqa: N803
        def work(call: Call) -> tuple[Any, float | None]:
            places = [{"BoundingBox": photos.BOX, "Confidence": 99.0}]
            label = {"Name": "Dog", "Confidence": 99.0, "Instances": places, "Parents": []}
            answer = {"LabelModelVersion": f"3.0.{call.number}", "Labels": [label]}
            return answer, facts_of("DETECT_LABELS").cost(images=1)

        source = photos.number_in(Image["Bytes"])
        return self._models.make(
            "labels", "DETECT_LABELS", "rekognition", {"least": MinConfidence}, source, work
        )


class _ControlPlane:
    """``bedrock``: which models are active."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def get_foundation_model(self, *, modelIdentifier: str) -> dict[str, Any]:  # noqa: N803
        active().sleep(0.05)
        if modelIdentifier in self._models.dead:
            response: Any = {"Error": {"Code": "ResourceNotFoundException", "Message": "no such model"}}
            raise ClientError(response, "GetFoundationModel")
        return {"modelDetails": {"modelLifecycle": {"status": "ACTIVE"}}}

    def get_inference_profile(self, *, inferenceProfileIdentifier: str) -> dict[str, Any]:  # noqa: N803
        return self.get_foundation_model(modelIdentifier=inferenceProfileIdentifier.removeprefix("us."))

    def get_foundation_model_availability(self, *, modelId: str) -> dict[str, Any]:  # noqa: N803
        return {"regionAvailability": "AVAILABLE", "agreementAvailability": {"status": "AVAILABLE"}}


class _Quotas:
    """``service-quotas`` without quotas, so that the published ones apply."""

    def list_service_quotas(self, **_: object) -> dict[str, Any]:
        return {"Quotas": []}

    def get_service_quota(self, **_: object) -> dict[str, Any]:
        response: Any = {"Error": {"Code": "NoSuchResourceException", "Message": "no such quota"}}
        raise ClientError(response, "GetServiceQuota")


class Aws:
    """Replaces `bg_pipeline.aws.clients.Aws`."""

    def __init__(self, models: Models, s3: Any, regions: Sequence[str]) -> None:
        self.regions = tuple(regions)
        self.own_region = self.regions[0]
        self.regions_named = True
        self._s3 = s3
        self._clients = {
            "bedrock": _ControlPlane(models),
            "bedrock-runtime": _Runtime(models),
            "rekognition": _Rekognition(models),
            "service-quotas": _Quotas(),
            "s3": s3,
        }

    def client(self, service: str, region: str | None = None) -> Any:
        return self._clients[service]

    def s3(self, bucket: str) -> Any:
        return self._s3


def _size(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.size


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
