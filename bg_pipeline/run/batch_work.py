"""A batch in the hands of a run: its request, its images, and for each image the stages that are due."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pybase64
from botocore.exceptions import ClientError

from bg_pipeline.domain import requests, s3_keys
from bg_pipeline.domain.batches import Batch, find_batch
from bg_pipeline.domain.file_names import ResultNames
from bg_pipeline.domain.ledger_entries import Entry
from bg_pipeline.domain.presets import PRESET_REQUESTS
from bg_pipeline.domain.requests import BatchRequest, ImageSettings
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.stages import CAPTIONS, LABELS, STAGES
from bg_pipeline.domain.upload_kinds import Kind, films_of_photos, kind_of
from bg_pipeline.errors import RequestError, UsageError
from bg_pipeline.run.batch_locations import BatchLocations
from bg_pipeline.run.fingerprints import fingerprints, stages_due
from bg_pipeline.run.occasions import RETRY, RefreshRequest, occasions
from bg_pipeline.run.outcomes import RowOutcome
from bg_pipeline.settings import Settings
from bg_pipeline.state.claimed_prefixes import claim
from bg_pipeline.state.leased_writes import LeasedWriter
from bg_pipeline.state.leases import Lease
from bg_pipeline.state.ledger import Ledger
from bg_pipeline.state.thumbnails import Thumbnails
from bg_pipeline.storage.object_store import ObjectInfo, Store
from bg_pipeline.uploads.listing import Uploaded, batches, find
from bg_pipeline.uploads.unicode_names import match_names

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class BatchWork:
    """One batch; ``request`` is None, and ``problem`` says why, where the request cannot be read.

    ``images`` maps each image asked for to its object, None where there is none. ``due`` has, for each image
    with something to do, its stages with the fingerprints they will have been done for; ``lost``, by image, results
    that the ledger knows and that are not stored any more as they were. ``occasions`` names, by stage, the refresh on
    which it is made anew, ``retry`` the occasion on which what failed is tried again. ``writer`` writes under the
    ``lease``. ``done``, ``failed`` and ``undelivered`` count this run's images: all, those whose calls failed, and
    those in a row whose results S3 did not take.
    """

    uploaded: Uploaded
    ledger: Ledger
    locations: BatchLocations
    request: BatchRequest | None
    problem: RequestError | None
    images: Mapping[str, ObjectInfo | None]
    due: dict[str, dict[str, str]] = field(default_factory=dict)
    lease: Lease | None = None
    writer: LeasedWriter = field(default_factory=lambda: LeasedWriter(None))
    pending: int = 0
    done: int = 0
    failed: int = 0
    undelivered: int = 0
    lost: dict[str, list[str]] = field(default_factory=dict)
    occasions: dict[str, str] = field(default_factory=dict)
    retry: str = ""
    stopped: RowOutcome | None = None
    ledger_objects: Sequence[ObjectInfo] = ()
    _alike: tuple[BatchRequest, ImageSettings] | None = None

    def settings_of(self, image: str) -> ImageSettings:
        """What the request asks for an image; only for images, which a batch without a request has none of."""
        found = self._asked(image)
        return found if found.image == image else replace(found, image=image)

    def ref(self, image: str) -> str:
        """The reference that the request gives an image; the same as ``asked`` has, in a fraction of its time."""
        return self._asked(image).ref

    def _asked(self, image: str) -> ImageSettings:
        """What is asked for an image, under whatever name."""
        if self.request is None:
            raise ValueError(f"{image} is not asked for: the request cannot be read")
        if image in self.request.entries:
            return requests.image_settings(self.request, image, PRESET_REQUESTS)
        # All images without an entry are asked for alike, and this is asked several times for each of 10,000.
        if self._alike is None or self._alike[0] is not self.request:
            self._alike = self.request, requests.image_settings(self.request, "", PRESET_REQUESTS)
        return self._alike[1]

    def find_due(
        self,
        settings: Settings,
        results: Mapping[str, str],
        *,
        stages: Collection[str],
        wish: RefreshRequest,
        etag_of: Callable[[str], str],
    ) -> None:
        """Fills ``due`` and ``lost``. ``etag_of`` tells the tag of a mask or backdrop by its key; the rest is as in
        `due`."""
        self.due, self.lost = {}, {}
        on = occasions(self.ledger.header, wish)
        self.retry = on.pop(RETRY, "")
        self.occasions = on
        if self.uploaded.batch.is_order:
            # Its picture asks for the labels or the caption that it needs; no others are paid for.
            stages = [stage for stage in stages if stage not in (LABELS, CAPTIONS)]
        named = {} if self.request is None else {key: etag_of(key) for key in self.request.named_keys}
        for image, found in self.images.items():
            prints = fingerprints(settings, self.settings_of(image), found.etag if found else "", named)
            entry = self.ledger.get(image)
            due_stages = stages_due(
                entry, prints, stages=stages, occasions=on, results=results, retry=bool(self.retry)
            )
            if due_stages:
                self.due[image] = due_stages
                lost = [key for key, etag in entry.files.items() if results.get(key) != etag] if entry else []
                if lost:
                    self.lost[image] = lost

    @property
    def has_removed_images(self) -> bool:
        """Whether the ledger, and so the report, has images that are not asked for any more."""
        return self.problem is None and not self.ledger.images() <= self.images.keys()


def stored_batches(
    store: Store, dates: Iterable[UploadDate], only: Collection[Batch] = ()
) -> Iterator[tuple[Uploaded, list[ObjectInfo]]]:
    """Every batch of the dates, or those of ``only``, with the listing of its ledger: what `open_work` takes."""
    for date in dates:
        ledgers = defaultdict(list)
        for found in store.list(f"{s3_keys.STATE}/ledger/{s3_keys.date_path(date)}/"):
            ledgers[found.key.rpartition("/")[0]].append(found)
        for uploaded in batches(store, date):
            found_objects = ledgers.pop(uploaded.batch.ledger_prefix, [])
            if not only or uploaded.batch in only:
                yield uploaded, found_objects
        for prefix, objects in ledgers.items():
            emptied = find_batch(prefix.removeprefix(f"{s3_keys.STATE}/ledger/"))
            if emptied and (not only or emptied in only) and _moved(Ledger.read(store, emptied, objects)):
                yield Uploaded(emptied, emptied=True), objects


def open_batch(store: Store, settings: Settings, batch: Batch) -> BatchWork:
    """One batch by its name, as it is stored. Raises `UsageError` if there is none."""
    uploaded, objects = find(store, batch), list(store.list(f"{batch.ledger_prefix}/"))
    if uploaded is None and _moved(Ledger.read(store, batch, objects)):
        uploaded = Uploaded(batch, emptied=True)
    if uploaded is None:
        raise UsageError(f"there is no batch {batch.path} in bucket {store.bucket}")
    return open_work(store, settings, uploaded, objects)


def drafted(store: Store, settings: Settings, uploaded: Uploaded, request: BatchRequest) -> BatchWork:
    """A request that is not submitted yet over what was uploaded for it, with what a first run would find due."""
    batch = uploaded.batch
    names = list(request.entries) or [
        name for name in uploaded.images if batch.upload_key(name) not in request.named_keys
    ]
    images = {name: uploaded.objects.get(name) for name in names}
    place = BatchLocations(
        batch=batch,
        store=store,
        data=store.in_bucket(request.S3Bucket),
        input_prefix=request.InputS3Prefix,
        output_prefix=request.OutputS3Prefix,
        status_prefix=request.StatusS3Prefix,
        names=ResultNames(images, {}),
        request_id=request.Id,
        cap_usd=request.MaxCostUSD,
        thumbnails=Thumbnails(store, batch, enabled=False),
    )
    work = BatchWork(uploaded, Ledger(store, batch), place, request, None, images)
    work.find_due(settings, {}, stages=STAGES, wish=RefreshRequest(), etag_of=lambda key: "")
    return work


def open_work(
    store: Store, settings: Settings, uploaded: Uploaded, ledger_objects: Sequence[ObjectInfo]
) -> BatchWork:
    """A batch as it is stored; a request that has not changed since the ledger was written is not read again."""
    batch = uploaded.batch
    ledger = Ledger.read(store, batch, ledger_objects)
    request, problem = None, None
    try:
        request = _request(store, settings, uploaded, ledger)
        if request.OutputS3Prefix != batch.output_prefix:
            claim(store, batch, request.OutputS3Prefix, "OutputS3Prefix")
        # A report that is there already was written when the places of reports were not claimed yet.
        if request.StatusS3Prefix != batch.status_prefix and not ledger.header.get("Reported"):
            claim(store, batch, request.StatusS3Prefix, "StatusS3Prefix")
    except RequestError as error:
        request, problem = None, error
    data = store
    images: Mapping[str, ObjectInfo | None] = {}
    moved: dict[str, str] = {}
    if request is not None:
        data = store.in_bucket(request.S3Bucket)
        try:
            images, moved = _images(store, data, uploaded, request, ledger)
        except ClientError as error:
            if data.bucket == store.bucket or not _lasts(error):
                raise
            words = f"bucket '{request.S3Bucket}' cannot be used: {error}"
            data, request, problem = store, None, RequestError([("S3Bucket", words)])
    kept = {
        # Most results bear the photo's own name, which is here already.
        (image, int(number)): image if name == image else name
        for image, names in ledger.field_of_each("names")
        for number, name in names.items()
    }
    place = BatchLocations(
        batch=batch,
        store=store,
        data=data,
        input_prefix=request.InputS3Prefix if request else batch.input_prefix,
        output_prefix=request.OutputS3Prefix if request else batch.output_prefix,
        status_prefix=request.StatusS3Prefix if request else batch.status_prefix,
        names=ResultNames(images, kept),
        request_id=request.Id if request else batch.derived_id(store.bucket),
        cap_usd=request.MaxCostUSD if request else None,
        thumbnails=Thumbnails(store, batch, enabled=len(images) <= settings.html_report_images),
        retries=request is not None and request.RetryOf is not None,
        moved=moved,
    )
    return BatchWork(uploaded, ledger, place, request, problem, images)


def _lasts(error: ClientError) -> bool:
    """Whether an error of S3 is one of rights or names, which no repetition mends."""
    return 400 <= int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) < 500


def _request(store: Store, settings: Settings, uploaded: Uploaded, ledger: Ledger) -> BatchRequest:
    batch = uploaded.batch
    if uploaded.request is None:
        return requests.default_request(batch, store.bucket, settings.default_prompt)
    if ledger.header.get("RequestETag") == uploaded.request.etag:
        data = _kept_request(ledger.header)
    else:
        content = store.read(uploaded.request.key)
        data = content.data if content else b""
        if content and content.etag != uploaded.request.etag:
            # Replaced since it was listed: an approval of the earlier one is none of this.
            uploaded.request = replace(uploaded.request, etag=content.etag, modified=content.modified)
        text = data.decode("utf-8", "replace")
        # As it came, where it is not UTF-8: what is read from the ledger has to be what was sent.
        odd = pybase64.b64encode_as_string(data) if text.encode() != data else ""
        ledger.update_header(RequestETag=content.etag if content else "", Request=text, RequestBytes=odd)
    return requests.read(
        data,
        bucket=store.bucket,
        batch=batch,
        allowed_buckets=settings.allowed_buckets,
        presets=PRESET_REQUESTS,
    )


def _kept_request(header: Mapping[str, Any]) -> bytes:
    """The request as the ledger keeps it."""
    if odd := header.get("RequestBytes"):
        return pybase64.b64decode(odd)
    return str(header.get("Request", "")).encode()


def _moved(ledger: Ledger) -> dict[str, Entry]:
    """The entries of photos that were moved to the archive, by image."""
    moved = (ledger.get(image) for image, archived in ledger.field_of_each("archived") if archived)
    return {entry.image: entry for entry in moved if entry is not None}


def _images(
    store: Store, data: Store, uploaded: Uploaded, request: BatchRequest, ledger: Ledger
) -> tuple[dict[str, ObjectInfo | None], dict[str, str]]:
    """The images asked for, those that the request lists or all in its folder, and where moved ones are by key."""
    objects, images, moved = uploaded.objects, uploaded.images, _moved(ledger)
    if request.InputS3Prefix != uploaded.batch.input_prefix or data.bucket != store.bucket:
        prefix = f"{request.InputS3Prefix}/"
        objects = {found.key.removeprefix(prefix): found for found in data.list(prefix)}
        films = films_of_photos(objects)
        images = {
            name: found
            for name, found in objects.items()
            if kind_of(name) is Kind.IMAGE and name not in films
        }
        owner = find_batch(f"{request.InputS3Prefix}/any")
        moved = {}
        if owner is not None and owner.input_prefix == request.InputS3Prefix and data.bucket == store.bucket:
            moved = _moved(Ledger.read(store, owner, list(store.list(f"{owner.ledger_prefix}/"))))
    moved = {name: entry for name, entry in moved.items() if name not in objects}
    # Known under the tag of the upload: that a photo was moved is no reason to do anything again.
    prefix = f"{request.InputS3Prefix}/"
    gone = {name: ObjectInfo(prefix + name, 0, entry.etag, _LONG_AGO) for name, entry in moved.items()}
    objects, images = {**objects, **gone}, {**images, **gone}
    places = {gone[name].key: entry.archived for name, entry in moved.items()}
    if request.Images is not None:
        # A name that differs from the object's only in how an accent is written means it.
        names = match_names(request.entries, objects)
        found_as = {name: objects.get(names.get(name, name)) for name in request.entries}
        for name, found in found_as.items():
            if found is not None and found.key != prefix + name:
                places[prefix + name] = places.get(found.key, f"s3://{data.bucket}/{found.key}")
        return found_as, places
    taken = request.named_keys
    return {name: found for name, found in images.items() if found.key not in taken}, places
