"""The HTTP API as an application: its routes, who may call them, and their description at ``/docs``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI

from bg_pipeline.aws.clients import Aws
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.web import batches, booth, problems, removal
from bg_pipeline.web.limits import BodyLimit, RequestRate
from bg_pipeline.web.service import Service
from bg_pipeline.web.sign_in import CallersOnly, LoopbackOnly, Tokens, bearer
from bg_pipeline.web.single_photo_jobs import SinglePhotoJobs

ABOUT = """
New backgrounds for photos, each picture paid for once. Names are those of the pipeline's own documents; every error
is a problem document (RFC 9457). Whoever may call may see every batch: there are no groups of users.
"""


def make_app(settings: Settings, aws: Aws, store: Store) -> FastAPI:
    """The API on a bucket; with BG_OIDC_ISSUER for who is signed in, else for callers on this machine only."""
    orders = SinglePhotoJobs(settings, aws, store)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        orders.close()

    app = FastAPI(
        title="bg-pipeline",
        version="1",
        description=ABOUT,
        redoc_url=None,
        lifespan=lifespan,
        responses=problems.RESPONSES,
    )
    app.state.service = Service(settings, aws, store, orders)
    tokens = None
    if settings.oidc_issuer and settings.oidc_audience:
        tokens = Tokens(settings.oidc_issuer, settings.oidc_audience)
    # What is added last comes first: nothing of a body is read before its sender is known.
    app.add_middleware(BodyLimit)
    app.add_middleware(CallersOnly, tokens=tokens, rate=RequestRate(settings.api_requests_per_minute))
    if tokens is None:
        app.add_middleware(LoopbackOnly)
    described_guards = [Depends(bearer)] if tokens else []
    for part in (batches, removal, booth):
        app.include_router(part.router, dependencies=described_guards)
    problems.install(app)
    described = app.openapi

    def openapi() -> dict[str, Any]:
        document = described()
        request = dict(batches.REQUEST_SCHEMA)
        document["components"]["schemas"] |= {**request.pop("$defs", {}), "BatchRequest": request}
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    return app
