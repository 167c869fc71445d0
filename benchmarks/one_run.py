"""One run over some dates in its own process: prints "ready", waits for a line, runs, prints the result as JSON."""

import argparse
import json
import multiprocessing
import os
import re
import resource
import sys
import time
from datetime import date
from pathlib import Path

from bg_pipeline import pipeline
from bg_pipeline.domain.stages import STAGES
from bg_pipeline.settings import settings


def peak_mb(process: int | str = "self") -> float:
    """Peak memory (RSS) of a process; unlike ru_maxrss it does not include that of the forking process."""
    match = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert match
    return int(match[1]) / 1024


def workers() -> list[int]:
    """The worker processes that are alive."""
    return [process.pid for process in multiprocessing.active_children() if process.pid]


def cpu() -> float:
    """CPU seconds of this process, of its workers and of those that have ended."""
    seconds = time.process_time()
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds += ended.ru_utime + ended.ru_stime
    for process in workers():
        user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
        seconds += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return seconds


parser = argparse.ArgumentParser()
parser.add_argument("dates", nargs="+", type=date.fromisoformat)
parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
options = parser.parse_args()
chosen = settings()
print("ready", flush=True)
sys.stdin.readline()
began, cpu_before = time.monotonic(), cpu()
results = pipeline.run(chosen, options.dates, stages=options.stages)
print(
    json.dumps(
        {
            "began": began,
            "ended": time.monotonic(),
            "cpu": cpu() - cpu_before,
            "peak_mb": peak_mb(),
            "workers_mb": [round(peak_mb(process)) for process in workers()],
            "processed": sum(day.due for day in results.values()),
            "counts": {
                status: sum(day.counts[status] for day in results.values())
                for status in sorted({status for day in results.values() for status in day.counts})
            },
            "causes": sorted({row.Cause for day in results.values() for row in day.failed_rows})[:3],
        }
    ),
    flush=True,
)
