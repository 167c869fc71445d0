"""Searches for violated invariants with thousands of seeded simulations of runs, faults and users (see README.md).

``python -m benchmarks.simulation --seeds 1000`` tries seeds from 0 on; ``--seed 123 --trace`` prints each event of
one seed. For a seed that violates an invariant the smallest plan that still violates it is printed.
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
from bg_pipeline_tests.simulation.plan import Plan, draw, draw_with_parts, draw_with_scenes
from bg_pipeline_tests.simulation.trial import Broken, shrink, try_plan


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="number of seeds")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--seed", type=int, help="try only this seed")
    parser.add_argument("--plan", type=Path, help="try the plans of this file (JSON lines) instead of seeds")
    parser.add_argument("--scenes", action="store_true", help="with scenes in place of most backgrounds")
    parser.add_argument(
        "--parts", action="store_true", help="with batches that several runs work on in parts"
    )
    parser.add_argument("--trace", action="store_true", help="print each event")
    parser.add_argument("--no-shrink", action="store_true", help="do not shrink failing plans")
    parser.add_argument("--without", action="append", default=[], help="do not check this invariant")
    parser.add_argument("--only", help="check only this invariant")
    parser.add_argument(
        "--put-back", choices=OLD_FAULTS, help="reintroduce a fault that the program once had"
    )
    parser.add_argument("--skip", action="append", type=int, default=[], help="skip this seed")
    parser.add_argument("--most", type=int, default=10, help="stop after this many failing seeds; 0: never")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Otherwise sets of strings would be iterated in another order in each process.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(  # noqa: S606
            sys.executable, [sys.executable, "-m", "benchmarks.simulation", *sys.argv[1:]]
        )
    plans: Iterable[Plan]
    if options.plan:
        plans = [Plan.read(line) for line in options.plan.read_text().splitlines() if line.startswith("{")]
    else:
        first, number = (options.seed, 1) if options.seed is not None else (options.first, options.seeds)
        drawn = draw_with_parts if options.parts else draw_with_scenes if options.scenes else draw
        plans = map(drawn, range(first, first + number))
    plans = (plan for plan in plans if plan.seed not in options.skip)
    if options.only:
        options.without = [check.__name__ for check in INVARIANTS if check.__name__ != options.only]
    with OLD_FAULTS[options.put_back][0]() if options.put_back else nullcontext():
        return 1 if _try(plans, options) else 0


def _try(plans: Iterable[Plan], options: argparse.Namespace) -> int:
    """Simulates the plans, prints those that violate an invariant, and returns their number."""
    started, failed = time.monotonic(), 0
    kinds: Counter[str] = Counter()
    tried = 0
    for plan in plans:
        if options.trace:
            print(plan, flush=True)
        tried += 1
        broken = try_plan(plan, trace=print if options.trace else None, without=options.without)
        if broken:
            failed += 1
            kinds.update({each.invariant for each in broken})
            _print_failure(plan, broken, options)
            if failed == options.most:
                break
    seconds = time.monotonic() - started
    print(f"{tried} seeds, {failed} failed, {seconds / max(tried, 1):.2f} s each; {dict(kinds)}")
    return failed


def _print_failure(plan: Plan, broken: list[Broken], options: argparse.Namespace) -> None:
    print(f"FAILED: python -m benchmarks.simulation --seed {plan.seed} --trace")
    for each in broken:
        print(f"  {each.invariant}: {each.what}")
    if not options.no_shrink:
        smallest = shrink(plan, broken[0].invariant, without=options.without)
        print(f"  the smallest plan that breaks it:\n{smallest}\n{smallest.json()}")


if __name__ == "__main__":
    sys.exit(main())
