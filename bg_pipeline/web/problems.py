"""Errors of the HTTP API: each is answered with a problem document (RFC 9457).

The last part of a problem's ``type`` is its code; if a report's row has the error too, it is the row's ``Error``.
"""

import re
from http import HTTPStatus
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path
from starlette.types import Scope

from bg_pipeline.domain.text import printable
from bg_pipeline.errors import BgPipelineError, ImageError, NoSuchBatch, NotAllowed, RequestError

MEDIA_TYPE = "application/problem+json"

EARLIER_PATHS = frozenset({"/image-bg-removeal", "/image-bg-removal"})
"""Paths whose callers may be clients of an earlier system, which read ``statusCode`` and ``body``."""

TOO_LARGE = frozenset({"TooLarge", "TooManyBytes", "TooManyPixels"})
"""Codes of images that are refused because of their size."""


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    Field: str
    Cause: str


class ProblemDocument(BaseModel):
    """An error. ``Errors`` lists the fields at fault and what is wrong with each."""

    type: str = Field(examples=["urn:bg-pipeline:NotFound"])
    title: str
    status: int
    detail: str
    Errors: list[FieldProblem] | None = None


SCHEMA: Final[dict[str, Any]] = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
"""The JSON schema of a problem document, for the OpenAPI document."""


class Problem(HTTPException):
    """An error with its sentence for the caller. ``more`` are further members of the document."""

    def __init__(
        self, status: int, code: str, detail: str, *, retry_after: float | None = None, **more: Any
    ) -> None:
        headers = {} if retry_after is None else {"Retry-After": f"{max(1, round(retry_after))}"}
        if status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(status, detail, headers)
        self.code = code
        self.more = more

    def document(self) -> dict[str, Any]:
        """The members of the problem document."""
        title = HTTPStatus(self.status_code).phrase
        return {
            "type": f"urn:bg-pipeline:{self.code}",
            "title": title,
            "status": self.status_code,
            "detail": printable(self.detail),
            **self.more,
        }

    def response(self, scope: Scope) -> Response:
        """The HTTP answer with the problem document, in the form for the request of ``scope``.

        For the paths of `EARLIER_PATHS` the document has ``statusCode`` and ``body`` too. A caller there that accepts
        ``application/json`` and no problem document gets these two only, as from the earlier system.
        """
        path: str = scope["path"]
        if path.removeprefix(scope.get("root_path", "")) not in EARLIER_PATHS:
            return JSONResponse(self.document(), self.status_code, self.headers, MEDIA_TYPE)
        document = self.document()
        earlier = {"statusCode": self.status_code, "body": f"Error: {document['detail']}"}
        accepted = _accepted(Headers(scope=scope).get("accept", ""))
        if "application/json" in accepted and not accepted & {MEDIA_TYPE, "application/*"}:
            return JSONResponse(earlier, self.status_code, self.headers)
        return JSONResponse({**document, **earlier}, self.status_code, self.headers, MEDIA_TYPE)


def _accepted(header: str) -> frozenset[str]:
    """The media types that an ``Accept`` header names, without those of quality 0."""
    types = set()
    for part in header.lower().split(","):
        media_type, *parameters = (word.strip() for word in part.split(";"))
        if media_type and not any(re.fullmatch(r"q=0(\.0*)?", word) for word in parameters):
            types.add(media_type)
    return frozenset(types)


def of_error(error: Exception) -> Problem:
    """The problem that a caller gets for an error; unexpected errors are not described."""
    match error:
        case Problem():
            return error
        case StarletteHTTPException():
            problem = Problem(error.status_code, HTTPStatus(error.status_code).name, error.detail)
            problem.headers = error.headers
            return problem
        case RequestValidationError():
            errors = [
                {"Field": printable(".".join(map(str, each["loc"]))), "Cause": printable(str(each["msg"]))}
                for each in error.errors()
            ]
            return Problem(422, "InvalidRequest", _joined(errors), Errors=errors)
        case RequestError():
            errors = [{"Field": printable(field), "Cause": printable(text)} for field, text in error.problems]
            return Problem(422, "RequestError", str(error), Errors=errors)
        case ImageError():
            return Problem(413 if error.code in TOO_LARGE else 422, error.code, str(error))
        case NoSuchBatch():
            return Problem(404, "NoSuchBatch", str(error))
        case NotAllowed():
            return Problem(403, "NotAllowed", str(error))
        case ClientDisconnect():
            # Nobody reads this: the caller left before the end of the body, or sent it wrongly.
            return Problem(400, "Disconnected", "the connection ended before the request did")
        case BgPipelineError():
            return Problem(503, type(error).__name__, str(error))
        case ClientError():
            code = error.response.get("Error", {}).get("Code", "an error")
            return Problem(502, "StorageError", f"AWS answered {error.operation_name} with {code}")
        case BotoCoreError():
            return Problem(503, "Unreachable", f"AWS cannot be reached ({type(error).__name__})")
    return Problem(500, "InternalError", "the service has failed; its log has the details")


def _joined(errors: list[dict[str, str]]) -> str:
    return "; ".join(f"{each['Field']}: {each['Cause']}" for each in errors)


def install(app: FastAPI) -> None:
    """Registers handlers that answer every error of the application with a problem document."""

    def answer(request: Request, error: Exception) -> Response:
        problem = of_error(error)
        if problem.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            # If two routes share a path, the framework names the methods of only one of them.
            methods = _methods(app, request.url.path.removeprefix(request.scope.get("root_path", "")))
            if methods:
                problem.headers = {"Allow": ", ".join(methods)}
        return problem.response(request.scope)

    kinds: tuple[type[Exception], ...] = (
        StarletteHTTPException,
        RequestValidationError,
        BgPipelineError,
        ClientError,
        BotoCoreError,
        ClientDisconnect,
        Exception,
    )
    for kind in kinds:
        app.add_exception_handler(kind, answer)


def _methods(app: FastAPI, path: str) -> list[str]:
    """The methods of ``path`` in the OpenAPI document, sorted; empty if it has no such path."""
    routes = app.openapi()["paths"].items()
    matching = (methods for route, methods in routes if compile_path(route)[0].match(path))
    return sorted({name.upper() for methods in matching for name in methods})


RESPONSES: dict[int | str, dict[str, Any]] = {
    statuses: {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
    }
    for statuses, description in (
        ("4XX", "The call is wrong or not allowed; the problem document says why"),
        ("5XX", "The API or AWS failed; the problem document says whether to try again"),
    )
}
"""Possible answers of every route, for the OpenAPI document."""
