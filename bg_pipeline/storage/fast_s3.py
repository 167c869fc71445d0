"""The obstore fast path for small reads and writes of S3: a sixth of the CPU that boto3 needs for them.

Only a success, a missing object and a failed precondition are final here. Everything else (an error, a timeout, a
refused connection, a key or a configuration that obstore and boto3 might interpret differently) raises
`FallbackNeeded`; the caller then makes the request with boto3, with boto3's retries and errors. A write may therefore
be sent twice, as it may by boto3's own retries. ``BG_S3_CLIENT=boto3`` switches this module off.
"""

import os
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.request import getproxies

import obstore
from botocore.exceptions import BotoCoreError
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from bg_pipeline.aws.botocore_internals import credentials_of, uses_default_cas

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

MAX_BYTES: Final = 8_000_000
"""Larger bodies are written by boto3: their transfer dominates boto3's overhead and may exceed `TIMEOUT_SECONDS`."""
TIMEOUT_SECONDS: Final = 60
"""Upper limit of the request timeout; the client's own ``read_timeout`` is used if it is shorter."""
BACKOFF_SECONDS: Final = 60
"""Seconds during which only boto3 is used after obstore failed, so that an unreachable endpoint is not waited for
each time and a bucket in trouble does not get every request twice."""
CREDENTIAL_SECONDS: Final = 60
"""Seconds after which obstore reads boto3's credentials again; boto3 refreshes them before they expire."""

# obstore would store other characters as %XX in the key itself, and would drop empty segments.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_=+,-][A-Za-z0-9_.=+,-]*(?:/[A-Za-z0-9_=+,-][A-Za-z0-9_.=+,-]*)*")
_CONFLICT: Final = "status code: 409"
_PROBE_KEY: Final = "probe-key"
_SYSTEM_ATTRIBUTES: Final = {
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Content-Type",
    "Cache-Control",
    "Storage-Class",
}


class FallbackNeeded(Exception):
    """obstore gave no reliable result; make the request with boto3."""


class PreconditionLost(Exception):
    """The condition of the write failed: the object exists already, or its ETag is another."""


class ObjectMissing(Exception):
    """The bucket exists and has no object with this key."""


class FastS3:
    """Reads and writes whole objects of one bucket with the endpoint and credentials of a boto3 client.

    Thread-safe. It works only in the process that created it: in a forked child every call raises `FallbackNeeded`,
    because obstore's threads do not exist there and a request would hang.
    """

    def __init__(self, store: S3Store) -> None:
        self._store = store
        self._process = os.getpid()
        self._paused_until = 0.0

    def read(self, key: str) -> tuple[bytes, str, str, Mapping[str, str], datetime]:
        """Returns bytes, ETag, media type, metadata and modification time of an object.

        Raises `ObjectMissing` or `FallbackNeeded`.
        """
        self._check(key)
        try:
            result = obstore.get(self._store, key)
            data = bytes(result.bytes())
        except FileNotFoundError as error:
            # obstore raises the same error for a missing bucket.
            raise (ObjectMissing if "<Code>NoSuchKey</Code>" in str(error) else FallbackNeeded)(key) from None
        except (BaseError, OSError):
            raise self._pause(key) from None
        attributes: dict[str, str] = dict(result.attributes)
        metadata = {name: value for name, value in attributes.items() if name not in _SYSTEM_ATTRIBUTES}
        etag = result.meta["e_tag"] or ""
        return (
            data,
            etag.strip('"'),
            attributes.get("Content-Type", ""),
            metadata,
            result.meta["last_modified"],
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
        """Stores a whole object and returns its ETag; raises `PreconditionLost` or `FallbackNeeded`."""
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
            result = obstore.put(
                self._store, key, data, attributes=attributes, mode=mode, use_multipart=False
            )
        except (AlreadyExistsError, PreconditionError) as error:
            # S3 refuses unconditional writes with the same codes while the bucket itself is being changed.
            if mode == "overwrite":
                raise self._pause(key) from None
            # 409 is not final: another write of the key is in progress, and boto3 repeats this one.
            raise (FallbackNeeded if _CONFLICT in str(error) else PreconditionLost)(key) from None
        except FileNotFoundError:
            raise FallbackNeeded(key) from None
        except (BaseError, OSError):
            raise self._pause(key) from None
        if not result["e_tag"]:
            raise FallbackNeeded(key)
        return result["e_tag"].strip('"')

    def _check(self, key: str) -> None:
        if not _PLAIN.fullmatch(key) or time.monotonic() < self._paused_until or os.getpid() != self._process:
            raise FallbackNeeded(key)

    def _pause(self, key: str) -> FallbackNeeded:
        self._paused_until = time.monotonic() + BACKOFF_SECONDS
        return FallbackNeeded(key)


def fast_s3(client: "S3Client", bucket: str) -> FastS3 | None:
    """The fast path for a bucket; None if the client's configuration cannot be reproduced in obstore.

    That is the case for unsigned or SigV2 clients, proxies, a CA bundle or disabled TLS verification, access point
    ARNs and S3 Express buckets.
    """
    config: Any = getattr(client.meta, "config", None)
    credentials = credentials_of(client)
    if (
        credentials is None
        or config.signature_version not in ("s3v4", None)
        # boto3 and obstore differ in which hosts bypass a proxy.
        or config.proxies
        or getproxies().keys() & {"http", "https", "all"}
        or bucket.startswith("arn:")
        or bucket.endswith("--x-s3")
    ):
        return None
    try:
        link = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": _PROBE_KEY})
    except BotoCoreError:
        return None
    address, separator, _ = link.partition(f"/{_PROBE_KEY}?")
    secure = address.startswith("https:")
    if not separator or (secure and not uses_default_cas(client)):
        return None

    def current_credentials() -> dict[str, Any]:
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
            # Every option is set, because obstore reads missing ones from the environment. It prefers
            # `aws_endpoint_url_s3` to `endpoint`, so both are set.
            endpoint=address,
            aws_endpoint_url_s3=address,
            virtual_hosted_style_request=True,  # `address` already contains the bucket, in host or path
            skip_signature=False,
            unsigned_payload=False,
            s3_express=False,
            request_payer=False,
            conditional_put="etag",
            region=client.meta.region_name,
            credential_provider=current_credentials,  # type: ignore[arg-type]
            client_options={
                "allow_http": not secure,
                "user_agent": config.user_agent,
                "connect_timeout": "10s",
                "timeout": f"{int(1000 * min(TIMEOUT_SECONDS, config.read_timeout or TIMEOUT_SECONDS))}ms",
            },
            retry_config={"max_retries": 0},
        )
    )
