"""What the review component in the browser asks for: lists of results, pictures, decisions, redoes, deliveries.

Nothing here imports Streamlit. A result is addressed by its batch, image, number and ETag, and a decision counts only
for the version, and on top of the earlier decision, that the browser showed.
"""

import hashlib
import threading
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from bg_pipeline import planning, review
from bg_pipeline.authorization import Right
from bg_pipeline.aws.clients import Aws
from bg_pipeline.domain.batches import Batch, find_batch
from bg_pipeline.domain.file_names import archive_path
from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.domain.people import Person
from bg_pipeline.domain.rows import Status
from bg_pipeline.domain.text import counted
from bg_pipeline.errors import ImageError, SettingsError, UsageError
from bg_pipeline.imaging import small_jpeg
from bg_pipeline.imaging.thumbnail import doubt_overlay, mask_overlay
from bg_pipeline.imaging.workers import Limit, header_of, run_on_file, shared_workers
from bg_pipeline.masks.clicked_region import LARGEST_PART, region_at
from bg_pipeline.models.selection import SelectedModel
from bg_pipeline.review import Item, Place, State
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.image_run import DOUBT_METADATA
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import ObjectContent, Store
from bg_pipeline.uploads.submitting import paid_pictures
from bg_pipeline.web.page.batches import PREVIEW_SIDE, BatchService

LARGEST_SIDE = 8192
"""Longer side, in pixels, of the largest picture that is sent to a browser: a phone cannot decode more."""
PRICE_SECONDS = 600
"""How long the price of a picture is kept; finding it asks the control planes which models can be used."""
AS_STORED = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
"""Formats that every browser shows as they are."""
OVERLAY_SIDE = 1200
REGION_SECONDS = 10.0
"""Longest search for the region that a click means; it takes 0.1 to 0.8 s of an idle core."""


_WITH_RESULTS = {Status.SUCCEEDED.value, Status.NEEDS_REVIEW.value}


class Gone(UsageError):
    """A picture that does not exist, or not in this version any more."""


@dataclass(frozen=True)
class Address:
    """One result as the browser saw it.

    ``etag`` is the version of the result, ``seen`` its `Place.seen` (empty: no decision, no attempt).
    ``origin`` is the batch in whose list it stands, which differs from ``batch`` for a picture that was made again.
    """

    origin: Batch
    batch: Batch
    image: str
    number: int
    etag: str = ""
    seen: str = ""

    @classmethod
    def read(cls, record: Any) -> "Address":
        """The address in a JSON record; raises `UsageError` if it is none."""
        try:
            batch = find_batch(str(record["batch"]))
            origin = find_batch(str(record.get("origin") or record["batch"]))
            number, image = int(record["number"]), str(record["image"])
        except (AttributeError, KeyError, TypeError, ValueError):
            batch = origin = None
        if batch is None or origin is None:
            raise UsageError("the request names no result; reload the page")
        return cls(origin, batch, image, number, str(record.get("etag", "")), str(record.get("seen", "")))


@dataclass(frozen=True)
class Picture:
    data: bytes
    media_type: str


@dataclass(frozen=True)
class Written:
    """One stored decision, for undoing it."""

    address: Address
    result: str
    etag: str


@dataclass(frozen=True)
class _Prices:
    """The prices, in dollars, of a picture and of a scene; None if they are not known."""

    picture: float | None = None
    scene: float | None = None


def _price_of(model: SelectedModel[Any] | None) -> float | None:
    if model is None:
        return None
    (operation,) = model.candidate.operations
    return facts_of(operation.name, operation.model_id).cost(images=1)


