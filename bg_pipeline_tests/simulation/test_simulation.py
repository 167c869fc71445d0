"""Whatever fails, and whoever looks: simulations of runs, faults and people keep every invariant."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bg_pipeline_tests.simulation import plan, trial

ROOT = Path(__file__).parents[2]
KEPT = Path(__file__).with_name("kept_plans.jsonl")
SEEDS, EACH = 200, 20
SLOW_SEEDS, SLOW_EACH, PROCESSES = 3000, 200, 2


def simulate(*arguments: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """Runs the benchmark, in a process of its own: a simulation replaces what threads and clocks are."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.simulation", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.mark.parametrize("first", range(0, SEEDS, EACH))
def test_every_invariant_holds(first: int) -> None:
    ran = simulate("--first", str(first), "--seeds", str(EACH), "--most", "1")
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("first", range(SEEDS, SLOW_SEEDS, SLOW_EACH))
def test_every_invariant_holds_for_thousands_of_seeds(first: int) -> None:
    each = SLOW_EACH // PROCESSES
    starts = [str(start) for start in range(first, min(first + SLOW_EACH, SLOW_SEEDS), each)]
    with ThreadPoolExecutor(PROCESSES) as pool:
        for ran in pool.map(
            lambda start: simulate("--first", start, "--seeds", str(each), "--most", "1"), starts
        ):
            assert ran.returncode == 0, ran.stdout + ran.stderr


def test_plans_that_broke_an_invariant_once_do_so_no_more() -> None:
    ran = simulate("--plan", str(KEPT), "--most", "0")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_same_seed_goes_the_same_way() -> None:
    # Seed 3 has a refresh that is repeated; each number of virtual seconds in its trace depends on all before it.
    first, second = (simulate("--seed", "3", "--trace", "--no-shrink").stdout for _ in range(2))
    assert "RUN run1" in first
    assert first.splitlines()[:-1] == second.splitlines()[:-1]  # the last line tells how long it took


def test_a_plan_is_shrunk_to_what_breaks_the_invariant(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = plan.draw(3)
    needed = whole.steps[1]

    def try_plan(tried: plan.Plan, **_: object) -> list[trial.Broken]:
        return [trial.Broken("caps_hold", "")] if needed in tried.steps else []

    monkeypatch.setattr(trial, "try_plan", try_plan)
    smallest = trial.shrink(whole, "caps_hold")
    assert smallest.steps == (needed,)
    assert [len(spec["photos"]) for spec in smallest.batches.values()] == [1]


def test_a_plan_is_the_same_after_it_was_written_and_read() -> None:
    drawn = plan.draw(5)
    assert plan.Plan.read(drawn.json()) == drawn


@pytest.mark.parametrize("first", range(0, 60, EACH))
def test_every_invariant_holds_with_batches_that_several_runs_share(first: int) -> None:
    ran = simulate("--parts", "--first", str(first), "--seeds", str(EACH), "--most", "1")
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("first", range(0, 60, EACH))
def test_every_invariant_holds_with_scenes(first: int) -> None:
    ran = simulate("--scenes", "--first", str(first), "--seeds", str(EACH), "--most", "1")
    assert ran.returncode == 0, ran.stdout + ran.stderr
