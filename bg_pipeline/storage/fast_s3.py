"""The first try of a small read or write of S3, by obstore: a sixth of the CPU that boto3 takes for it.

Only what went well is an answer here. Everything else (an error, a timeout, a refused connection, a key or a
configuration that the two might read differently) is `FallbackNeeded`, and boto3 does it as if nothing had been
tried, with its retries and its errors. A write may so be sent twice, as it may by boto3's own retries.
"""

import os
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.request import getproxies

import obstore
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

MAX_BYTES: Final = 8_000_000
"""More is boto3's: what is sent takes longer than what boto3 adds, and may take longer than `SECONDS`."""
SECONDS: Final = 60
REST_SECONDS: Final = 60
"""How long all is boto3's after an error: what cannot be reached is not waited for each time, and a bucket in
trouble is not asked twice."""
CREDENTIAL_SECONDS: Final = 60
"""How soon obstore asks boto3's credentials again; those renew themselves in time."""

# obstore would write other characters as %XX in the key itself, and drop empty segments.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_=+,-][A-Za-z0-9_.=+,-]*(?:/[A-Za-z0-9_=+,-][A-Za-z0-9_.=+,-]*)*")
_CONFLICT: Final = "status code: 409"
_SOME_KEY: Final = "where-keys-are"
_NO_METADATA: Final = {
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Content-Type",
    "Cache-Control",
    "Storage-Class",
}


class FallbackNeeded(Exception):
    """Nothing is known of the object by this; ask boto3."""


class PreconditionLost(Exception):
    """The object is there already, or is another version than was asked for."""


class ObjectMissing(Exception):
    """There is no such object."""


class FastS3:
    """Reads and writes whole objects of one bucket as a boto3 client would, with its endpoint and credentials.

    Threads may share one; it works in the process that made it and raises `FallbackNeeded` in a fork of that, where
    obstore would wait for threads that are not there.
    """

    def __init__(self, store: S3Store) -> None:
        self._store = store
        self._process = os.getpid()
        self._rests_until = 0.0

    def read(self, key: str) -> tuple[bytes, str, str, Mapping[str, str], datetime]:
        """Bytes, tag, media type, metadata and time of an object; raises `ObjectMissing` or `FallbackNeeded`."""
        self._check(key)
        try:
            found = obstore.get(self._store, key)
            data = bytes(found.bytes())
        except FileNotFoundError as error:
            # A bucket that is not there is told the same way.
            raise (ObjectMissing if "<Code>NoSuchKey</Code>" in str(error) else FallbackNeeded)(key) from None
        except (BaseError, OSError):
            raise self._rest(key) from None
        attributes: dict[str, str] = dict(found.attributes)
        metadata = {name: value for name, value in attributes.items() if name not in _NO_METADATA}
        etag = found.meta["e_tag"] or ""
        return (
            data,
            etag.strip('"'),
            attributes.get("Content-Type", ""),
            metadata,
            found.meta["last_modified"],
        )

    def write(
        self,
        key: str,
        data: bytes,
        *,
        media_type: str,
        metadata: Mapping[str, str],
        if_absent: bool = False,
        if_etag: str | None = None,
    ) -> str:
        """Stores a whole object and returns its tag; raises `PreconditionLost` or `FallbackNeeded`."""
        self._check(key)
        if len(data) > MAX_BYTES:
            raise FallbackNeeded(key)
        mode: Any = "overwrite"
        if if_absent:
            mode = "create"
        elif if_etag is not None:
            mode = {"e_tag": f'"{if_etag}"'}
        attributes = {**metadata, "Content-Type": media_type}
        try:
            put = obstore.put(self._store, key, data, attributes=attributes, mode=mode, use_multipart=False)
        except (AlreadyExistsError, PreconditionError) as error:
            # A write without a condition is refused like this as well, by a bucket that is just being changed.
            if mode == "overwrite":
                raise self._rest(key) from None
            # 409 is no loss yet: another write is under way, and this one is to be tried again.
            raise (FallbackNeeded if _CONFLICT in str(error) else PreconditionLost)(key) from None
        except FileNotFoundError:
            raise FallbackNeeded(key) from None
        except (BaseError, OSError):
            raise self._rest(key) from None
        if not put["e_tag"]:
            raise FallbackNeeded(key)
        return put["e_tag"].strip('"')

    def _check(self, key: str) -> None:
        if not _PLAIN.fullmatch(key) or time.monotonic() < self._rests_until or os.getpid() != self._process:
            raise FallbackNeeded(key)

    def _rest(self, key: str) -> FallbackNeeded:
        self._rests_until = time.monotonic() + REST_SECONDS
        return FallbackNeeded(key)


def fast_s3(client: "S3Client", bucket: str) -> FastS3 | None:
    """One for a bucket, or None where boto3 is configured in a way that obstore cannot be."""
    config: Any = getattr(client.meta, "config", None)
    # boto3 tells neither its credentials nor its CA bundle in public.
    credentials = getattr(getattr(client, "_request_signer", None), "_credentials", None)
    session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    if (
        not isinstance(credentials, Credentials)
        or config.signature_version not in ("s3v4", None)
        # The two do not agree for which hosts a proxy is passed by.
        or config.proxies
        or getproxies().keys() & {"http", "https", "all"}
        or bucket.startswith("arn:")
        or bucket.endswith("--x-s3")
    ):
        return None
    try:
        link = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": _SOME_KEY})
    except BotoCoreError:
        return None
    address, found, _ = link.partition(f"/{_SOME_KEY}?")
    secure = address.startswith("https:")
    if not found or (secure and getattr(session, "_verify", None) is not True):
        return None

    def provide() -> dict[str, Any]:
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + timedelta(seconds=CREDENTIAL_SECONDS),
        }

    return FastS3(
        S3Store(
            bucket,
            # Said in full: what is not said here obstore takes from the environment, and this before the other.
            endpoint=address,
            aws_endpoint_url_s3=address,
            virtual_hosted_style_request=True,  # `address` is the bucket's, in whichever style
            skip_signature=False,
            unsigned_payload=False,
            s3_express=False,
            request_payer=False,
            conditional_put="etag",
            region=client.meta.region_name,
            credential_provider=provide,  # type: ignore[arg-type]
            client_options={
                "allow_http": not secure,
                "user_agent": config.user_agent,
                "connect_timeout": "10s",
                "timeout": f"{int(1000 * min(SECONDS, config.read_timeout or SECONDS))}ms",
            },
            retry_config={"max_retries": 0},
        )
    )
