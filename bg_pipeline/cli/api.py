"""``bg-pipeline api``: the HTTP API, until Ctrl-C."""

import importlib.util

import click

from bg_pipeline.authorization import in_words
from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import local
from bg_pipeline.cli.terminal import print_message
from bg_pipeline.errors import UsageError
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import open_bucket
from bg_pipeline.web.addresses import check_api

END_SECONDS = 20
"""How long open connections may continue at the end. Pictures that are already paid for are waited for."""


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve on.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port to serve on."
)
@local
def api(host: str, port: int) -> None:
    """Serve the HTTP API until Ctrl-C; its documentation is at /docs.

    Without sign-in (BG_OIDC_ISSUER, BG_OIDC_AUDIENCE) it serves this machine only.
    """
    if any(
        importlib.util.find_spec(name) is None
        for name in ("fastapi", "uvicorn", "httptools", "limits", "jwt")
    ):
        raise UsageError("the HTTP API needs the extra 'api': pip install 'bg-pipeline[api]'")
    import uvicorn

    from bg_pipeline.web.api import make_app
    from bg_pipeline.web.connections import Connection

    configured = settings()
    check_api(configured, host)
    aws = make_aws(configured)
    app = make_app(configured, aws, open_bucket(configured, aws))
    print_message(f"Access: {in_words(configured, signs_in=app.state.signs_in)}.")
    print_message(f"The API's documentation is at http://{host}:{port}/docs")
    uvicorn.run(
        app,
        host=host,
        port=port,
        http=Connection,
        # The API has no WebSocket; the library's own answer to one is no problem document.
        ws="none",
        # The caller is taken from the connection and the token, never from headers that a proxy sets.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=END_SECONDS,
    )
