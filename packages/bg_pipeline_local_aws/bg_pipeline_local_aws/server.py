"""The stand-in's server for Bedrock, Rekognition, SageMaker endpoints and Service Quotas, and its control route."""

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
from bg_pipeline_local_aws.child import end_with_parent
from bg_pipeline_local_aws.control import Control
from bg_pipeline_local_aws.studio import Studio
from bg_pipeline_local_aws.wire import JSON, AwsError, Call, answer, refusal, signed_for

Handler = Callable[[Call, Control, Studio], Awaitable[Mapping[str, Any] | Response]]
Endpoint = Callable[[Request], Awaitable[Response]]

# Method, path, the name the service signs with, operation, handler.
_REST: tuple[tuple[str, str, str, str, Handler], ...] = (
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

_REKOGNITION: dict[str, Handler] = {
    "DetectLabels": rekognition.detect_labels,
    "DetectFaces": rekognition.detect_faces,
    "DetectCustomLabels": custom_labels.detect_custom_labels,
    "StartProjectVersion": custom_labels.start_project_version,
    "StopProjectVersion": custom_labels.stop_project_version,
    "DescribeProjects": custom_labels.describe_projects,
    "DescribeProjectVersions": custom_labels.describe_project_versions,
}
_QUOTAS: dict[str, Handler] = {
    "GetServiceQuota": service_quotas.get_service_quota,
    "ListServiceQuotas": service_quotas.list_service_quotas,
}
# X-Amz-Target's prefix, the name the service signs with, its operations.
_JSON = {
    "RekognitionService": ("rekognition", _REKOGNITION),
    "ServiceQuotasV20190624": ("servicequotas", _QUOTAS),
}

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP with one thing more: a handler can cut its connection."""

    def on_message_begin(self) -> None:
        """Tell the request how to hang up."""
        super().on_message_begin()
        self.scope["state"]["hang_up"] = self._hang_up

    def _hang_up(self) -> None:
        connection = self.transport.get_extra_info("socket")
        # Without lingering the peer gets a reset, as from a dying host.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Server:
    """The door of all services: reads who calls, asks the rules, has the call answered, keeps the books."""

    def __init__(self, workers: int | None = None) -> None:
        self.control = Control()
        self.studio = Studio(workers)

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
        self.studio.close()

    def _rest(self, service: str, operation: str, handler: Handler) -> Endpoint:
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
        self, request: Request, protocol: str, service: str, operation: str, handler: Handler
    ) -> Response:
        arrived = time.monotonic()
        try:
            body = await request.body()
        except ClientDisconnect:
            return Response()
        model = request.path_params.get("model", "")
        call = Call(service, operation, "", body, model, request.query_params, request.headers)
        try:
            call.region, signed_service = signed_for(request)
            if signed_service != service:
                message = f"Credential should be scoped to correct service: '{service}'."
                raise AwsError("InvalidSignatureException", message)
            made = await handler(call, self.control, self.studio)
            response = made if isinstance(made, Response) else answer(made, JSON[protocol])
            await asyncio.sleep(arrived + self.control.answer_after(call) - time.monotonic())
        except AwsError as error:
            if call.outcome == "ok":
                call.outcome = error.code
            response = refusal(error, protocol)
            if call.hold:
                await asyncio.sleep(call.hold)
        if call.hang_up and call.outcome == "ok":
            call.outcome = "lost"
        self.control.record(call, time.monotonic() - arrived)
        if call.hang_up:
            request.state.hang_up()
            await request.receive()
        return response

    async def _unknown(self, request: Request) -> Response:
        """Whatever reaches the stand-in by the catch-all endpoint variable and is not one of its services."""
        media_type, service = request.headers.get("content-type", ""), "this service"
        with contextlib.suppress(AwsError):
            _, service = signed_for(request)
        protocol = "json" if "x-amz-json" in media_type else "rest-json"
        if "x-www-form-urlencoded" in media_type or service in ("s3", "route53", "cloudfront"):
            protocol = "xml"
        asked = f"{service} ({request.method} {request.url.path})"
        error = AwsError("UnknownOperationException", f"The stand-in for AWS does not offer {asked}.")
        return refusal(error, protocol)


def serve(port: int, workers: int) -> None:
    """Serve on a loopback port until told to end, or until the process that started this one is gone."""
    end_with_parent()
    # uvicorn re-raises what ended it; leaving in an orderly way lets the pool tidy up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        Server(workers or None).app(),
        host="127.0.0.1",
        port=port,
        http=Protocol,
        log_level="warning",
        access_log=False,
        # Longer than clients pause between paced calls: a connection closed under a paid call would look billed.
        timeout_keep_alive=120,
        timeout_graceful_shutdown=2,
    )
