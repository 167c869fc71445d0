"""Starting and stopping the stand-in: persistence, the folder's lock, and no process outlives its parent."""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest

from bg_pipeline_local_aws.launcher import LocalAws, LocalAwsError, local_aws, running
from bg_pipeline_tests.local_aws.pictures import ball

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

HOLDER = """
import sys, time
from bg_pipeline_local_aws.launcher import local_aws
with local_aws(sys.argv[1], workers=1) as stand_in:
    print("up", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs a stand-in."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        try:
            yield process
        finally:
            process.kill()


def listening(address: str) -> bool:
    """True if a server listens at the address."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) == 0


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Polls a condition until the time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def descendants(parent: int) -> set[int]:
    """The ids of all child processes, recursively."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {parent}
    while new := {child for child, its_parent in parents.items() if its_parent in found} - found:
        found |= new
    return found - {parent}


def alive(process: int) -> bool:
    """True if the process exists and is not a zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def analyze_a_picture(stand_in: LocalAws) -> None:
    """Makes the stand-in start a process of its pool."""
    client = boto3.client("rekognition", endpoint_url=stand_in.models)
    client.detect_labels(Image={"Bytes": ball()})


def test_state_and_address_survive_a_restart(tmp_path: Path) -> None:
    with local_aws(tmp_path, workers=1) as first:
        s3 = boto3.client("s3", endpoint_url=first.storage)
        sqs = boto3.client("sqs", endpoint_url=first.storage)
        s3.create_bucket(Bucket="shop")
        s3.put_object(Bucket="shop", Key="a", Body=b"data", Metadata={"by": "me"})
        sqs.send_message(QueueUrl=sqs.create_queue(QueueName="q")["QueueUrl"], MessageBody="hello")
    assert not listening(first.storage)
    assert not listening(first.models)
    with local_aws(tmp_path, workers=1) as second:
        assert second == first
        found = s3.get_object(Bucket="shop", Key="a")
        assert (found["Body"].read(), found["Metadata"]) == (b"data", {"by": "me"})
        (message,) = sqs.receive_message(QueueUrl=sqs.get_queue_url(QueueName="q")["QueueUrl"])["Messages"]
        assert message["Body"] == "hello"


def test_another_port_is_used_if_the_last_one_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "running.json").write_text(
            json.dumps({"storage": f"http://127.0.0.1:{port}", "models": ""})
        )
        with local_aws(tmp_path, workers=1) as stand_in:
            assert stand_in.storage != f"http://127.0.0.1:{port}"
            boto3.client("s3", endpoint_url=stand_in.storage).list_buckets()


def test_a_folder_has_one_stand_in_at_a_time_that_other_processes_can_find(tmp_path: Path) -> None:
    assert running(tmp_path) is None
    with local_aws(tmp_path, workers=1) as stand_in:
        assert running(tmp_path) == stand_in
        with pytest.raises(LocalAwsError, match=f"in use by process {os.getpid()}"), local_aws(tmp_path):
            pass
    assert running(tmp_path) is None


def test_the_error_names_a_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LocalAwsError, match=r"pip install 'bg-pipeline\[local\]'"), local_aws(tmp_path):
        pass


def test_the_error_of_a_server_that_does_not_start_has_its_last_log_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with (
        pytest.raises(LocalAwsError, match=r"storage server did not start.*storage\.log"),
        local_aws(tmp_path),
    ):
        pass


@ON_LINUX
def test_nothing_listens_beyond_loopback(stand_in: LocalAws) -> None:
    ports = {int(address.rpartition(":")[2]) for address in (stand_in.storage, stand_in.models)}
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = [line[1] for line in lines if line[3] == "0A" and int(line[1].partition(":")[2], 16) in ports]
    assert len(ours) == 2
    assert {place.partition(":")[0] for place in ours} == {"0100007F"}


@pytest.mark.slow
@ON_LINUX
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_everything_ends_with_its_parent_and_keeps_its_state(tmp_path: Path, how: signal.Signals) -> None:
    with holder(tmp_path) as parent:
        found = running(tmp_path)
        assert found
        analyze_a_picture(found)
        s3 = boto3.client("s3", endpoint_url=found.storage)
        s3.create_bucket(Bucket="shop")
        family = descendants(parent.pid)
        assert len(family) >= 3
        parent.send_signal(how)
        parent.wait(20)
        wait_until(lambda: not any(map(alive, family)))
    # A new one can start at once, even if the old one is still writing its state.
    with local_aws(tmp_path, workers=1):
        assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["shop"]


@pytest.mark.slow
def test_a_new_stand_in_waits_for_a_killed_ones_servers(tmp_path: Path) -> None:
    with holder(tmp_path) as parent:
        parent.kill()
        parent.wait()
        with local_aws(tmp_path, workers=1) as stand_in:
            boto3.client("s3", endpoint_url=stand_in.storage).list_buckets()


@pytest.mark.slow
@ON_LINUX
def test_in_the_foreground_it_prints_its_variables_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bg_pipeline_local_aws", str(tmp_path), "--region", "eu-west-1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout
        lines: list[str] = []
        while not (lines and lines[-1].startswith("export no_proxy")):
            lines.append(process.stdout.readline())
            assert lines[-1]
        assert "export AWS_REGION=eu-west-1\n" in lines
        family = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert not any(map(alive, family))
