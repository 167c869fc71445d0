"""The API served on loopback by a real server, and a caller of it."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import requests
import uvicorn
from starlette.types import ASGIApp

from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.web.api import make_app
from bg_pipeline.web.connections import Connection
from bg_pipeline_tests.batches import aws


@dataclass
class Caller:
    """Calls an API at an address; no proxy of the environment is asked."""

    address: str
    headers: dict[str, str] = field(default_factory=dict)

    def __call__(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **more: Any
    ) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            return session.request(
                method,
                f"{self.address}{path}",
                headers={**self.headers, **(headers or {})},
                timeout=60,
                **more,
            )

    def get(self, path: str, **more: Any) -> requests.Response:
        return self("GET", path, **more)

    def post(self, path: str, json: Any, **more: Any) -> requests.Response:
        return self("POST", path, json=json, **more)


def served(settings: Settings, store: Store) -> contextlib.AbstractContextManager[Caller]:
    """The API on a free port of this machine until the block ends."""
    return serving(make_app(settings, aws(), store))


@contextlib.contextmanager
def serving(app: ASGIApp) -> Iterator[Caller]:
    """Any application on a free port of this machine until the block ends."""
    config = uvicorn.Config(app, port=0, log_config=None, ws="none", http=Connection, proxy_headers=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="api")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Caller(f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join()


def problem(answer: requests.Response) -> tuple[int, str]:
    """The status and the code of a problem document, which the answer must be."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    document = answer.json()
    assert document["status"] == answer.status_code
    assert document["detail"]
    return answer.status_code, document["type"].removeprefix("urn:bg-pipeline:")
