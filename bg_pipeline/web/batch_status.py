"""The calls about submitted batches: their state, the approval of a sample, retries, reports and results."""

from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel

from bg_pipeline import review
from bg_pipeline.budget.remaining import CapUsedUp
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.people import Person
from bg_pipeline.domain.rows import Status
from bg_pipeline.errors import NotAllowed, UsageError
from bg_pipeline.reports.overview import BatchOverview, BatchState, batch_state, load_status
from bg_pipeline.reports.summaries import summary, unsubmitted
from bg_pipeline.run.discovery import WorkFinder
from bg_pipeline.uploads.submitting import new_batch
from bg_pipeline.web.batch_uploads import Submitted, TheBatch, batch_path, find_uploaded
from bg_pipeline.web.problems import Problem
from bg_pipeline.web.service import IdempotencyKey, Link, Service, TheCaller, TheService
from bg_pipeline.web.single_photo_jobs import idempotent_batch

router = APIRouter(prefix="/batches", tags=["batches"])

IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        max_length=255,
        description="The RequestETag of the batch's status, in quotation marks or not; any request with `*`.",
    ),
]


class BatchStatus(BaseModel):
    """The status of a batch. ``Counts`` are its images by status; ``ToDo`` is the number that no run has started yet.

    ``Due`` is the number that the next run processes, ``WaitForApproval`` the number of skipped images that wait
    until the sample is approved. ``CostUSD`` was certainly billed; up to ``MaybeBilledUSD`` may have been billed in
    addition; null means unknown. During a run the figures are about 20 seconds old. ``Cause`` is why the request was
    refused, ``RequestETag`` its ETag, ``Prompt`` the start of its first prompt, ``LastChange`` the time of the newest
    upload.
    """

    Id: str
    Batch: str
    State: BatchState
    Images: int
    Counts: dict[Status, int] = {}
    ToDo: int = 0
    Due: int = 0
    WaitForApproval: int = 0
    CostUSD: float | None = None
    MaybeBilledUSD: float | None = None
    Cause: str = ""
    RequestETag: str = ""
    Prompt: str = ""
    LastChange: str = ""


class ImageResults(BaseModel):
    """One image with links to its results."""

    ImageName: str
    Status: Status
    Cause: str
    Results: list[Link]


@router.get("/{date}/{name}")
def status(batch: TheBatch, service: TheService) -> BatchStatus:
    """Returns the status of the batch."""
    return batch_status(service, batch)


def batch_status(service: Service, batch: Batch) -> BatchStatus:
    """The status of a batch; raises `Problem` 404 if it does not exist."""
    uploaded = find_uploaded(service, batch)
    if uploaded.request is None and uploaded.draft:
        return BatchStatus(**asdict(unsubmitted(service.store, uploaded)))
    work = WorkFinder(service.store, service.settings).open(uploaded)
    state, _ = batch_state(service.store, work)
    return BatchStatus(**asdict(summary(work, state)))


@router.put("/{date}/{name}/approval", status_code=204)
def approve(batch: TheBatch, service: TheService, caller: TheCaller, if_match: IfMatch = None) -> None:
    """Approves the batch's sample, so that the rest of the batch is run; repeating it changes nothing.

    ``If-Match`` is the ``RequestETag`` that the caller saw: if the request was replaced since, nothing is approved
    (412). Nothing is approved either if the request was replaced since its sample was made (409).
    """
    overview = _overview(service, batch)
    seen = (if_match or "").strip().removeprefix("W/").strip('"').removeprefix("*")
    try:
        service.acts.approve_sample(caller, overview, seen=seen)
    except NotAllowed:
        raise
    except review.RequestReplaced as error:
        raise Problem(412 if seen else 409, "RequestReplaced", str(error)) from None
    except UsageError as error:
        raise Problem(409, "NoSample", str(error)) from None


