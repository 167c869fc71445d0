"""``bg-pipeline api``: it serves this machine, refuses others without sign-in, and ends in order."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import requests
from click.testing import CliRunner

from bg_pipeline.cli.main import main
from bg_pipeline_local_aws.launcher import LocalAws
from bg_pipeline_tests.web.serving import Caller


def test_an_address_that_others_can_reach_is_refused_without_sign_in() -> None:
    done = CliRunner().invoke(main, ["api", "--host", "0.0.0.0"])  # noqa: S104
    assert done.exit_code == 2
    assert "BG_OIDC_ISSUER" in done.output


def test_a_bucket_that_is_not_set_is_told_at_the_start() -> None:
    done = CliRunner().invoke(main, ["api"])
    assert done.exit_code == 2
    assert "BG_BUCKET" in done.output


@pytest.mark.slow
def test_it_serves_until_it_is_interrupted(stand_in: LocalAws, bucket: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "bg_pipeline.cli.main", "api", "--port", str(port)]
    environment = {**os.environ, "BG_BUCKET": bucket}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as api:
        caller = Caller(f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + 60
        while True:
            try:
                answer = caller.get("/openapi.json")
                break
            except requests.ConnectionError:
                assert api.poll() is None, api.stdout.read()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert answer.json()["info"]["title"] == "bg-pipeline"
        api.send_signal(signal.SIGINT)
        told, _ = api.communicate(timeout=30)
    assert "Traceback" not in told
    assert f"http://127.0.0.1:{port}/docs" in told
    assert api.returncode == 0
