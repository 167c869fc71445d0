"""AWS wire protocols, server side: the credential scope of a request, responses, and errors of each protocol."""

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
_STATUS_CODES = {
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
    """An error response of a service.

    ``status`` overrides the default HTTP status of ``code``; ``members`` are further fields of the body.
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


def validation_error(message: str) -> AwsError:
    """Bedrock's ValidationException with this message."""
    return AwsError("ValidationException", message)


def malformed_request(problem: str) -> AwsError:
    """Bedrock's ValidationException for a body that does not match the model's schema."""
    return validation_error(f"Malformed input request: {problem}, please reformat your input and try again.")


@dataclass(slots=True)
class Call:
    """One request, with the fields that handlers fill in for the call log.

    ``model`` is the catalogue's model id (or a project version's ARN, or an endpoint's name), ``image`` the SHA-256
    of the received picture. Fault rules set ``block`` (the stage at which content policy refuses), ``delay``
    (seconds) and ``cut_connection``.
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
    delay: float = 0.0
    cut_connection: bool = False

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; ValidationException if it is not one."""
        try:
            body = orjson.loads(self.body or b"{}")
        except orjson.JSONDecodeError as error:
            raise malformed_request("not valid JSON") from error
        if not isinstance(body, dict):
            raise malformed_request("not a JSON object")
        return body


_SCOPE = re.compile(r"Credential=[^/,\s]+/\d{8}/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request")


def credential_scope(request: Request) -> tuple[str, str]:
    """Region and service of the SigV4 credential scope; MissingAuthenticationTokenException if unsigned."""
    scope = _SCOPE.search(request.headers.get("authorization", ""))
    if not scope:
        raise AwsError("MissingAuthenticationTokenException", "Missing Authentication Token")
    return scope[1], scope[2]


def make_response(
    body: Any,
    media_type: str = "application/json",
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A response with a request id; ``body`` is bytes, or a value that is serialized as JSON."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    return Response(data, status, {"x-amzn-RequestId": str(uuid.uuid4()), **(headers or {})}, media_type)


def error_response(error: AwsError, protocol: str) -> Response:
    """The response of an error in protocol ``rest-json``, ``json`` (1.1) or ``xml`` (rest-xml and query)."""
    status = error.status or _STATUS_CODES.get(error.code, 400)
    if protocol == "xml":
        text = f"<Error><Code>{error.code}</Code><Message>{error.message}</Message></Error>"
        return make_response(
            f"<ErrorResponse>{text}</ErrorResponse>".encode(), "text/xml", status, error.headers
        )
    if protocol == "rest-json":
        headers = {"x-amzn-ErrorType": error.code, **error.headers}
        return make_response({"message": error.message, **error.members}, JSON[protocol], status, headers)
    # JSON 1.1 services use 400 for all client errors.
    status = error.status or (status if status >= 500 else 400)
    body = {"__type": error.code, "Message": error.message, **error.members}
    return make_response(body, JSON[protocol], status, error.headers)


def schema_error(error: ValidationError) -> AwsError:
    """Bedrock's ValidationException for pydantic's errors, in Bedrock's wording."""
    problems = []
    for details in error.errors():
        *parents, name = details["loc"] or ("",)
        parent = "/".join(["#", *map(str, parents)])
        if details["type"] == "extra_forbidden":
            problems.append(f"{parent}: extraneous key [{name}] is not permitted")
        elif details["type"] == "missing":
            problems.append(f"{parent}: required key [{name}] not found")
        elif details["type"] == "string_too_long":
            maximum, actual = details["ctx"]["max_length"], len(details["input"])
            problems.append(f"{parent}/{name}: expected maxLength: {maximum}, actual: {actual}")
        else:
            problems.append(f"{parent}/{name}: {details['msg']}")
    return malformed_request(", ".join(problems))
