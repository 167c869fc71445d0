"""What a person decides of a batch once it was run: that its sample is good, that what failed is asked for again."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import orjson

from bg_pipeline import layout
from bg_pipeline.errors import UsageError
from bg_pipeline.layout import Batch
from bg_pipeline.reports.overview import Standing, look_up
from bg_pipeline.reports.wording import run_command
from bg_pipeline.settings import Settings
from bg_pipeline.state.own_writes import write_own
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
    store.write_json(batch.approval_key, {"Version": 1, "Batch": batch.path, "By": by, "At": at})
    return True


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
    _mark: "_Mark | None" = None

    @classmethod
    def of(cls, settings: Settings, batch: Batch, data: bytes, mark: "_Mark | None" = None) -> Self:
        """What the request ``data`` comes to as this batch, submitted before unless a ``mark`` is to be set.

        Raises `RequestError` by field.
        """
        request = check_request(settings, batch, data)
        names = list(request.entries)
        return cls(batch, request.Id, data, len(names), paid_pictures(request, names), mark)

    @property
    def submitted(self) -> bool:
        """Whether somebody sent it before."""
        return self._mark is None

    def submit(self, store: Store) -> Batch:
        """Sends it, unless it was sent before, and returns the batch: another one if somebody was faster.

        Only the request is written: the photos stay where they are.
        """
        if self._mark is None:
            return self.batch
        asks = self._mark.set(store, self.batch)
        if asks == self.batch:
            submit(store, self.batch, [], self.data)
        return asks


@dataclass(frozen=True)
class _Mark:
    """Which ``batch`` asks again for ``of``, if any, so that two who ask at the same moment make one batch."""

    of: Batch
    batch: Batch | None
    etag: str | None

    @classmethod
    def read(cls, store: Store, of: Batch) -> Self:
        content = store.read(layout.retried_key(of))
        if content is None:
            return cls(of, None, None)
        try:
            batch = layout.find_batch(str(orjson.loads(content.data)["Batch"]))
        except (orjson.JSONDecodeError, KeyError, TypeError):
            batch = None
        return cls(of, batch, content.etag)

    def set(self, store: Store, batch: Batch) -> Batch:
        """Names ``batch``, unless another one was named since the mark was read; returns the one that is named."""
        document = orjson.dumps({"Version": 1, "Batch": batch.path, "Token": batch.path})
        key = layout.retried_key(self.of)
        if write_own(store, key, document, token=batch.path, over=self.etag) is not None:
            return batch
        return self.read(store, self.of).batch or batch


def prepare_retry(store: Store, settings: Settings, standing: Standing) -> Retry | None:
    """What `Retry` says, as a new batch of today; None if a retry could mend nothing.

    While a retry that was submitted has no report, it is what is returned, so that asking twice pays once for a
    call that may have been billed. Photos that wait for the approval of a sample are not asked for. Raises
    `UsageError` if there is no report yet.
    """
    if not standing.reported:
        batch = standing.batch
        raise UsageError(f"batch {batch.path} has no report yet; `{run_command(batch)}` makes it")
    mark, again = _Mark.read(store, standing.batch), new_batch()
    if mark.batch is not None:
        earlier = store.read(mark.batch.request_key)
        if earlier is None:
            # Whoever set the mark did not come to write the request, or is about to write the same one.
            again = mark.batch
        else:
            stands = look_up(store, settings, mark.batch)
            if stands.problem is None and not stands.reported:
                return Retry.of(settings, mark.batch, earlier.data)
    data = standing.retry()
    return None if data is None else Retry.of(settings, again, data, mark)
