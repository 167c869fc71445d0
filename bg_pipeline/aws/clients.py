"""The boto3 clients of one process, with their Regions, retries and timeouts.

Credentials and endpoints come only from boto3's own configuration chain.
"""

import functools
import os
import threading
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any

import boto3
import botocore
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigParseError,
    CredentialRetrievalError,
    EndpointConnectionError,
    InvalidConfigError,
    InvalidRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
    UnknownRegionError,
)
from botocore.loaders import Loader

from bg_pipeline.aws.base64_bodies import use_fast_base64
from bg_pipeline.aws.botocore_internals import expiry_of
from bg_pipeline.errors import SettingsError
from bg_pipeline.settings import Settings

FALLBACK_REGION = "us-east-1"

USER_AGENT = f"bg-pipeline/{version('bg-pipeline')} Boto3/{boto3.__version__} Botocore/{botocore.__version__}"
"""The user agent in AWS's logs. It is fixed because boto3 would build its own for each call, at a tenth of its
CPU."""

_NO_RETRIES = {"retries": {"mode": "standard", "total_max_attempts": 1}}
_DEFAULT_RETRIES = {"retries": {"mode": "standard", "total_max_attempts": 5}}

_CONFIG: dict[str, dict[str, Any]] = {
    # In us-east-1 boto3 would sign presigned links with SigV2, which many buckets refuse.
    "s3": {"signature_version": "s3v4"},
    # A retry by the SDK would generate, and bill, the same picture again. AWS recommends a timeout of at least 300 s.
    "bedrock-runtime": {**_NO_RETRIES, "read_timeout": 330},
    "rekognition": {**_NO_RETRIES, "read_timeout": 60},
    # Called before the first model call, which should not wait: the published quota is used if this fails.
    "service-quotas": {
        "retries": {"mode": "standard", "total_max_attempts": 2},
        "read_timeout": 5,
        "connect_timeout": 3,
    },
    # SageMaker gives a container 60 s to answer.
    "sagemaker-runtime": {**_NO_RETRIES, "read_timeout": 70},
    # The queue is read in a sensor tick, which has 60 s in all.
    "sqs": {
        "connect_timeout": 3,
        "read_timeout": 8,
        "retries": {"mode": "standard", "total_max_attempts": 2},
    },
}


_TICK_CONFIG: dict[str, Any] = {
    "connect_timeout": 3,
    "read_timeout": 6,
    "retries": {"mode": "standard", "total_max_attempts": 2},
}
"""For S3 in a sensor tick, which Dagster kills after 60 s: a stalled call fails earlier and can be reported."""


