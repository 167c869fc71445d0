"""The results of a batch with their review state: approved (automatically or by a person), rejected or waiting."""

import hashlib
import math
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

USUAL_CONFIDENCE = 0.85
"""The confidence of most good masks."""


@dataclass(frozen=True, slots=True)
class Item:
    """One result with its review state; ``key`` is empty if the image has no result and a person has to act.

    ``number`` counts the image's outputs from 1. ``why`` is the reason for ``state``, for people. ``decision`` is a
    person's decision on this version of the result, if there is one. ``prompt`` is the request's, with placeholders.
    ``confidence`` is how sure the subject's mask is, 0 to 1, None where that was not measured. ``review_etag`` is the
    ETag of the document with the decisions, empty if there is none. ``place`` is the key of the result in whose place
    this one is delivered, empty if that is its own.
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
    model: str = ""
    prompt: str = ""
    confidence: float | None = None
    review_etag: str = ""
    place: str = ""


def is_sampled(key: str, share: float, confidence: float | None = None) -> bool:
    """Whether a result that passed is in the ``share`` (0 to 1) that a person reviews.

    It depends only on its key and on the ``confidence`` of its mask, so that it stays so while others are added. A
    mask as sure as most, `USUAL_CONFIDENCE`, is as likely to be seen as one without a confidence; one that is less
    sure is up to 16 times as likely, a surer one at least half as likely.
    """
    weight = 1.0
    if confidence is not None:
        weight = min(16.0, max(0.5, 2 ** ((USUAL_CONFIDENCE - confidence) * 10)))
    drawn = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
    return drawn < 1.0 - math.pow(1.0 - share, weight)


@dataclass(frozen=True, slots=True)
class Summary:
    """A batch's review in numbers: results by state, and costs.

    ``costs`` are those of the whole batch, including failed images and rejected results. ``cost_per_image`` is
    relative to the images with an approved result; None if there is none or if a part of the costs is not known.
    """

    images: int
    approved_images: int
    approved: int
    rejected: int
    waiting: int
    costs: BatchCosts

    @property
    def cost_usd(self) -> float | None:
        """Dollars that were certainly billed; None if a part is not known."""
        return self.costs.usd

    @property
    def cost_per_image(self) -> float | None:
        if self.cost_usd is None or not self.approved_images:
            return None
        return self.cost_usd / self.approved_images


class Results:
    """The results of a batch from its ledger, which is read once; review states are read at every call.

    ``reviews`` is a cache of decisions in the bucket of the batch's results; pass one if you call repeatedly.
    """

    def __init__(self, work: BatchWork, settings: Settings, reviews: Reviews | None = None) -> None:
        self.work = work
        self._settings = settings
        self._reviews = reviews or Reviews(work.locations.data)
        self._unjudged: list[Item] = []
        self._by_name: dict[tuple[str, int], Item] = {}
        self._images = 0
        self._costs = BatchCosts.of(self._rows())

    def _rows(self) -> Iterator[Row]:
        """Yields the report's rows and collects their results."""
        for row, entry in rows_and_entries(self.work):
            self._unjudged += _items_of_row(self.work, row, entry)
            self._images += 1
            yield row

    def items(self) -> list[Item]:
        """All results with their states, in the order of the report.

        An image that was flagged before it had a result is an item without a key.
        """
        keys = (item.key for item in self._unjudged if item.key)
        decisions = self._reviews.of(keys, self.work.locations.output_prefix)
        return [
            _with_state(item, *decisions.get(item.key, ("", None)), self._settings) for item in self._unjudged
        ]

    def unjudged(self) -> list[Item]:
        """All results without reading any decision: each has the state waiting and no reason."""
        return list(self._unjudged)

    def find(self, image: str, number: int) -> Item | None:
        """One result of `unjudged`, if there is one with this number."""
        if len(self._by_name) != len(self._unjudged):
            self._by_name = {(item.image, item.number): item for item in self._unjudged}
        return self._by_name.get((image, number))

    def summary(self, items: Collection[Item]) -> Summary:
        """The summary of the given items of the batch."""
        states = Counter(item.state for item in items)
        return Summary(
            images=self._images,
            approved_images=len({item.image for item in items if item.state is State.APPROVED}),
            approved=states[State.APPROVED],
            rejected=states[State.REJECTED],
            waiting=states[State.WAITING],
            costs=self._costs,
        )


