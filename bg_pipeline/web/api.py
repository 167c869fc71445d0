"""The HTTP API as an ASGI application: routes, sign-in and limits, with its description at ``/docs``."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.middleware.cors import CORSMiddleware

from bg_pipeline.aws.clients import Aws
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.web import (
    batch_lists,
    batch_review,
    batch_status,
    batch_uploads,
    photo_booth,
    problems,
    removal,
)
from bg_pipeline.web.batch_paths import BatchPaths
from bg_pipeline.web.browser_security import API_POLICY, SecurityHeaders
from bg_pipeline.web.docs_page import docs_page
from bg_pipeline.web.limits import BodyLimit, RequestRate
from bg_pipeline.web.service import Service
from bg_pipeline.web.sign_in import CallersOnly, LoopbackOnly, Tokens, bearer
from bg_pipeline.web.single_photo_jobs import SinglePhotoJobs

ABOUT = """
Gives photos new backgrounds; each picture is paid for once. Field names are those of the pipeline's own documents.
Every error is a problem document (RFC 9457). If the operator has given rights to groups, the groups in the token
decide what a caller may see and do; a batch that the caller may not see is answered with 404.

Every response names a batch `YYYY/MM/DD/name`. Paths accept this form and the one with hyphens in the date:
`/batches/2026/11/21/101530` is `/batches/2026-11-21/101530`.
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
    app.state.streams = Counter[str]()
    tokens = None
    if settings.oidc_issuer and settings.oidc_audience:
        tokens = Tokens(
            settings.oidc_issuer, settings.oidc_audience, access_only=settings.api_access_tokens_only
        )
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
        app.add_middleware(LoopbackOnly, allowed_origins=settings.api_allowed_origins)
    if settings.api_allowed_origins:
        # Before the token is checked, since a browser asks first and without one.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.api_allowed_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "If-Match", "X-Bg-Client"],
            expose_headers=["Location", "Retry-After", "WWW-Authenticate"],
        )
    # Tokens are sent over HTTPS only; a browser ignores the header on a connection without it.
    app.add_middleware(SecurityHeaders, policy=API_POLICY, https=tokens is not None)
    app.add_middleware(BatchPaths)
    documented_sign_in = [Depends(bearer)] if tokens else []
    for part in (batch_lists, batch_uploads, batch_status, batch_review, removal, photo_booth):
        app.include_router(part.router, dependencies=documented_sign_in)
    problems.install(app)
    default_openapi = app.openapi

    def openapi() -> dict[str, Any]:
        document = default_openapi()
        schemas = document["components"]["schemas"]
        for name, schema in (
            ("BatchRequest", batch_uploads.REQUEST_SCHEMA),
            ("ProblemDocument", problems.SCHEMA),
        ):
            schema = dict(schema)
            schemas |= {**schema.pop("$defs", {}), name: schema}
        return document

    app.openapi = openapi  # type: ignore[method-assign]

    @app.get("/", include_in_schema=False)
    def root(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{request.scope.get('root_path', '').rstrip('/')}/docs")

    @cache
    def page(root: str) -> str:
        # Made once: strangers may ask for it as often as they like, without a token.
        return docs_page(app.openapi(), f"{root}{app.openapi_url}")

    @app.get("/docs", include_in_schema=False)
    def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(page(request.scope.get("root_path", "").rstrip("/")))

    return app
