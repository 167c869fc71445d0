"""Takes in photos that a browser sends one by one, and stores each before the next part of it is wanted.

Streamlit's own uploader holds all of them in memory at once, which thousands of photos do not fit into.
"""

import secrets
import threading
from collections import OrderedDict
from concurrent.futures import Future
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from botocore.exceptions import BotoCoreError, ClientError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from bg_pipeline.domain.batches import Batch
from bg_pipeline.errors import BgPipelineError, UsageError
from bg_pipeline.web.page.service import DraftPhoto, PageService, unused_name

ADDRESS = "/photos"
VISITORS = 1000
"""So many lots that are being prepared are remembered; the one that was used longest ago is forgotten first."""
IN_MEMORY = 1_000_000
"""Bytes of a photo on its way; the rest of it waits on disk."""


class UploadSession:
    """The photos that one visitor drops for one batch. Safe for threads.

    ``token`` lets whoever has it add photos, and nothing else. The batch is begun with its first photo, or goes on
    with those of a ``draft`` that somebody has left.
    """

    def __init__(self, desk: PageService, draft: Batch | None = None) -> None:
        self.token = secrets.token_urlsafe(32)
        self.most = desk.settings.api_max_upload_mb * 1_000_000
        self._desk = desk
        self._lock = threading.Lock()
        self._batch = draft
        self._photos = {each.name: each for each in desk.resume_draft(draft)} if draft else {}
        self._names = set(self._photos)
        self._by_id: dict[str, Future[DraftPhoto]] = {}
        self._closed = False

    @property
    def batch(self) -> Batch:
        with self._lock:
            if self._batch is None:
                self._batch = self._desk.start_draft()
            return self._batch

    @property
    def photos(self) -> dict[str, DraftPhoto]:
        """What is stored by now, by name and sorted by it."""
        with self._lock:
            return dict(sorted(self._photos.items()))

    def store(self, upload: str, name: str, file: BinaryIO) -> DraftPhoto:
        """Stores a photo; one that is sent again, with the same ``upload``, is not stored twice.

        Raises `UsageError` for a name that cannot be an image's, and once the batch is submitted.
        """
        batch = self.batch
        with self._lock:
            if self._closed:
                raise UsageError("its batch is submitted already")
            earlier = self._by_id.get(upload)
            if earlier is None:
                name = unused_name(name, self._names)
                self._names.add(name)
                mine: Future[DraftPhoto] = Future()
                self._by_id[upload] = mine
        if earlier is not None:
            return earlier.result()
        try:
            dropped = self._desk.store_photo(batch, name, file)
        except BaseException as error:
            with self._lock:
                self._names.discard(name)
                del self._by_id[upload]
            mine.set_exception(error)
            raise
        with self._lock:
            self._photos[name] = dropped
        mine.set_result(dropped)
        return dropped

    def close(self) -> None:
        """From now on nothing is taken."""
        with self._lock:
            self._closed = True

    def remove(self, name: str) -> None:
        """Deletes a photo."""
        self._desk.remove_photo(self.batch, name)
        with self._lock:
            self._photos.pop(name, None)
            self._names.discard(name)


class UploadSessions:
    """All lots of this process, by token. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lots: OrderedDict[str, UploadSession] = OrderedDict()

    def open(self, desk: PageService, draft: Batch | None = None) -> UploadSession:
        """A new lot, or one that goes on with a draft."""
        lot = UploadSession(desk, draft)
        with self._lock:
            self._lots[lot.token] = lot
            if len(self._lots) > VISITORS:
                self._lots.popitem(last=False)
        return lot

    def find(self, token: str) -> UploadSession | None:
        """The lot of a token, unless it was closed or forgotten."""
        with self._lock:
            if token in self._lots:
                self._lots.move_to_end(token)
            return self._lots.get(token)

    def close(self, lot: UploadSession) -> None:
        """Nothing more is taken for it."""
        lot.close()
        with self._lock:
            self._lots.pop(lot.token, None)


lots = UploadSessions()
"""Those of this process, which the route fills and the page shows."""


async def take(request: Request) -> Response:
    """``POST /photos?name=…``, the photo as the body; ``X-Upload-Token`` is a lot's, ``X-Upload-Id`` the photo's."""
    lot = lots.find(request.headers.get("x-upload-token", ""))
    if lot is None:
        return PlainTextResponse("this page is out of date; load it again and drop the photo anew", 403)
    name, upload = request.query_params.get("name", ""), request.headers.get("x-upload-id", "")
    too_large = PlainTextResponse(f"it is larger than {lot.most // 1_000_000} MB", 413)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > lot.most:
        return too_large
    with SpooledTemporaryFile(IN_MEMORY) as file:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > lot.most:
                return too_large
            file.write(part)
        file.seek(0)
        try:
            dropped = await run_in_threadpool(
                lot.store, upload or secrets.token_urlsafe(), name, cast("BinaryIO", file)
            )
        except UsageError as error:
            return PlainTextResponse(str(error), 422)
        except (BgPipelineError, ClientError, BotoCoreError) as error:
            return PlainTextResponse(f"it could not be stored: {error}", 502)
    return PlainTextResponse(dropped.name)
