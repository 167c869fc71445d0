"""AWS's wire protocols as seen from the service's side: who calls from which Region, and how a refusal is told."""

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

ACCOUNT = "000000000000"
JSON = {"rest-json": "application/json", "json": "application/x-amz-json-1.1"}

# Error code → HTTP status where it is not 400 (botocore's service models).
_STATUS = {
    "AccessDeniedException": 403,
    "MissingAuthenticationTokenException": 403,
    "InvalidSignatureException": 403,
    "ResourceNotFoundException": 404,
    "UnknownOperationException": 404,
    "ModelTimeoutException": 408,
    "ModelErrorException": 424,
    "ModelError": 424,
    "ThrottlingException": 429,
    "ModelNotReadyException": 429,
    "InternalServerException": 500,
    "InternalServerError": 500,
    "InternalFailure": 500,
    "ServiceException": 500,
    "ServiceUnavailableException": 503,
    "ServiceUnavailable": 503,
}


class AwsError(Exception):
    """A refusal as a service words it.

    ``status`` overrides the code's usual one; ``members`` are further fields of the body.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int | None = None,
        headers: dict[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.headers = headers or {}
        self.members = members


def invalid(message: str) -> AwsError:
    """Bedrock's refusal of a request that it does not understand or will not take."""
    return AwsError("ValidationException", message)


def unfit(problem: str) -> AwsError:
    """Bedrock's refusal of a body that does not fit its model's schema."""
    return invalid(f"Malformed input request: {problem}, please reformat your input and try again.")


@dataclass(slots=True)
class Call:
    """One request, and what the books will say about it.

    ``model`` is the catalogue's id (or a project version's ARN, or an endpoint's name), ``image`` the SHA-256 of the
    picture received. ``block``, ``hold`` and ``hang_up`` are what a fault rule wants to happen to this call.
    """

    service: str
    operation: str
    region: str
    body: bytes = field(repr=False)
    model: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    task: str = ""
    prompt: str = ""
    image: str = ""
    outcome: str = "ok"
    block: str = ""
    hold: float = 0.0
    hang_up: bool = False

    def json(self) -> dict[str, Any]:
        """The body as a JSON object."""
        try:
            body = orjson.loads(self.body or b"{}")
        except orjson.JSONDecodeError as error:
            raise unfit("not valid JSON") from error
        if not isinstance(body, dict):
            raise unfit("not a JSON object")
        return body


_SCOPE = re.compile(r"Credential=[^/,\s]+/\d{8}/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request")


def signed_for(request: Request) -> tuple[str, str]:
    """The Region and the service a request is signed for (SigV4 credential scope); refuses unsigned ones."""
    scope = _SCOPE.search(request.headers.get("authorization", ""))
    if not scope:
        raise AwsError("MissingAuthenticationTokenException", "Missing Authentication Token")
    return scope[1], scope[2]


def answer(
    body: Any,
    media_type: str = "application/json",
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A response with a request id; ``body`` is bytes as they are, or anything that JSON can say."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    return Response(data, status, {"x-amzn-RequestId": str(uuid.uuid4()), **(headers or {})}, media_type)


def refusal(error: AwsError, protocol: str) -> Response:
    """An error in the form of its protocol: ``rest-json``, ``json`` (1.1) or ``xml`` (rest-xml and query)."""
    status = error.status or _STATUS.get(error.code, 400)
    if protocol == "xml":
        text = f"<Error><Code>{error.code}</Code><Message>{error.message}</Message></Error>"
        return answer(f"<ErrorResponse>{text}</ErrorResponse>".encode(), "text/xml", status, error.headers)
    if protocol == "rest-json":
        headers = {"x-amzn-ErrorType": error.code, **error.headers}
        return answer({"message": error.message, **error.members}, JSON[protocol], status, headers)
    # JSON 1.1 services answer 400 to whatever is not their own fault.
    status = error.status or (status if status >= 500 else 400)
    body = {"__type": error.code, "Message": error.message, **error.members}
    return answer(body, JSON[protocol], status, error.headers)


def malformed(error: ValidationError) -> AwsError:
    """Bedrock's words for a body that does not fit its model's schema."""
    problems = []
    for found in error.errors():
        *parents, name = found["loc"] or ("",)
        parent = "/".join(["#", *map(str, parents)])
        if found["type"] == "extra_forbidden":
            problems.append(f"{parent}: extraneous key [{name}] is not permitted")
        elif found["type"] == "missing":
            problems.append(f"{parent}: required key [{name}] not found")
        elif found["type"] == "string_too_long":
            most, actual = found["ctx"]["max_length"], len(found["input"])
            problems.append(f"{parent}/{name}: expected maxLength: {most}, actual: {actual}")
        else:
            problems.append(f"{parent}/{name}: {found['msg']}")
    return unfit(", ".join(problems))
