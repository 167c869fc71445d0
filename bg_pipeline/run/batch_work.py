"""One batch as a run works on it: its request, its images, and for each image the stages that are due."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pybase64
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.domain import requests, s3_keys
from bg_pipeline.domain.batches import Batch, find_batch
from bg_pipeline.domain.file_names import ResultNames
from bg_pipeline.domain.ledger_entries import Entry
from bg_pipeline.domain.presets import PRESET_REQUESTS
from bg_pipeline.domain.requests import BatchRequest, ImageSettings
from bg_pipeline.domain.requests.fields import names_object
from bg_pipeline.domain.rows import GOOD
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.stages import CAPTIONS, LABELS, STAGES
from bg_pipeline.domain.upload_kinds import Kind, kind_of, live_photo_videos
from bg_pipeline.errors import ImageError, RequestError, UsageError, missing_file
from bg_pipeline.run.batch_locations import BatchLocations
from bg_pipeline.run.fingerprints import (
    fingerprint,
    fingerprints,
    request_fingerprint,
    stages_due,
    uses_labels,
)
from bg_pipeline.run.occasions import RETRY, RefreshRequest, occasions
from bg_pipeline.run.outcomes import RowOutcome
from bg_pipeline.run.results import REQUEST_METADATA
from bg_pipeline.settings import Settings
from bg_pipeline.state.claimed_prefixes import claim
from bg_pipeline.state.leased_writes import LeasedWriter
from bg_pipeline.state.leases import Lease
from bg_pipeline.state.ledger import Ledger
from bg_pipeline.state.thumbnails import Thumbnails
from bg_pipeline.storage.object_store import ObjectInfo, Store
from bg_pipeline.uploads.listing import Uploaded, batches, find
from bg_pipeline.uploads.submission import Submission
from bg_pipeline.uploads.unicode_names import match_names

if TYPE_CHECKING:
    from bg_pipeline.run.shared_batch import SharedBatch

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class BatchWork:
    """One batch. If its request cannot be read, ``request`` is None and ``problem`` is the reason.

    ``images`` maps the name of each requested image to its object, or to None if there is no such object. ``due``
    maps each image with due stages to these stages and their new fingerprints. ``lost`` maps an image to those result
    keys of its ledger entry that are missing or changed in S3. ``present`` are the masks and backdrops that the
    request names and that are there; None: they were not looked for. ``occasions`` maps a stage to the refresh for
    which it has to be done again; ``retry`` is the occasion of a request to try final failures again, or empty.
    ``writer`` writes only while ``lease`` is held. ``ledger_objects`` is the listing from which the ledger was read.
    ``submission`` is what was recorded when the batch was submitted; ``images`` have the ETags of that time.

    For the current run: ``pending`` counts the images that have no outcome yet, ``done`` those that have, ``failed``
    those whose calls failed, and ``undelivered`` the last images in a row whose results S3 did not store.
    ``stopped`` is the reason why no further image of the batch is started.

    If other runs work on the batch too, ``shared`` is set. The batch is then processed in parts: each is a work of
    its own, with ``part``, its lease and its ledger; ``left`` counts the images that are left to others.
    ``prints_digest`` is a digest of all images and the fingerprints of all their stages.
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
    submission: Submission = field(default_factory=Submission)
    present: frozenset[str] | None = None
    shared: "SharedBatch | None" = None
    part: int | None = None
    left: int = 0
    prints_digest: str = ""
    _shared_settings: tuple[BatchRequest, ImageSettings] | None = None

    def settings_of(self, image: str) -> ImageSettings:
        """What the request asks for an image. Raises `ValueError` if the request cannot be read."""
        settings = self._settings_without_name(image)
        return settings if settings.image == image else settings.named(image)

    def ref(self, image: str) -> str:
        """The reference that the request gives an image, as in `settings_of` but faster."""
        return self._settings_without_name(image).ref

    def _settings_without_name(self, image: str) -> ImageSettings:
        """What the request asks for an image; ``image`` may be empty in it."""
        if self.request is None:
            raise ValueError(f"{image} has no settings: the request cannot be read")
        if image in self.request.entries:
            return requests.image_settings(self.request, image, PRESET_REQUESTS)
        # All images without an entry of their own have the same settings, which are read several times for each of
        # up to 10,000 images.
        if self._shared_settings is None or self._shared_settings[0] is not self.request:
            self._shared_settings = self.request, requests.image_settings(self.request, "", PRESET_REQUESTS)
        return self._shared_settings[1]

    def update_from(self, current: "BatchWork") -> None:
        """Replaces what was read from S3 by what ``current`` has; the lease, its writer and the counts stay."""
        self.ledger = current.ledger
        self.locations = current.locations
        self.due = current.due
        self.lost = current.lost
        self.occasions = current.occasions
        self.retry = current.retry
        self.request = current.request
        self.problem = current.problem
        self.images = current.images
        self.submission = current.submission
        self.present = current.present
        self.prints_digest = current.prints_digest

    def refusal(self, image: str) -> ImageError | None:
        """Why the image is not paid for: something that it needs is missing or was uploaded after the submission."""
        source, settings = self.images.get(image), self.settings_of(image)
        named = [key for key in (settings.mask_key, settings.backdrop) if key and names_object(key)]
        missing = [key for key in named if self.present is not None and key not in self.present]
        if missing:
            return missing_file(missing[0])
        return self.submission.refusal([*([source.key] if source else ()), *named])

    def find_due(
        self,
        settings: Settings,
        results: Mapping[str, str],
        *,
        stages: Collection[str],
        refresh: RefreshRequest,
        etags_of: Callable[[str], Mapping[str, str]] | None,
    ) -> None:
        """Sets ``due`` and ``lost``, and with them ``occasions`` and ``retry``.

        ``results`` are the ETags of the stored results by key, ``stages`` the stages to consider. ``etags_of``
        returns the ETag, by key, of a mask or backdrop, or of all masks if its argument is a folder; None: they do
        not matter.
        """
        self.due, self.lost = {}, {}
        self.occasions = occasions(self.ledger.header, refresh)
        self.retry = self.occasions.pop(RETRY, "")
        if self.uploaded.batch.is_order:
            # An order is for pictures: labels and captions are made only if the picture needs them.
            stages = [stage for stage in stages if stage not in (LABELS, CAPTIONS)]
        named_etags = (
            {}
            if self.request is None or etags_of is None
            else {
                key: self.submission.etag(key, etag)
                for name in self.request.named_keys
                for key, etag in etags_of(name).items()
            }
        )
        if self.request is not None and etags_of is not None:
            self.present = frozenset(named_etags)
        present_etags = {key: self.submission.changed.get(key, etag) for key, etag in named_etags.items()}
        digest = sha256()
        for image, source in self.images.items():
            prints = fingerprints(
                settings, self.settings_of(image), source.etag if source else "", named_etags
            )
            digest.update(f"{image}\n{source.etag if source else ''} {' '.join(prints.values())}\n".encode())
            entry = self.ledger.get(image)
            find = partial(
                stages_due,
                entry,
                on_request=_on_request(self.settings_of(image), entry, source),
                stages=stages,
                occasions=self.occasions,
                results=results,
                retry=bool(self.retry),
            )
            due_stages = find(prints)
            if due_stages and source and self.refusal(image) is not None:
                # A stage that is refused because of a later upload or a missing file is due again once that is
                # mended. What succeeded for the submitted photo stays.
                etag = self.submission.changed.get(source.key, source.etag)
                refused = fingerprints(settings, self.settings_of(image), f"late {etag}", present_etags)
                again = find(refused)
                due_stages = {
                    stage: made_for if _is_good(entry, stage) else refused[stage]
                    for stage, made_for in due_stages.items()
                    if _is_good(entry, stage) or stage in again
                }
            if due_stages:
                self.due[image] = due_stages
                if entry is not None and (lost := _lost_results(entry, results)):
                    self.lost[image] = lost
        self.prints_digest = digest.hexdigest()

    def take_lost(self, image: str, entry: Entry) -> list[str]:
        """The lost results of an image, less those that a run stored which was ended before it wrote the ledger.

        Such a result has the fingerprint of its request in its metadata. Its ETag is added to ``entry.unproven``.
        """
        if image not in self.lost:
            return []
        source = self.images[image]
        wish = request_fingerprint(self.settings_of(image), source.etag if source else "")
        lost = []
        for key in self.lost[image]:
            found = None
            with suppress(ClientError, BotoCoreError):
                found = self.locations.data.head(key)
            if found is not None and (found.metadata or {}).get(REQUEST_METADATA) == wish:
                entry.unproven[key] = found.etag
            else:
                lost.append(key)
        return lost

    @property
    def images_digest(self) -> str:
        """A digest of the names of the images asked for; the ledger keeps that of the last report."""
        return fingerprint(sorted(self.images))

    @property
    def reports_other_images(self) -> bool:
        """Whether the last report, as far as the ledger knows, is of other images than those asked for now."""
        if self.problem is not None:
            return False
        # A report may have images that the ledger has no entry of. Older ledgers have no digest.
        reported = self.ledger.header.get("ReportedImages")
        return reported not in (None, self.images_digest) or not self.ledger.images() <= self.images.keys()