class ReviewService:
    """The review of all batches in one bucket, for all visitors of the page. Thread-safe."""

    def __init__(self, settings: Settings, aws: Aws, batches: BatchService) -> None:
        self.settings = settings
        self.acts = batches.acts
        self._aws = aws
        self._batches = batches
        self._workers = shared_workers(settings.max_decoded_images)
        self._lock = threading.Lock()
        self._kept_prices: dict[bool, tuple[float, _Prices]] = {}

    # Lists

    def batches(self, person: Person, days: int, now: datetime | None = None) -> list[dict[str, Any]]:
        """The batches of the last ``days`` dates (UTC) that have results and that a person may see, newest first.

        Batches that made pictures again for another one of these are left out: their pictures stand there.
        """
        today = (now or datetime.now(UTC)).date()
        cards = [
            card
            for back in range(-1, days)
            for card in self._batches.batches(person, today - timedelta(back), max_age=5.0)
            if card.complete and not _WITH_RESULTS.isdisjoint(card.counts)
        ]
        listed = {card.batch.path for card in cards}
        return [
            {
                "batch": card.batch.path,
                "title": card.title,
                "images": card.images,
                "state": card.state,
            }
            for card in cards
            if card.redo_of not in listed
        ]

    def rows(self, person: Person, batch: Batch) -> dict[str, Any]:
        """The results of one batch for the browser, with a ``version`` that changes when one of them does.

        Raises `NoSuchBatch` for a batch that the person may not see, as everything here does.
        """
        results = self._batches.results(person, batch)
        found = self._batches.places(person, batch)
        rows = [_row(batch, place) for place in found]
        summary = results.summary([place.item for place in found])
        document: dict[str, Any] = {
            "batch": batch.path,
            "rows": rows,
            "cost": summary.costs.in_words(4),
            "costPerImage": summary.cost_per_image,
        }
        digest = hashlib.sha256(orjson.dumps(document)).hexdigest()[:20]
        return {**document, "version": digest}

    # Pictures

    def picture(self, person: Person, address: Address, kind: str, size: str) -> Picture:
        """A picture of a result: ``kind`` is after, before, or a layer to lay over the photo: mask (blue where it
        replaces), edit (the same, opaque, to be mended) or doubt (red where the mask is doubtful).

        ``size`` is small, large, full (its pixels), or file (its bytes); layers have one size. Raises `Gone` if there
        is none in this version, and for edit `UsageError` if the photo is not the one that the result was made from.
        """
        work, item = self._item(person, address)
        if kind == "edit":
            # Told before the person paints.
            review.check_photo(work, item.image)
        if kind in ("mask", "edit"):
            return self._mask(work, item.image, to_edit=kind == "edit")
        if kind == "doubt":
            return self._doubt(work, item)
        if kind == "before":
            info = work.images.get(item.image)
            store, key = work.locations.resolve(f"{work.locations.input_prefix}/{item.image}")
            etag = info.etag if info else ""
        else:
            if not item.key or item.etag != address.etag:
                raise Gone(f"{item.image} was made again since you looked at it")
            store, key, etag = work.locations.data, item.key, item.etag
        if size == "small":
            return Picture(self._small_picture(work, store, key, etag), "image/jpeg")
        content = self._content(store, key, etag)
        if size == "file":
            return Picture(content.data, "application/octet-stream")
        try:
            if size == "full":
                header = header_of(self._workers, content.data)
                if header.format in AS_STORED and max(header.size) <= LARGEST_SIDE:
                    return Picture(content.data, AS_STORED[header.format])
            side = LARGEST_SIDE if size == "full" else PREVIEW_SIDE
            jpeg = run_on_file(self._workers, small_jpeg, content.data, within=(side, side))
        except ImageError as error:
            raise Gone(f"{key.rpartition('/')[2]} cannot be opened: {error}") from None
        return Picture(jpeg, "image/jpeg")

    def _content(self, store: Store, key: str, etag: str) -> ObjectContent:
        content = store.read(key)
        if content is None or (etag and content.etag != etag):
            raise Gone(f"{key.rpartition('/')[2]} was deleted or replaced")
        return content

    def _small_picture(self, work: BatchWork, store: Store, key: str, etag: str) -> bytes:
        try:
            small = self._batches.small_picture(work.locations.batch, store, key, etag)
        except ImageError as error:
            raise Gone(f"{key.rpartition('/')[2]} cannot be opened: {error}") from None
        if small is None:
            raise Gone(f"{key.rpartition('/')[2]} was deleted or replaced")
        return small

    def _mask(self, work: BatchWork, image: str, *, to_edit: bool) -> Picture:
        data = review.mask_file(work, image)
        if data is None:
            raise Gone(f"no mask of {image} is stored: the model found the subject itself")
        side = LARGEST_SIDE if to_edit else OVERLAY_SIDE
        try:
            png = run_on_file(self._workers, mask_overlay, data, side, opaque=to_edit)
        except ImageError as error:
            raise Gone(f"the mask of {image} cannot be opened: {error}") from None
        return Picture(png, "image/png")

    def _doubt(self, work: BatchWork, item: Item) -> Picture:
        content = work.locations.store.read(work.locations.batch.doubt_key(item.image))
        # An earlier mask may have been doubtful at other places.
        if content is None or not _is_in(content.metadata.get(DOUBT_METADATA, ""), item.cause):
            raise Gone(f"nothing in the mask of {item.image} is marked as doubtful")
        try:
            png = run_on_file(self._workers, doubt_overlay, content.data)
        except ImageError as error:
            raise Gone(f"the doubtful places of {item.image} cannot be opened: {error}") from None
        return Picture(png, "image/png")

    # Decisions

    def decide(
        self, person: Person, addresses: Sequence[Address], state: State, *, reason: str = ""
    ) -> tuple[list[dict[str, Any]], list[Written]]:
        """Stores decisions; returns the changed rows for the browser, and what was written.

        Where the result or its decision is not what the person saw, nothing is stored; the row has a ``conflict``.
        Raises as `Acts.decide_as_seen`.
        """
        self._check(person, addresses, Right.REVIEW)
        rows: list[dict[str, Any]] = []
        written: list[Written] = []
        for batch, chosen in _by_batch(addresses).items():
            results = self._batches.results(person, batch)
            current = {(item.image, item.number): item for item in results.unjudged()}
            due, refused = [], []
            for address in chosen:
                item = current.get((address.image, address.number))
                if item is not None and item.key and item.etag == address.etag:
                    due.append((address, replace(item, review_etag=address.seen)))
                else:
                    refused.append(address)
            items = [item for _, item in due]
            etags = self.acts.decide_as_seen(person, results.work, items, state, reason=reason)
            for (address, item), etag in zip(due, etags, strict=True):
                if etag:
                    written.append(Written(address, item.key, etag))
                    rows.append(
                        {
                            "id": _id(address),
                            "state": state.value,
                            "seen": etag,
                            "why": f"{state.value} by {person.name}" + (f": {reason}" if reason else ""),
                        }
                    )
                else:
                    refused.append(address)
            rows += self._conflicts(person, refused)
        return rows, written

    def _check(self, person: Person, addresses: Iterable[Address], right: Right) -> None:
        """Raises `NoSuchBatch` or `NotAllowed` if one of these batches is refused, before anything is done."""
        for batch in {batch for address in addresses for batch in (address.batch, address.origin)}:
            self.acts.authorization.require_visible(person, batch)
        self.acts.authorization.require(person, right)

    def _conflicts(self, person: Person, refused: Iterable[Address]) -> list[dict[str, Any]]:
        """The present rows of results that changed since the browser read them, each with a sentence."""
        rows = []
        for origin, chosen in _by_batch(refused, origin=True).items():
            present = {row["id"]: row for row in self.rows(person, origin)["rows"]}
            for address in chosen:
                row = present.get(_id(address))
                if row is None:
                    rows.append({"id": _id(address), "gone": True, "conflict": "it is not a result any more"})
                elif (row["batch"], row["etag"]) != (address.batch.path, address.etag):
                    rows.append({**row, "conflict": "it was made again since you looked; look at it again"})
                else:
                    rows.append({**row, "conflict": f"somebody decided meanwhile ({row['why']})"})
        return rows

    def take_back(self, person: Person, written: Sequence[Written]) -> tuple[list[dict[str, Any]], int]:
        """Takes decisions back; returns the present rows, and how many stay because somebody decided after them."""
        self._check(person, (each.address for each in written), Right.REVIEW)
        kept = 0
        by_batch: dict[Batch, list[Written]] = {}
        for each in written:
            by_batch.setdefault(each.address.batch, []).append(each)
        for batch, group in by_batch.items():
            work = self._batches.results(person, batch).work
            etags = self.acts.take_back(person, work, [(each.result, each.etag) for each in group])
            kept += sum(not etag for etag in etags)
        rows = []
        for origin, chosen in _by_batch((each.address for each in written), origin=True).items():
            present = {row["id"]: row for row in self.rows(person, origin)["rows"]}
            rows += [present[_id(address)] for address in chosen if _id(address) in present]
        return rows, kept

    def history(self, person: Person, address: Address) -> list[dict[str, str]]:
        """The decisions about a result, newest first."""
        work, item = self._item(person, address)
        return review.history(work.locations.data, item.key) if item.key else []

    # Other pictures

    def quote(self, person: Person, addresses: Sequence[Address], *, prompt: str = "") -> dict[str, Any]:
        """The number of pictures that `redo` would have made, and their price in dollars (None: not known).

        A scene is one picture for each aspect that its photos may have. ``atWorst`` is the price if every picture
        has to be made as often as the settings allow.
        """
        pictures = scenes = 0
        for batch, chosen in _by_batch(addresses).items():
            work, items = self._items(person, batch, chosen)
            request = review.redo_request(work, items, prompt=prompt)
            pictures += paid_pictures(request, list(request.entries))
            scenes += planning.scenes_at_worst(request)
        prices = self._prices(scenes=bool(scenes))
        return {"pictures": pictures + scenes, **self._costs(pictures, prices, scenes)}

    def _costs(self, pictures: int, prices: "_Prices", scenes: int = 0) -> dict[str, float | None]:
        """``usd`` and ``atWorst`` of so many pictures and scenes; None where a price that is needed is not known."""
        picture = prices.picture if pictures else 0.0
        scene = prices.scene if scenes else 0.0
        if picture is None or scene is None:
            return {"usd": None, "atWorst": None}
        repeated = 1 + self.settings.max_regenerations
        return {
            "usd": round(pictures * picture + scenes * scene, 4),
            "atWorst": round(pictures * picture * repeated + scenes * scene, 4),
        }

    def _prices(self, *, scenes: bool = False) -> "_Prices":
        """The prices of the models in use; that of a scene only with ``scenes``."""
        with self._lock:
            kept = self._kept_prices.get(scenes)
        if kept is not None and time.monotonic() - kept[0] < PRICE_SECONDS:
            return kept[1]
        context = RunContext(self.settings, self._aws, self._batches.store, stop=threading.Event())
        try:
            models, _ = planning.choose_models(context)
            painter = models.painter() if scenes else None
        finally:
            context.close()
        prices = _Prices(*map(_price_of, (models.replacer, painter)))
        with self._lock:
            self._kept_prices[scenes] = time.monotonic(), prices
        return prices

    def redo(
        self, person: Person, addresses: Sequence[Address], *, prompt: str = "", seed: int | None = None
    ) -> list[dict[str, Any]]:
        """Asks for other pictures in place of results, each result only as the browser saw it; returns their rows.

        A result that is being made again already, or that changed since, is not asked for; its row says so. Raises
        as `Acts.redo`.
        """
        self._check(person, addresses, Right.REVIEW)
        rows: list[dict[str, Any]] = []
        for batch, chosen in _by_batch(addresses).items():
            work, current, due, refused = self._as_seen(person, batch, chosen)
            rows += self._conflicts(person, refused)
            if not due:
                continue
            items = [current[address.image, address.number] for address in due]
            self._batches.redo(person, work, items, prompt=prompt, seed=seed)
            rows += self._present(person, due)
        return rows

    def _as_seen(
        self, person: Person, batch: Batch, chosen: Sequence[Address]
    ) -> tuple[BatchWork, dict[tuple[str, int], Item], list[Address], list[Address]]:
        """A batch, its results by image and number, and which chosen ones are, and are not, as they were seen."""
        results = self._batches.results(person, batch)
        current = {(item.image, item.number): item for item in results.items()}
        due: list[Address] = []
        refused: list[Address] = []
        places = self._batches.places(person, batch) if any(not each.etag for each in chosen) else ()
        without_result = {
            (place.item.image, place.item.number): place.seen for place in places if not place.item.key
        }
        for address in chosen:
            name = address.image, address.number
            item = current.get(name)
            seen = without_result.get(name, item.review_etag if item else "")
            same = item is not None and (item.etag, seen) == (address.etag, address.seen)
            (due if same else refused).append(address)
        return results.work, current, due, refused

    def _present(self, person: Person, addresses: Sequence[Address]) -> list[dict[str, Any]]:
        """The present rows of results in which others may stand by now."""
        rows = []
        for origin, same_origin in _by_batch(addresses, origin=True).items():
            present = {row["id"]: row for row in self.rows(person, origin)["rows"]}
            rows += [present[_id(address)] for address in same_origin if _id(address) in present]
        return rows

    # Mended masks

    def quote_mended(self, person: Person, address: Address, mask: bytes) -> dict[str, Any]:
        """What making the photo's results anew with a mended mask would cost; nothing is stored.

        ``results`` is how many are made anew, ``pictures`` how many of them have to be painted, ``why`` the reason,
        ``usd`` their price (None: not known) and ``atWorst`` the price with all repetitions. Raises `UsageError` if
        the mask cannot be used.
        """
        self._check(person, [address], Right.REVIEW)
        results = self._batches.results(person, address.batch)
        mended = self._mended(results.work, results.items(), address.image, mask)
        prices = self._prices() if mended.pictures else _Prices()
        return {
            "results": len(mended.items),
            "pictures": mended.pictures,
            "why": mended.why,
            **self._costs(mended.pictures, prices),
        }

    def region(
        self,
        person: Person,
        part: bytes,
        mask: bytes,
        click: tuple[float, float],
        reach: float,
        *,
        keep: bool,
    ) -> bytes:
        """The region that a person means by a click on a part of a photo, as a PNG: see `region_at`.

        Empty if there is none. ``part`` and ``mask`` are the pictures on the person's screen; nothing is read or
        stored. Raises `UsageError` if they cannot be used, or if the search takes longer than `REGION_SECONDS`.
        """
        self.acts.authorization.require(person, Right.REVIEW)
        try:
            sizes = [header_of(self._workers, file).size for file in (part, mask)]
            if sizes[0] != sizes[1] or max(sizes[0]) > LARGEST_PART:
                raise UsageError("the picture and the mask do not belong together; reload the page")
            limit = Limit.of(*sizes, files=len(part) + len(mask), doing="find a region in")
            limit = replace(limit, seconds=REGION_SECONDS)
            return self._workers.run(limit, region_at, part, mask, click, reach, keep=keep)
        except ImageError as error:
            raise UsageError(f"no region was found: {error}") from None
        except SettingsError as error:
            raise UsageError(str(error)) from None

    def mend(
        self, person: Person, addresses: Sequence[Address], mask: bytes, pictures: int
    ) -> list[dict[str, Any]]:
        """Makes a photo's results anew with a mended mask if they are as the browser saw them; returns their rows.

        ``pictures`` is how many paid pictures the person agreed to; nothing is done if it is another number by now.
        Where a result changed since, nothing is done; its row has a ``conflict``. Raises as `Acts.mend`.
        """
        self._check(person, addresses, Right.REVIEW)
        if len({(each.batch, each.image) for each in addresses}) != 1:
            raise UsageError("a mask belongs to one photo; reload the page")
        batch, image = addresses[0].batch, addresses[0].image
        work, current, _, refused = self._as_seen(person, batch, addresses)
        if refused:
            return self._conflicts(person, refused)
        mended = self._mended(work, current.values(), image, mask)
        if {item.number for item in mended.items} != {address.number for address in addresses}:
            raise UsageError(f"{image} has other results by now; reload the page")
        if mended.pictures != pictures:
            raise UsageError(f"the price for {image} is another one by now; look at it again")
        self._batches.mend(person, work, mended)
        return self._present(person, addresses)

    def _mended(self, work: BatchWork, items: Iterable[Item], image: str, mask: bytes) -> review.MendedMask:
        """The mended mask with the results of its photo that were not replaced by others."""
        chosen = [
            item
            for item in items
            if item.image == image
            and not (item.state is State.REJECTED and item.decision and item.decision.redone_as)
        ]
        if not chosen:
            raise Gone(f"{image} has no such result any more")
        return review.prepare_mending(work, chosen, mask, self._workers)

    # Deliveries

    def publish(self, person: Person, batch: Batch) -> str:
        """Publishes the approved results, replacements in the places of their originals; returns a sentence."""
        work = self._batches.results(person, batch).work
        done = self.acts.publish(person, work, self._batches.places(person, batch))
        before = f", {done.kept:,} were published before" if done.kept else ""
        sentence = f"{counted(done.copied, 'result')} published{before}."
        if done.stale:
            names = ", ".join(key.rpartition("/")[2] for key in done.stale[:10])
            sentence += f" Not published, because they changed after their approval: {names}."
        return sentence

    def zip(self, person: Person, batch: Batch) -> Iterator[bytes]:
        """A ZIP file of the approved results as it is made, one result in memory at a time.

        Replacements have the names of their originals. Raises `UsageError` if nothing is approved.
        """
        work = self._batches.results(person, batch).work
        places = self._batches.places(person, batch)
        approved = [place for place in places if place.item.state is State.APPROVED]
        if not any(place.item.key for place in approved):
            raise UsageError("no result of this batch is approved yet")
        return _zipped(work, approved)

    # Reading

    def _items(
        self, person: Person, batch: Batch, addresses: Sequence[Address]
    ) -> tuple[BatchWork, list[Item]]:
        results = self._batches.results(person, batch)
        current = {(item.image, item.number): item for item in results.unjudged()}
        items = [current.get((address.image, address.number)) for address in addresses]
        if None in items:
            raise UsageError("a chosen result does not exist any more; reload the page")
        return results.work, [item for item in items if item is not None]

    def _item(self, person: Person, address: Address) -> tuple[BatchWork, Item]:
        results = self._batches.results(person, address.batch)
        item = results.find(address.image, address.number)
        if item is None:
            raise Gone(f"{address.image} has no such result any more")
        return results.work, item


