"""The models' server: Bedrock, Rekognition, SageMaker endpoints, Service Quotas, and the control routes."""

import asyncio
import contextlib
import signal
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bg_pipeline_local_aws import (
    bedrock,
    bedrock_runtime,
    custom_labels,
    rekognition,
    sagemaker,
    service_quotas,
)
from bg_pipeline_local_aws.control import Control
from bg_pipeline_local_aws.launcher import end_with_parent
from bg_pipeline_local_aws.protocol import (
    JSON,
    AwsError,
    Call,
    credential_scope,
    error_response,
    make_response,
)
from bg_pipeline_local_aws.render_pool import RenderPool

OperationHandler = Callable[[Call, Control, RenderPool], Awaitable[Mapping[str, Any] | Response]]
Endpoint = Callable[[Request], Awaitable[Response]]

# Method, path, SigV4 service name, operation, handler.
_REST: tuple[tuple[str, str, str, str, OperationHandler], ...] = (
    ("POST", "/model/{model:path}/invoke", "bedrock", "InvokeModel", bedrock_runtime.invoke_model),
    ("POST", "/model/{model:path}/converse", "bedrock", "Converse", bedrock_runtime.converse),
    ("GET", "/foundation-models", "bedrock", "ListFoundationModels", bedrock.list_foundation_models),
    ("GET", "/foundation-models/{model:path}", "bedrock", "GetFoundationModel", bedrock.get_foundation_model),
    ("GET", "/foundation-model-availability/{model:path}", "bedrock", "GetFoundationModelAvailability",
     bedrock.get_foundation_model_availability),
    ("GET", "/inference-profiles", "bedrock", "ListInferenceProfiles", bedrock.list_inference_profiles),
    ("GET", "/inference-profiles/{model:path}", "bedrock", "GetInferenceProfile", bedrock.get_inference_profile),
    ("POST", "/endpoints/{model}/invocations", "sagemaker", "InvokeEndpoint", sagemaker.invoke_endpoint),
)  # fmt: skip

_REKOGNITION: dict[str, OperationHandler] = {
    "DetectLabels": rekognition.detect_labels,
    "DetectFaces": rekognition.detect_faces,
    "DetectCustomLabels": custom_labels.detect_custom_labels,
    "StartProjectVersion": custom_labels.start_project_version,
    "StopProjectVersion": custom_labels.stop_project_version,
    "DescribeProjects": custom_labels.describe_projects,
    "DescribeProjectVersions": custom_labels.describe_project_versions,
}
_QUOTAS: dict[str, OperationHandler] = {
    "GetServiceQuota": service_quotas.get_service_quota,
    "ListServiceQuotas": service_quotas.list_service_quotas,
}
# Prefix of X-Amz-Target: SigV4 service name, operations.
_JSON = {
    "RekognitionService": ("rekognition", _REKOGNITION),
    "ServiceQuotasV20190624": ("servicequotas", _QUOTAS),
}

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class ResettableProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, plus ``request.state.reset_connection()`` to cut the connection of a request."""

    def on_message_begin(self) -> None:
        """Adds ``reset_connection`` to the request's state."""
        super().on_message_begin()
        self.scope["state"]["reset_connection"] = self._reset_connection

    def _reset_connection(self) -> None:
        connection = self.transport.get_extra_info("socket")
        # SO_LINGER with 0 seconds sends RST instead of FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class AwsServer:
    """Dispatches requests to the operations' handlers, applies fault rules and records every call."""

    def __init__(self, workers: int | None = None) -> None:
        self.control = Control()
        self.pool = RenderPool(workers)

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                *self.control.routes(),
                *(
                    Route(path, self._rest(service, operation, handler), methods=[method])
                    for method, path, service, operation, handler in _REST
                ),
                Route("/", self._json, methods=["POST"]),
                Route("/{path:path}", self._unknown, methods=_METHODS),
            ],
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        self.pool.close()

    def _rest(self, service: str, operation: str, handler: OperationHandler) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            return await self._serve(request, "rest-json", service, operation, handler)

        return endpoint

    async def _json(self, request: Request) -> Response:
        prefix, _, operation = request.headers.get("x-amz-target", "").partition(".")
        service, operations = _JSON.get(prefix, ("", {}))
        if operation not in operations:
            return await self._unknown(request)
        return await self._serve(request, "json", service, operation, operations[operation])

    async def _serve(
        self, request: Request, protocol: str, service: str, operation: str, handler: OperationHandler
    ) -> Response:
        arrived = time.monotonic()
        try:
            body = await request.body()
        except ClientDisconnect:
            return Response()
        model = request.path_params.get("model", "")
        call = Call(service, operation, "", body, model, request.query_params, request.headers)
        try:
            call.region, signed_service = credential_scope(request)
            if signed_service != service:
                message = f"Credential should be scoped to correct service: '{service}'."
                raise AwsError("InvalidSignatureException", message)
            answer = await handler(call, self.control, self.pool)
            response = answer if isinstance(answer, Response) else make_response(answer, JSON[protocol])
            await asyncio.sleep(arrived + self.control.answer_after(call) - time.monotonic())
        except AwsError as error:
            if call.outcome == "ok":
                call.outcome = error.code
            response = error_response(error, protocol)
            if call.delay:
                await asyncio.sleep(call.delay)
        if call.cut_connection and call.outcome == "ok":
            call.outcome = "lost"
        self.control.record(call, time.monotonic() - arrived)
        if call.cut_connection:
            request.state.reset_connection()
            await request.receive()
        return response

    async def _unknown(self, request: Request) -> Response:
        """Refuses requests of services and operations that the stand-in does not offer."""
        media_type, service = request.headers.get("content-type", ""), "this service"
        with contextlib.suppress(AwsError):
            _, service = credential_scope(request)
        protocol = "json" if "x-amz-json" in media_type else "rest-json"
        if "x-www-form-urlencoded" in media_type or service in ("s3", "route53", "cloudfront"):
            protocol = "xml"
        operation = f"{service} ({request.method} {request.url.path})"
        error = AwsError("UnknownOperationException", f"The stand-in for AWS does not offer {operation}.")
        return error_response(error, protocol)


def serve(port: int, workers: int) -> None:
    """Serves on a loopback port until SIGTERM or until the parent process has ended."""
    end_with_parent()
    # uvicorn re-raises the signal that ended it; a normal exit lets the process pool shut down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        AwsServer(workers or None).app(),
        host="127.0.0.1",
        port=port,
        http=ResettableProtocol,
        log_level="warning",
        access_log=False,
        # Longer than clients pause between paced calls: closing an idle connection just as a paid call is sent would
        # make the call look billed.
        timeout_keep_alive=120,
        timeout_graceful_shutdown=2,
    )
