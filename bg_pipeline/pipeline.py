"""The pipeline's Python API, without Dagster; the Dagster assets and the command line use it too."""

import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from bg_pipeline import review
from bg_pipeline.acts import Acts
from bg_pipeline.aws.clients import Aws, make_aws
from bg_pipeline.budget.spend_log import SpendLog
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.people import Person, Via, local_person
from bg_pipeline.domain.stages import STAGES
from bg_pipeline.errors import UsageError
from bg_pipeline.reports.batch_report import REPORTER
from bg_pipeline.reports.overview import load_status
from bg_pipeline.reports.report import Report
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.date_result import DateResult, Progress
from bg_pipeline.run.engine import Engine
from bg_pipeline.run.occasions import RefreshRequest
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
    by: str = "",
    progress: Callable[[Progress], None] = lambda progress: None,
    note: Callable[[str], None] = lambda line: None,
) -> dict[date, DateResult]:
    """Brings upload dates up to date: does what is missing, failed temporarily or changed, and keeps the rest.

    ``stages`` are names of assets from `STAGES`; ``again`` are stages to do, and pay for, again. With ``retry``,
    final failures are tried again too, and calls that may have been billed twice are made once more. ``occasion``
    identifies this request to refresh or retry (default: this call): it is paid for once, however often the request
    is repeated. ``asked_at`` is when it was made (default: now): what another request has refreshed since then is not
    paid for again. ``by`` names who asked, for the audit log (default: the user of this process). ``only`` limits the
    run to these batches. ``progress`` is called about every 10 seconds, ``note``
    with each line of text that the user should see. Errors of images are counted in the `DateResult`s and listed in
    the reports. Raises `SettingsError` before anything is done.
    """
    aws = aws or make_aws(settings)
    store = store or open_bucket(settings, aws)
    stop = threading.Event()
    run_id = run_id or str(uuid.uuid4())
    refresh = RefreshRequest(frozenset(again), retry, occasion or run_id, asked_at or datetime.now(UTC))
    about = {"Run": run_id, "Stages": sorted(stages), "Again": sorted(again), "Retry": retry}
    spend_log = SpendLog(store, local_person(by or review.this_user(), Via.RUN), about)
    context = RunContext(
        settings,
        aws,
        store,
        stop=stop,
        note=note,
        refresh_occasion=refresh.occasion,
        spend_log=spend_log,
    )
    try:
        engine = Engine(
            context,
            run_id=run_id,
            reporter=REPORTER,
            stages=stages,
            refresh=refresh,
            only=only,
            progress=progress,
        )
        return engine.run(dates)
    finally:
        context.close()


class Pipeline:
    """One bucket with its settings: submit photos, bring dates up to date, read reports.

    Keyword arguments are settings, by their names in lower case without ``BG_`` (``bucket``, ``regions`` …); they
    override the environment. No AWS service is called before the first method call.
    """

    def __init__(self, **overrides: Any) -> None:
        self.settings = settings(**overrides)
        self._aws = make_aws(self.settings)

    @cached_property
    def store(self) -> Store:
        """The bucket."""
        return open_bucket(self.settings, self._aws)

    @cached_property
    def _acts(self) -> Acts:
        return Acts(self.settings, self.store)

    @staticmethod
    def _person(name: str = "") -> Person:
        return local_person(name or review.this_user())

    def submit(
        self,
        photos: Sequence[str | Path] = (),
        *,
        manifest: str | Path | None = None,
        batch: Batch | None = None,
        **fields: Any,
    ) -> Batch:
        """Uploads photos, or folders of them, as a batch of today (UTC) and returns it; does not run it.

        ``batch`` is the batch to create (default: a new name). ``fields`` are fields of the request (``Prompt``,
        ``Mode``, ``Renditions`` …). Instead of ``photos``, ``manifest`` can name a CSV file with one photo per row,
        as for ``bg-pipeline submit --manifest``. Raises `UsageError` for files that do not exist and `RequestError`,
        which names the field or the line and column of the manifest, before anything is uploaded.
        """
        if bool(photos) == bool(manifest):
            raise UsageError("name either photos or a manifest, not both")
        new_batch = batch or submitting.new_batch()
        if manifest:
            path = Path(manifest)
            data = path.read_bytes()
            photo_sources = sources.LocalSources(path.parent, sources.S3Sources(self.settings, self.store))
            submission = sources.resolve_manifest(
                self.settings, new_batch, manifests.read(data), data, photo_sources, fields
            )
            self._acts.upload_and_submit(
                self._person(), new_batch, submission.photos, submission.data, others=submission.others
            )
            return new_batch
        files = submitting.find_photos([Path(photo) for photo in photos])
        request, _ = submitting.compose_request(
            self.settings, new_batch, [file.name for file in files], fields
        )
        self._acts.upload_and_submit(self._person(), new_batch, files, request)
        return new_batch

    def run(
        self,
        dates: Iterable[date],
        *,
        stages: Collection[str] = STAGES,
        again: Collection[str] = (),
        retry: bool = False,
        only: Collection[Batch] = (),
        progress: Callable[[Progress], None] = lambda progress: None,
    ) -> dict[date, DateResult]:
        """Brings upload dates up to date; the parameters are those of `bg_pipeline.pipeline.run`."""
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
        """A batch's report, which can be iterated over by row or read as a `Report.frame`.

        Raises `UsageError` if the batch has no report yet.
        """
        report = load_status(self.store, self.settings, batch).report()
        if report is None:
            raise UsageError(f"batch {batch.path} has no report yet: run {batch.date} first")
        return report

    def approve_sample(self, batch: Batch, *, by: str, seen: str = "") -> None:
        """Approves a batch's sample, so that the next run processes the other images.

        ``by`` is the name of the person. ``seen`` is the ETag of the request whose sample the person has seen
        (``store.head(batch.request_key).etag``; default: the current one). Raises `UsageError` if the request has no
        sample, or if it was replaced since ``seen``; then nothing is approved.
        """
        status = load_status(self.store, self.settings, batch)
        if not by.strip():
            raise UsageError("name the person who approves (by)")
        self._acts.approve_sample(self._person(by), status, seen=seen)

    def retry(self, batch: Batch) -> Batch | None:
        """Submits the failed and skipped images of a batch as a new batch and returns that; None if there are none.

        While an earlier retry has no report, its batch is returned instead. Images that wait for the approval of a
        sample are not included. Raises `UsageError` if there is no report yet, or if the batch's ``MaxCostUSD`` is
        used up.
        """
        overview = load_status(self.store, self.settings, batch)
        prepared = review.prepare_retry(self.store, self.settings, overview)
        return None if prepared is None else self._acts.retry(self._person(), overview, prepared)