def _by_batch(addresses: Iterable[Address], *, origin: bool = False) -> dict[Batch, list[Address]]:
    groups: dict[Batch, list[Address]] = {}
    for address in addresses:
        groups.setdefault(address.origin if origin else address.batch, []).append(address)
    return groups


def _is_in(doubt: str, cause: str) -> bool:
    """Whether the stored sentence of a doubt, as JSON, is part of a result's cause."""
    try:
        sentence = orjson.loads(doubt)
    except orjson.JSONDecodeError:
        return False
    return isinstance(sentence, str) and bool(sentence) and sentence in cause


def _id(address: Address) -> str:
    return f"{address.batch.path}\n{address.image}\n{address.number}"


_SPOT_CHECK = (
    "it passed every check and is in the share that a person reviews (BG_REVIEW_SHARE)",
    "Random spot check: it passed every check",
)


def _row(origin: Batch, place: Place) -> dict[str, Any]:
    """A place as the browser gets it. ``id`` names the result that stands there."""
    item, first = place.item, place.earlier[0][1] if place.earlier else place.item
    return {
        "id": f"{place.batch.path}\n{item.image}\n{item.number}",
        "place": f"{origin.path}\n{first.image}\n{first.number}",
        "origin": origin.path,
        "batch": place.batch.path,
        "image": item.image,
        "number": item.number,
        "etag": item.etag,
        "seen": place.seen,
        "file": (first.key or item.key).rpartition("/")[2] or item.image,
        "state": item.state.value,
        "status": item.status.value,
        "flagged": item.status is not Status.SUCCEEDED,
        "cause": item.cause,
        "why": item.why.replace(*_SPOT_CHECK),
        "labels": item.labels,
        "caption": item.caption,
        "alt": item.alt_text,
        "ref": item.ref,
        "model": item.model,
        "prompt": item.prompt,
        "confidence": item.confidence,
        "remaking": place.remaking.path if place.remaking else "",
        "failed": place.failed,
        "earlier": [
            {"batch": batch.path, "image": each.image, "number": each.number, "etag": each.etag}
            for batch, each in place.earlier
        ],
    }


def _zipped(work: BatchWork, approved: Sequence[Place]) -> Iterator[bytes]:
    buffer = _Buffer()
    prefix = f"{work.locations.output_prefix}/"
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as pack:  # type: ignore[call-overload]
        for place in approved:
            item = place.item
            if not item.key:
                continue
            content = place.work.locations.data.read(item.key)
            if content is None:
                raise UsageError(f"{item.key} is gone; run its date again")
            pack.writestr(archive_path((item.place or item.key).removeprefix(prefix)), content.data)
            yield buffer.taken()
    yield buffer.taken()


class _Buffer:
    """What a ZIP file writes into; it cannot seek, so `zipfile` writes the sizes behind the contents."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is kept back."""

    def taken(self) -> bytes:
        data, self._parts = b"".join(self._parts), []
        return data
