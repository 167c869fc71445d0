"""The background-removal call: takes keys of photos and answers with transparent PNGs under ``outputs/``.

It replaces a call of an earlier system, and therefore has its paths (one of them misspelled), its ``input_key`` and
its ``statusCode`` and ``body``. All other names follow the conventions of this API.
"""

import itertools
import posixpath
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.people import Person
from bg_pipeline.domain.rows import Row
from bg_pipeline.uploads.submitting import Upload
from bg_pipeline.web.problems import Problem
from bg_pipeline.web.service import ASubmitter, IdempotencyKey, Link, ObjectKey, Service, TheService
from bg_pipeline.web.single_photo_jobs import idempotent_batch, new_batch, requested_at

REQUEST_FIELDS = {
    "Task": "REMOVE",
    "Subject": "SALIENT",
    "Renditions": [{"Preset": "transparent", "Format": "png"}],
}
ADVICE = "repeat the call later with the same Idempotency-Key; nothing is paid for twice"

router = APIRouter(tags=["background removal"])

SomeKeys = Annotated[list[ObjectKey], Field(min_length=1, max_length=20)]


def _list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class RemovalRequest(BaseModel):
    """Up to 20 keys of photos. ``input_key`` is accepted in place of ``Keys`` and may be a single key."""

    model_config = ConfigDict(extra="forbid")

    Keys: Annotated[SomeKeys, BeforeValidator(_list)] = Field(
        validation_alias=AliasChoices("Keys", "input_key"), examples=[["inputs/cat.png"]]
    )


class Removal(BaseModel):
    """One photo with its ``Result``, or with the ``Problem`` why it has none."""

    Key: str
    Status: str
    Cause: str = ""
    CostUSD: float | None = None
    Result: Link | None = None
    Problem: dict[str, Any] | None = None


class Removals(BaseModel):
    """The outcome of each key, in the order of the request."""

    Results: list[Removal]


class OneRemoval(Removals):
    """The outcome of each key. ``body`` is the link to the first key's result, if it has one."""

    statusCode: int  # noqa: N815 (the original's name)
    body: str


_SEVERAL: dict[int | str, dict[str, Any]] = {
    207: {"model": Removals, "description": "Some keys have no result"}
}


@router.post("/image-bg-removal", responses=_SEVERAL)
async def remove_backgrounds(
    request: RemovalRequest,
    service: TheService,
    caller: ASubmitter,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> Removals:
    """Cuts out the subjects of photos in the bucket; returns links to the results, which are valid for an hour.

    A single key without a result is answered with its problem; several keys of which some have none, with 207.
    """
    results = await _remove(service, caller, idempotency_key, request.Keys)
    response.status_code = _status(results)
    return Removals(Results=results)


@router.get("/image-bg-removeal", include_in_schema=False)
@router.get("/image-bg-removal", responses={207: {**_SEVERAL[207], "model": OneRemoval}})
async def remove_background(
    service: TheService,
    caller: ASubmitter,
    response: Response,
    input_key: Annotated[
        SomeKeys, Query(description="Key of a photo in the bucket.", examples=[["inputs/cat.png"]])
    ],
    request: Request,
    x_bg_client: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=100,
            description="Any value: no page of another site can send it. Not needed with sign-in, nor with "
            "BG_API_REMOVAL_BY_URL.",
        ),
    ] = None,
    idempotency_key: IdempotencyKey = None,
) -> OneRemoval:
    """Does the same by GET, for one or several ``input_key``. Without sign-in a header is required."""
    if x_bg_client is None and not request.app.state.signs_in:
        _check_without_header(service, request)
    results = await _remove(service, caller, idempotency_key, input_key)
    status = response.status_code = _status(results)
    first = results[0].Result
    return OneRemoval(statusCode=status, body=first.Url if first else "", Results=results)


