"""Finds the batches of a date and the due stages of their images, from S3 listings: no request for each image."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.stages import STAGES
from bg_pipeline.errors import NewerDocument
from bg_pipeline.run.batch_work import BatchWork, open_work, stored_batches
from bg_pipeline.run.occasions import RefreshRequest
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import ObjectInfo, Store
from bg_pipeline.uploads.listing import Uploaded

NO_REFRESH = RefreshRequest()


class WorkFinder:
    """Opens batches and sets ``BatchWork.due`` for ``stages`` and ``refresh``.

    The ETag of each mask or backdrop is requested once.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        stages: Collection[str] = STAGES,
        refresh: RefreshRequest = NO_REFRESH,
    ) -> None:
        self._store = store
        self._settings = settings
        self._stages = stages
        self._refresh = refresh
        self._etags: dict[tuple[str, str], Mapping[str, str]] = {}

    def of_date(
        self,
        date: UploadDate,
        only: Collection[Batch] = (),
        failed: Callable[[Batch, Exception], None] | None = None,
    ) -> Iterator[tuple[Uploaded, BatchWork | None]]:
        """Every batch of the date, or those of ``only``; the `BatchWork` is None if the upload is not complete yet.

        If a batch cannot be opened, ``failed`` is called with it and the error, and the other batches follow; without
        ``failed`` the error is raised.
        """
        results = results_in(self._store, f"{s3_keys.RESULTS}/{s3_keys.date_path(date)}/")
        now = datetime.now(UTC)
        for uploaded, ledger_objects in stored_batches(self._store, [date], only):
            if not uploaded.complete(self._settings.settle_seconds, now):
                yield uploaded, None
                continue
            try:
                work = self._open(uploaded, ledger_objects, results)
            except (ClientError, BotoCoreError, NewerDocument) as error:
                if failed is None:
                    raise
                failed(uploaded.batch, error)
            else:
                yield uploaded, work

    def open(self, uploaded: Uploaded, ledger_objects: Sequence[ObjectInfo] | None = None) -> BatchWork:
        """A batch as it is stored now; ``ledger_objects`` is the listing of its ledger, if the caller has it."""
        if ledger_objects is None:
            ledger_objects = list(self._store.list(f"{uploaded.batch.ledger_prefix}/"))
        return self._open(uploaded, ledger_objects, None)

    def _open(
        self, uploaded: Uploaded, ledger_objects: Sequence[ObjectInfo], results: Mapping[str, str] | None
    ) -> BatchWork:
        work = open_work(self._store, self._settings, uploaded, ledger_objects)
        work.ledger_objects = ledger_objects
        locations = work.locations
        is_default = locations.output_prefix == uploaded.batch.output_prefix and locations.data is self._store
        if results is None or not is_default:
            results = results_in(locations.data, f"{locations.output_prefix}/")
        work.find_due(
            self._settings,
            results,
            stages=self._stages,
            refresh=self._refresh,
            etags_of=lambda key: self._etags_in(locations.bucket_of(key), key),
        )
        return work

    def _etags_in(self, data: Store, key: str) -> Mapping[str, str]:
        address = data.bucket, key
        if address not in self._etags:
            found = data.list(key) if key.endswith("/") else filter(None, [data.head(key)])
            self._etags[address] = {each.key: each.etag for each in found}
        return self._etags[address]


def find_work(
    store: Store, settings: Settings, dates: Iterable[UploadDate], only: Collection[Batch] = ()
) -> Iterator[BatchWork]:
    """Every completely uploaded batch of the dates, or those of ``only``, with what is due in all stages."""
    finder = WorkFinder(store, settings)
    for date in dates:
        yield from (work for _, work in finder.of_date(date, only) if work is not None)


def sample_left(work: BatchWork) -> int:
    """How many of the due images a run may process: all, unless the batch has a sample that is not approved."""
    if work.request is None or work.request.Sample is None or work.uploaded.approved:
        return len(work.due)
    done = sum(1 for entry in work.ledger.entries() if entry.image not in work.due)
    return max(0, work.request.Sample - done)


def results_in(store: Store, prefix: str) -> dict[str, str]:
    """The ETags of the results under a prefix, by key; provenance files (``.json``) are left out."""
    return {found.key: found.etag for found in store.list(prefix) if not found.key.endswith(".json")}
