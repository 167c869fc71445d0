"""``bg-pipeline up``: runs Dagster and the web page until Ctrl-C, with the stand-in for AWS or with an account."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli import page as web_page
from bg_pipeline.cli.arguments import state_dir
from bg_pipeline.cli.terminal import dollars, print_message, stopped_by_user
from bg_pipeline.custom_labels.orphaned_models import stop_orphaned_models
from bg_pipeline.defs import dagster_home
from bg_pipeline.errors import BgPipelineError
from bg_pipeline.local_aws import use_local_aws
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import open_bucket
from bg_pipeline.web.addresses import check_page

PORT = 3000
START_SECONDS = 120
POLL_SECONDS = 0.5
STOP_MODEL_SECONDS = 1200.0
"""How long to wait at the end for a Custom Labels model that a run was just starting: it is billed by the hour."""


@click.command()
@click.option(
    "--aws",
    is_flag=True,
    help="Use your AWS account (boto3's own credentials) and BG_BUCKET: runs cost money.",
)
@click.option(
    "--port", type=click.IntRange(1, 65535), help=f"Port of Dagster's UI; by default {PORT} or a free one."
)
@state_dir
def up(aws: bool, port: int | None, state_dir: Path) -> None:
    """Start the web page and Dagster with its sensors on; Ctrl-C ends everything.

    Without --aws it also starts the stand-in for AWS, with the same state as `demo`.
    """
    with ExitStack() as stack:
        stack.enter_context(stopped_by_user())
        if not aws:
            print_message("Starting the stand-in for AWS on this machine …")
            stack.enter_context(use_local_aws(state_dir, shared=False))
        configured = settings()
        clients = make_aws(configured)
        store = open_bucket(configured, clients)
        home = state_dir.absolute() / ("dagster-aws" if aws else "dagster") / store.bucket
        print_message("Starting Dagster …")
        stack.enter_context(dagster_home.alone(home))
        dagster_home.prepare(home)
        log = home / "dagster.log"
        address = f"http://127.0.0.1:{port or _free_port(PORT)}"
        # Runs after Dagster has ended, since its sensor that stops orphaned models has then ended too.
        stack.callback(stop_orphaned_models, store, clients, STOP_MODEL_SECONDS, print_message)
        process = stack.enter_context(_dagster(home, address.rpartition(":")[2], log))
        started = _turn_on_sensors(address, process, log)
        click.echo(f"Dagster:       {address}")
        if web_page.installed():
            check_page(configured, web_page.HOST)
            page_port = _free_port(web_page.PORT)
            stack.enter_context(web_page.served(page_port, home / "page.log", dagster=address))
            click.echo(f"Web page:      http://{web_page.HOST}:{page_port}")
        else:
            print_message(f"Without the web page: {web_page.MISSING}")
        click.echo(f"Dagster's log: {log}")
        click.echo(
            f"Bucket:        {store.bucket} ({'your account' if aws else 'in the stand-in, on this machine'})"
        )
        for kind, name in started:
            click.echo(f"{f'{kind} is on:':<14} {name}")
        if aws:
            cap = configured.max_cost_usd
            limit = (
                f"stops at {dollars(cap)} USD (BG_MAX_COST_USD)" if cap else "has no cap (BG_MAX_COST_USD)"
            )
            click.echo(f"New uploads are processed, and paid for, automatically; a run {limit}.")
            click.echo('Submit photos with: bg-pipeline submit PHOTO… --prompt "…"')
        else:
            click.echo('Submit photos with: bg-pipeline submit --local PHOTO… --prompt "…"')
        click.echo("Ctrl-C ends everything.")
        code = process.wait()
        raise BgPipelineError(f"Dagster ended unexpectedly (exit code {code}); {_error_in_log(log)}")


def _free_port(preferred: int) -> int:
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise BgPipelineError("no port is free on 127.0.0.1")


@contextmanager
def _dagster(home: Path, port: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs Dagster's webserver and daemon; all their processes end with the block, and if this process is killed."""
    command = [sys.executable, "-m", "bg_pipeline.cli.child_process", sys.executable, "-m", "dagster", "dev"]
    command += ["--workspace", str(home / "workspace.yaml"), "--host", "127.0.0.1", "--port", port]
    if log.exists():
        shutil.copyfile(log, log.with_suffix(".old.log"))
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | {"DAGSTER_HOME": str(home), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Only this process gets Ctrl-C; it then ends Dagster by closing its standard input.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.stdin:
            process.stdin.close()
        print_message("Ending Dagster …")
        process.wait()


def _turn_on_sensors(address: str, process: subprocess.Popen[bytes], log: Path) -> list[tuple[str, str]]:
    """Waits until Dagster has loaded the pipeline and turns its sensors and schedules on.

    Returns a pair for each: ``Sensor`` or ``Schedule``, and its name.
    """
    deadline = time.monotonic() + START_SECONDS
    while True:
        if process.poll() is not None:
            raise BgPipelineError(f"Dagster did not start; {_error_in_log(log)}")
        answer = _query(address, _LOCATION, name=dagster_home.LOCATION)
        entry = (answer or {}).get("workspaceLocationEntryOrError") or {}
        loaded = entry.get("locationOrLoadError") or {}
        if "message" in loaded:
            raise BgPipelineError(f"Dagster cannot load the pipeline: {loaded['message'].strip()}; see {log}")
        if loaded:
            break
        if time.monotonic() > deadline:
            raise BgPipelineError(f"Dagster was not ready after {START_SECONDS} s; {_error_in_log(log)}")
        time.sleep(POLL_SECONDS)
    started = []
    for repository in loaded["repositories"]:
        for kind, started_type in (("Sensor", "Sensor"), ("Schedule", "ScheduleStateResult")):
            for definition in repository[f"{kind.lower()}s"]:
                selector = {
                    "repositoryLocationName": dagster_home.LOCATION,
                    "repositoryName": repository["name"],
                    f"{kind.lower()}Name": definition["name"],
                }
                answer = (_query(address, _START[kind], selector=selector) or {}).get(f"start{kind}") or {}
                if answer.get("__typename") != started_type:
                    raise BgPipelineError(
                        f"{kind.lower()} {definition['name']} cannot be turned on: {answer.get('message', answer)}"
                    )
                started.append((kind, definition["name"]))
    return started


_LOCATION = """
query ($name: String!) { workspaceLocationEntryOrError(name: $name) { ... on WorkspaceLocationEntry {
  locationOrLoadError {
    ... on RepositoryLocation { repositories { name sensors { name } schedules { name } } }
    ... on PythonError { message } } } } }
"""
_START = {
    "Sensor": """
mutation ($selector: SensorSelector!) { startSensor(sensorSelector: $selector) {
  __typename ... on PythonError { message } ... on UnauthorizedError { message } } }
""",
    "Schedule": """
mutation ($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector) {
  __typename ... on PythonError { message } ... on UnauthorizedError { message } } }
""",
}

_opener_without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _query(address: str, query: str, **variables: Any) -> Mapping[str, Any] | None:
    """The data of Dagster's GraphQL answer; None if it does not answer."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})  # noqa: S310
    try:
        with _opener_without_proxy.open(request, timeout=30) as answer:
            data: Mapping[str, Any] | None = json.load(answer).get("data")
            return data
    except (urllib.error.URLError, ConnectionError, TimeoutError, ValueError):
        return None


def _error_in_log(log: Path) -> str:
    """A sentence with the first error in Dagster's log, or else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if not lines:
        return f"see {log}"
    error = next((line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)), "")
    return f"its {'error' if error else 'last line'}: {error or lines[-1]} (see {log})"
