"""Makes a photo's results anew with a mask that a person mended, without a call where the paid picture serves."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from bg_pipeline.budget.remaining import cap_left, check_cap
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.presets import PRESET_REQUESTS
from bg_pipeline.domain.requests import BatchRequest, ImageEntry, ImageSettings, image_settings, write
from bg_pipeline.errors import ImageError, UsageError
from bg_pipeline.imaging.workers import Limit, PictureWorkers, header_of
from bg_pipeline.masks.mending import check_mended
from bg_pipeline.reports.overview import load_status
from bg_pipeline.review.decisions import require_decider
from bg_pipeline.review.items import Item
from bg_pipeline.review.redoing import replace_by, submit_once
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.run.fingerprints import request_fingerprint
from bg_pipeline.settings import Settings
from bg_pipeline.state.mendings import Mending
from bg_pipeline.storage.object_store import Store

LEAST_CAP: Final = 0.01
"""The cap, in dollars, of a batch that needs no paid call and whose original's cap is used up: requests need one."""


@dataclass(frozen=True)
class MendedMask:
    """A mended mask that fits its photo, as `prepare_mending` checked it.

    ``items`` are the results of the photo that are made anew. ``pictures`` is how many pictures have to be painted
    and paid for, and ``why`` a sentence with the reason, empty if there are none. ``answers`` are the identities of
    the paid pictures that are used again, by position.
    """

    image: str
    data: bytes
    items: tuple[Item, ...]
    pictures: int
    why: str = ""
    answers: dict[int, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()[:32]


def check_photo(work: BatchWork, image: str) -> None:
    """Raises `UsageError` if the photo is not the one that the results were made from. Reads no picture."""
    store, key = work.locations.resolve(f"{work.locations.input_prefix}/{image}")
    photo = store.head(key)
    if photo is None or not _is_same(work, image, photo.etag):
        raise _replaced(image)


def _is_same(work: BatchWork, image: str, etag: str) -> bool:
    """Whether the photo with this ``etag`` is the one that was processed; a moved one is."""
    entry, uploaded_at = work.ledger.get(image), f"{work.locations.input_prefix}/{image}"
    _, key = work.locations.resolve(uploaded_at)
    return entry is not None and (key != uploaded_at or etag == entry.etag)


def _replaced(image: str) -> UsageError:
    return UsageError(f"{image} was replaced or deleted since its results were made; run its batch first")


def prepare_mending(
    work: BatchWork, items: Sequence[Item], data: bytes, workers: PictureWorkers
) -> MendedMask:
    """Checks the mask file ``data`` for the photo of ``items``, and whether the paid pictures serve with it.

    ``items`` are all results of one photo that are made anew. Nothing is stored. Raises `UsageError` if the mask
    cannot be used, or if the photo is not the one that the results were made from.
    """
    if work.request is None:
        raise UsageError(f"the request of batch {work.locations.batch.path} cannot be read: {work.problem}")
    if len({item.image for item in items}) != 1:
        raise UsageError("a mask belongs to one photo; name results of one photo")
    image = items[0].image
    locations = work.locations
    store, key = locations.resolve(f"{locations.input_prefix}/{image}")
    photo = store.read(key)
    if photo is None or not _is_same(work, image, photo.etag):
        raise _replaced(image)
    before = mask_file(work, image)
    asked = work.settings_of(image)
    documents = _provenances(work, asked, items)
    by_words = bool(documents) and all(document.get("Mask") is None for document in documents.values())
    try:
        size = header_of(workers, photo.data).size
        sizes = [size, *(header_of(workers, file).size for file in (data, before) if file)]
        keeps_all = workers.run(
            Limit.of(*sizes, files=len(data), doing="read"),
            check_mended,
            workers.blob(data),
            size,
            workers.blob(before) if before else None,
        )
    except ImageError as error:
        raise UsageError(f"the mended mask of {image} cannot be used: {error}") from None
    if not asked.needs_prompt:
        if asked.scene is not None and not all(item.key for item in items):
            raise UsageError(f"{image} has no picture yet; ask for another picture first")
        return MendedMask(image, data, tuple(items), 0)
    if not all(item.key for item in items):
        return MendedMask(image, data, tuple(items), 1, "there is no painted picture yet")
    answers = {
        position: str(document["Answer"])
        for position, document in documents.items()
        if document.get("Answer")
    }
    if answers.keys() != {output.position for output in asked.outputs}:
        why = "the painted picture is not known any more"
    elif not keeps_all or (before is None and not by_words):
        why = "where the mask keeps less than before, the painted picture shows the old background"
    else:
        return MendedMask(image, data, tuple(items), 0, answers=answers)
    return MendedMask(image, data, tuple(items), len(asked.outputs), why)


def mask_file(work: BatchWork, image: str) -> bytes | None:
    """The file of the mask in use: the one that the request names, else the one that the run stored."""
    locations = work.locations
    given = work.settings_of(image).mask_key if work.request else None
    content = (
        locations.bucket_of(given).read(given)
        if given
        else locations.store.read(locations.batch.mask_key(image))
    )
    return content.data if content else None


def _provenances(work: BatchWork, asked: ImageSettings, items: Sequence[Item]) -> dict[int, dict[str, Any]]:
    """The provenance documents of the results by the position of their picture, one for each."""
    files = len(asked.renditions) or 1
    documents: dict[int, dict[str, Any]] = {}
    for item in items:
        position = (item.number - 1) // files + 1
        if item.key and position not in documents:
            document = work.locations.data.read_json(s3_keys.provenance_key(item.key))
            if isinstance(document, dict):
                documents[position] = document
    return documents


def mending_request(work: BatchWork, items: Sequence[Item], mask_key: str) -> BatchRequest:
    """The request that makes a photo's results again with the mask at ``mask_key`` and with the same seeds.

    A photo without any result gets one picture, as when it is asked for again.
    """
    if work.request is None:
        raise UsageError(f"the request of batch {work.locations.batch.path} cannot be read: {work.problem}")
    image = items[0].image
    asked = work.settings_of(image)
    entry = work.request.entries.get(image) or ImageEntry(ImageName=image)
    entry = replace(entry, Subject="MASK", MaskKey=mask_key)
    if asked.needs_prompt and not all(item.key for item in items):
        entry = replace(entry, Prompt=None, Prompts=asked.prompts[:1], Variants=1)
    return replace(
        work.request,
        OutputS3Prefix="",
        StatusS3Prefix="",
        Sample=None,
        RetryOf=work.request.Id,
        Images=(entry,),
    )


def mend(store: Store, settings: Settings, work: BatchWork, mended: MendedMask, *, by: str) -> Batch:
    """Submits a new batch of today that makes the photo's results with the mended mask; returns the batch.

    The mask is stored in its folder as a mask that a request names, and the present results are rejected. The same
    mask asked for again before that batch has its report gives the same batch. Raises `UsageError` as `redo` does,
    and `CapUsedUp` only if pictures have to be painted.
    """
    require_decider(by)
    items = mended.items

    def request_of(batch: Batch) -> BatchRequest:
        return mending_request(work, items, batch.mended_mask_key(mended.digest))

    def ask(batch: Batch) -> bytes:
        cap = _cap(store, settings, work, free=not mended.pictures)
        return write(replace(request_of(batch), Id=batch.derived_id(store.bucket), MaxCostUSD=cap))

    def prepare(batch: Batch) -> None:
        key = batch.mended_mask_key(mended.digest)
        source = work.images[mended.image]
        asked = image_settings(mending_request(work, items, key), mended.image, PRESET_REQUESTS)
        wish = request_fingerprint(asked, source.etag if source else "")
        if not Mending(wish, mended.answers).write(store, key):
            raise UsageError(f"the mask of {mended.image} is being mended by somebody else; try again")
        store.write(key, mended.data, media_type="image/png")

    def covers(request: BatchRequest, batch: Batch) -> bool:
        return request.entries.get(mended.image) == request_of(batch).entries[mended.image]

    batch = submit_once(store, settings, work, items, ask, covers, prepare)
    replace_by(work, items, batch, by=by, reason=f"made again with a mended mask as {batch.path}")
    return batch


def _cap(store: Store, settings: Settings, work: BatchWork, *, free: bool) -> float | None:
    """What is left of the batch's cap; the request is read again because its cap may have been raised."""
    batch = work.locations.batch
    asked = load_status(store, settings, batch).request or work.request
    if asked is None:
        return None
    if not free:
        return check_cap(store, batch, asked)
    left = cap_left(store, batch, asked)
    return None if left is None else max(left, LEAST_CAP)
