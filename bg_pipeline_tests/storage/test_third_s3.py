"""A third maker's S3 (s3rver, for Node.js) ignores conditions: the doctor refuses it, and one process can use it.

It cannot hold every key that S3 can: empty segments, a leading "=" and copies of names with "+" or "%" fail there.
"""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from bg_pipeline.doctor.bucket import configuration, reads_and_writes
from bg_pipeline.doctor.findings import Level
from bg_pipeline.domain.rows import Status
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench

S3RVER = "s3rver@3.7.1"
FOLDER = Path(__file__).parents[2] / ".s3rver"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program() -> list[str]:
    """The command of s3rver, which npm installs the first time."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed (.ci/run installs it)")
    script = FOLDER / "node_modules" / "s3rver" / "bin" / "s3rver.js"
    if not script.exists():
        install = [
            "npm",
            "install",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--prefix",
            str(FOLDER),
            S3RVER,
        ]
        installed = subprocess.run(install, capture_output=True, text=True, check=False, timeout=240)
        if installed.returncode:
            pytest.skip(f"npm's packages cannot be installed here: {installed.stderr[-300:]}")
    return ["node", str(script)]


@pytest.fixture
def store(program: list[str], tmp_path: Path) -> Iterator[Store]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [
        "-d",
        str(tmp_path),
        "-a",
        "127.0.0.1",
        "-p",
        f"{port}",
        "--configure-bucket",
        "photos",
        "--silent",
    ]
    process = subprocess.Popen([*program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="S3RVER",
        aws_secret_access_key="S3RVER",
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "s3rver did not start"
                time.sleep(0.1)
        yield Store(client, "photos")
    finally:
        client.close()
        process.terminate()
        process.wait()


def test_the_doctor_names_every_condition_that_is_ignored(store: Store) -> None:
    (finding,) = reads_and_writes(store)
    assert finding.level is Level.FAILED
    for condition in (
        "If-None-Match",
        "a write of one version",
        "x-amz-copy-source-if-match",
        "DeleteObject",
    ):
        assert condition in finding.words
    assert "must not be used by several processes at once" in finding.words
    assert list(store.list("pipeline-state/")) == []


def test_what_it_cannot_say_about_its_settings_is_no_failure(store: Store) -> None:
    assert Level.FAILED not in {finding.level for finding in configuration(store)}


@pytest.mark.parametrize("key", ["a/b.txt", "sub folder/b.txt", "画像/😀.png"])
def test_objects_are_what_was_stored(store: Store, key: str) -> None:
    etag = store.write(key, b"data", media_type="text/plain", metadata={"a": "b"})
    content = store.read(key)
    assert (content.data, content.etag, content.metadata) == (b"data", etag, {"a": "b"})
    assert [(info.key, info.size, info.etag) for info in store.list("")] == [(key, 4, etag)]
    store.copy(key, "copy")
    assert store.read("copy").data == b"data"
    store.delete(key)
    assert store.read(key) is None
    assert store.head(key) is None
    store.delete(key)


def test_one_process_runs_a_date_and_pays_once(store: Store, control: ControlClient) -> None:
    control.switch(canned=True)
    bench = Bench(store)
    batch = bench.submit(3)
    assert bench.run().counts == {Status.SUCCEEDED: 3}
    control.mark()
    assert bench.run().due == 0
    assert control.paid() == []
    assert len(bench.rows(batch)) == 3
