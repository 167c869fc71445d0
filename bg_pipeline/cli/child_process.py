"""Runs a program that ends, with all it started, when its parent does.

``python -m bg_pipeline.cli.child_process COMMAND…``

Dagster's processes outlive a killed parent. The keeper runs the program in a session of its own. Once the
keeper's standard input is closed, as it is when its parent ends in whatever way, the program is interrupted,
then everything left in the session is terminated, then killed.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

INTERRUPTED_SECONDS = 20.0
"""What the program gets to end in order; Dagster takes about 3."""
TERMINATED_SECONDS = 10.0
"""What the rest of the session gets then, such as runs that wait for calls under way, because these are paid for."""


def run_with_parent(command: list[str]) -> int:
    """Runs the command until it ends or the parent does; returns its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        # What is ignored here would be ignored there, and Dagster would not hear that it should end.
        preexec_fn=_hear_signals,
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
        patience = time.monotonic() + TERMINATED_SECONDS
        while time.monotonic() < patience:
            child.poll()
            os.killpg(child.pid, 0)
            time.sleep(0.1)
        os.killpg(child.pid, signal.SIGKILL)
    return child.wait()


def _hear_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(run_with_parent(sys.argv[1:]))
