"""Every use of an undocumented name of botocore or boto3; no other module of the package uses one.

`INTERNALS` lists the names, and `bg_pipeline_tests/aws/test_botocore_internals.py` checks that the installed botocore
still has each of them. Where a name is missing, the functions here return "unknown", and the caller uses boto3 alone:
slower, but correct.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from botocore import handlers
from botocore.credentials import Credentials

INTERNALS: Final[Mapping[str, str]] = {
    "client._request_signer._credentials": "obstore signs with the credentials of the boto3 client",
    "client._endpoint.http_session._verify": "obstore is used only if the client verifies TLS with the default CAs",
    "RefreshableCredentials._expiry_time": "a run logs when its session credentials end",
    "handlers.convert_body_to_file_like_object": "without it a PutObject skips the 'Expect: 100-continue' round trip",
    "event before-parse": "listings are parsed by ElementTree, six times as fast as by botocore",
    "event before-call params['body']": "base64 of the picture is inserted into the serialized JSON body",
}
"""The undocumented names and what each is used for."""


def credentials_of(client: Any) -> Credentials | None:
    """The credentials that a client signs with; None for an unsigned client, or if botocore does not show them."""
    credentials = getattr(getattr(client, "_request_signer", None), "_credentials", None)
    return credentials if isinstance(credentials, Credentials) else None


def uses_default_cas(client: Any) -> bool:
    """Whether a client verifies TLS with the default CAs: no own CA bundle, and verification not disabled."""
    session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    return getattr(session, "_verify", None) is True


def expiry_of(credentials: Any) -> datetime | None:
    """When session credentials end; None if botocore does not show it."""
    return getattr(credentials, "_expiry_time", None)


def send_bodies_without_expect(client: Any) -> None:
    """Sends the bytes of a PutObject as bytes; as a file each body would wait for a "100 Continue" (a round trip)."""
    handler = getattr(handlers, "convert_body_to_file_like_object", None)
    if handler is not None:
        client.meta.events.unregister("before-parameter-build.s3.PutObject", handler)


def parse_listings_with(client: Any, parser: Callable[..., None]) -> None:
    """Calls ``parser(response_dict=..., customized_response_dict=...)`` before botocore parses a ListObjectsV2
    answer.

    It is registered first, because one of botocore's own handlers parses the whole answer too. What the parser puts
    into ``customized_response_dict`` becomes part of the result; botocore parses what remains in
    ``response_dict["body"]``.
    """
    client.meta.events.register_first(
        "before-parse.s3.ListObjectsV2", parser, unique_id="bg-pipeline-listing"
    )
