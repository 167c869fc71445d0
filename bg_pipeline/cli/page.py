"""``bg-pipeline page``: serves the web page until Ctrl-C; `up` starts the page with the same functions."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import click

from bg_pipeline.authorization import in_words
from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import local
from bg_pipeline.cli.terminal import print_message, stopped_by_user
from bg_pipeline.errors import BgPipelineError, UsageError
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import open_bucket
from bg_pipeline.web.addresses import check_page

PORT = 8501
HOST = "127.0.0.1"
MISSING = "the web page needs the extra 'ui': pip install 'bg-pipeline[ui]'"


def installed() -> bool:
    """Whether the extra ``ui`` is installed."""
    return importlib.util.find_spec("streamlit") is not None


def command(port: int, dagster: str, host: str = HOST) -> list[str]:
    """The command that serves the page until its standard input is closed."""
    flags: Mapping[str, object] = {
        "server.address": host,
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "server.maxUploadSize": settings().api_max_upload_mb,
        "server.enableXsrfProtection": "true",
        "browser.gatherUsageStats": "false",
        "client.showErrorDetails": "none",
        "client.toolbarMode": "minimal",
        # Streamlit's own colours have too little contrast: its red on its tint, and captions at 60 % of its text
        # grey.
        "theme.light.primaryColor": "#1d4ed8",
        "theme.light.textColor": "#000000",
        "theme.dark.primaryColor": "#8ab4f8",
    }
    app = Path(__file__).parents[1] / "web" / "page" / "server.py"
    arguments = [
        sys.executable,
        "-m",
        "bg_pipeline.cli.child_process",
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(app),
    ]
    options = (f"--{name}={value}" for name, value in flags.items())
    return [*arguments, *options, *(["--", dagster] if dagster else [])]


@contextmanager
def served(
    port: int, log: Path | None = None, *, dagster: str = "", host: str = HOST
) -> Iterator[subprocess.Popen[bytes]]:
    """Serves the page in a child process, which ends with the block and also if this process is killed.

    ``dagster`` is the address of Dagster's UI. The child's output goes to ``log``, or to this process's output.
    """
    with nullcontext() if log is None else log.open("wb") as output:
        process = subprocess.Popen(
            command(port, dagster, host),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output and subprocess.STDOUT,
            start_new_session=True,
            # uvicorn would use the X-Forwarded headers of any program on this machine; `OwnPageOnly` decides instead.
            env={**os.environ, "FORWARDED_ALLOW_IPS": ""},
        )
    try:
        yield process
    finally:
        if process.stdin:
            process.stdin.close()
        process.wait()


@click.command()
@click.option("--host", default=HOST, show_default=True, help="Address to serve on.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=PORT, show_default=True, help="Port to serve on."
)
@click.option("--dagster", default="", help="Address of Dagster's UI, such as http://127.0.0.1:3000.")
@local
def page(host: str, port: int, dagster: str) -> None:
    """Serve the web page until Ctrl-C: submit photos, follow batches, review, publish. `up` serves it as well.

    Without sign-in (BG_OIDC_ISSUER, BG_OIDC_CLIENT_ID, BG_OIDC_CLIENT_SECRET, BG_PAGE_ADDRESS) it serves this
    machine only.
    """
    if not installed():
        raise UsageError(MISSING)
    configured = settings()
    check_page(configured, host)
    if configured.oidc_client_id and importlib.util.find_spec("authlib") is None:
        raise UsageError(MISSING)
    open_bucket(configured, make_aws(configured))
    with stopped_by_user(), served(port, dagster=dagster, host=host) as process:
        print_message(f"Access: {in_words(configured, signs_in=bool(configured.oidc_client_id))}.")
        print_message(f"The page is at {configured.page_address or f'http://{host}:{port}'}")
        raise BgPipelineError(f"the web page ended unexpectedly (exit code {process.wait()})")