def _on_request(
    image_settings: ImageSettings, entry: Entry | None, source: ObjectInfo | None
) -> Collection[str]:
    """The stages that are done again for a refresh only: labels that were made and that no picture uses.

    That a setting about them has changed, such as the Custom Labels model, which is billed by the hour, is no reason
    to pay for them again.
    """
    same_photo = entry is not None and source is not None and entry.etag == source.etag
    if uses_labels(image_settings) or not same_photo or not _is_good(entry, LABELS):
        return ()
    return (LABELS,)


def _is_good(entry: Entry | None, stage: str) -> bool:
    record = entry.stages.get(stage) if entry else None
    return record is not None and record.status in GOOD


def _lost_results(entry: Entry, results: Mapping[str, str]) -> list[str]:
    """The results of an image that are missing in S3 or have an ETag that this program did not store."""
    stored = ((key, {etag, entry.unproven.get(key, etag)}) for key, etag in entry.files.items())
    return [key for key, etags in stored if results.get(key) not in etags]


def stored_batches(
    store: Store, dates: Iterable[UploadDate], only: Collection[Batch] = ()
) -> Iterator[tuple[Uploaded, list[ObjectInfo]]]:
    """Every batch of the dates, or those of ``only``, with the listing of its ledger: the arguments of `open_work`.

    That includes batches that have no upload left because all their photos were archived.
    """
    for date in dates:
        ledger_objects = defaultdict(list)
        for found in store.list(f"{s3_keys.STATE}/ledger/{s3_keys.date_path(date)}/"):
            ledger_objects[found.key.rpartition("/")[0]].append(found)
        for uploaded in batches(store, date):
            objects = ledger_objects.pop(uploaded.batch.ledger_prefix, [])
            if not only or uploaded.batch in only:
                yield uploaded, objects
        for prefix, objects in ledger_objects.items():
            batch = find_batch(prefix.removeprefix(f"{s3_keys.STATE}/ledger/"))
            if batch and (not only or batch in only) and _archived(Ledger.read(store, batch, objects)):
                yield Uploaded(batch, emptied=True), objects


