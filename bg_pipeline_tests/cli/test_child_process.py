"""A kept program ends with everything it started when its parent does."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

# A program with a child in its session; both write who they are, the stubborn ones do not hear signals.
PROGRAM = """
import os, signal, subprocess, sys, time
folder, stubborn = sys.argv[1], len(sys.argv) > 2
if stubborn:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(folder + "/pids.new", "w").write(f"{os.getpid()} {child.pid}")
os.rename(folder + "/pids.new", folder + "/pids")
time.sleep(600)
"""
PARENT = """
import subprocess, sys, time
command = [sys.executable, "-m", "bg_pipeline.cli.child_process", *sys.argv[1:]]
process = subprocess.Popen(command, stdin=subprocess.PIPE)
time.sleep(600)
"""


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    patience = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < patience
        time.sleep(0.02)


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def command(folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, str(folder), *more]


def test_the_programs_exit_code_is_the_keepers() -> None:
    keeper = [
        sys.executable,
        "-m",
        "bg_pipeline.cli.child_process",
        sys.executable,
        "-c",
        "import sys; sys.exit(7)",
    ]
    with subprocess.Popen(keeper, stdin=subprocess.PIPE) as process:
        assert process.wait(30) == 7


@pytest.mark.skipif(not os.path.exists("/proc"), reason="reads Linux's list of processes")
@pytest.mark.parametrize("more", [[], pytest.param(["stubborn"], marks=pytest.mark.slow)])
def test_a_parent_that_is_killed_takes_all_with_it(tmp_path: Path, more: list[str]) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, *command(tmp_path, *more)]) as parent:
        until((tmp_path / "pids").exists)
        pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
        parent.kill()
        parent.wait()
        until(lambda: all(map(ended, pids)), 60)