@router.post("/{date}/{name}/retry", status_code=202)
def retry(
    batch: TheBatch,
    service: TheService,
    caller: TheCaller,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> Submitted:
    """Requests the batch's failed and skipped images again, as a new batch; stored answers are not paid for again.

    Calls that were never answered, and may have been billed, are repeated once. Images that wait for the approval of
    a sample are not included. While an earlier retry of the batch has no report, that retry is returned. The batch
    and its retries share one cap, ``MaxCostUSD``.
    """
    service.acts.authorization.require_change(caller, batch)
    overview = _overview(service, batch)
    try:
        prepared = review.prepare_retry(service.store, service.settings, overview)
        code, reason = (
            "NothingToRetry",
            f"nothing in batch {batch.path} failed for a reason that a retry could mend",
        )
    except CapUsedUp as error:
        prepared, code, reason = None, "CapReached", str(error)
    except UsageError as error:
        prepared, code, reason = None, "NoReport", str(error)
    new = prepared.batch if prepared else new_batch()
    new = idempotent_batch(service.store, caller, idempotency_key, ["retry", batch.path], new)
    stored = service.store.read(new.request_key)
    if stored is not None:
        # Submitted by this call before it was repeated, or by another retry that has no report yet.
        prepared = review.Retry.of(service.settings, new, stored.data)
    elif prepared is None:
        raise Problem(409, code, reason)
    else:
        prepared = replace(prepared, batch=new)
    submitted = service.acts.retry(caller, overview, prepared)
    response.headers["Location"] = batch_path(submitted)
    return Submitted(
        Id=prepared.id, Batch=submitted.path, Images=prepared.images, PaidPictures=prepared.pictures
    )


_REPORT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The report",
        "content": {
            "application/json": {"schema": {"type": "array", "items": {"type": "object"}}},
            "text/csv": {"schema": {"type": "string"}},
            "text/html": {"schema": {"type": "string"}},
        },
    }
}


@router.get("/{date}/{name}/report", response_class=Response, responses=_REPORT)
def report(
    batch: TheBatch,
    service: TheService,
    caller: TheCaller,
    format: Annotated[Literal["json", "csv", "html"], Query(description="Format of the report.")] = "json",
) -> Response:
    """Returns the batch's report as it was last written."""
    overview = _overview(service, batch)
    _check_report(service, caller, overview)
    content = overview.data.read(overview.report_key(format))
    if content is None:
        raise Problem(409, "NoReport", f"batch {batch.path} has no report as {format}; a run writes it")
    media_type = {"json": "application/json", "csv": "text/csv", "html": "text/html"}[format]
    # The HTML report may run its own script and nothing else; the sandbox keeps it out of this site's origin.
    headers = {
        "Content-Security-Policy": "sandbox allow-scripts; frame-ancestors 'none'",
        "Content-Disposition": f'inline; filename="report-{batch.date}.{format}"',
    }
    return Response(content.data, media_type=media_type, headers=headers)


@router.get("/{date}/{name}/results")
def results(batch: TheBatch, service: TheService, caller: TheCaller) -> list[ImageResults]:
    """Returns links to the results of each image; they are valid for an hour."""
    overview = _overview(service, batch)
    _check_report(service, caller, overview)
    report = overview.report()
    if report is None:
        raise Problem(409, "NoReport", f"batch {batch.path} has no report yet; a run writes it")
    return [
        ImageResults(
            ImageName=row.ImageName,
            Status=row.Status,
            Cause=row.Cause,
            Results=[service.link(key) for key in row.Results],
        )
        for row in report.rows
    ]


def _check_report(service: Service, caller: Person, overview: BatchOverview) -> None:
    """Raises `Problem` 409 if the report's place was named by the request and is not the batch's own."""
    if not service.acts.authorization.may_read_report(caller, overview.batch, overview.status_prefix):
        text = f"batch {overview.batch.path} has no report yet; a run writes it"
        raise Problem(409, "NoReport", text)


def _overview(service: Service, batch: Batch) -> BatchOverview:
    """The state of a batch; raises `Problem` 404 if it does not exist."""
    try:
        return load_status(service.store, service.settings, batch)
    except UsageError as error:
        raise Problem(404, "NoSuchBatch", str(error)) from None