def open_batch(store: Store, settings: Settings, batch: Batch) -> BatchWork:
    """One batch by its name, as it is stored. Raises `UsageError` if there is none."""
    uploaded, objects = find(store, batch), list(store.list(f"{batch.ledger_prefix}/"))
    if uploaded is None and _archived(Ledger.read(store, batch, objects)):
        uploaded = Uploaded(batch, emptied=True)
    if uploaded is None:
        raise UsageError(f"there is no batch {batch.path} in bucket {store.bucket}")
    return open_work(store, settings, uploaded, objects)


def open_draft(store: Store, settings: Settings, uploaded: Uploaded, request: BatchRequest) -> BatchWork:
    """A request that is not submitted yet, applied to its uploads, with ``due`` as a first run would find it."""
    batch = uploaded.batch
    names = list(request.entries) or [
        name for name in uploaded.images if not request.names(batch.upload_key(name))
    ]
    images = {name: uploaded.objects.get(name) for name in names}
    locations = BatchLocations(
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
    work = BatchWork(uploaded, Ledger(store, batch), locations, request, None, images)
    work.find_due(settings, {}, stages=STAGES, refresh=RefreshRequest(), etags_of=None)
    return work


def open_work(
    store: Store, settings: Settings, uploaded: Uploaded, ledger_objects: Sequence[ObjectInfo]
) -> BatchWork:
    """A batch as it is stored. The request is read from the ledger if it has not changed since that was written."""
    batch = uploaded.batch
    uploaded.approval_secret = settings.approval_secret.get_secret_value()
    ledger = Ledger.read(store, batch, ledger_objects)
    request, problem = None, None
    try:
        request = _read_request(store, settings, uploaded, ledger)
        if request.OutputS3Prefix != batch.output_prefix:
            claim(store, batch, request.OutputS3Prefix, "OutputS3Prefix")
        # A batch that is reported already may be older than the claims of status prefixes.
        if request.StatusS3Prefix != batch.status_prefix and not ledger.header.get("Reported"):
            claim(store, batch, request.StatusS3Prefix, "StatusS3Prefix")
    except RequestError as error:
        request, problem = None, error
    data = store
    images: Mapping[str, ObjectInfo | None] = {}
    moved: dict[str, str] = {}
    submission = Submission()
    if request is not None:
        data = store.in_bucket(request.S3Bucket)
        try:
            images, moved, submission = _images(store, data, uploaded, request, ledger)
        except ClientError as error:
            if data.bucket == store.bucket or not _is_client_error(error):
                raise
            problem = RequestError([("S3Bucket", f"bucket '{request.S3Bucket}' cannot be used: {error}")])
            data, request = store, None
    bound_names = {
        # Most results have the photo's own name: use the same string object to save memory.
        (image, int(number)): image if name == image else name
        for image, names in ledger.field_of_each("names")
        for number, name in names.items()
    }
    locations = BatchLocations(
        batch=batch,
        store=store,
        data=data,
        input_prefix=request.InputS3Prefix if request else batch.input_prefix,
        output_prefix=request.OutputS3Prefix if request else batch.output_prefix,
        status_prefix=request.StatusS3Prefix if request else batch.status_prefix,
        names=ResultNames(images, bound_names),
        request_id=request.Id if request else batch.derived_id(store.bucket),
        cap_usd=request.MaxCostUSD if request else None,
        thumbnails=Thumbnails(store, batch, enabled=len(images) <= settings.html_report_images),
        retries=request is not None and request.RetryOf is not None,
        moved=moved,
    )
    return BatchWork(uploaded, ledger, locations, request, problem, images, submission=submission)


def _is_client_error(error: ClientError) -> bool:
    """Whether S3 answered with a 4xx status, such as a missing right or bucket, which a retry does not change."""
    return 400 <= int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) < 500


