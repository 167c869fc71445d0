"""An S3 server with scripted answers, for what emulators do not offer: errors, truncated bodies, request logs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import boto3
from botocore.config import Config

CUT = b"the beginning"
"""A body that ends before its Content-Length."""
STALL = b"and then silence"
"""A body of which the last byte is never sent, while the connection stays open."""
DOWN = (503, b"<Error><Code>SlowDown</Code></Error>")
ABSENT = (404, b"<Error><Code>NoSuchKey</Code></Error>")
CONFLICT = b"<Error><Code>ConditionalRequestConflict</Code></Error>"


@dataclass
class ScriptedS3:
    """``answers`` are status and body for the next requests, in order; after them every answer is 200 and "x".

    ``asked`` are the requests received (method and path), ``keys`` the access keys that signed them, ``parts`` the
    If-Match and Range headers of those with a range.
    """

    client: Any
    answers: list[tuple[int, bytes]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    parts: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def scripted_s3(read_timeout: float = 60) -> Iterator[ScriptedS3]:
    """Runs the server while the context is open; its boto3 ``client`` makes three attempts."""
    script = ScriptedS3(None)
    over = Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            script.asked.append(f"{self.command} {self.path}")
            script.keys.append(self.headers["Authorization"].partition("Credential=")[2].partition("/")[0])
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, body = script.answers.pop(0) if script.answers else (200, b"x")
            if "Range" in self.headers:
                script.parts.append((self.headers["If-Match"], self.headers["Range"]))
            self.send_response(status)
            self.send_header("ETag", '"1"')
            self.send_header("Last-Modified", "Sat, 28 Nov 2026 10:00:00 GMT")
            self.send_header("Content-Length", str(len(body) + (body in (CUT, STALL))))
            self.end_headers()
            self.wfile.write(body)
            if body == STALL:
                over.wait()
            self.close_connection = body in (CUT, STALL)

        do_PUT = do_GET  # noqa: N815 (the name is http.server's)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        script.client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{server.server_port}",
            config=Config(retries={"mode": "standard", "total_max_attempts": 3}, read_timeout=read_timeout),
        )
        try:
            yield script
        finally:
            over.set()
        script.client.close()
        server.shutdown()
        thread.join()
