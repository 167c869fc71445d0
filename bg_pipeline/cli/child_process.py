"""Runs a command and ends it, with all its child processes, when the parent process ends.

``python -m bg_pipeline.cli.child_process COMMAND…``

Without this, Dagster's processes would outlive a killed parent. The command runs in a new session. When the standard
input of this process is closed, which happens however its parent ends, the command gets SIGINT, then all processes
left in the session get SIGTERM, then SIGKILL.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

INTERRUPTED_SECONDS = 20.0
"""Time for the command to end after SIGINT; Dagster takes about 3 s."""
TERMINATED_SECONDS = 10.0
"""Time for the rest of the session to end after SIGTERM, such as runs that wait for the answers of paid calls."""


def run_with_parent(command: list[str]) -> int:
    """Runs the command until it or the parent process ends; returns the command's exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        # A child process inherits ignored signals, and Dagster would then not react to SIGINT.
        preexec_fn=_reset_signals,
    )
    while child.poll() is None and os.getppid() == parent:
        if select.select([sys.stdin], [], [], 0.5)[0] and not os.read(sys.stdin.fileno(), 4096):
            break
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(INTERRUPTED_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + TERMINATED_SECONDS
        while time.monotonic() < deadline:
            child.poll()
            os.killpg(child.pid, 0)
            time.sleep(0.1)
        os.killpg(child.pid, signal.SIGKILL)
    return child.wait()


def _reset_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(run_with_parent(sys.argv[1:]))
