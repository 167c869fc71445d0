"""The calls of the review: list results, decide about them, ask for other pictures, publish; and a photo's labels."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from bg_pipeline import review
from bg_pipeline.authorization import Right
from bg_pipeline.budget.remaining import CapUsedUp
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.rows import Status
from bg_pipeline.errors import NotAllowed, RequestError, UsageError
from bg_pipeline.masks.label_boxes import usable_labels
from bg_pipeline.review import Item, State
from bg_pipeline.run.batch_work import BatchWork, open_batch
from bg_pipeline.uploads.submitting import paid_pictures
from bg_pipeline.web.batch_uploads import OwnBatch, Submitted, TheBatch, batch_path, find_uploaded
from bg_pipeline.web.problems import Problem
from bg_pipeline.web.service import Link, ObjectKey, Service, TheCaller, TheService

MOST_DECISIONS = 1000

router = APIRouter(prefix="/batches", tags=["review"])


def _reviewed_batch(batch: TheBatch, service: TheService, caller: TheCaller) -> Batch:
    """The batch in a path. Raises `NotAllowed` if the caller may see it but not decide about results."""
    service.acts.authorization.require(caller, Right.REVIEW)
    return batch


def _published_batch(batch: TheBatch, service: TheService, caller: TheCaller) -> Batch:
    """The batch in a path. Raises `NotAllowed` if the caller may see it but not publish."""
    service.acts.authorization.require(caller, Right.PUBLISH)
    return batch


ReviewedBatch = Annotated[Batch, Depends(_reviewed_batch)]
PublishedBatch = Annotated[Batch, Depends(_published_batch)]


class ReviewItem(BaseModel):
    """One result. ``Result`` is null if the image has none and needs a person. ``Why`` explains ``State``."""

    ImageName: str
    Number: int
    Ref: str
    Result: Link | None
    ResultETag: str
    Status: Status
    State: State
    Why: str
    CostUSD: float | None
    Labels: str
    AltText: str
    Caption: str
    Reason: str = ""
    RedoneAs: str = Field("", description="The batch that makes the picture again.")


class Review(BaseModel):
    """The selected results of a batch, and the numbers of all its results that are approved, rejected and waiting."""

    Items: list[ReviewItem]
    Approved: int
    Rejected: int
    Waiting: int
    CostUSD: float | None


class Decision(BaseModel):
    """A decision about one result. With ``ResultETag`` it applies only to this version of the result."""

    model_config = ConfigDict(extra="forbid")

    Result: ObjectKey = Field(description="The result's key, or its name below the batch's results.")
    Decision: Literal["approve", "reject"]
    Reason: Annotated[str, Field(max_length=review.LONGEST_REASON)] = ""
    ResultETag: Annotated[str, Field(max_length=255)] = ""


class Decisions(BaseModel):
    """The caller's decisions; either all are stored, or none."""

    model_config = ConfigDict(extra="forbid")

    Decisions: Annotated[list[Decision], Field(min_length=1, max_length=MOST_DECISIONS)]


class Redo(BaseModel):
    """Results to make again: with ``Prompt`` on another background, otherwise with another seed."""

    model_config = ConfigDict(extra="forbid")

    Results: Annotated[list[ObjectKey], Field(min_length=1, max_length=MOST_DECISIONS)]
    Prompt: Annotated[str, Field(max_length=2000)] = ""
    Seed: Annotated[int | None, Field(ge=0)] = None


class Published(BaseModel):
    """Keys that this call or earlier ones published, that were deleted, or that changed since their approval."""

    DeliveredNow: int
    DeliveredBefore: int
    Deleted: int
    Changed: list[str]
    Waiting: int


class PhotoLabels(BaseModel):
    """The labels of a photo. ``Usable`` are the labels with a box, which can be cut out, largest first."""

    ImageName: str
    Usable: list[str]
    Labels: list[dict[str, Any]]
    Model: str = ""


class LabelsRequest(BaseModel):
    """A photo of the batch, which may still be in preparation."""

    model_config = ConfigDict(extra="forbid")

    ImageName: ObjectKey


@router.get("/{date}/{name}/review")
def list_results(
    batch: TheBatch,
    service: TheService,
    state: Annotated[State | None, Query(description="Only results in this state.")] = None,
) -> Review:
    """Lists the batch's results with their review states; flagged results come first among those that wait."""
    work = _work(service, batch)
    results = review.Results(work, service.settings)
    items = results.items()
    summary = results.summary(items)
    if state is State.WAITING:
        shown = review.review_queue(items)
    else:
        shown = [item for item in items if state in (None, item.state)]
    return Review(
        Items=[_item(service, work, item) for item in shown],
        Approved=summary.approved,
        Rejected=summary.rejected,
        Waiting=summary.waiting,
        CostUSD=summary.cost_usd,
    )


@router.post("/{date}/{name}/review")
def decide(batch: ReviewedBatch, decisions: Decisions, service: TheService, caller: TheCaller) -> Review:
    """Approves or rejects results in the caller's name; returns the results that were decided.

    If a result was made again since ``ResultETag``, nothing is stored (409).
    """
    work = _work(service, batch)
    results = review.Results(work, service.settings)
    items = results.items()
    chosen: dict[tuple[State, str], list[Item]] = {}
    keys: list[str] = []
    for number, decision in enumerate(decisions.Decisions):
        (item,) = _found(work, items, [decision.Result], f"Decisions.{number}.Result", only_one=True)
        if decision.ResultETag not in ("", item.etag):
            text = f"'{item.key}' was made again since you looked at it; nothing was stored"
            raise Problem(409, "ResultReplaced", text)
        if item.key in keys:
            raise Problem(422, "InvalidRequest", f"'{item.key}' is decided about twice; nothing was stored")
        keys.append(item.key)
        verdict = State.APPROVED if decision.Decision == "approve" else State.REJECTED
        chosen.setdefault((verdict, decision.Reason), []).append(item)
    for (verdict, reason), decided in chosen.items():
        service.acts.decide(caller, work, decided, verdict, reason=reason)
    now = results.items()
    summary = results.summary(now)
    return Review(
        Items=[_item(service, work, item) for item in now if item.key in keys],
        Approved=summary.approved,
        Rejected=summary.rejected,
        Waiting=summary.waiting,
        CostUSD=summary.cost_usd,
    )