def _read_request(store: Store, settings: Settings, uploaded: Uploaded, ledger: Ledger) -> BatchRequest:
    batch = uploaded.batch
    if uploaded.request is None:
        return requests.default_request(batch, store.bucket, settings.default_prompt)
    if ledger.header.get("RequestETag") == uploaded.request.etag:
        data = _request_in_ledger(ledger.header)
    else:
        content = store.read(uploaded.request.key)
        data = content.data if content else b""
        if content and content.etag != uploaded.request.etag:
            # The request was replaced after it was listed: an approval of the old one does not count for the new one.
            uploaded.request = replace(uploaded.request, etag=content.etag, modified=content.modified)
        text = data.decode("utf-8", "replace")
        # If it is not UTF-8, keep the exact bytes too: a later run has to read from the ledger what was sent.
        exact = pybase64.b64encode_as_string(data) if text.encode() != data else ""
        ledger.update_header(RequestETag=content.etag if content else "", Request=text, RequestBytes=exact)
    return requests.read(
        data,
        bucket=store.bucket,
        batch=batch,
        allowed_buckets=settings.allowed_buckets,
        presets=PRESET_REQUESTS,
    )


def _request_in_ledger(header: Mapping[str, Any]) -> bytes:
    """The bytes of the request that a ledger header contains."""
    if exact := header.get("RequestBytes"):
        return pybase64.b64decode(exact)
    return str(header.get("Request", "")).encode()


