"""What is paid for when a run is killed again and again: SIGKILL at random instants, then a run to the end.

    python -m benchmarks.kill_and_resume [--images 300] [--kills 20] [--seed 1]

Counted by the stand-in, which goes on with a call whose caller is gone, and bills it, as AWS does.
"""

import argparse
import random
import time
from collections import Counter

from benchmarks.makespan import PHOTO, Scaled
from benchmarks.rig import MODEL_OPERATIONS, Rig, Run, days, jpeg, rig, submit, table

SCALE = 10.0


def killed(rig: Rig, images: int, kills: int, seed: int) -> list[list[object]]:
    """A row for each operation, after so many kills and a last run."""
    chance = random.Random(seed)
    services = Scaled(SCALE)
    services.lay_down(rig)
    store = rig.bucket()
    submit(store, jpeg(PHOTO), images)
    rig.control.mark()
    # Spread over what a run that is not killed takes, and after its start, so that every kill hits some work.
    life = images / services.per_second / kills
    instants = []
    for _ in range(kills):
        run = Run(store, days(1), **services.settings()).ready().go()
        time.sleep(chance.uniform(0.5, 0.5 + 2 * life))
        instants.append(time.time())
        run.kill()
    last = Run(store, days(1), **services.settings()).ready().go().result()
    assert last["counts"] == {"Succeeded": images}, last
    rows: list[list[object]] = []
    for operation in MODEL_OPERATIONS:
        calls = rig.control.paid(operation=operation)
        in_flight = sum(
            call["at"] - call["seconds"] <= instant < call["at"] for call in calls for instant in instants
        )
        by_image = Counter(call["image"] or call["number"] for call in calls)
        again = len(calls) - images
        rows.append([operation, images, len(calls), again, in_flight, max(by_image.values())])
        assert again <= in_flight, rows
    return rows


def main() -> None:
    """Prints the table; fails if more was paid for than was in flight at the kills, or an image was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with rig() as services:
        table(
            ("operation", "images", "paid", "paid again", "in flight at the kills", "most for one image"),
            killed(services, asked.images, asked.kills, asked.seed),
        )


if __name__ == "__main__":
    main()
