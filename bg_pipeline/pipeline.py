"""The pipeline without Dagster: what the assets, the command line and other programs call."""

import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from bg_pipeline import review
from bg_pipeline.aws.clients import Aws, make_aws
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.stages import STAGES
from bg_pipeline.errors import UsageError
from bg_pipeline.reports.batch_report import REPORTER
from bg_pipeline.reports.overview import look_up
from bg_pipeline.reports.report import Report
from bg_pipeline.run.context import Tools
from bg_pipeline.run.date_result import Day, Progress
from bg_pipeline.run.engine import Flow
from bg_pipeline.run.occasions import Wish
from bg_pipeline.settings import Settings, settings
from bg_pipeline.storage.object_store import Store, open_bucket
from bg_pipeline.uploads import manifest as manifests
from bg_pipeline.uploads import sources, submitting


def run(
    settings: Settings,
    dates: Iterable[date],
    *,
    aws: Aws | None = None,
    store: Store | None = None,
    stages: Collection[str] = STAGES,
    again: Collection[str] = (),
    retry: bool = False,
    only: Collection[Batch] = (),
    run_id: str = "",
    occasion: str = "",
    asked_at: datetime | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
    note: Callable[[str], None] = lambda line: None,
) -> dict[date, Day]:
    """Brings upload dates up to date: what is done stays, what is missing, failed or changed is done.

    ``stages`` are names of assets from `STAGES`; ``again`` those that are paid for anew; with ``retry`` what failed
    for a lasting reason is tried again as well, and once more what may have been billed twice. Either is paid for
    once an ``occasion``, which names the wish (default: this call), however often it is repeated; ``asked_at`` is
    when it was made (default: now), so that what others made anew since then is not paid for again. ``only`` limits
    the work to some batches. Errors of images are counted in the `Day`s and told in the reports. Raises
    `SettingsError` before anything is done.
    """
    aws = aws or make_aws(settings)
    store = store or open_bucket(settings, aws)
    stop = threading.Event()
    run_id = run_id or str(uuid.uuid4())
    wish = Wish(frozenset(again), retry, occasion or run_id, asked_at or datetime.now(UTC))
    tools = Tools(settings, aws, store, stop=stop, note=note, wished=wish.occasion)
    try:
        flow = Flow(
            tools,
            run_id=run_id,
            reporter=REPORTER,
            stages=stages,
            wish=wish,
            only=only,
            progress=progress,
        )
        return flow.run(dates)
    finally:
        tools.close()


class Pipeline:
    """One bucket with its settings: submit photos, bring dates up to date, read reports.

    Keywords are settings by their names in lower case without ``BG_`` (``bucket``, ``regions`` …) and win over
    the environment. Nothing is called before the first method is.
    """

    def __init__(self, **overrides: Any) -> None:
        self.settings = settings(**overrides)
        self._aws = make_aws(self.settings)

    @cached_property
    def store(self) -> Store:
        """The bucket."""
        return open_bucket(self.settings, self._aws)

    def submit(
        self,
        photos: Sequence[str | Path] = (),
        *,
        manifest: str | Path | None = None,
        batch: Batch | None = None,
        **wishes: Any,
    ) -> Batch:
        """Uploads photos, or folders of them, as a batch of today (UTC) and returns it; nothing is run.

        ``wishes`` are the request's fields by their own names (``Prompt``, ``Mode``, ``Renditions`` …). In the place
        of photos, ``manifest`` names a CSV file with one a row, as `bg-pipeline submit --manifest` takes it. Raises
        `UsageError` for files that are not there and `RequestError` by field, or by line and column of the
        manifest, before anything is uploaded.
        """
        if bool(photos) == bool(manifest):
            raise UsageError("name photos or a manifest, and not both")
        made = batch or submitting.new_batch()
        if manifest:
            file = Path(manifest)
            text = file.read_bytes()
            lies = sources.OnThisMachine(file.parent, sources.InBuckets(self.settings, self.store))
            asked = sources.order(self.settings, made, manifests.read(text), text, lies, wishes)
            submitting.submit(self.store, made, asked.photos, asked.data, others=asked.others)
            return made
        found = submitting.find_photos([Path(photo) for photo in photos])
        request, _ = submitting.compose_request(self.settings, made, [photo.name for photo in found], wishes)
        submitting.submit(self.store, made, found, request)
        return made

    def run(
        self,
        dates: Iterable[date],
        *,
        stages: Collection[str] = STAGES,
        again: Collection[str] = (),
        retry: bool = False,
        only: Collection[Batch] = (),
        progress: Callable[[Progress], None] = lambda progress: None,
    ) -> dict[date, Day]:
        """Brings dates up to date, as `bg_pipeline.pipeline.run`."""
        return run(
            self.settings,
            dates,
            aws=self._aws,
            store=self.store,
            stages=stages,
            again=again,
            retry=retry,
            only=only,
            progress=progress,
        )

    def report(self, batch: Batch) -> Report:
        """A batch's report, row by row or as a `Report.frame`; raises `UsageError` if it has none yet."""
        report = look_up(self.store, self.settings, batch).report()
        if report is None:
            raise UsageError(f"batch {batch.path} has no report yet: run {batch.date} first")
        return report

    def approve_sample(self, batch: Batch, *, by: str, seen: str = "") -> None:
        """Lets the next run take the rest of a batch; raises `UsageError` if it asked for no sample.

        ``seen`` is the tag of the request whose sample was looked at (``store.head(batch.request_key).etag``), by
        default of the present one. Where that was replaced since, a `UsageError` says so, and nothing is approved.
        """
        review.approve_sample(self.store, look_up(self.store, self.settings, batch), by=by, seen=seen)

    def retry(self, batch: Batch) -> Batch | None:
        """Asks again for what failed or was skipped, as the new batch that it returns; None if nothing was.

        It is the batch of an earlier retry while that has no report. What waits for the approval of a sample is not
        asked for. Raises `UsageError` if there is no report yet, or if nothing is left of the batch's ``MaxCostUSD``.
        """
        found = review.prepare_retry(self.store, self.settings, look_up(self.store, self.settings, batch))
        return None if found is None else found.submit(self.store)
