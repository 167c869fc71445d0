"""Looks for what breaks a promise: thousands of seeded simulations of runs, faults and people (see README.md here).

``python -m benchmarks.simulation --seeds 1000`` tries seeds from 0 on; ``--seed 123 --trace`` shows one of them step
by step. Of a seed that breaks an invariant the smallest plan that still does is printed.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

from bg_pipeline_tests.simulation.invariants import INVARIANTS
from bg_pipeline_tests.simulation.old_faults import OLD_FAULTS
from bg_pipeline_tests.simulation.plan import Plan, draw
from bg_pipeline_tests.simulation.trial import Broken, shrink, try_plan


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds are tried")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--plan", type=Path, help="a plan in a file as JSON instead of seeds")
    parser.add_argument("--trace", action="store_true", help="tell each thing that happens")
    parser.add_argument("--no-shrink", action="store_true", help="print failing plans as they are")
    parser.add_argument("--without", action="append", default=[], help="leave an invariant out")
    parser.add_argument("--only", help="check this invariant alone")
    parser.add_argument("--put-back", choices=OLD_FAULTS, help="with a fault that the program once had")
    parser.add_argument("--skip", action="append", type=int, default=[], help="leave a seed out")
    parser.add_argument("--most", type=int, default=10, help="stop after so many failing seeds; 0: never")
    asked = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of texts are gone through in another order with each start otherwise.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(  # noqa: S606
            sys.executable, [sys.executable, "-m", "benchmarks.simulation", *sys.argv[1:]]
        )
    plans: Iterable[Plan]
    if asked.plan:
        plans = [Plan.read(line) for line in asked.plan.read_text().splitlines() if line.startswith("{")]
    else:
        first, number = (asked.seed, 1) if asked.seed is not None else (asked.first, asked.seeds)
        plans = map(draw, range(first, first + number))
    plans = (plan for plan in plans if plan.seed not in asked.skip)
    if asked.only:
        asked.without = [check.__name__ for check in INVARIANTS if check.__name__ != asked.only]
    with OLD_FAULTS[asked.put_back][0]() if asked.put_back else nullcontext():
        return 1 if _try(plans, asked) else 0


def _try(plans: Iterable[Plan], asked: argparse.Namespace) -> int:
    begun, failed = time.monotonic(), 0
    kinds: Counter[str] = Counter()
    tried = 0
    for plan in plans:
        if asked.trace:
            print(plan, flush=True)
        tried += 1
        broken = try_plan(plan, say=print if asked.trace else None, without=asked.without)
        if broken:
            failed += 1
            kinds.update({each.invariant for each in broken})
            _tell(plan, broken, asked)
            if failed == asked.most:
                break
    seconds = time.monotonic() - begun
    print(f"{tried} seeds, {failed} failed, {seconds / max(tried, 1):.2f} s each; {dict(kinds)}")
    return failed


def _tell(plan: Plan, broken: list[Broken], asked: argparse.Namespace) -> None:
    print(f"FAILED: python -m benchmarks.simulation --seed {plan.seed} --trace")
    for each in broken:
        print(f"  {each.invariant}: {each.what}")
    if not asked.no_shrink:
        smallest = shrink(plan, broken[0].invariant, without=asked.without)
        print(f"  the smallest plan that breaks it:\n{smallest}\n{smallest.json()}")


if __name__ == "__main__":
    sys.exit(main())
