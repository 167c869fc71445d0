"""Runs tests at another time of day, in all processes that they start:

    python -m bg_pipeline_tests.shifted_clock "2026-12-31 23:59:59.8" [pytest's arguments]

Each test starts at this time (UTC) and the clock advances from there; with the time above, midnight passes during
every test. Only the time of day is shifted, not monotonic clocks. Needs Linux and a C compiler.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

SHIFT = "SHIFTED_CLOCK"
"""Variable with the path of the file that holds the shift in nanoseconds; read by the preloaded library."""
BEGIN = "SHIFTED_CLOCK_BEGIN"
"""Variable with the start time of each test, in seconds since 1970."""


def run(begin: str, arguments: Sequence[str]) -> int:
    """Runs pytest with each test starting at ``begin`` (ISO 8601, UTC) and returns its exit code."""
    try:
        moment = datetime.fromisoformat(begin).replace(tzinfo=UTC)
    except ValueError:
        print(f"{begin!r} is not a time; give one like '2026-12-31 23:59:59.8'", file=sys.stderr)  # noqa: T201
        return 2
    with tempfile.TemporaryDirectory() as folder:
        library, shift = Path(folder, "shifted_clock.so"), Path(folder, "shift")
        source = Path(__file__).with_suffix(".c")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        shift.write_bytes(bytes(8))
        shifted = {"LD_PRELOAD": str(library), SHIFT: str(shift), BEGIN: str(moment.timestamp())}
        command = [sys.executable, "-m", "pytest", "-p", "bg_pipeline_tests.shifted_clock"]
        # In its shared folder pytest would delete the folders of other sessions, which are old by this clock.
        command += [f"--basetemp={Path(folder, 'pytest')}", *arguments]
        return subprocess.run(command, env=os.environ | shifted, check=False).returncode


def _begin() -> None:
    begin = float(os.environ[BEGIN])
    with open(os.environ[SHIFT], "r+b", buffering=0) as file:
        shift = int.from_bytes(file.read(8), sys.byteorder, signed=True)
        shift += round((begin - time.time()) * 1e9)
        file.seek(0)
        file.write(shift.to_bytes(8, sys.byteorder, signed=True))
    assert abs(time.time() - begin) < 1, "the clock could not be shifted"


def pytest_configure() -> None:
    """Sets the clock before tests are collected, for modules that read it at import."""
    _begin()


def pytest_runtest_setup() -> None:
    """Sets the clock before the fixtures of each test."""
    _begin()


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
