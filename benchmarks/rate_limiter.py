"""The rate limiter in simulated time: run length divided by the minimum (images / quota), and refused calls.

Run `python -m benchmarks.rate_limiter` in the repository's root; it takes about a minute. It assumes 120 requests per
minute in each Region and the service model of `bg_pipeline_tests/rate_limits/simulation.py`.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any

from bg_pipeline.rate_limits.limiter import Rate, RateLimiter
from bg_pipeline_tests.rate_limits.simulation import SHAPES, simulate

SEEDS = (1, 2, 3)
CALLS = 20_000


def row(name: str, *, seeds: Sequence[int] = SEEDS, **run: Any) -> None:
    """Prints a row of the table: the worst ratio and share of refused calls over the seeds, per quota shape."""
    cells = []
    for shape in SHAPES:
        outcomes = [simulate(shape=shape, seed=seed, **run) for seed in seeds]
        assert {outcome.done for outcome in outcomes} == {sum(run.get("images", (1000,)))}, (
            "an image was lost"
        )
        ratio = max(outcome.ratio for outcome in outcomes)
        refused = max(outcome.refused for outcome in outcomes)
        cells.append(f"{ratio:.3f}, {refused:.2%}")
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def microseconds_for_a_call() -> float:
    """CPU of one call that does not have to wait, median of 5."""

    def once() -> float:
        limiter = RateLimiter("benchmark", {"a": Rate(1e9)})
        started = time.process_time()
        for _ in range(CALLS):
            limiter.acquire().succeeded()
        return (time.process_time() - started) / CALLS * 1e6

    return statistics.median(once() for _ in range(5))


def main() -> None:
    """Prints the table and the CPU of a call."""
    started = time.monotonic()
    print("Worst of 3 seeds: run length / floor, refused calls. No image was lost in any run.\n")
    print("| run | " + " | ".join(SHAPES) + " |\n|" + " --- |" * (len(SHAPES) + 1))
    row("quota right, N = 100", images=(100,))
    row("quota right, N = 1,000")
    row("quota right, N = 10,000", images=(10_000,), seeds=SEEDS[:1])
    row("quota right, 20 a minute, N = 1,000", per_minute=20.0)
    row("the same, 40 a minute, calls travel up to 5 ms", per_minute=40.0, jitter=0.005)
    row("the same, calls travel up to 20 ms", per_minute=40.0, jitter=0.02)
    row("configured 1.02 times too high", configured=1.02)
    row("configured 1.5 times too high", configured=1.5)
    row("configured 4 times too high", configured=4.0)
    row("the same, N = 10,000", configured=4.0, images=(10_000,), seeds=SEEDS[:1])
    row("the same, 20 a minute", configured=4.0, per_minute=20.0)
    row("the same, calls travel up to 50 ms", configured=4.0, jitter=0.05)
    row("configured 4 times too low", configured=0.25)
    row("the same, may_probe", configured=0.25, may_probe=True)
    row("the same, may_probe, N = 10,000", configured=0.25, may_probe=True, images=(10_000,), seeds=SEEDS[:1])
    row("quota right, may_probe", may_probe=True)
    row("4 processes, 250 each", images=(250,) * 4)
    row("4 processes, 50/100/250/600", images=(50, 100, 250, 600))
    row("the same, heartbeats every 10 s", images=(50, 100, 250, 600), beat=10.0)
    row("the same, without places", images=(50, 100, 250, 600), places=False)
    row("4 processes that start at 0, 30, 90, 200 s", images=(400, 200, 200, 200), starts=(0, 30, 90, 200))
    row("4 processes, configured 4 times too high", images=(250,) * 4, configured=4.0)
    row("3 Regions, N = 3,000", images=(3000,), regions="abc")
    row("the same, one fails from 100 to 200 s", images=(3000,), regions="abc", broken={"b": (100, 200)})
    print(f"\nCPU of a call that need not wait: {microseconds_for_a_call():.0f} µs")
    print(f"Took {time.monotonic() - started:.0f} s.")


if __name__ == "__main__":
    main()
