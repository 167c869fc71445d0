"""What a person decides of a batch once it was run: that its sample is good, that what failed is asked for again."""

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
from bg_pipeline.uploads.submitting import check_request, hand_over, new_batch, paid_pictures


class RequestReplaced(UsageError):
    """The batch's request is not the one that the person saw; nothing was approved."""


def approve_sample(store: Store, standing: BatchOverview, *, by: str, seen: str = "") -> bool:
    """Lets the rest of a batch run, which the sensors see; whether that is news, or it was approved before.

    The approval is of the request whose tag ``seen`` is, by default of the one in ``standing``, and of no other: it
    names the tag, so that a request that replaces this one has a sample of its own. Raises `RequestReplaced` if the
    request is another one by now, or if the sample was made for another one; `UsageError` if it asked for no
    sample or if ``by`` is empty.
    """
    if not by.strip():
        raise UsageError("say who approves (--by)")
    batch = standing.batch
    if standing.problem is not None:
        raise UsageError(f"the request of batch {batch.path} cannot be read: {standing.problem}")
    if standing.request is None or standing.request.Sample is None:
        raise UsageError(f"batch {batch.path} asked for no sample, so there is nothing to approve")
    found = listing.find(store, batch)
    now = found.request.etag if found is not None and found.request is not None else ""
    if {now} != {standing.request_etag, seen or now}:
        raise RequestReplaced(
            f"the request of batch {batch.path} was replaced since you looked at it, so nothing is approved; look "
            "again at what it asks for and at its sample"
        )
    if _etag_last_run(store, batch) not in ("", now):
        raise RequestReplaced(
            f"the request of batch {batch.path} was replaced since its sample was made, so nothing is approved; "
            f"`{run_command(batch)}` makes a sample of what it asks for now"
        )
    if found is not None and found.approved:
        return False
    at = datetime.now(UTC).isoformat(timespec="seconds")
    approval = {"Version": 1, "Batch": batch.path, "By": by, "At": at, "RequestETag": now}
    store.write_json(batch.approval_key, approval)
    return True


def _etag_last_run(store: Store, batch: Batch) -> str:
    """The tag of the request that was last worked on; empty where none was."""
    ledger = Ledger.read(store, batch, list(store.list(f"{batch.ledger_prefix}/")))
    return str(ledger.header.get("RequestETag", ""))


@dataclass(frozen=True)
class Retry:
    """The request that asks again for what failed or was skipped of a batch, as ``batch``; `submit` sends it.

    It names ``images`` photos; ``pictures`` is what models paint if each succeeds at once and none is stored.
    """

    batch: Batch
    id: str
    data: bytes
    images: int
    pictures: int
    _of: Batch | None = None
    _earlier: FollowUps | None = None

    @classmethod
    def of(
        cls,
        settings: Settings,
        batch: Batch,
        data: bytes,
        of: Batch | None = None,
        earlier: FollowUps | None = None,
    ) -> Self:
        """What the request ``data`` comes to as this batch; submitted before unless it is said whose retry it is.

        ``earlier`` are the retries that were asked ``of`` that batch before. Raises `RequestError` by field.
        """
        request = check_request(settings, batch, data)
        names = list(request.entries)
        return cls(batch, request.Id, data, len(names), paid_pictures(request, names), of, earlier)

    @property
    def submitted(self) -> bool:
        """Whether somebody sent it before."""
        return self._of is None

    def submit(self, store: Store) -> Batch:
        """Sends it, unless it was sent before, and returns the batch: another one if somebody was faster.

        Only the request is written: the photos stay where they are.
        """
        if self._of is None or self._earlier is None:
            return self.batch
        # The batch is remembered first: if this process ends here, the next who asks writes its request.
        if self._earlier.write(store, {**self._earlier.batches, self.batch: ()}):
            asks = self.batch
        else:
            asks = FollowUps.read(store, self._earlier.key).newest or self.batch
        remember_origin(store, asks, self._of)
        # Whoever is faster may have ended before writing it, or is about to: the first request stays.
        hand_over(store, asks, self.data)
        return asks


def prepare_retry(store: Store, settings: Settings, standing: BatchOverview) -> Retry | None:
    """What `Retry` says, as a new batch of today; None if a retry could mend nothing.

    While a retry that was submitted has no report, it is what is returned, so that asking twice pays once for a
    call that may have been billed.

    Photos that wait for the approval of a sample are not asked for, whatever stopped the run; before the approval
    the retry has the batch's ``Sample`` and asks for no more photos than the sample still lacks. After it, the
    photos were approved with their batch and need no approval of their own. ``MaxCostUSD`` is what is left of the
    batch's (`bg_pipeline.budget.remaining`).

    Raises `UsageError` if there is no report yet, `CapUsedUp` if nothing is left of the cap.
    """
    batch = standing.batch
    if not standing.reported:
        raise UsageError(f"batch {batch.path} has no report yet; `{run_command(batch)}` makes it")
    earlier, again = FollowUps.read(store, RETRIES(batch)), new_batch()
    if earlier.newest is not None:
        sent = store.read(earlier.newest.request_key)
        if sent is None:
            # Whoever named it did not come to write the request, or is about to write the same one.
            again = earlier.newest
        elif not is_over(store, settings, earlier.newest):
            return Retry.of(settings, earlier.newest, sent.data)
    request = _retry_now(store, settings, standing, again)
    return None if request is None else Retry.of(settings, again, write(request), batch, earlier)


def is_over(store: Store, settings: Settings, batch: Batch) -> bool:
    """Whether the outcome of a batch is there: it is reported, or its request cannot be read."""
    stands = load_status(store, settings, batch)
    return stands.problem is not None or stands.reported


def _retry_now(
    store: Store, settings: Settings, standing: BatchOverview, again: Batch
) -> BatchRequest | None:
    """What a retry asks for now: what was made ready with the report, less what may not be asked for any more."""
    asked = standing.request
    report = standing.report()
    if asked is None or report is None:
        return None
    sample = asked.Sample
    if sample is not None:
        found = listing.find(store, standing.batch)
        sample = None if found is not None and found.approved else sample
    images = images_to_retry(report, sample)
    if not images:
        return None
    left = check_cap(store, standing.batch, asked)
    ready = standing.retry()
    if ready is None:
        # None was made ready while nothing was left of the cap, which was raised since.
        still = [image for image in images if asked.Images is None or image in asked.entries]
        return retry_request(asked, still, PRESET_REQUESTS, approved=sample is None, cap_usd=left)
    request = check_request(settings, again, ready)
    entries = tuple(entry for entry in request.Images or () if entry.ImageName in set(images))
    if not entries:
        return None
    return replace(
        request, OutputS3Prefix="", StatusS3Prefix="", MaxCostUSD=left, Sample=sample, Images=entries
    )
