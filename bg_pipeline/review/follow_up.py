"""Decisions about a whole batch after a run: approving its sample and retrying its failed images."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Self

from bg_pipeline.budget.remaining import check_cap
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.presets import PRESET_REQUESTS
from bg_pipeline.domain.requests import BatchRequest, retry_request, write
from bg_pipeline.domain.text import run_command
from bg_pipeline.errors import UsageError
from bg_pipeline.reports.overview import BatchOverview, images_to_retry, load_status
from bg_pipeline.settings import Settings
from bg_pipeline.state.follow_ups import RETRIES, FollowUps, remember_origin
from bg_pipeline.state.ledger import Ledger
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads import listing
from bg_pipeline.uploads.listing import approval_signature
from bg_pipeline.uploads.submission import closed_folder
from bg_pipeline.uploads.submitting import check_request, hand_over, new_batch, paid_pictures


class RequestReplaced(UsageError):
    """The batch's request is not the one that the person saw, so nothing was approved."""


def approve_sample(
    store: Store, overview: BatchOverview, *, by: str, seen: str = "", secret: str = ""
) -> bool:
    """Approves a batch's sample, so that the sensors request a run of the rest; False if it was approved already.

    ``seen`` is the ETag of the request that the person saw (default: the one in ``overview``). The approval stores
    this ETag, so a request that replaces this one needs its own approval. With ``secret`` (``BG_APPROVAL_SECRET``) it
    is signed, and an earlier approval without this signature is replaced. Raises `RequestReplaced` if the request
    has been replaced, or if the sample was made for another one; `UsageError` if the request has no sample or if
    ``by`` is empty.
    """
    if not by.strip():
        raise UsageError("name the person who approves (--by)")
    batch = overview.batch
    if overview.problem is not None:
        raise UsageError(f"the request of batch {batch.path} cannot be read: {overview.problem}")
    if overview.request is None or overview.request.Sample is None:
        raise UsageError(f"batch {batch.path} asked for no sample, so there is nothing to approve")
    found = listing.find(store, batch)
    etag = found.request.etag if found is not None and found.request is not None else ""
    if {etag} != {overview.request_etag, seen or etag}:
        raise RequestReplaced(
            f"the request of batch {batch.path} was replaced since you looked at it, so nothing is approved; look "
            "at the new request and its sample first"
        )
    if _etag_last_run(store, batch) not in ("", etag):
        raise RequestReplaced(
            f"the request of batch {batch.path} was replaced since its sample was made, so nothing is approved; "
            f"`{run_command(batch)}` makes a sample for the new request"
        )
    if found is not None:
        found.approval_secret = secret
        if found.approved:
            return False
    at = datetime.now(UTC).isoformat(timespec="seconds")
    approval = {"Version": 1, "Batch": batch.path, "By": by, "At": at, "RequestETag": etag}
    if secret:
        approval["Signature"] = approval_signature(secret, batch, etag, by, at)
    store.write_json(batch.approval_key, approval)
    return True


def _etag_last_run(store: Store, batch: Batch) -> str:
    """The ETag of the request of the last run; empty if there was none."""
    ledger = Ledger.read(store, batch, list(store.list(f"{batch.ledger_prefix}/")))
    return str(ledger.header.get("RequestETag", ""))


