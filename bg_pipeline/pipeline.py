"""The pipeline's Python API, without Dagster; the Dagster assets and the command line use it too."""

import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from bg_pipeline import planning, review
from bg_pipeline.acts import Acts
from bg_pipeline.aws.clients import Aws, make_aws
from bg_pipeline.budget.spend_log import SpendLog
from bg_pipeline.domain.batches import Batch, name_problem
from bg_pipeline.domain.people import Person, Via, local_person
from bg_pipeline.domain.stages import STAGES
from bg_pipeline.errors import UsageError
from bg_pipeline.local_aws import use_local_aws
from bg_pipeline.planning import Plan
from bg_pipeline.reports import captions
from bg_pipeline.reports.batch_report import REPORTER
from bg_pipeline.reports.captions import CaptionedImage
from bg_pipeline.reports.overview import load_status
from bg_pipeline.reports.report import Report
from bg_pipeline.reports.summaries import BatchSummary, dates_with_uploads, list_batches
from bg_pipeline.review import Decision, DownloadedFile, Item, PublishResult, State
from bg_pipeline.run.batch_work import open_batch
from bg_pipeline.run.context import RunContext, check_signing
from bg_pipeline.run.date_result import DateResult, Progress
from bg_pipeline.run.discovery import find_work
from bg_pipeline.run.engine import Engine
from bg_pipeline.run.occasions import RefreshRequest
from bg_pipeline.settings import Settings, settings
from bg_pipeline.storage.object_store import Store, open_bucket
from bg_pipeline.uploads import manifest as manifests
from bg_pipeline.uploads import sources, submitting
from bg_pipeline.uploads.submitting import Upload


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
    cap_group: str = "",
    by: str = "",
    progress: Callable[[Progress], None] = lambda progress: None,
    note: Callable[[str], None] = lambda line: None,
    stop: threading.Event | None = None,
) -> dict[date, DateResult]:
    """Brings upload dates up to date: does what is missing, failed temporarily or changed, and keeps the rest.

    ``stages`` are names of assets from `STAGES`; ``again`` are stages to do, and pay for, again. With ``retry``,
    final failures are tried again too, and calls that may have been billed twice are made once more. ``occasion``
    identifies this request to refresh or retry (default: this call): it is paid for once, however often the request
    is repeated. ``asked_at`` is when it was made (default: now): what another request has refreshed since then is not
    paid for again. Runs with the same ``cap_group`` share one ``BG_MAX_COST_USD``. ``by`` names who asked, for the
    audit log (default: the user of this process). ``only`` limits the run to these batches. ``progress`` is called
    about every 10 seconds, ``note`` with each line of text that the user should see. When ``stop`` is set, no
    further call is made; calls under way are waited for, and what is finished is kept. Errors of images are counted
    in the `DateResult`s and listed in the reports. Raises `SettingsError` before anything is done.
    """
    check_signing(settings)
    aws = aws or make_aws(settings)
    store = store or open_bucket(settings, aws)
    stop = stop or threading.Event()
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
        cap_group=cap_group,
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
    """One bucket with its settings: submit photos, bring dates up to date, review, publish and download results.

    Keyword arguments are settings, by their names in lower case without ``BG_`` (``bucket``, ``regions`` …); they
    override the environment. No AWS service is called before the first method call. `AsyncPipeline` has the same
    methods for asyncio.
    """

    def __init__(self, **overrides: Any) -> None:
        self.settings = settings(**overrides)
        self._aws = make_aws(self.settings)

    @classmethod
    @contextmanager
    def local(cls, folder: str | Path = ".bg_pipeline", **overrides: Any) -> "Iterator[Self]":
        """A pipeline with the stand-in for AWS on this machine, for a ``with`` block; needs the extra ``local``.

        The stand-in keeps its state in ``folder``, as ``bg-pipeline demo`` and ``up`` do; one that another program
        already runs there is used. While the block runs, boto3 in this process and its children leads to the
        stand-in and never to an account. Raises `bg_pipeline.local_aws.LocalAwsNotStarted` if it cannot be started.
        """
        with use_local_aws(Path(folder)):
            yield cls(**overrides)

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
        name: str = "",
        progress: Callable[[str], None] = lambda name: None,
        **fields: Any,
    ) -> Batch:
        """Uploads photos, or folders of them, as a batch of today (UTC) and returns it; does not run it.

        ``batch`` is the batch to create, ``name`` only its name, which must be new on its date (default: a new name).
        ``fields`` are fields of the request (``Prompt``, ``Mode``, ``Renditions`` …). Instead of ``photos``,
        ``manifest`` can name a CSV file with one photo per row, as for ``bg-pipeline submit --manifest``.
        ``progress`` is called with the name of each uploaded file, in another thread. Raises `UsageError` for files
        that do not exist and for a name that is taken, and `RequestError`, which names the field or the line and
        column of the manifest, before anything is uploaded.
        """
        if bool(photos) == bool(manifest):
            raise UsageError("name either photos or a manifest, not both")
        if batch and name:
            raise UsageError("give either a batch or a name, not both")
        if name and (problem := name_problem(name)):
            raise UsageError(f"'{name}' cannot be a batch's name: it {problem}")
        new_batch = batch or submitting.new_batch()
        new_batch = Batch(new_batch.date, name) if name else new_batch
        files: Sequence[Upload]
        others: Mapping[str, Upload] = {}
        if manifest:
            path = Path(manifest)
            data = path.read_bytes()
            photo_sources = sources.LocalSources(path.parent, sources.S3Sources(self.settings, self.store))
            submission = sources.resolve_manifest(
                self.settings, new_batch, manifests.read(data), data, photo_sources, fields
            )
            files, request, others = submission.photos, submission.data, submission.others
        else:
            files = submitting.find_photos([Path(photo) for photo in photos])
            request, _ = submitting.compose_request(
                self.settings, new_batch, [file.name for file in files], fields
            )
        self._acts.upload_and_submit(
            self._person(), new_batch, files, request, others=others, done=progress, new_name=bool(name)
        )
        return new_batch

    def plan(self, dates: Iterable[date], *, only: Collection[Batch] = ()) -> Plan:
        """What a run of the dates would do: its calls, its time at the quota and its highest cost. Spends nothing."""
        context = RunContext(self.settings, self._aws, self.store, stop=threading.Event())
        try:
            models, notes = planning.choose_models(context)
        finally:
            context.close()
        result = planning.plan(find_work(self.store, self.settings, dates, only), self.settings, models)
        result.notes = notes
        return result

    def run(
        self,
        dates: Iterable[date],
        *,
        stages: Collection[str] = STAGES,
        again: Collection[str] = (),
        retry: bool = False,
        only: Collection[Batch] = (),
        progress: Callable[[Progress], None] = lambda progress: None,
        stop: threading.Event | None = None,
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
            stop=stop,
        )

    def status(self, batch: Batch) -> BatchSummary:
        """How a batch stands, drafts included. Raises `UsageError` if it does not exist."""
        load_status(self.store, self.settings, batch)
        for listed in list_batches(self.store, self.settings, [batch.date], [batch]):
            return listed.summary
        raise UsageError(f"there is no batch {batch.path} in bucket {self.store.bucket}")

    def batches(self, first: date, last: date | None = None) -> list[BatchSummary]:
        """Every batch of the upload dates from ``first`` to ``last`` (default: ``first``), by date and name."""
        dates = dates_with_uploads(self.store, first, last or first)
        return [listed.summary for listed in list_batches(self.store, self.settings, dates)]

    def report(self, batch: Batch) -> Report:
        """A batch's report, which can be iterated over by row or read as a `Report.frame`.

        Raises `UsageError` if the batch has no report yet.
        """
        report = load_status(self.store, self.settings, batch).report()
        if report is None:
            raise UsageError(f"batch {batch.path} has no report yet: run {batch.date} first")
        return report

    def review(self, batch: Batch) -> list[Item]:
        """The batch's results with their review states: approved, rejected or waiting, and why."""
        return review.items(open_batch(self.store, self.settings, batch), self.settings)

    def approve(self, batch: Batch, names: Iterable[str], *, by: str, reason: str = "") -> list[Decision]:
        """Approves results in the name of the person ``by``.

        ``names`` are keys of results, their names below the batch's results, or images for all their results. Raises
        `UsageError` for a name that selects none; then nothing is stored.
        """
        return self._decide(batch, names, State.APPROVED, by, reason)

    def reject(self, batch: Batch, names: Iterable[str], *, by: str, reason: str = "") -> list[Decision]:
        """Rejects results; the parameters are those of `approve`."""
        return self._decide(batch, names, State.REJECTED, by, reason)

    def _decide(
        self, batch: Batch, names: Iterable[str], state: State, by: str, reason: str
    ) -> list[Decision]:
        if not by.strip():
            raise UsageError("name the person who decides (by)")
        work = open_batch(self.store, self.settings, batch)
        items = review.find_items(review.items(work, self.settings), names, work.locations.output_prefix)
        return self._acts.decide(self._person(by), work, items, state, reason=reason)

    def redo(
        self, batch: Batch, names: Iterable[str], *, by: str, prompt: str = "", seed: int | None = None
    ) -> Batch:
        """Asks for other pictures as a new batch of today, which is returned, and rejects the present ones.

        Until that batch has its report, the same call returns it again, so that it is paid for once. Raises
        `UsageError` if a picture cannot be made again or the batch's cap is used up.
        """
        if not by.strip():
            raise UsageError("name the person who decides (by)")
        work = open_batch(self.store, self.settings, batch)
        items = review.find_items(review.items(work, self.settings), names, work.locations.output_prefix)
        return self._acts.redo(self._person(by), work, items, prompt=prompt, seed=seed)

    def publish(self, batch: Batch, *, by: str = "") -> PublishResult:
        """Copies the approved results to ``published/``, and deletes rejected and replaced ones there.

        A picture that was made again (`redo`) is delivered in the place of its original.

        ``by`` names the person, for the audit log (default: the user of this process). Raises `UsageError` if
        somebody else is publishing the batch at the moment.
        """
        work = open_batch(self.store, self.settings, batch)
        person = self._person(by)
        return self._acts.publish(person, work, self._acts.places(person, batch))

    def captions(self, dates: Iterable[date], *, only: Collection[Batch] = ()) -> list[CaptionedImage]:
        """The caption, alternative text and labels of each image of the dates that has any. No model is called."""
        return list(captions.captions(self.store, self.settings, dates, only))

    def download(
        self,
        batch: Batch,
        folder: str | Path,
        *,
        approved: bool = False,
        overwrite: bool = False,
        progress: Callable[[DownloadedFile], None] = lambda file: None,
    ) -> list[DownloadedFile]:
        """Downloads a batch's results, or only the ``approved`` ones: what is missing or was made again.

        A picture that was made again (`redo`) takes the place of its original, as in `publish`. See
        `bg_pipeline.review.downloads.download`. ``progress`` is called after each file.
        """
        work = open_batch(self.store, self.settings, batch)
        places = self._acts.places(self._person(""), batch)
        return review.download(
            work, places, Path(folder), approved=approved, overwrite=overwrite, done=progress
        )

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
