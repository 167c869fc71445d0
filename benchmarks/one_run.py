"""One run of the pipeline over some dates, for a benchmark: says "ready", waits for a line, runs, tells how it went."""

import json
import resource
import sys
import time
from datetime import date

from bg_pipeline import pipeline
from bg_pipeline.settings import settings

chosen = settings()
dates = [date.fromisoformat(day) for day in sys.argv[1:]]
print("ready", flush=True)
sys.stdin.readline()
began, cpu = time.monotonic(), time.process_time()
ended = pipeline.run(chosen, dates)
print(
    json.dumps(
        {
            "began": began,
            "ended": time.monotonic(),
            "cpu": time.process_time() - cpu,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "walked": sum(day.walked for day in ended.values()),
            "counts": {
                status: sum(day.counts[status] for day in ended.values())
                for status in sorted({status for day in ended.values() for status in day.counts})
            },
            "causes": sorted({row.Cause for day in ended.values() for row in day.troubled})[:3],
        }
    ),
    flush=True,
)
