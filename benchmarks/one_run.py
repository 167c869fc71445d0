"""One run over some dates in its own process: prints "ready", waits for a line, runs, prints the result as JSON."""

import argparse
import json
import re
import sys
import time
from datetime import date
from pathlib import Path

from bg_pipeline import pipeline
from bg_pipeline.domain.stages import STAGES
from bg_pipeline.settings import settings


def peak_mb() -> float:
    """Peak memory (RSS) of this process; unlike ru_maxrss it does not include that of the forking process."""
    match = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return int(match[1]) / 1024


parser = argparse.ArgumentParser()
parser.add_argument("dates", nargs="+", type=date.fromisoformat)
parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
options = parser.parse_args()
chosen = settings()
print("ready", flush=True)
sys.stdin.readline()
began, cpu = time.monotonic(), time.process_time()
results = pipeline.run(chosen, options.dates, stages=options.stages)
print(
    json.dumps(
        {
            "began": began,
            "ended": time.monotonic(),
            "cpu": time.process_time() - cpu,
            "peak_mb": peak_mb(),
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