@dataclass(frozen=True)
class Retry:
    """A retry of a batch's failed and skipped images as the new batch ``batch``; `submit` writes its request.

    ``data`` is the request for ``images`` photos. ``pictures`` is the number of pictures that models paint if every
    first attempt succeeds and no answer is stored yet.
    """

    batch: Batch
    id: str
    data: bytes
    images: int
    pictures: int
    _of: Batch | None = None
    _earlier: FollowUps | None = None
    _input_prefix: str = ""

    @classmethod
    def of(
        cls,
        settings: Settings,
        batch: Batch,
        data: bytes,
        of: Batch | None = None,
        earlier: FollowUps | None = None,
    ) -> Self:
        """The retry with the request ``data``.

        A retry that is not submitted yet needs ``of``, the batch that is retried, and ``earlier``, its earlier
        retries. Raises `RequestError` by field.
        """
        request = check_request(settings, batch, data)
        names = list(request.entries)
        pictures = paid_pictures(request, names)
        return cls(batch, request.Id, data, len(names), pictures, of, earlier, request.InputS3Prefix)

    @property
    def submitted(self) -> bool:
        """Whether it was submitted before."""
        return self._of is None

    def submit(self, store: Store) -> Batch:
        """Submits it, unless it was submitted before; returns its batch, or that of a concurrent retry.

        Only the request is written: the photos stay where they are.
        """
        if self._of is None or self._earlier is None:
            return self.batch
        # The batch is recorded first: if this process ends here, the next retry writes its request.
        if self._earlier.write(store, {**self._earlier.batches, self.batch: ()}):
            batch = self.batch
        else:
            batch = FollowUps.read(store, self._earlier.key).newest or self.batch
        remember_origin(store, batch, self._of)
        # A concurrent process may have ended before it wrote the request, or may still write it: the first one stays.
        hand_over(store, batch, self.data, closed_with=closed_folder(store, self._input_prefix))
        return batch


def prepare_retry(store: Store, settings: Settings, overview: BatchOverview) -> Retry | None:
    """A retry of a reported batch as a new batch of today; None if there is nothing that a retry could improve.

    If an earlier retry was submitted and has no report yet, that one is returned, so that asking twice pays only
    once.

    Images that wait for the approval of a sample are not retried. Before the approval the retry keeps the batch's
    ``Sample`` and has at most as many images as the sample still lacks. After the approval the retry needs none of
    its own. ``MaxCostUSD`` is what is left of the batch's cap (`bg_pipeline.budget.remaining`).

    Raises `UsageError` if the batch has no report yet, `CapUsedUp` if nothing is left of its cap.
    """
    batch = overview.batch
    if not overview.reported:
        raise UsageError(f"batch {batch.path} has no report yet; `{run_command(batch)}` makes it")
    earlier, retry_batch = FollowUps.read(store, RETRIES(batch)), new_batch()
    if earlier.newest is not None:
        sent = store.read(earlier.newest.request_key)
        if sent is None:
            # The process that recorded it ended before it wrote the request, or is about to write the same one.
            retry_batch = earlier.newest
        elif not is_over(store, settings, earlier.newest):
            return Retry.of(settings, earlier.newest, sent.data)
    request = _retry_now(store, settings, overview, retry_batch)
    return None if request is None else Retry.of(settings, retry_batch, write(request), batch, earlier)


def is_over(store: Store, settings: Settings, batch: Batch) -> bool:
    """Whether a batch is finished: it has a report, or its request cannot be read."""
    overview = load_status(store, settings, batch)
    return overview.problem is not None or overview.reported


def _retry_now(
    store: Store, settings: Settings, overview: BatchOverview, retry_batch: Batch
) -> BatchRequest | None:
    """The retry request prepared with the report, without images that may not be retried any more, or None."""
    asked = overview.request
    report = overview.report()
    if asked is None or report is None:
        return None
    sample = asked.Sample
    if sample is not None:
        found = listing.find(store, overview.batch)
        if found is not None:
            found.approval_secret = settings.approval_secret.get_secret_value()
            sample = None if found.approved else sample
    images = images_to_retry(report, sample)
    if not images:
        return None
    left = check_cap(store, overview.batch, asked)
    ready = overview.retry()
    if ready is None:
        # None was prepared because nothing was left of the cap, which was raised since.
        remaining = [image for image in images if asked.Images is None or image in asked.entries]
        return retry_request(asked, remaining, PRESET_REQUESTS, approved=sample is None, cap_usd=left)
    request = check_request(settings, retry_batch, ready)
    entries = tuple(entry for entry in request.Images or () if entry.ImageName in set(images))
    if not entries:
        return None
    return replace(
        request, OutputS3Prefix="", StatusS3Prefix="", MaxCostUSD=left, Sample=sample, Images=entries
    )
