"""The results of a batch and where each stands: approved by itself or by a person, rejected, or waiting for one."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from bg_pipeline.domain.ledger_entries import Entry
from bg_pipeline.domain.rows import Row, Status
from bg_pipeline.errors import UsageError
from bg_pipeline.reports.overview import BatchCosts
from bg_pipeline.review.decisions import Decision, Reviews, State
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.run.rows import rows_and_entries
from bg_pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class Item:
    """One result and where it stands; ``key`` is empty where there is none to look at and a person has to act.

    ``number`` counts the image's outputs from 1; ``why`` says in words why it is in this ``state``; ``decision`` is
    the person's, if it is about this version of the result.
    """

    image: str
    ref: str
    number: int
    key: str
    etag: str
    status: Status
    cause: str
    labels: str
    caption: str
    alt_text: str
    cost_usd: float | None
    state: State
    why: str
    decision: Decision | None = None


def is_sampled(key: str, share: float) -> bool:
    """Whether a result is of the ``share`` (0 to 1) that a person looks at although it passed; by its key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) < share * 2**64


@dataclass(frozen=True, slots=True)
class Summary:
    """Where a batch's review stands: results by state, and what an image with an approved result cost.

    ``costs`` are of the whole batch, failures and rejected results included. ``cost_per_image`` is None where a part
    of what was billed is not known, and while nothing is approved.
    """

    images: int
    approved_images: int
    approved: int
    rejected: int
    waiting: int
    costs: BatchCosts

    @property
    def cost_usd(self) -> float | None:
        """What was surely billed; None where a part of it is not known."""
        return self.costs.usd

    @property
    def cost_per_image(self) -> float | None:
        if self.cost_usd is None or not self.approved_images:
            return None
        return self.cost_usd / self.approved_images


class Results:
    """The results of a batch as its ledger has them, read once; where they stand is looked up with every question.

    ``reviews`` may be kept by a page that asks again and again; its bucket is that of the batch's results.
    """

    def __init__(self, work: BatchWork, settings: Settings, reviews: Reviews | None = None) -> None:
        self.work = work
        self._settings = settings
        self._reviews = reviews or Reviews(work.locations.data)
        self._unjudged: list[Item] = []
        self._images = 0
        self._costs = BatchCosts.of(self._rows())

    def _rows(self) -> Iterator[Row]:
        """The report's rows, whose results are taken in as they go by."""
        for row, entry in rows_and_entries(self.work):
            self._unjudged += _items_of_row(row, entry)
            self._images += 1
            yield row

    def items(self) -> list[Item]:
        """Every result with where it stands, in the order of the report.

        An image that was flagged before it had a result is an item without a key.
        """
        keys = (item.key for item in self._unjudged if item.key)
        decisions = self._reviews.of(keys, self.work.locations.output_prefix)
        return [_with_state(item, decisions.get(item.key), self._settings) for item in self._unjudged]

    def summary(self, found: Collection[Item]) -> Summary:
        """How the review stands, from the items as they are now."""
        states = Counter(item.state for item in found)
        return Summary(
            images=self._images,
            approved_images=len({item.image for item in found if item.state is State.APPROVED}),
            approved=states[State.APPROVED],
            rejected=states[State.REJECTED],
            waiting=states[State.WAITING],
            costs=self._costs,
        )


def items(work: BatchWork, settings: Settings, reviews: Reviews | None = None) -> list[Item]:
    """`Results.items` for who asks once."""
    return Results(work, settings, reviews).items()


def _items_of_row(row: Row, entry: Entry) -> list[Item]:
    def item(number: int, key: str, status: Status, cause: str, cost: float | None) -> Item:
        return Item(
            image=row.ImageName,
            ref=row.Ref,
            number=number,
            key=key,
            etag=entry.files.get(key, ""),
            status=status,
            cause=cause,
            labels=row.Labels,
            caption=row.Caption,
            alt_text=entry.alt_text,
            cost_usd=cost,
            state=State.WAITING,
            why="",
        )

    made = [
        item(each["Number"], each["Key"], Status(each["Status"]), each["Cause"], each["CostUSD"])
        for each in entry.outputs
        if each["Key"]
    ]
    if not made and row.Status == Status.NEEDS_REVIEW:
        return [item(1, "", row.Status, row.Cause, row.CostUSD)]
    return made


def _with_state(item: Item, decision: Decision | None, settings: Settings) -> Item:
    if decision is not None and decision.etag == item.etag:
        words = f"{decision.state} by {decision.by}" + (f": {decision.reason}" if decision.reason else "")
        return replace(item, state=decision.state, why=words, decision=decision)
    if item.status != Status.SUCCEEDED:
        why = item.cause or "it did not pass the checks"
    elif not settings.auto_approve:
        why = "every result waits for a person (BG_AUTO_APPROVE)"
    elif is_sampled(item.key, settings.review_share):
        why = "it passed every check and is of the share that a person looks at (BG_REVIEW_SHARE)"
    else:
        return replace(item, state=State.APPROVED, why="it passed every check")
    if decision is not None:
        why += f"; an earlier version of it was {decision.state} by {decision.by}"
    return replace(item, state=State.WAITING, why=why)


def review_queue(found: Iterable[Item]) -> list[Item]:
    """What waits for a person: first what was flagged, then what was chosen, each in the report's order."""
    waiting = [item for item in found if item.state is State.WAITING]
    return sorted(waiting, key=lambda item: item.status == Status.SUCCEEDED)


def find_items(found: Iterable[Item], names: Iterable[str], output_prefix: str) -> list[Item]:
    """The items that ``names`` mean: keys of results, their names under the prefix, or images (all their results).

    Raises `UsageError` for a name that means none.
    """
    by_name: dict[str, list[Item]] = {}
    by_image: dict[str, list[Item]] = {}
    for item in found:
        by_image.setdefault(item.image, []).append(item)
        if item.key:
            by_name[item.key] = by_name[item.key.removeprefix(f"{output_prefix}/")] = [item]
    meant: dict[tuple[str, int], Item] = {}
    for name in names:
        items = by_name.get(name) or by_image.get(name)
        if items is None:
            raise UsageError(f"'{name}' is neither a result nor an image with one; nothing was done")
        meant |= {(item.image, item.number): item for item in items}
    return list(meant.values())