def items(work: BatchWork, settings: Settings, reviews: Reviews | None = None) -> list[Item]:
    """`Results.items` for a single call."""
    return Results(work, settings, reviews).items()


def _items_of_row(work: BatchWork, row: Row, entry: Entry) -> list[Item]:
    asked = work.settings_of(row.ImageName) if row.ImageName in work.images else None
    prompts = [output.template for output in asked.outputs] if asked else [""]
    files = len(asked.renditions) or 1 if asked else 1

    def item(
        number: int, key: str, status: Status, cause: str, cost: float | None, model: str, confidence: object
    ) -> Item:
        position = (number - 1) // files
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
            model=model,
            prompt=prompts[position] if position < len(prompts) else "",
            confidence=confidence if isinstance(confidence, float) else None,
        )

    confidence = getattr(row, "Confidence", None)
    made = [
        item(
            *(each["Number"], each["Key"], Status(each["Status"]), each["Cause"], each["CostUSD"]),
            *(each["Model"], confidence if each.get("Confidence") is None else each["Confidence"]),
        )
        for each in entry.outputs
        if each["Key"]
    ]
    if not made and row.Status == Status.NEEDS_REVIEW:
        return [item(1, "", row.Status, row.Cause, row.CostUSD, row.Model, confidence)]
    return made


def _with_state(item: Item, review_etag: str, decision: Decision | None, settings: Settings) -> Item:
    item = replace(item, review_etag=review_etag)
    if decision is not None and decision.etag == item.etag:
        why = f"{decision.state} by {decision.by}" + (f": {decision.reason}" if decision.reason else "")
        return replace(item, state=decision.state, why=why, decision=decision)
    if item.status != Status.SUCCEEDED:
        why = item.cause or "it did not pass the checks"
    elif not settings.auto_approve:
        why = "every result waits for a person (BG_AUTO_APPROVE)"
    elif is_sampled(item.key, settings.review_share, item.confidence):
        why = "it passed every check and is in the share that a person reviews (BG_REVIEW_SHARE)"
    else:
        return replace(item, state=State.APPROVED, why="it passed every check")
    if decision is not None:
        why += f"; an earlier version of it was {decision.state} by {decision.by}"
    return replace(item, state=State.WAITING, why=why)


def review_queue(items: Iterable[Item]) -> list[Item]:
    """The waiting items: first the flagged ones, then those that passed every check.

    Both begin with the masks that are least sure; those without a confidence follow in the report's order.
    """
    waiting = [item for item in items if item.state is State.WAITING]
    return sorted(
        waiting,
        key=lambda item: (
            item.status == Status.SUCCEEDED,
            2.0 if item.confidence is None else item.confidence,
        ),
    )


def find_items(items: Iterable[Item], names: Iterable[str], output_prefix: str) -> list[Item]:
    """The items that ``names`` select: keys of results, their names under the prefix, or images (all their results).

    Raises `UsageError` for a name that selects none.
    """
    by_name: dict[str, list[Item]] = {}
    by_image: dict[str, list[Item]] = {}
    for item in items:
        by_image.setdefault(item.image, []).append(item)
        if item.key:
            by_name[item.key] = by_name[item.key.removeprefix(f"{output_prefix}/")] = [item]
    selected: dict[tuple[str, int], Item] = {}
    for name in names:
        matches = by_name.get(name) or by_image.get(name)
        if matches is None:
            raise UsageError(f"'{name}' is neither a result nor an image with one; nothing was done")
        selected |= {(item.image, item.number): item for item in matches}
    return list(selected.values())
