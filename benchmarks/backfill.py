"""A backfill of many dates by Dagster's daemon: wall time, CPU, and the size of the history it writes.

    python -m benchmarks.backfill [--dates 1000] [--images 1] [--pause 60]

`bg-pipeline up` runs against local services. A backfill of all five assets is launched for every date through
Dagster's GraphQL API, and then a second time, when nothing is left to do. CPU includes Dagster's web server, daemon
and runs, but not the services; its idle CPU is printed too.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from benchmarks.rig import ROOT, environment_variables, jpeg, rig, submit, table
from bg_pipeline.domain.stages import STAGES

FIRST = date(2024, 1, 1)
POLL_SECONDS = 1.0

LAUNCH = """
mutation ($dates: [String!]!, $assets: [AssetKeyInput!]!) {
  launchPartitionBackfill(backfillParams: {partitionNames: $dates, assetSelection: $assets, fromFailure: false}) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }
"""
STATUS = """
query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {
  status numPartitions runs(limit: 1000) { status } } } }
"""


def graphql(address: str, query: str, **variables: Any) -> Any:
    """The ``data`` of a GraphQL response."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as answer:
        return json.load(answer)["data"]


def cpu_of_tree(pid: int) -> float:
    """CPU seconds of a process and all its descendants, including those that have ended and were waited for."""
    parents: dict[int, int] = {}
    spent: dict[int, float] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)] = int(fields[1])
            spent[int(entry.name)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def is_inside(each: int) -> bool:
        while each not in (0, 1, pid):
            each = parents.get(each, 0)
        return each == pid

    return sum(seconds for each, seconds in spent.items() if is_inside(each))


def megabytes(folder: Path) -> float:
    """Size of all SQLite files in a folder, recursively."""
    return sum(file.stat().st_size for file in folder.rglob("*.db*") if file.is_file()) / 1e6


@contextlib.contextmanager
def dagster(state: Path, **settings: Any) -> Iterator[tuple[int, str]]:
    """Runs `bg-pipeline up` in a process; yields its id and Dagster's address."""
    command = [sys.executable, "-m", "bg_pipeline.cli.main", "up", "--aws", "--state-dir", str(state)]
    with subprocess.Popen(
        command,
        env=os.environ | environment_variables(**settings),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        try:
            assert process.stdout
            address = ""
            for line in process.stdout:
                if line.startswith("Dagster:"):
                    address = line.split()[1]
                if "Ctrl-C ends" in line:
                    break
            assert address
            yield process.pid, address
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


def backfill(pid: int, address: str, home: Path, dates: list[date]) -> list[object]:
    """Launches a backfill of all assets of the dates, waits for its end and returns the table's row."""
    began, cpu, size = time.monotonic(), cpu_of_tree(pid), megabytes(home)
    data = graphql(
        address,
        LAUNCH,
        dates=[f"{day}" for day in dates],
        assets=[{"path": [name]} for name in ("raw_images", *STAGES)],
    )
    launched = data["launchPartitionBackfill"]
    assert "backfillId" in launched, launched
    while True:
        status = graphql(address, STATUS, id=launched["backfillId"])["partitionBackfillOrError"]
        if status["status"] not in ("REQUESTED", "IN_PROGRESS"):
            break
        time.sleep(POLL_SECONDS)
    assert status["status"] in ("COMPLETED", "COMPLETED_SUCCESS"), status
    assert {run["status"] for run in status["runs"]} == {"SUCCESS"}, status
    wall, cpu, size = time.monotonic() - began, cpu_of_tree(pid) - cpu, megabytes(home) - size
    runs, count = len(status["runs"]), len(dates)
    return [
        count,
        runs,
        f"{wall:.0f}",
        f"{wall / count:.2f}",
        f"{cpu / count:.2f}",
        f"{size:.0f}",
        f"{size / count * 1000:.0f}",
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dates", type=int, default=1000)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument(
        "--pause", type=float, default=60, help="seconds for which Dagster's idle CPU is measured"
    )
    options = parser.parse_args()
    dates = [FIRST + timedelta(days=number) for number in range(options.dates)]
    photo = jpeg((640, 480))
    with rig() as services, tempfile.TemporaryDirectory() as folder:
        store = services.bucket()
        for number, day in enumerate(dates):
            submit(store, photo, options.images, day=day, first=number * options.images)
        settings = {
            "bucket": store.bucket,
            "max_cost_usd": 0,
            "quota_titan_v2_rpm": 100_000,
            "quota_caption_rpm": 100_000,
            "quota_detect_labels_tps": 2000,
        }
        home = Path(folder) / "dagster-aws" / store.bucket
        with dagster(Path(folder), **settings) as (pid, address):
            time.sleep(options.pause)
            before = cpu_of_tree(pid)
            time.sleep(options.pause)
            idle = (cpu_of_tree(pid) - before) / options.pause if options.pause else 0.0
            print(f"With nothing to do Dagster takes {idle:.2f} of a core.\n", flush=True)
            head = ("", "dates", "runs", "wall s", "wall s a date", "CPU s a date", "history MB", "KB a date")
            rows = (
                [name, *backfill(pid, address, home, dates)] for name in ("all to do", "all done already")
            )
            table(head, rows)
        paid = services.control.paid(operation="InvokeModel")
        assert len(paid) == options.dates * options.images, len(paid)


if __name__ == "__main__":
    main()
