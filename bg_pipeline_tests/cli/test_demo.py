"""The demo and `up`, as a visitor has them: real processes on a folder of their own."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from PIL import Image

from bg_pipeline.cli import demo
from bg_pipeline.cli.arguments import today
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.requests import read
from bg_pipeline.local_aws import BUCKET
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.submitting import LocalFile
from bg_pipeline_tests.pictures import photo

BG = [sys.executable, "-m", "bg_pipeline.cli.main"]


def bg(*words: object, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*BG, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


def until(true: Callable[[], bool], seconds: float = 120) -> None:
    patience = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < patience
        time.sleep(0.1)


def processes_of(folder: Path) -> list[str]:
    """The processes that have this folder in their command or in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes()
            if (
                str(folder).encode() in words + (entry / "environ").read_bytes()
                and int(entry.name) != os.getpid()
            ):
                found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_one_of_the_demos_batches_is_the_request_of_the_contract() -> None:
    before = today()
    with demo._packaged_batches() as wanted:
        first, second = wanted
        assert all(photo.path.is_file() for each in wanted for photo in each.photos)
        batch = Batch(first.date, first.name)
        request = json.loads(first.request(batch))
    assert before <= batch.date <= today()
    day = f"{batch.date:%Y/%m/%d}"
    assert request == {
        "Id": "621fa85a-38bb-4d98-a656-93bbbcf5477f",
        "S3Bucket": BUCKET,
        "InputS3Prefix": f"image-files/{day}/101530",
        "OutputS3Prefix": f"generated-image-files/{day}/101530",
        "StatusS3Prefix": f"status-report-files/{day}/101530",
        "Prompt": "london city background",
        "NegativePrompt": "low quality, low resolution",
        "Mode": "PRECISE",
        "Images": [
            {"ImageName": "bus.png", "Labels": "Bus, Person"},
            {"ImageName": "dog.png", "Labels": "Dog"},
        ],
    }
    other = Batch(second.date, second.name)
    assert other.date == batch.date - timedelta(1)
    assert len(read(second.request(other), bucket=BUCKET, batch=other).entries) == 4


def test_the_demos_two_batches_are_of_two_dates_also_at_midnight(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([date(2026, 12, 31), date(2027, 1, 1)])
    monkeypatch.setattr(demo, "today", lambda: next(clock))
    with demo._packaged_batches() as wanted:
        assert [each.date for each in wanted] == [date(2026, 12, 31), date(2026, 12, 30)]


def test_on_the_next_day_the_demo_finds_its_batches_again(s3, stand_in: object, tmp_path: Path) -> None:
    with contextlib.suppress(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket=BUCKET)
    store, configured = Store(s3, BUCKET), settings(bucket=BUCKET)
    (tmp_path / "a.jpg").write_bytes(photo())
    files = [LocalFile(tmp_path / "a.jpg", "a.jpg")]
    own = demo._user_batch(files, "beach")
    yesterday = demo.DemoBatch(own.date - timedelta(1), own.name, files, own.fields)
    assert demo._submit(store, configured, yesterday) == demo._submit(store, configured, own)
    assert demo._user_batch(files, "city").name != own.name


@pytest.mark.slow
def test_the_demo_makes_every_picture_and_a_second_one_pays_for_nothing(tmp_path: Path) -> None:
    first = bg("demo", "--state-dir", tmp_path)
    assert first.returncode == 0, first.stderr
    assert "asks for" in first.stderr
    assert len(re.findall("Succeeded", first.stdout)) == 6
    assert "generated-image-files/" in first.stdout
    Image.open(tmp_path / "pictures" / "contact_sheet.jpg").load()
    for kind in ("before", "after"):
        kept = list((tmp_path / "pictures").glob(f"*/{kind}/*"))
        assert len(kept) == 6
        for picture in kept:
            Image.open(picture).load()
    again = bg("demo", "--state-dir", tmp_path)
    assert again.returncode == 0, again.stderr
    assert "No model was called" in again.stderr
    assert again.stdout == first.stdout
    # The resource tracker of the worker processes ends just after its parent.
    until(lambda: not processes_of(tmp_path), 30)


@pytest.mark.slow
def test_a_demo_of_ones_own_tells_what_is_no_photo(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a+b 100% 'x' = 😀.jpg").write_bytes(photo(size=(600, 450)))
    (photos / "page.jpg").write_text("<html>404</html>")
    done = bg("demo", photos, "--prompt", "snowy mountains", "--state-dir", tmp_path / "state")
    assert done.returncode == 1
    assert "a+b 100% 'x' = 😀.jpg" in done.stdout
    assert len(re.findall("Succeeded", done.stdout)) == 1
    assert "not a photo" in done.stdout
    nothing = bg(
        "demo", photos / "page.jpg", "--prompt", "snowy mountains", "--state-dir", tmp_path / "state"
    )
    assert nothing.returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_ends_everything_and_goes_on_next_time(
    tmp_path: Path, how: signal.Signals
) -> None:
    with subprocess.Popen(
        [*BG, "demo", "--state-dir", str(tmp_path)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if "asks for" in line:
                break
        process.send_signal(how)
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 130
        assert "Traceback" not in errors
    until(lambda: not processes_of(tmp_path), 30)
    assert bg("demo", "--state-dir", tmp_path).returncode == 0


@contextlib.contextmanager
def up(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A running `up` and what it said."""
    with subprocess.Popen(
        [*BG, "up", "--state-dir", str(folder), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout
            said: dict[str, str] = {}
            for line in process.stdout:
                name, _, value = line.partition(": ")
                said[name] = value.strip()
                if "Ctrl-C ends" in line:
                    break
            assert "Dagster" in said, said
            yield process, said
        finally:
            process.kill()


SENSOR = """
{ sensorOrError(sensorSelector: {
    repositoryLocationName: "bg_pipeline", repositoryName: "__repository__", sensorName: "new_uploads"
  }) { ... on Sensor { sensorState { status } } } }
"""


def ask(address: str, query: str) -> dict[str, object]:
    request = urllib.request.Request(
        f"{address}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        found: dict[str, object] = json.load(answer)["data"]
        return found


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_up_shows_the_ui_turns_the_sensor_on_and_ends_everything(tmp_path: Path, how: signal.Signals) -> None:
    with socket.socket() as taken:
        # Somebody else has Dagster's usual port.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            taken.bind(("127.0.0.1", 3000))
            taken.listen()
        with up(tmp_path) as (process, said):
            assert not said["Dagster"].endswith(":3000")
            assert ask(said["Dagster"], SENSOR)["sensorOrError"] == {"sensorState": {"status": "RUNNING"}}
            assert said["Sensor is on"] == "new_uploads"
            second = bg("up", "--state-dir", tmp_path)
            assert second.returncode == 1
            assert "in use" in second.stderr
            process.send_signal(how)
            assert process.wait(60) == (-how if how == signal.SIGKILL else 130)
            until(lambda: not processes_of(tmp_path), 60)


@pytest.mark.slow
def test_up_runs_what_is_submitted_from_another_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jpg").write_bytes(photo(size=(600, 450)))
    state = tmp_path / "state"
    monkeypatch.setenv("BG_STATE_DIR", str(state))
    with up(state) as (process, _):
        batch = bg("submit", "--local", tmp_path / "a.jpg", "--prompt", "snowy mountains").stdout.strip()
        until(lambda: bg("status", "--local", batch).returncode == 0, 200)
        assert "Succeeded" in bg("report", "--local", batch).stdout
        process.send_signal(signal.SIGINT)
        process.wait(60)