@router.post("/{date}/{name}/redo", status_code=202)
def redo(
    batch: ReviewedBatch, wanted: Redo, service: TheService, caller: TheCaller, response: Response
) -> Submitted:
    """Requests other pictures as a new batch, which costs money, and rejects the current ones.

    Until the new batch has its report, repeating the call returns the same batch.
    """
    work = _work(service, batch)
    items = _found(work, review.items(work, service.settings), wanted.Results, "Results")
    try:
        new = service.acts.redo(caller, work, items, prompt=wanted.Prompt, seed=wanted.Seed)
    except CapUsedUp as error:
        raise Problem(409, "CapReached", str(error)) from None
    except (NotAllowed, RequestError):
        raise
    except UsageError as error:
        raise Problem(409, "NotRedone", str(error)) from None
    response.headers["Location"] = batch_path(new)
    request = open_batch(service.store, service.settings, new).request
    names = list(request.entries) if request else []
    return Submitted(
        Id=request.Id if request else new.derived_id(service.store.bucket),
        Batch=new.path,
        Images=len(names),
        PaidPictures=paid_pictures(request, names) if request else 0,
    )


@router.post("/{date}/{name}/publish")
def publish(batch: PublishedBatch, service: TheService, caller: TheCaller) -> Published:
    """Copies the approved results to `published/` and deletes rejected and replaced results there.

    A picture that was made again is published in the place of its original.
    """
    work = _work(service, batch)
    places = service.acts.places(caller, batch)
    try:
        done = service.acts.publish(caller, work, places)
    except NotAllowed:
        raise
    except UsageError as error:
        raise Problem(409, "Busy", str(error), retry_after=5) from None
    return Published(
        DeliveredNow=done.copied,
        DeliveredBefore=done.kept,
        Deleted=done.removed,
        Changed=list(done.stale),
        Waiting=sum(place.item.state is State.WAITING for place in places),
    )


@router.get("/{date}/{name}/labels")
def labels(
    batch: TheBatch,
    service: TheService,
    image: Annotated[ObjectKey, Query(description="Name of the photo below the batch's folder.")],
) -> PhotoLabels:
    """Returns the stored labels of one photo, which a run or an earlier call found; this costs nothing."""
    document = service.store.read_json(batch.labels_key(image))
    if not isinstance(document, dict):
        text = f"'{image}' of batch {batch.path} has no labels yet; a run makes them, or POST to this path"
        raise Problem(404, "NotFound", text)
    return _labels(image, document)


@router.post("/{date}/{name}/labels")
def find_labels(
    batch: OwnBatch, wanted: LabelsRequest, service: TheService, caller: TheCaller
) -> PhotoLabels:
    """Finds the labels of one uploaded photo with Rekognition, also before its batch is submitted.

    It costs one Rekognition call, once for the same bytes: a run uses the same labels.
    """
    if service.store.head(batch.upload_key(wanted.ImageName)) is None:
        find_uploaded(service, batch)
        text = f"body.ImageName: '{wanted.ImageName}' was not uploaded to batch {batch.path}"
        raise Problem(422, "NotUploaded", text)
    return _labels(wanted.ImageName, service.jobs.labels(service.acts, caller, batch, wanted.ImageName))


def _labels(image: str, document: dict[str, Any]) -> PhotoLabels:
    return PhotoLabels(
        ImageName=image,
        Usable=list(dict.fromkeys(usable_labels(document))),
        Labels=[label for label in document.get("Labels", ()) if isinstance(label, dict)],
        Model=str(document.get("Model", "")),
    )


def _work(service: Service, batch: Batch) -> BatchWork:
    try:
        return open_batch(service.store, service.settings, batch)
    except UsageError as error:
        raise Problem(404, "NoSuchBatch", str(error)) from None


def _found(
    work: BatchWork, items: list[Item], names: list[str], field: str, *, only_one: bool = False
) -> list[Item]:
    """The items that ``names`` select; raises `Problem` 422 by ``field`` if one selects none, or not exactly one."""
    try:
        found = review.find_items(items, names, work.locations.output_prefix)
        if only_one and (len(found) != 1 or not found[0].key):
            raise UsageError(f"'{names[0]}' is not one result; name its key")
    except UsageError as error:
        errors = [{"Field": f"body.{field}", "Cause": str(error)}]
        raise Problem(422, "InvalidRequest", str(error), Errors=errors) from None
    return found


def _item(service: Service, work: BatchWork, item: Item) -> ReviewItem:
    decision = item.decision
    return ReviewItem(
        ImageName=item.image,
        Number=item.number,
        Ref=item.ref,
        Result=service.link(item.key, work.locations.data) if item.key else None,
        ResultETag=item.etag,
        Status=item.status,
        State=item.state,
        Why=item.why,
        CostUSD=item.cost_usd,
        Labels=item.labels,
        AltText=item.alt_text,
        Caption=item.caption,
        Reason=decision.reason if decision else "",
        RedoneAs=decision.redone_as if decision else "",
    )
