"""The places of a batch's results: a picture that was made again stands where the original stood."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch, find_batch, mending_key
from bg_pipeline.errors import UsageError
from bg_pipeline.review.decisions import State
from bg_pipeline.review.items import Item, Results
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.state.follow_ups import REDOES, FollowUps

MOST_ROUNDS = 20
"""Replacements of replacements that are followed."""


@dataclass(frozen=True, slots=True)
class Place:
    """One place among a batch's results, and the result that stands there now.

    ``item`` belongs to the batch of ``work``. ``earlier`` are the results that it replaces with their batches, oldest
    first.
    ``remaking`` is the batch that makes another picture for this place at the moment. ``failed`` is why the last
    attempt to do so gave none, and ``failed_in`` its batch.
    """

    work: BatchWork
    item: Item
    earlier: tuple[tuple[Batch, Item], ...] = ()
    remaking: Batch | None = None
    failed: str = ""
    failed_in: Batch | None = None

    @property
    def seen(self) -> str:
        """Changes with every decision about the result, and with every attempt to make the missing one."""
        if self.item.key:
            return self.item.review_etag
        attempt = self.remaking or self.failed_in
        return attempt.path if attempt else ""

    @property
    def batch(self) -> Batch:
        return self.work.locations.batch


@dataclass
class _Follower:
    """Follows pictures that were asked for again into the batches that made them."""

    open_results: Callable[[Batch], Results]
    _items: dict[Batch, tuple[BatchWork, dict[str, list[Item]]]] = field(default_factory=dict)

    def of(self, batch: Batch) -> tuple[BatchWork, dict[str, list[Item]]] | None:
        """A batch and its items by image; None if it does not exist (any more)."""
        if batch not in self._items:
            try:
                results = self.open_results(batch)
            except UsageError:
                return None
            by_image: dict[str, list[Item]] = {}
            for item in results.items():
                by_image.setdefault(item.image, []).append(item)
            self._items[batch] = results.work, by_image
        return self._items[batch]


def places(results: Results, open_results: Callable[[Batch], Results]) -> list[Place]:
    """All places of a batch in the order of the report.

    A rejected result that was asked for again (`redo`) is replaced by the picture that was made for it, if there is
    one; ``open_results`` returns the results of another batch and raises `UsageError` if it does not exist. An item
    that replaces another one has the ``place`` of the first.
    """
    follower = _Follower(open_results)
    items = results.items()
    siblings: dict[tuple[str, str], list[int]] = {}
    for item in items:
        if redone := _redone_as(item):
            siblings.setdefault((redone, item.image), []).append(item.number)
    without_result = [item for item in items if not item.key]
    redoes = _redoes(results.work) if without_result else ()
    found = []
    for item in items:
        place = Place(results.work, item)
        if redone := _redone_as(item):
            place = _follow(follower, place, item, redone, siblings[redone, item.image], MOST_ROUNDS)
        elif not item.key:
            for batch in reversed(redoes):
                place = _follow(follower, place, item, batch.path, [item.number], MOST_ROUNDS)
                if place.item is not item or place.remaking or place.failed:
                    break
        found.append(place)
    return found


def _redone_as(item: Item) -> str:
    decision = item.decision
    return decision.redone_as if decision is not None and item.state is State.REJECTED else ""


def _redoes(work: BatchWork) -> Sequence[Batch]:
    return list(FollowUps.read(work.locations.store, REDOES(work.locations.batch)).batches)


def _follow(
    follower: _Follower, place: Place, first: Item, path: str, numbers: Sequence[int], rounds: int
) -> Place:
    """``place`` with the picture that the batch ``path`` made for it, or with the reason why there is none."""
    batch = find_batch(path)
    opened = follower.of(batch) if batch and rounds else None
    if batch is None or opened is None:
        return place
    work, items = opened
    if place.item.image not in work.images:
        return place
    number = _number_in(place.work, work, place.item, numbers)
    made = next(
        (item for item in items.get(place.item.image, ()) if item.number == number and item.key), None
    )
    if made is None:
        if not work.ledger.header.get("Reported"):
            return replace(place, remaking=batch)
        entry = work.ledger.get(place.item.image)
        causes = [record.cause for record in entry.stages.values() if record.cause] if entry else []
        return replace(place, failed=causes[-1] if causes else "no picture was made", failed_in=batch)
    target = first.key or _key_for(place.work, made, work)
    item = replace(made, place=place.item.place or target)
    next_place = Place(work, item, (*place.earlier, (place.batch, place.item)))
    if redone := _redone_as(made):
        same = [each.number for each in items[made.image] if _redone_as(each) == redone]
        return _follow(follower, next_place, first, redone, same, rounds - 1)
    return next_place


def _key_for(work: BatchWork, made: Item, made_in: BatchWork) -> str:
    """The key that a result has in the batch ``work``, which had none for it."""
    name = made.key.removeprefix(f"{made_in.locations.output_prefix}/")
    return s3_keys.result_key(work.locations.output_prefix, name)


def _number_in(work: BatchWork, made_in: BatchWork, item: Item, numbers: Sequence[int]) -> int:
    """The number that the picture in place of ``item`` has in the batch that made it.

    `redo_request` asks for as many variants of each prompt as were chosen; ``numbers`` are the chosen results of the
    image, with that of ``item``. With a mended mask all of them are made again, with the same numbers.
    """
    asked, made = work.settings_of(item.image), made_in.settings_of(item.image)
    if made.mask_key and made.mask_key != asked.mask_key and mending_key(made.mask_key):
        return item.number
    files = len(asked.renditions) or 1
    templates = {output.position: output.template for output in asked.outputs}
    position = (item.number - 1) // files + 1
    chosen = sorted({(number - 1) // files + 1 for number in numbers})
    template = templates.get(position, "")
    same = [each for each in chosen if templates.get(each, "") == template]
    targets = [output.position for output in made.outputs if output.template == template]
    if targets and position in same and same.index(position) < len(targets):
        target = targets[same.index(position)]
    else:
        # Made with another prompt: the pictures follow each other in the order of the chosen ones.
        outputs = [output.position for output in made.outputs]
        target = outputs[chosen.index(position) % len(outputs)] if position in chosen else 1
    return (target - 1) * files + (item.number - 1) % files + 1


def to_publish(found: Sequence[Place]) -> Iterator[Item]:
    """The items of `places` for `publish`: a replacement has the number of the result whose place it takes."""
    for place in found:
        number = place.earlier[0][1].number if place.earlier else place.item.number
        yield place.item if number == place.item.number else replace(place.item, number=number)