def _archived(ledger: Ledger) -> dict[str, Entry]:
    """The entries of photos that were moved to the archive, by image."""
    entries = (ledger.get(image) for image, archived in ledger.field_of_each("archived") if archived)
    return {entry.image: entry for entry in entries if entry is not None}


def _images(
    store: Store, data: Store, uploaded: Uploaded, request: BatchRequest, ledger: Ledger
) -> tuple[dict[str, ObjectInfo | None], dict[str, str], Submission]:
    """The requested images, `BatchLocations.moved`, and the submission of the folder with the photos.

    The images are those that the request lists, else all in its input folder, archived ones included.
    """
    submission = Submission()
    objects, images, archived = uploaded.objects, uploaded.images, _archived(ledger)
    prefix = f"{request.InputS3Prefix}/"
    if request.InputS3Prefix != uploaded.batch.input_prefix or data.bucket != store.bucket:
        objects = {found.key.removeprefix(prefix): found for found in data.list(prefix)}
        films = live_photo_videos(objects)
        images = {
            name: found
            for name, found in objects.items()
            if kind_of(name) is Kind.IMAGE and name not in films
        }
        owner = find_batch(f"{request.InputS3Prefix}/any")
        archived = {}
        if owner is not None and owner.input_prefix == request.InputS3Prefix and data.bucket == store.bucket:
            archived = _archived(Ledger.read(store, owner, list(store.list(f"{owner.ledger_prefix}/"))))
    if uploaded.request is not None and data.bucket == store.bucket:
        sent = _request_in_ledger(ledger.header)
        submission = Submission.read(store, sent, uploaded.others, objects, request.InputS3Prefix)
    objects, images = submission.as_submitted(objects), submission.as_submitted(images)
    archived = {name: entry for name, entry in archived.items() if name not in objects}
    # With the ETag of the upload: moving a photo to the archive must not make its stages due.
    archived_objects = {
        name: ObjectInfo(prefix + name, 0, entry.etag, _LONG_AGO) for name, entry in archived.items()
    }
    objects, images = {**objects, **archived_objects}, {**images, **archived_objects}
    moved = {prefix + name: entry.archived for name, entry in archived.items()}
    if request.Images is not None:
        # A requested name that differs from an object's name only in its Unicode form means that object.
        names = match_names(request.entries, objects)
        requested = {name: objects.get(names.get(name, name)) for name in request.entries}
        for name, found in requested.items():
            if found is not None and found.key != prefix + name:
                moved[prefix + name] = moved.get(found.key, f"s3://{data.bucket}/{found.key}")
        return requested, moved, submission
    # Masks and backdrops in the same folder are not images.
    return {name: found for name, found in images.items() if not request.names(found.key)}, moved, submission
