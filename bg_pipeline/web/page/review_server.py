"""The routes of the review component: its browser code asks here for lists and pictures, and sends decisions.

A request carries the token of the visitor's session in a header, so no other website can make one, and no address
with a token lands in a log. The person comes from the session, never from the browser.
"""

import base64
import binascii
import gzip
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import orjson
from botocore.exceptions import BotoCoreError, ClientError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from bg_pipeline.authorization import Right
from bg_pipeline.domain.batches import Batch, find_batch
from bg_pipeline.domain.file_names import archive_path
from bg_pipeline.domain.people import Person
from bg_pipeline.domain.requests import MAX_SEED
from bg_pipeline.errors import BgPipelineError, NoSuchBatch, NotAllowed, RequestError, UsageError
from bg_pipeline.masks.clicked_region import LARGEST_PART
from bg_pipeline.review import State
from bg_pipeline.web.page.review_service import Address, Gone, ReviewService, Written

ADDRESS = "/review-service"
TOKEN = "x-review-token"  # noqa: S105 (the name of a header)
MAX_SESSIONS = 1000
MAX_BODY = 2_000_000
MAX_MASK_BODY = 24_000_000
"""Bytes of a request with a mended mask: a drawn mask of 16 megapixels takes less than 1 MB, a matte up to ten."""
MAX_REGION_BODY = 6_000_000
"""Bytes of a request with a part of a photo, at most a megapixel, in which a region is looked for."""
MAX_PRESSES = 2000
"""Presses of one session whose outcome is remembered, for undoing and for answers that were lost."""
TICKET_SECONDS = 300
_GZIP_BYTES = 10_000


@dataclass
class Press:
    """The outcome of one press of a button: the answer to the browser, and the decisions that it stored."""

    answer: dict[str, Any]
    written: tuple[Written, ...] = ()


@dataclass
class ReviewSession:
    """A visitor, who sees and does what ``person`` may, until that sign-in ends.

    A press with the same id, sent again because its answer was lost, has the outcome of the first. Thread-safe.
    """

    service: ReviewService
    person: Person
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _presses: OrderedDict[str, Future[Press]] = field(default_factory=OrderedDict)
    _tickets: dict[str, tuple[float, Batch]] = field(default_factory=dict)

    @property
    def expired(self) -> bool:
        """Whether the person's sign-in has ended."""
        return self.person.expired

    def may(self) -> dict[str, bool]:
        """What the browser offers: to ``review`` (decide, undo, make again), to ``publish``."""
        rights = self.service.acts.authorization
        return {
            "review": rights.may(self.person, Right.REVIEW),
            "publish": rights.may(self.person, Right.PUBLISH),
        }

    def once(self, press: str, work: Callable[[], Press]) -> Press:
        """The outcome of ``work``, which is called only for the first of all presses with this id.

        If it raises, the error is that of all waiting presses, and the next one calls it again.
        """
        with self._lock:
            earlier = self._presses.get(press)
            if earlier is None:
                pending: Future[Press] = Future()
                self._presses[press] = pending
                while len(self._presses) > MAX_PRESSES:
                    self._presses.popitem(last=False)
        if earlier is not None:
            return earlier.result()
        try:
            outcome = work()
        except BaseException as error:
            with self._lock:
                self._presses.pop(press, None)
            pending.set_exception(error)
            raise
        pending.set_result(outcome)
        return outcome

    def press(self, press: str) -> Press | None:
        """The outcome of an earlier press; None if there is none, or not any more."""
        with self._lock:
            pending = self._presses.get(press)
        return pending.result() if pending is not None else None

    def ticket(self, batch: Batch) -> str:
        """A name under which the batch's ZIP file can be loaded once, within `TICKET_SECONDS`."""
        name, now = secrets.token_urlsafe(32), time.monotonic()
        with self._lock:
            self._tickets = {key: kept for key, kept in self._tickets.items() if kept[0] > now}
            self._tickets[name] = now + TICKET_SECONDS, batch
        return name

    def redeem(self, ticket: str) -> Batch | None:
        with self._lock:
            until, batch = self._tickets.pop(ticket, (0.0, None))
        return batch if until > time.monotonic() and not self.expired else None


