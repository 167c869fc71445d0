"""The suite at another time of day: the clock that it is run with, and those of its tests that work with dates."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from bg_pipeline_tests import shifted_clock

pytestmark = pytest.mark.slow


def test_all_processes_of_a_test_share_its_clock_and_durations_are_real(tmp_path: Path) -> None:
    suite = tmp_path / "test_clocks.py"
    suite.write_text(
        textwrap.dedent(
            """
            import multiprocessing, subprocess, sys, threading, time
            from datetime import UTC, date, datetime

            CHILD = "import datetime; print(datetime.datetime.now(datetime.UTC).isoformat())"

            def test_midnight_passes():
                assert f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}" == "2028-02-28 23:59:59"
                since = time.monotonic()
                time.sleep(0.6)
                assert threading.Event().wait(0.1) is False
                lock = multiprocessing.Lock()
                lock.acquire()
                assert lock.acquire(timeout=0.1) is False
                assert 0.7 < time.monotonic() - since < 30
                child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True).stdout
                assert child.startswith("2028-02-29T00:00:")
                assert date.fromtimestamp(time.time()).day == 29

            def test_each_test_begins_at_the_same_time():
                assert f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}" == "2028-02-28 23:59:59"
            """
        )
    )
    quiet = ["-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", tmp_path, suite]
    assert shifted_clock.run("2028-02-28 23:59:59.4", [str(word) for word in quiet]) == 0


def test_a_time_that_is_none_is_refused_with_how_to_say_it() -> None:
    command = [sys.executable, "-m", "bg_pipeline_tests.shifted_clock", "tomorrow"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "2026-12-31 23:59:59.8" in refused.stderr


@pytest.mark.timeout(1200)
def test_what_works_with_dates_does_so_over_the_end_of_a_year_far_from_greenwich(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    assert shifted_clock.run("2026-12-31 23:59:59.7", ["-q", "-m", "dates and not slow"]) == 0
