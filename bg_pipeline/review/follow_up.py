"""What a person decides of a batch once it was run: that its sample is good, that what failed is asked for again."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from bg_pipeline.errors import UsageError
from bg_pipeline.layout import Batch
from bg_pipeline.reports.overview import Standing
from bg_pipeline.reports.wording import run_command
from bg_pipeline.settings import Settings
from bg_pipeline.store import Store
from bg_pipeline.uploads import listing
from bg_pipeline.uploads.submitting import check_request, new_batch, paid_pictures, submit


def approve_sample(store: Store, standing: Standing, *, by: str) -> bool:
    """Lets the rest of a batch run, which the sensors see; whether that is news, or it was approved before.

    The approval is of the request as it is now: another one in its place has a sample of its own. Raises
    `UsageError` if it asked for no sample or if ``by`` is empty.
    """
    if not by.strip():
        raise UsageError("say who approves (--by)")
    batch = standing.batch
    if standing.problem is not None:
        raise UsageError(f"the request of batch {batch.path} cannot be read: {standing.problem}")
    if standing.request is None or standing.request.Sample is None:
        raise UsageError(f"batch {batch.path} asked for no sample, so there is nothing to approve")
    found = listing.find(store, batch)
    if found is not None and found.approved:
        return False
    at = datetime.now(UTC).isoformat(timespec="seconds")
    store.write_json(batch.approval_key, {"Batch": batch.path, "By": by, "At": at})
    return True


@dataclass(frozen=True)
class Retry:
    """The request that asks again for what failed or was skipped of a batch, ready to be submitted as ``batch``.

    It names ``images`` photos; ``pictures`` is what models paint if each succeeds at once and none is stored.
    """

    batch: Batch
    id: str
    data: bytes
    images: int
    pictures: int

    @classmethod
    def of(cls, settings: Settings, batch: Batch, data: bytes) -> Self:
        """What the request ``data`` comes to as this batch; raises `RequestError` by field."""
        request = check_request(settings, batch, data)
        names = list(request.entries)
        return cls(batch, request.Id, data, len(names), paid_pictures(request, names))

    def submit(self, store: Store) -> None:
        """Only the request is written: the photos stay where they are."""
        submit(store, self.batch, [], self.data)


def prepare_retry(settings: Settings, standing: Standing, again: Batch | None = None) -> Retry | None:
    """What `Retry` says, as the batch ``again`` (default: a new one of today); None if a retry could mend nothing.

    Photos that wait for the approval of a sample are not among them. Raises `UsageError` if there is no
    report yet.
    """
    if not standing.reported:
        batch = standing.batch
        raise UsageError(f"batch {batch.path} has no report yet; `{run_command(batch)}` makes it")
    data = standing.retry()
    return Retry.of(settings, again or new_batch(), data) if data is not None else None