def _check_without_header(service: Service, request: Request) -> None:
    """Raises `Problem` unless the setting allows calls without the header and no web site caused this one.

    A token cannot be sent by another site's page. Without sign-in a link or an image on such a page could cause the
    call: a browser says so in ``Sec-Fetch-Site``, which programs do not send.
    """
    if not service.settings.api_removal_by_url:
        text = "header.x-bg-client: Field required (any value), unless BG_API_REMOVAL_BY_URL is on"
        raise Problem(422, "InvalidRequest", text)
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Problem(403, "Foreign", "requests from other websites are refused; they cost money")


def _status(results: list[Removal]) -> int:
    return 200 if all(result.Result for result in results) else 207


async def _remove(
    service: Service, caller: Person, idempotency_key: str | None, keys: list[str]
) -> list[Removal]:
    keys = list(dict.fromkeys(keys))
    batch = await run_in_threadpool(_batch, service, caller, idempotency_key, keys)
    refused = await run_in_threadpool(_store_job, service, caller, batch, keys)
    if len(refused) < len(keys):
        await service.run_job(batch, ADVICE)
    return await run_in_threadpool(_results, service, batch, keys, refused)


def _batch(service: Service, caller: Person, idempotency_key: str | None, keys: list[str]) -> Batch:
    batch = idempotent_batch(service.store, caller, idempotency_key, ["image-bg-removal", keys], new_batch())
    service.acts.authorization.take(caller, batch)
    return batch


def _store_job(service: Service, caller: Person, batch: Batch, keys: list[str]) -> dict[str, Problem]:
    """Stores the photos as a batch, unless that was done before; returns the keys it cannot use, with the reasons.

    If there is only one key and it cannot be used, its `Problem` is raised.
    """
    if service.jobs.is_submitted(batch):
        return {}
    photos: list[Upload] = []
    refused: dict[str, Problem] = {}
    for key in keys:
        try:
            photos.append(service.photo(caller, key))
        except Problem as problem:
            if len(keys) == 1:
                raise
            refused[key] = problem
    if photos:
        service.jobs.submit(service.acts, caller, batch, photos, REQUEST_FIELDS)
    return refused


def _results(service: Service, batch: Batch, keys: list[str], refused: dict[str, Problem]) -> list[Removal]:
    """One result per key, in the order of ``keys``; the problem of a single key is raised."""
    report = service.jobs.status(batch).report() if len(refused) < len(keys) else None
    rows = {row.ImageName: row for row in report.rows} if report else {}
    results = []
    for key in keys:
        if key in rows and rows[key].Results:
            results.append(_result(service, batch, rows[key]))
            continue
        if key in rows:
            problem = service.problem(batch, rows[key])
        else:
            text = f"'{key}' could not be used when this call was first made; call again with a new Idempotency-Key"
            problem = refused.get(key) or Problem(404, "NotFound", text)
        if len(keys) == 1:
            raise problem
        status = rows[key].Status if key in rows else "Refused"
        results.append(Removal(Key=key, Status=status, Cause=problem.detail, Problem=problem.document()))
    return results


def _result(service: Service, batch: Batch, row: Row) -> Removal:
    key = service.deliver(row.Results[0], _targets(batch, row.ImageName))
    return Removal(
        Key=row.ImageName, Status=row.Status, Cause=row.Cause, CostUSD=row.CostUSD, Result=service.link(key)
    )


def _targets(batch: Batch, key: str) -> Iterator[str]:
    """Keys ``outputs/<stem>_bg_removed_<YYYYmmdd_HHMMSS>.png``, with the time of the call and each second after it.

    The later ones are for the case that another result has the earlier key.
    """
    stem = posixpath.splitext(posixpath.basename(key))[0]
    for seconds in itertools.count():
        moment = requested_at(batch) + timedelta(seconds=seconds)
        yield s3_keys.output_key(f"{stem}_bg_removed_{moment:%Y%m%d_%H%M%S}.png")
