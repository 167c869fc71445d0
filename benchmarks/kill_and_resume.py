"""Calls that are paid twice when runs are killed: SIGKILL at random times, then a run to the end.

    python -m benchmarks.kill_and_resume [--images 300] [--kills 20] [--seed 1]

Calls are counted by the stand-in, which like AWS completes and bills a call whose caller has ended. A call is in
flight from its start until its answer is stored.
"""

import argparse
import random
import time

from benchmarks.makespan import PHOTO, Scaled
from benchmarks.rig import MODEL_OPERATIONS, Rig, Run, days, jpeg, rig, submit, table
from bg_pipeline.domain import s3_keys

SCALE = 10.0


def killed(rig: Rig, images: int, kills: int, seed: int) -> list[list[object]]:
    """A row for each operation, after ``kills`` killed runs and a last one to the end."""
    chance = random.Random(seed)
    services = Scaled(SCALE)
    services.configure(rig)
    store = rig.bucket()
    submit(store, jpeg(PHOTO), images)
    rig.control.mark()
    # The kills are spread over the duration of a complete run, each after at least one paid call, so that every
    # killed run was working.
    lifetime = images / services.per_second / kills
    for _ in range(kills):
        before = len(rig.control.paid())
        run = Run(store, days(1), **services.settings()).ready().go()
        while len(rig.control.paid()) == before:
            assert run.process.poll() is None, "a run had nothing left to do; use fewer kills or more images"
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 2 * lifetime))
        run.kill()
    last = Run(store, days(1), **services.settings()).ready().go().result()
    assert last["counts"] == {"Succeeded": images}, last
    rows: list[list[object]] = []
    for operation, kind in zip(MODEL_OPERATIONS, ("labels", "captions", "picture"), strict=True):
        calls = rig.control.paid(operation=operation)
        # If an answer was stored and paid again, it was stored again too.
        overwritten = rig.overwritten(store, f"{s3_keys.STATE}/answers/{kind}/")
        rows.append([operation, images, len(calls), len(calls) - images, overwritten])
        assert overwritten == 0, rows
    return rows


def main() -> None:
    """Prints the table; fails if a stored answer was paid again or an image was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with rig() as services:
        table(
            ("operation", "images", "paid", "in flight at a kill, paid again", "stored, paid again"),
            killed(services, options.images, options.kills, options.seed),
        )


if __name__ == "__main__":
    main()
