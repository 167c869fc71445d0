"""One run over some dates, in a process of its own: says "ready", waits for a line, runs, tells how it went."""

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
    """The most memory this process has held; ru_maxrss would begin with that of the process it was forked from."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


parser = argparse.ArgumentParser()
parser.add_argument("dates", nargs="+", type=date.fromisoformat)
parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
asked = parser.parse_args()
chosen = settings()
print("ready", flush=True)
sys.stdin.readline()
began, cpu = time.monotonic(), time.process_time()
ended = pipeline.run(chosen, asked.dates, stages=asked.stages)
print(
    json.dumps(
        {
            "began": began,
            "ended": time.monotonic(),
            "cpu": time.process_time() - cpu,
            "peak_mb": peak_mb(),
            "walked": sum(day.due for day in ended.values()),
            "counts": {
                status: sum(day.counts[status] for day in ended.values())
                for status in sorted({status for day in ended.values() for status in day.counts})
            },
            "causes": sorted({row.Cause for day in ended.values() for row in day.failed_rows})[:3],
        }
    ),
    flush=True,
)
