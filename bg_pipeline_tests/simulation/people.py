"""Actions of users during runs, through the functions that the commands and the page call."""

from typing import TYPE_CHECKING, Any

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch, find_batch
from bg_pipeline.errors import UsageError
from bg_pipeline.reports.overview import load_status
from bg_pipeline.review.decisions import State, decide
from bg_pipeline.review.follow_up import approve_sample, prepare_retry
from bg_pipeline.review.items import Item, Results, items
from bg_pipeline.review.places import places, to_publish
from bg_pipeline.review.publishing import publish as publish_approved
from bg_pipeline.review.redoing import redo
from bg_pipeline.run.batch_work import BatchWork, open_batch

if TYPE_CHECKING:
    from bg_pipeline_tests.simulation.world import World


def do(world: "World", what: str, args: dict[str, Any]) -> None:
    """Performs the action of a step."""
    path: str = args["batch"]
    batch = find_batch(path)
    if batch is None:
        raise ValueError(path)
    action = f"{what} {path} {args.get('photo', '')}".strip()
    match what:
        case "replace request":
            world.trace(f"PERSON {action} {args['request']}")
            world.put_request(path, args["request"])
        case "overwrite photo":
            world.trace(f"PERSON {action}")
            world.put_photo(path, args["photo"], args["number"])
        case "delete photo":
            world.trace(f"PERSON {action}")
            key = f"{s3_keys.UPLOADS}/{path}/{args['photo']}"
            world.history.sources.setdefault(key, []).append(world.clock.now)
            world.bucket.delete(key)
        case "approve":
            world.person(action, lambda: _approve(world, batch))
        case "retry":
            world.person(action, lambda: _retry(world, batch))
        case "redo":
            world.person(action, lambda: _redo(world, batch, args["choice"]))
        case "publish":
            world.person(action, lambda: publish(world, batch))
        case "decide":
            world.person(action, lambda: _decide(world, batch, args["choice"]))
        case _:
            raise ValueError(what)


def _approve(world: "World", batch: Batch) -> None:
    standing = load_status(world.store, world.made_settings(), batch)
    # Recorded before it is written: it may take effect from now on.
    world.history.approved.setdefault(batch.path, []).append(world.clock.now)
    approve_sample(world.store, standing, by="ann")


def _retry(world: "World", batch: Batch) -> None:
    found = prepare_retry(
        world.store, world.made_settings(), load_status(world.store, world.made_settings(), batch)
    )
    if found is not None:
        made = found.submit(world.store)
        world.history.retried.setdefault(batch.path, []).append(made.path)


def _redo(world: "World", batch: Batch, choice: int) -> None:
    work = open_batch(world.store, world.made_settings(), batch)
    found = items(work, world.made_settings())
    if not found:
        raise UsageError("nothing to be done again")
    item = found[choice % len(found)]
    world.history.decided.setdefault(item.key, []).append((world.clock.now, State.REJECTED))
    redo(world.store, world.made_settings(), work, [item], by="ann")


def _decide(world: "World", batch: Batch, choice: int) -> None:
    work = open_batch(world.store, world.made_settings(), batch)
    found = [item for item in items(work, world.made_settings()) if item.key]
    if not found:
        raise UsageError("nothing to decide about")
    item, state = found[choice % len(found)], State.REJECTED if choice % 2 else State.APPROVED
    world.history.decided.setdefault(item.key, []).append((world.clock.now, state))
    decide(work.locations.data, [item], state, by="bob")


def publish(world: "World", batch: Batch) -> None:
    """Publishes the approved results of a batch, pictures that were made again in the places of their originals."""
    work, found = deliverable(world, batch)
    publish_approved(work, found)


def deliverable(world: "World", batch: Batch) -> tuple[BatchWork, list[Item]]:
    """A batch and the results that stand in its places."""

    def open_results(one: Batch) -> Results:
        settings = world.made_settings()
        return Results(open_batch(world.store, settings, one), settings)

    results = open_results(batch)
    return results.work, list(to_publish(places(results, open_results)))
