"""Approved results delivered under a prefix of their own."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import orjson

from bg_pipeline import layout
from bg_pipeline.errors import PreconditionFailed, UsageError
from bg_pipeline.flow.work import Work
from bg_pipeline.review.decisions import THREADS, State
from bg_pipeline.review.items import Item
from bg_pipeline.store import Store


@dataclass(frozen=True, slots=True)
class Published:
    """What `publish` did; ``stale`` are results that changed or went away meanwhile and are not delivered."""

    copied: int = 0
    kept: int = 0
    removed: int = 0
    stale: tuple[str, ...] = ()


def publish(work: Work, found: Iterable[Item]) -> Published:
    """Copies the approved results of a batch under ``published/``, and takes away what is approved no more.

    What is there already is left alone, so that doing it again costs a read and a listing. Only what this function
    put there is ever taken away. Raises `UsageError` if somebody else is publishing the same batch right now.
    """
    data, key = work.place.data, work.place.batch.published_list_key
    content = data.read(key)
    before = _published(content.data) if content else {}
    approved = {layout.published_key(item.key): item for item in found if item.state is State.APPROVED}
    prefix = layout.published_key(f"{work.place.output_prefix}/")
    there = {each.key: each.etag for each in data.list(prefix)}
    fresh = {
        target: item
        for target, item in approved.items()
        if target not in there or before.get(target) != (item.etag, there[target])
    }
    gone = [target for target in before if target not in approved]
    if not fresh and not gone:
        return Published(kept=len(approved))
    try:
        # First what will be ours, so that nothing is left behind that nobody knows if this process dies.
        planned = before | {target: (item.etag, "") for target, item in fresh.items()}
        etag = _list_published(data, key, planned, content.etag if content else None)
        copied = _copy(data, fresh)
        for target in gone:
            if target in there and before[target][1] in ("", there[target]):
                data.delete(target)
        after = {target: etags for target, etags in before.items() if target in approved} | copied
        _list_published(data, key, after, etag)
    except PreconditionFailed:
        raise UsageError(
            f"somebody else is publishing batch {work.place.batch.path} right now; do it again"
        ) from None
    stale = tuple(item.key for target, item in fresh.items() if target not in copied)
    return Published(len(copied), len(approved) - len(fresh), len(gone), stale)


def _copy(data: Store, wanted: Mapping[str, Item]) -> dict[str, tuple[str, str]]:
    """Copies results that are still what was approved; the tags of each result and of its copy, by the copy's key."""

    def copy(pair: tuple[str, Item]) -> tuple[str, tuple[str, str]] | None:
        target, item = pair
        try:
            return target, (item.etag, data.copy(item.key, target, if_etag=item.etag))
        except PreconditionFailed:
            return None

    with ThreadPoolExecutor(THREADS, "publish") as pool:
        return dict(done for done in pool.map(copy, wanted.items()) if done)


def _published(data: bytes) -> dict[str, tuple[str, str]]:
    """What was published by key: the tags of the result and of its copy, empty while it is being copied."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return {
        target: (str(each.get("ResultETag", "")), str(each["ETag"]))
        for target, each in (document.items() if isinstance(document, dict) else ())
        if isinstance(each, dict) and "ETag" in each
    }


def _list_published(
    data: Store, key: str, published: Mapping[str, tuple[str, str]], if_etag: str | None
) -> str:
    document = {target: {"ResultETag": etag, "ETag": copied} for target, (etag, copied) in published.items()}
    return data.write_json(key, document, if_absent=if_etag is None, if_etag=if_etag)
