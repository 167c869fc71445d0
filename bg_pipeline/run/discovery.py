"""Finds the batches of a date and what is due in them, by listings and not by a request for each image."""

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
    """Opens batches with ``BatchWork.due`` filled for ``stages`` and what ``wish`` wants anew.

    The tag of a mask or backdrop is asked for once.
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
        self._etags: dict[tuple[str, str], str] = {}

    def of_date(
        self,
        date: UploadDate,
        only: Collection[Batch] = (),
        failed: Callable[[Batch, Exception], None] | None = None,
    ) -> Iterator[tuple[Uploaded, BatchWork | None]]:
        """Every batch of the date, or those of ``only``; without its work where it is not complete yet.

        ``failed`` is called with a batch that cannot be opened now, and why: the others are not its trouble.
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
        """A batch as it is stored now; ``ledger_objects`` is the listing of its ledger, if that is known."""
        if ledger_objects is None:
            ledger_objects = list(self._store.list(f"{uploaded.batch.ledger_prefix}/"))
        return self._open(uploaded, ledger_objects, None)

    def _open(
        self, uploaded: Uploaded, ledger_objects: Sequence[ObjectInfo], results: Mapping[str, str] | None
    ) -> BatchWork:
        work = open_work(self._store, self._settings, uploaded, ledger_objects)
        work.ledger_objects = ledger_objects
        place = work.locations
        own = place.output_prefix == uploaded.batch.output_prefix and place.data is self._store
        if results is None or not own:
            results = results_in(place.data, f"{place.output_prefix}/")
        work.find_due(
            self._settings,
            results,
            stages=self._stages,
            wish=self._refresh,
            etag_of=self._etag_in(place.data),
        )
        return work

    def _etag_in(self, data: Store) -> Callable[[str], str]:
        def etag_of(key: str) -> str:
            place = data.bucket, key
            if place not in self._etags:
                found = data.head(key)
                self._etags[place] = found.etag if found else ""
            return self._etags[place]

        return etag_of


def find_work(
    store: Store, settings: Settings, dates: Iterable[UploadDate], only: Collection[Batch] = ()
) -> Iterator[BatchWork]:
    """Every complete batch of the dates, or those of ``only``, as a run of all stages would find it now."""
    finder = WorkFinder(store, settings)
    for date in dates:
        yield from (work for _, work in finder.of_date(date, only) if work is not None)


def sample_left(work: BatchWork) -> int:
    """How many of the due images a run may take: all, unless a sample was asked for and is not approved."""
    if work.request is None or work.request.Sample is None or work.uploaded.approved:
        return len(work.due)
    done = sum(1 for entry in work.ledger.entries() if entry.image not in work.due)
    return max(0, work.request.Sample - done)


def results_in(store: Store, prefix: str) -> dict[str, str]:
    """The tags of the results under a prefix, by key."""
    return {found.key: found.etag for found in store.list(prefix) if not found.key.endswith(".json")}
