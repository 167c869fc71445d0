"""A MiniStack with all its services, in which a CloudFormation stack of the template can be made."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

START_SECONDS = 60.0

SERVER = """
import os, sys
folder, port = sys.argv.pop(), sys.argv.pop()
os.environ |= {
    "BIND_HOST": "127.0.0.1", "MINISTACK_HOST": "127.0.0.1", "GATEWAY_PORT": port, "TMPDIR": folder,
    "S3_DATA_DIR": folder, "STATE_DIR": folder, "LOG_LEVEL": "ERROR", "AUTH": "false",
    "IOT_MTLS_ENABLED": "0", "SFTP_ENABLED": "0", "DOCKER_HOST": "unix:///nowhere",
}
from ministack.app import main
main()
"""


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a MiniStack with an empty account. It runs no containers."""
    folder: Path = tmp_path_factory.mktemp("account")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MINISTACK_"))
    }
    environment.pop("SERVICES", None)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER, str(port), str(folder)],
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            try:
                opener.open(f"http://127.0.0.1:{port}/_ministack/health", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, "MiniStack did not start"
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)
