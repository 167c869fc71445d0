"""Publishes approved results: copies them under the prefix ``published/``."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import compress

import orjson

from bg_pipeline.domain import s3_keys
from bg_pipeline.errors import PreconditionFailed, UsageError
from bg_pipeline.review.decisions import THREADS, State, decision_about
from bg_pipeline.review.items import Item
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.storage.object_store import Store


@dataclass(frozen=True, slots=True)
class PublishResult:
    """The numbers of copied, kept and removed results; ``stale`` results changed meanwhile and were not copied."""

    copied: int = 0
    kept: int = 0
    removed: int = 0
    stale: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Copy:
    """A published result: the ETags of the result and of its copy (empty while it is copied), image and number.

    ``image`` is empty if the list was written by an old version, which did not store images. ``source`` is the key of
    the result if it was published in another one's place.
    """

    result_etag: str
    etag: str
    image: str = ""
    number: int = 0
    source: str = ""

    @classmethod
    def of(cls, item: Item, etag: str = "") -> "_Copy":
        return cls(item.etag, etag, item.image, item.number, item.key if item.place else "")


def publish(work: BatchWork, items: Iterable[Item]) -> PublishResult:
    """Copies the approved results of a batch under ``published/``, and removes rejected and replaced copies.

    A copy is removed if a person rejected the published version, if a new version of the same result is published, or
    if all results that its image has now are published. All other copies stay, also if a later attempt failed, was
    blocked or waits for a person. Existing copies are not copied again, so repeating this costs one read and one
    listing. Only objects that this function created are removed. An item with a ``place`` is published
    there. Raises `UsageError` if somebody else is publishing
    the same batch at the moment.
    """
    items = list(items)
    data, key = work.locations.data, work.locations.batch.published_list_key
    content = data.read(key)
    approved = {_target(item): item for item in items if item.state is State.APPROVED}
    listed = _published(content.data) if content else {}
    listed |= {
        target: replace(listed[target], image=item.image, number=item.number)
        for target, item in approved.items()
        if target in listed
    }
    prefix = s3_keys.published_key(f"{work.locations.output_prefix}/")
    stored_etags = {info.key: info.etag for info in data.list(prefix)}
    to_copy = {
        target: item
        for target, item in approved.items()
        if target not in stored_etags or _tags(listed.get(target)) != (item.etag, stored_etags[target])
    }
    not_approved = {target: copy for target, copy in listed.items() if target not in approved}
    to_remove = _rejected(data, not_approved)
    if not to_copy:
        to_remove |= _replaced(work, items, not_approved, approved.keys())
        if not to_remove:
            return PublishResult(kept=len(approved))
    try:
        # The list is written before the copies, so that no copy is unlisted if this process dies.
        planned = listed | {target: _Copy.of(item) for target, item in to_copy.items()}
        etag = _list_published(data, key, planned, content.etag if content else None)
        copied = _copy(data, to_copy)
        # A result that changed meanwhile is not copied and replaces nothing.
        to_remove |= _replaced(work, items, not_approved, (approved.keys() - to_copy.keys()) | copied.keys())
        for target in to_remove & stored_etags.keys():
            if listed[target].etag in ("", stored_etags[target]):
                _delete(data, target, stored_etags[target])
        after = {target: copy for target, copy in listed.items() if target not in to_remove} | copied
        _list_published(data, key, after, etag)
    except PreconditionFailed:
        raise UsageError(
            f"somebody else is publishing batch {work.locations.batch.path} at the moment; publish it again"
        ) from None
    stale = tuple(item.key for target, item in to_copy.items() if target not in copied)
    return PublishResult(len(copied), len(approved) - len(to_copy), len(to_remove), stale)


def _target(item: Item) -> str:
    """The key of the published copy of a result."""
    return s3_keys.published_key(item.place or item.key)


def _tags(copy: _Copy | None) -> tuple[str, str] | None:
    return (copy.result_etag, copy.etag) if copy else None


def _rejected(data: Store, delivered: Mapping[str, _Copy]) -> set[str]:
    """The copies whose published version a person rejected."""

    def is_rejected(pair: tuple[str, _Copy]) -> bool:
        target, copy = pair
        result = copy.source or s3_keys.result_of_published(target)
        decision = decision_about(data, result, copy.result_etag)
        return decision is not None and decision.state is State.REJECTED

    with ThreadPoolExecutor(THREADS, "publish") as pool:
        return set(compress(delivered, pool.map(is_rejected, delivered.items())))


def _replaced(
    work: BatchWork, items: Iterable[Item], delivered: Mapping[str, _Copy], published_now: Collection[str]
) -> set[str]:
    """The copies for which ``published_now`` has a newer version, or every result that their image has now."""
    published = {(item.image, item.number) for item in items if item.key and _target(item) in published_now}
    counts = Counter(image for image, _ in published)

    def is_replaced(copy: _Copy) -> bool:
        if (copy.image, copy.number) in published:
            return True
        if not counts[copy.image] or work.request is None or copy.image not in work.images:
            return False
        asked = work.settings_of(copy.image)
        return counts[copy.image] >= len(asked.outputs) * (len(asked.renditions) or 1)

    return {target for target, copy in delivered.items() if is_replaced(copy)}


def _delete(data: Store, target: str, etag: str) -> None:
    """Deletes a copy, unless another object was stored in its place."""
    with suppress(PreconditionFailed):
        data.delete(target, if_etag=etag)


def _copy(data: Store, wanted: Mapping[str, Item]) -> dict[str, _Copy]:
    """Copies the results that have not changed since the approval; returns the copies by key."""

    def copy(pair: tuple[str, Item]) -> tuple[str, _Copy] | None:
        target, item = pair
        try:
            etag = data.copy(item.key, target, if_etag=item.etag)
        except PreconditionFailed:
            return None
        return target, _Copy.of(item, etag)

    with ThreadPoolExecutor(THREADS, "publish") as pool:
        return dict(done for done in pool.map(copy, wanted.items()) if done)


def _published(data: bytes) -> dict[str, _Copy]:
    """The published copies by key; empty if the list cannot be read."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return {
        target: _Copy(
            str(each.get("ResultETag", "")),
            str(each["ETag"]),
            str(each.get("Image", "")),
            int(each.get("Number", 0)),
            str(each.get("Source", "")),
        )
        for target, each in (document.items() if isinstance(document, dict) else ())
        if isinstance(each, dict) and "ETag" in each
    }


def _list_published(data: Store, key: str, published: Mapping[str, _Copy], if_etag: str | None) -> str:
    document = {
        target: {
            "ResultETag": copy.result_etag,
            "ETag": copy.etag,
            "Image": copy.image,
            "Number": copy.number,
            **({"Source": copy.source} if copy.source else {}),
        }
        for target, copy in published.items()
    }
    return data.write_json(key, document, if_absent=if_etag is None, if_etag=if_etag)