class ReviewSessions:
    """The sessions of this process, by token. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, ReviewSession] = OrderedDict()

    def open(self, service: ReviewService, person: Person) -> ReviewSession:
        session = ReviewSession(service, person)
        with self._lock:
            self._sessions[session.token] = session
            if len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        return session

    def find(self, token: str) -> ReviewSession | None:
        with self._lock:
            if token in self._sessions:
                self._sessions.move_to_end(token)
            return self._sessions.get(token)

    def of_ticket(self, ticket: str) -> tuple[ReviewSession, Batch] | None:
        """The session that gave out a ticket, and its batch; the ticket is used up."""
        with self._lock:
            sessions = list(self._sessions.values())
        for session in sessions:
            if batch := session.redeem(ticket):
                return session, batch
        return None

    def close(self, session: ReviewSession) -> None:
        """Ends a session, as when its person signs out."""
        with self._lock:
            self._sessions.pop(session.token, None)


sessions = ReviewSessions()
"""The sessions of this process: the page opens them, and the routes look them up."""


def _answer(request: Request, document: Any) -> Response:
    data, headers = orjson.dumps(document), {"Cache-Control": "no-store"}
    if len(data) > _GZIP_BYTES and "gzip" in request.headers.get("accept-encoding", ""):
        data, headers = gzip.compress(data, 1), {**headers, "Content-Encoding": "gzip"}
    return Response(data, media_type="application/json", headers=headers)


Handler = Callable[[Request, ReviewSession, Any], Response]


def _route(handler: Handler, *, post: bool = False, most: int = MAX_BODY) -> Any:
    """A route that finds the session, reads the JSON body of a POST, and turns expected errors into sentences."""

    async def endpoint(request: Request) -> Response:
        session = sessions.find(request.headers.get(TOKEN, ""))
        if session is None:
            return PlainTextResponse("this page is out of date; reload it", 403)
        if await run_in_threadpool(lambda: session.expired):
            return PlainTextResponse("your sign-in has ended; reload the page and sign in again", 401)
        body: Any = {}
        if post:
            data = bytearray()
            async for part in request.stream():
                data += part
                if len(data) > most:
                    return PlainTextResponse("the request is too large", 413)
            try:
                body = orjson.loads(data)
            except orjson.JSONDecodeError:
                return PlainTextResponse("the request is not JSON", 422)
            if not isinstance(body, dict):
                return PlainTextResponse("the request is not a JSON object", 422)

        def answer() -> Response:
            # The lists are asked for again and again without anybody at the screen; single large pictures are not.
            if post or request.query_params.get("size", "small") != "small":
                session.person.use_sign_in()
            return handler(request, session, body)

        try:
            return await run_in_threadpool(answer)
        except (Gone, NoSuchBatch) as error:
            return PlainTextResponse(str(error), 404)
        except NotAllowed as error:
            return PlainTextResponse(str(error), 403)
        except RequestError as error:
            text = "; ".join(f"{name}: {problem}" if name else problem for name, problem in error.problems)
            return PlainTextResponse(text, 422)
        except UsageError as error:
            return PlainTextResponse(str(error), 422)
        except (BgPipelineError, ClientError, BotoCoreError) as error:
            return PlainTextResponse(f"storage did not answer as it should: {error}", 502)

    return endpoint


def _batch(path: str) -> Batch:
    batch = find_batch(path)
    if batch is None:
        raise UsageError("the request names no batch; reload the page")
    return batch


def _addresses(body: Any) -> list[Address]:
    records = body.get("items")
    if not isinstance(records, list) or not records:
        raise UsageError("choose at least one result")
    return list({(each.batch, each.image, each.number): each for each in map(Address.read, records)}.values())


def _batches(request: Request, session: ReviewSession, body: Any) -> Response:
    days = request.query_params.get("days", "")
    number = min(int(days), 400) if days.isdecimal() and days.isascii() else 7
    return _answer(request, session.service.batches(session.person, number))


def _rows(request: Request, session: ReviewSession, body: Any) -> Response:
    document = session.service.rows(session.person, _batch(request.query_params.get("batch", "")))
    if request.query_params.get("version") == document["version"]:
        return Response(status_code=204)
    return _answer(request, document)


def _picture(request: Request, session: ReviewSession, body: Any) -> Response:
    query = request.query_params
    kind, size = query.get("kind", "after"), query.get("size", "small")
    if kind not in ("after", "before", "mask", "edit", "doubt") or size not in (
        "small",
        "large",
        "full",
        "file",
    ):
        raise UsageError("the request names no picture; reload the page")
    picture = session.service.picture(session.person, Address.read(dict(query)), kind, size)
    # The version is part of the address. Only this browser keeps it, and nothing keeps the large ones.
    keep = "private, max-age=3600" if size == "small" else "no-store"
    return Response(picture.data, media_type=picture.media_type, headers={"Cache-Control": keep})


def _decide(request: Request, session: ReviewSession, body: Any) -> Response:
    addresses = _addresses(body)
    state = {"approved": State.APPROVED, "rejected": State.REJECTED}.get(str(body.get("state")))
    if state is None:
        raise UsageError("a decision is to approve or to reject")

    def work() -> Press:
        reason = str(body.get("reason") or "")
        rows, written = session.service.decide(session.person, addresses, state, reason=reason)
        return Press({"rows": rows}, tuple(written))

    return _answer(request, session.once(_press_id(body), work).answer)


def _undo(request: Request, session: ReviewSession, body: Any) -> Response:
    names = body.get("of")
    if not isinstance(names, list):
        raise UsageError("there is nothing to undo")

    def work() -> Press:
        presses = [session.press(str(name)) for name in names]
        written = [each for press in presses if press for each in press.written]
        if not written:
            raise UsageError("this cannot be undone any more; decide again instead")
        rows, kept = session.service.take_back(session.person, written)
        return Press({"rows": rows, "kept": kept})

    return _answer(request, session.once(_press_id(body), work).answer)


def _quote(request: Request, session: ReviewSession, body: Any) -> Response:
    prompt = str(body.get("prompt") or "").strip()
    return _answer(request, session.service.quote(session.person, _addresses(body), prompt=prompt))


def _redo(request: Request, session: ReviewSession, body: Any) -> Response:
    addresses, seed = _addresses(body), body.get("seed")
    if seed is not None and (
        not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED
    ):
        raise UsageError(f"the seed is a whole number from 0 to {MAX_SEED:,}")

    def work() -> Press:
        prompt = str(body.get("prompt") or "").strip()
        return Press({"rows": session.service.redo(session.person, addresses, prompt=prompt, seed=seed)})

    return _answer(request, session.once(_press_id(body), work).answer)


def _mask(body: Any) -> bytes:
    return _file(body, "mask")


def _file(body: Any, name: str) -> bytes:
    try:
        return base64.b64decode(str(body.get(name) or ""), validate=True)
    except (binascii.Error, ValueError):
        raise UsageError(f"the {name} did not arrive whole; try again") from None


def _quote_mended(request: Request, session: ReviewSession, body: Any) -> Response:
    quote = session.service.quote_mended(session.person, _addresses(body)[0], _mask(body))
    return _answer(request, quote)


def _region(request: Request, session: ReviewSession, body: Any) -> Response:
    numbers = [body.get(name) for name in ("x", "y", "reach")]
    # JSON has no limit of size and orjson takes no NaN; what is larger than any picture is a mistake.
    if not all(type(each) in (int, float) and 0 <= each <= LARGEST_PART for each in numbers):
        raise UsageError("the request names no place in the photo; reload the page")
    keep = body.get("keep")
    if not isinstance(keep, bool):
        raise UsageError("the request does not say what a click means; reload the page")
    x, y, reach = numbers
    part = _file(body, "part")
    region = session.service.region(session.person, part, _mask(body), (x, y), reach, keep=keep)
    return _answer(request, {"region": base64.b64encode(region).decode()})


def _mend(request: Request, session: ReviewSession, body: Any) -> Response:
    addresses, mask, pictures = _addresses(body), _mask(body), body.get("pictures")
    if not isinstance(pictures, int) or isinstance(pictures, bool):
        raise UsageError("the request does not say how many pictures are paid for; reload the page")

    def work() -> Press:
        return Press({"rows": session.service.mend(session.person, addresses, mask, pictures)})

    return _answer(request, session.once(_press_id(body), work).answer)


def _history(request: Request, session: ReviewSession, body: Any) -> Response:
    return _answer(request, session.service.history(session.person, Address.read(dict(request.query_params))))


def _publish(request: Request, session: ReviewSession, body: Any) -> Response:
    batch = _batch(str(body.get("batch")))
    return _answer(request, {"text": session.service.publish(session.person, batch)})


def _zip_ticket(request: Request, session: ReviewSession, body: Any) -> Response:
    batch = _batch(str(body.get("batch")))
    # Says now if nothing is approved or the first result is gone.
    next(session.service.zip(session.person, batch))
    return _answer(request, {"address": f"{ADDRESS}/zip/{session.ticket(batch)}"})


def _press_id(body: Any) -> str:
    name = body.get("press")
    if not isinstance(name, str) or not 8 <= len(name) <= 100:
        raise UsageError("the request has no id; reload the page")
    return name


async def _zip(request: Request) -> Response:
    found = await run_in_threadpool(sessions.of_ticket, request.path_params["ticket"])
    if found is None:
        return PlainTextResponse("this download was used already or has expired; ask for it again", 403)
    session, batch = found
    try:
        parts = await run_in_threadpool(session.service.zip, session.person, batch)
    except UsageError as error:
        return PlainTextResponse(str(error), 404)
    name = archive_path(f"{batch.name} approved.zip").encode("ascii", "replace").decode().replace('"', "'")
    return StreamingResponse(
        parts,
        media_type="application/zip",
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"},
    )


ROUTES = [
    Route(f"{ADDRESS}/batches", _route(_batches), methods=["GET"]),
    Route(f"{ADDRESS}/rows", _route(_rows), methods=["GET"]),
    Route(f"{ADDRESS}/picture", _route(_picture), methods=["GET"]),
    Route(f"{ADDRESS}/history", _route(_history), methods=["GET"]),
    Route(f"{ADDRESS}/decide", _route(_decide, post=True), methods=["POST"]),
    Route(f"{ADDRESS}/undo", _route(_undo, post=True), methods=["POST"]),
    Route(f"{ADDRESS}/quote", _route(_quote, post=True), methods=["POST"]),
    Route(f"{ADDRESS}/redo", _route(_redo, post=True), methods=["POST"]),
    Route(f"{ADDRESS}/quote-mended", _route(_quote_mended, post=True, most=MAX_MASK_BODY), methods=["POST"]),
    Route(f"{ADDRESS}/region", _route(_region, post=True, most=MAX_REGION_BODY), methods=["POST"]),
    Route(f"{ADDRESS}/mend", _route(_mend, post=True, most=MAX_MASK_BODY), methods=["POST"]),
    Route(f"{ADDRESS}/publish", _route(_publish, post=True), methods=["POST"]),
    Route(f"{ADDRESS}/zip", _route(_zip_ticket, post=True), methods=["POST"]),
    Route(f"{ADDRESS}/zip/{{ticket}}", _zip, methods=["GET"]),
]
"""What the page's server adds to Streamlit's own routes."""