class Aws:
    """Clients by service and Region, each created once and shared by all threads.

    ``regions`` are the Regions for model calls, the first one being the default; without any it is boto3's own
    Region, and ``regions_named`` is False. ``connections`` is the size of each client's HTTP connection pool, at
    least the number of threads that use it. With ``in_a_tick`` S3 calls fail after at most 20 s.
    """

    def __init__(
        self, regions: Sequence[str] = (), *, connections: int = 64, in_a_tick: bool = False
    ) -> None:
        self._session = _new_session()
        self.own_region = self._session.region_name or FALLBACK_REGION
        self.regions = tuple(dict.fromkeys(regions)) or (self.own_region,)
        self.regions_named = bool(regions)
        self._connections = connections
        self._in_a_tick = in_a_tick
        self._clients: dict[tuple[str, str], Any] = {}
        self._creating = threading.Lock()

    def client(self, service: str, region: str | None = None) -> Any:
        """The client of a service in a Region (default: boto3's own Region)."""
        key = (service, region or self.own_region)
        # Creating clients from one session is not thread-safe (boto3 issue 1592).
        with self._creating:
            if key not in self._clients:
                client = self._create(*key)
                s3_config = getattr(client.meta.config, "s3", None) or {}
                is_amazon = str(client.meta.endpoint_url).endswith(".amazonaws.com")
                if service == "s3" and is_amazon and s3_config.get("addressing_style", "auto") == "auto":
                    # With "auto" boto3 points presigned links and forms of every Region to us-east-1's endpoint, and
                    # their signature is invalid after its redirect (botocore.signers, `_should_use_global_endpoint`).
                    # Other makers' S3 keeps "auto", which is path-style there; some know no other style.
                    client = self._create(*key, s3={**s3_config, "addressing_style": "virtual"})
                use_fast_base64(client)
                self._clients[key] = client
            return self._clients[key]

    def _create(self, service: str, region: str, **options: Any) -> Any:
        return self._session.client(
            service,  # type: ignore[call-overload]
            region_name=region,
            config=Config(
                max_pool_connections=self._connections,
                # NAT gateways and VPC endpoints drop idle connections after 350 s.
                tcp_keepalive=True,
                user_agent=USER_AGENT,
                **{
                    "connect_timeout": 10,
                    "read_timeout": 60,
                    **_DEFAULT_RETRIES,
                    **_CONFIG.get(service, {}),
                    **(_TICK_CONFIG if self._in_a_tick and service == "s3" else {}),
                    **options,
                },
            ),
        )

    def partition(self, region: str) -> str:
        """The AWS partition of a Region: ``aws``, ``aws-us-gov`` …; partitions have separate accounts."""
        try:
            return self._session.get_partition_for_region(region)
        except UnknownRegionError:
            return "aws"

    def offered(self, service: str, region: str) -> bool:
        """Whether boto3's data lists the service in the Region."""
        return region in self._session.get_available_regions(service, partition_name=self.partition(region))

    def session_end(self) -> tuple[bool, datetime | None]:
        """Whether the credentials are temporary, and when they expire (None: unknown)."""
        credentials = self._session.get_credentials()
        if credentials is None or not credentials.get_frozen_credentials().token:
            return False, None
        return True, expiry_of(credentials)

    def s3(self, bucket: str) -> Any:
        """An S3 client for the bucket's own Region; costs one HeadBucket.

        Raises `SettingsError` if the bucket does not exist or cannot be accessed or reached, or without credentials.
        """
        client = self.client("s3")
        try:
            answer = client.head_bucket(Bucket=bucket)
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
            if status == 404:
                raise SettingsError(f"BG_BUCKET: there is no bucket '{bucket}'") from error
            if status in (301, 400) and "x-amz-bucket-region" in headers:
                return self.client("s3", headers["x-amz-bucket-region"])
            raise SettingsError(
                f"BG_BUCKET: no access to bucket '{bucket}' (HTTP {status}); "
                "check the credentials and their rights with `bg-pipeline doctor`"
            ) from error
        except (BotoCoreError, OSError) as error:
            words = explain_set_up(error)
            if isinstance(error, EndpointConnectionError):
                words = f"{error}; is {self.own_region} the Region that you mean?"
            elif isinstance(error, OSError):
                # botocore lets the error of a web identity's token file through.
                words = f"the AWS credentials cannot be read: {error}"
            raise SettingsError(
                f"BG_BUCKET: bucket '{bucket}' cannot be reached: {words or error}"
            ) from error
        return self.client("s3", answer.get("BucketRegion") or self.own_region)


def explain_set_up(error: Exception) -> str:
    """A sentence on what to do about an error of the AWS configuration or sign-in; empty for any other error."""
    words = " ".join(str(error).split()).removesuffix(".").removesuffix(":")
    match error:
        case SSOError() | TokenRetrievalError():
            return f"the sign-in (SSO) is missing or has ended: {words}; sign in with `aws sso login`"
        case ProfileNotFound():
            return f"{words} (AWS_PROFILE); `aws configure list-profiles` names those that there are"
        case InvalidRegionError():
            return f"{words}; set AWS_DEFAULT_REGION or the profile's region to one such as eu-central-1"
        case (
            CredentialRetrievalError() | InvalidConfigError() | ConfigParseError() | PartialCredentialsError()
        ):
            return f"the AWS configuration cannot be used: {words}; mend it, or choose another AWS_PROFILE"
    return ""


def make_aws(settings: Settings) -> Aws:
    """An `Aws` for these settings; makes no call."""
    return Aws(settings.regions, connections=max(10, settings.max_concurrency))


def _new_session() -> boto3.session.Session:
    """A new session, with credentials and settings of its own and the service models of `_models`."""
    session = botocore.session.get_session()
    session.register_component("data_loader", _models(session.get_config_variable("data_path")))
    return boto3.session.Session(botocore_session=session)


class _Models(Loader):
    """boto3's descriptions of services and endpoints, read once for all sessions of this process.

    Each session would read them itself: 0.1 s of CPU and 16 MB.
    """

    @property
    def search_paths(self) -> list[str]:
        # A copy, because every session of boto3 appends its folder of resources, which nobody uses here.
        return list(super().search_paths)


@functools.cache
def _models(data_path: str | None) -> Loader:
    folders = data_path.split(os.pathsep) if data_path else []
    return _Models(extra_search_paths=[os.path.expanduser(os.path.expandvars(folder)) for folder in folders])
