"""Receives photos from the browser one by one and stores each in the bucket.

Streamlit's own uploader would hold all of them in memory at once, which is too much for thousands of photos.
"""

import secrets
import threading
from collections import OrderedDict
from concurrent.futures import Future
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, cast

import orjson
from botocore.exceptions import BotoCoreError, ClientError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.people import Person
from bg_pipeline.errors import BgPipelineError, NotAllowed, UsageError
from bg_pipeline.web.page.drafts import DraftPhoto, DraftService, moved, stored_wishes, unused_name

ADDRESS = "/photos"
MAX_SESSIONS = 1000
"""Open sessions that are remembered; beyond that the least recently used one is forgotten."""
RENAME_SECONDS = 20.0
"""How long a new name waits for photos that are being stored."""
MAX_BYTES_IN_MEMORY = 1_000_000
"""A larger photo is buffered on disk while it is received."""


class UploadSession:
    """The photos that one visitor uploads for one batch. Thread-safe.

    Whoever has the ``token`` may add photos until the sign-in of ``person`` ends, and can do nothing else. The batch
    is created with its first photo, unless the session continues a stored ``draft``. ``wishes`` is what the visitor
    wants; `keep_wishes` stores it.
    """

    def __init__(self, service: DraftService, person: Person, draft: Batch | None = None) -> None:
        self.token = secrets.token_urlsafe(32)
        self.max_bytes = service.settings.api_max_upload_mb * 1_000_000
        self.person = person
        self._service = service
        self._lock = threading.Lock()
        self._batch = draft
        self._photos = {each.name: each for each in service.resume_draft(person, draft)} if draft else {}
        self._names = set(self._photos)
        self._by_id: dict[str, Future[DraftPhoto]] = {}
        self._closed = False
        self._idle = threading.Condition(self._lock)
        self._storing = 0
        self._renaming = False
        self.wishes: dict[str, Any] = stored_wishes(service.store, draft) if draft else {}
        self._kept = orjson.dumps(self.wishes)

    def renew(self, person: Person) -> bool:
        """Takes over the end of a later sign-in of the same person; False if this is somebody else."""
        if (self.person.issuer, self.person.subject) != (person.issuer, person.subject):
            return False
        self.person = person
        return True

    @property
    def batch(self) -> Batch:
        """The batch, which is created on first use."""
        with self._lock:
            return self._started()

    def _started(self) -> Batch:
        if self._batch is None:
            self._batch = self._service.start_draft(self.person)
        return self._batch

    def rename(self, name: str) -> None:
        """Gives the batch another name; no photo is stored while its folder moves.

        Raises `UsageError` as `DraftService.rename`.
        """
        with self._lock:
            batch = self._started()
            if self._closed:
                raise UsageError("its batch is submitted already")
            if self._renaming:
                raise UsageError("the batch is being renamed; try again in a moment")
            self._renaming = True
            if not self._idle.wait_for(lambda: not self._storing, RENAME_SECONDS):
                self._renaming = False
                self._idle.notify_all()
                raise UsageError("photos are still being stored; name the batch when they are")
        renamed = batch
        try:
            renamed = self._service.rename(self.person, batch, name)
        finally:
            with self._lock:
                if renamed != batch:
                    self._batch = renamed
                    self.wishes = moved(self.wishes, batch, renamed)
                    self._kept = b""
                self._renaming = False
                self._idle.notify_all()

    @property
    def photos(self) -> dict[str, DraftPhoto]:
        """The photos stored so far, sorted by name."""
        with self._lock:
            return dict(sorted(self._photos.items()))

    def store(self, upload_id: str, name: str, file: BinaryIO) -> DraftPhoto:
        """Stores a photo under a free name. A repeated ``upload_id`` returns the photo stored before.

        Raises `UsageError` if an image cannot have this name, and once the batch is submitted.
        """
        if self.person.expired:
            raise NotAllowed("your sign-in has ended; sign in again")
        self.person.use_sign_in()
        with self._lock:
            self._idle.wait_for(lambda: not self._renaming)
            batch = self._started()
            if self._closed:
                raise UsageError("its batch is submitted already")
            earlier = self._by_id.get(upload_id)
            if earlier is None:
                name = unused_name(name, self._names)
                self._names.add(name)
                pending: Future[DraftPhoto] = Future()
                self._by_id[upload_id] = pending
                self._storing += 1
        if earlier is not None:
            return earlier.result()
        try:
            photo = self._service.store_photo(batch, name, file)
        except BaseException as error:
            with self._lock:
                self._names.discard(name)
                del self._by_id[upload_id]
                self._storing -= 1
                self._idle.notify_all()
            pending.set_exception(error)
            raise
        with self._lock:
            self._photos[name] = photo
            self._storing -= 1
            self._idle.notify_all()
        pending.set_result(photo)
        return photo

    def keep_wishes(self) -> None:
        """Stores ``wishes`` with the draft if they changed and there is a photo to which they belong."""
        data = orjson.dumps(self.wishes)
        with self._lock:
            if self._closed or self._batch is None or data == self._kept:
                return
            batch, self._kept = self._batch, data
        self._service.keep_wishes(batch, self.wishes)

    def close(self) -> None:
        """Refuses all further photos."""
        with self._lock:
            self._closed = True

    def remove(self, name: str) -> None:
        """Deletes a photo; its name can be used again."""
        self._service.remove_photo(self.batch, name)
        with self._lock:
            self._photos.pop(name, None)
            self._names.discard(name)


class UploadSessions:
    """The open sessions of this process, by token. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, UploadSession] = OrderedDict()

    def open(self, service: DraftService, person: Person, draft: Batch | None = None) -> UploadSession:
        """A new session, for a new batch or for a stored draft; `UsageError` if ``draft`` is not a draft."""
        session = UploadSession(service, person, draft)
        with self._lock:
            self._sessions[session.token] = session
            if len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        return session

    def find(self, token: str) -> UploadSession | None:
        """The session with this token; None if there is none, or if it was closed or forgotten."""
        with self._lock:
            if token in self._sessions:
                self._sessions.move_to_end(token)
            return self._sessions.get(token)

    def close(self, session: UploadSession) -> None:
        """Ends a session: it takes no more photos."""
        session.close()
        with self._lock:
            self._sessions.pop(session.token, None)


sessions = UploadSessions()
"""The sessions of this process: the route adds photos to them, and the page shows them."""


async def receive_photo(request: Request) -> Response:
    """``POST /photos?name=…`` with the photo as the body.

    ``X-Upload-Token`` is the session's token; ``X-Upload-Id`` is the same for each attempt to send one photo.
    """
    session = sessions.find(request.headers.get("x-upload-token", ""))
    if session is None:
        return PlainTextResponse("this page is out of date; reload it and drop the photo again", 403)
    name, upload_id = request.query_params.get("name", ""), request.headers.get("x-upload-id", "")
    too_large = PlainTextResponse(f"it is larger than {session.max_bytes // 1_000_000} MB", 413)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > session.max_bytes:
        return too_large
    with SpooledTemporaryFile(MAX_BYTES_IN_MEMORY) as file:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > session.max_bytes:
                return too_large
            file.write(part)
        file.seek(0)
        try:
            photo = await run_in_threadpool(
                session.store, upload_id or secrets.token_urlsafe(), name, cast("BinaryIO", file)
            )
        except UsageError as error:
            return PlainTextResponse(str(error), 422)
        except (BgPipelineError, ClientError, BotoCoreError) as error:
            return PlainTextResponse(f"it could not be stored: {error}", 502)
    return PlainTextResponse(photo.name)
