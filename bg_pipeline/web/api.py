"""The HTTP API as an ASGI application: routes, sign-in and limits, with its description at ``/docs``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse

from bg_pipeline.aws.clients import Aws
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.web import batch_status, batch_uploads, booth, problems, removal
from bg_pipeline.web.browser_security import API_POLICY, SecurityHeaders
from bg_pipeline.web.docs_page import docs_page
from bg_pipeline.web.limits import BodyLimit, RequestRate
from bg_pipeline.web.service import Service
from bg_pipeline.web.sign_in import CallersOnly, LoopbackOnly, Tokens, bearer
from bg_pipeline.web.single_photo_jobs import SinglePhotoJobs

ABOUT = """
New backgrounds for photos, each picture paid for once. Names are those of the pipeline's own documents; every error
is a problem document (RFC 9457). What a caller may see and do depends on the groups in the token, if the operator
has given rights to groups; a batch that a caller may not see does not exist for that caller.
"""


def make_app(settings: Settings, aws: Aws, store: Store) -> FastAPI:
    """The API for a bucket. With BG_OIDC_ISSUER callers need a token, without it only this machine may call."""
    jobs = SinglePhotoJobs(settings, aws, store)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        jobs.close()

    app = FastAPI(
        title="bg-pipeline",
        version="1",
        description=ABOUT,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=problems.RESPONSES,
    )
    service = app.state.service = Service(settings, aws, store, jobs)
    tokens = None
    if settings.oidc_issuer and settings.oidc_audience:
        tokens = Tokens(settings.oidc_issuer, settings.oidc_audience)
    app.state.signs_in = tokens is not None
    # The middleware added last runs first: callers are checked before any body is read.
    app.add_middleware(BodyLimit)
    app.add_middleware(
        CallersOnly,
        tokens=tokens,
        rate=RequestRate(settings.api_requests_per_minute),
        authorization=service.acts.authorization,
    )
    if tokens is None:
        app.add_middleware(LoopbackOnly)
    # Tokens are sent over HTTPS only; a browser ignores the header on a connection without it.
    app.add_middleware(SecurityHeaders, policy=API_POLICY, https=tokens is not None)
    documented_sign_in = [Depends(bearer)] if tokens else []
    for part in (batch_uploads, batch_status, removal, booth):
        app.include_router(part.router, dependencies=documented_sign_in)
    problems.install(app)
    default_openapi = app.openapi

    def openapi() -> dict[str, Any]:
        document = default_openapi()
        request = dict(batch_uploads.REQUEST_SCHEMA)
        document["components"]["schemas"] |= {**request.pop("$defs", {}), "BatchRequest": request}
        return document

    app.openapi = openapi  # type: ignore[method-assign]

    @app.get("/docs", include_in_schema=False)
    def docs(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "").rstrip("/")
        return HTMLResponse(docs_page(app.openapi(), f"{root}{app.openapi_url}"))

    return app
