"""The boto3 clients of one process: where regions, attempts and time-outs are decided.

Credentials and endpoints come from boto3's own chain and from nowhere else.
"""

import threading
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any

import boto3
import botocore
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, UnknownRegionError

from bg_pipeline.aws.base64_bodies import use_fast_base64
from bg_pipeline.errors import SettingsError
from bg_pipeline.settings import Settings

FALLBACK_REGION = "us-east-1"

USER_AGENT = f"bg-pipeline/{version('bg-pipeline')} Boto3/{boto3.__version__} Botocore/{botocore.__version__}"
"""What AWS's logs tell of who called. boto3 would put its own together for each call, a tenth of a call's CPU."""

_ONCE = {"retries": {"mode": "standard", "total_max_attempts": 1}}
_PATIENT = {"retries": {"mode": "standard", "total_max_attempts": 5}}

_CONFIG: dict[str, dict[str, Any]] = {
    # Presigned links would be signed the old way in us-east-1, which many buckets refuse.
    "s3": {"signature_version": "s3v4"},
    # A retry of the SDK's own would run, and bill, the same picture again; AWS asks for at least 300 s.
    "bedrock-runtime": {**_ONCE, "read_timeout": 330},
    "rekognition": {**_ONCE, "read_timeout": 60},
    # Looked at on the way to the first call; the published figure does as well.
    "service-quotas": {
        "retries": {"mode": "standard", "total_max_attempts": 2},
        "read_timeout": 5,
        "connect_timeout": 3,
    },
    # A SageMaker container has 60 s to answer.
    "sagemaker-runtime": {**_ONCE, "read_timeout": 70},
    # A sensor's tick, which reads the queue, has 60 s for everything.
    "sqs": {
        "connect_timeout": 3,
        "read_timeout": 8,
        "retries": {"mode": "standard", "total_max_attempts": 2},
    },
}


_IN_A_TICK: dict[str, Any] = {
    "connect_timeout": 3,
    "read_timeout": 6,
    "retries": {"mode": "standard", "total_max_attempts": 2},
}
"""For S3 in a sensor's tick, which Dagster kills at 60 s: a call that stalls is told before that."""


class Aws:
    """Clients by service and Region, each made once and shared by all threads.

    ``regions`` are those of the models, the first being the one where nothing else is said; ``regions_named`` says
    whether a person named them, or they are boto3's own Region. ``connections`` is the number of HTTP connections a
    client keeps, at least the number of threads that use it. With ``in_a_tick`` clients of S3 give up after 20 s at
    most.
    """

    def __init__(
        self, regions: Sequence[str] = (), *, connections: int = 64, in_a_tick: bool = False
    ) -> None:
        self._session = boto3.session.Session()
        own = self._session.region_name or FALLBACK_REGION
        self.regions = tuple(dict.fromkeys(regions)) or (own,)
        self.regions_named = bool(regions)
        self.own_region = own
        self._connections = connections
        self._in_a_tick = in_a_tick
        self._clients: dict[tuple[str, str], Any] = {}
        self._making = threading.Lock()

    def client(self, service: str, region: str | None = None) -> Any:
        """The client of a service in a Region (default: boto3's own Region)."""
        key = (service, region or self.own_region)
        # boto3 makes clients from one session safely only one at a time (boto3 issue 1592).
        with self._making:
            if key not in self._clients:
                client = self._make(*key)
                own = getattr(client.meta.config, "s3", None) or {}
                amazon = str(client.meta.endpoint_url).endswith(".amazonaws.com")
                if service == "s3" and amazon and own.get("addressing_style", "auto") == "auto":
                    # boto3 would lead presigned links and forms of every Region to us-east-1's endpoint, whose
                    # redirect their signature does not survive (botocore's signers, `_should_use_global_endpoint`).
                    # Another maker's S3 may know no other than path-style, which boto3 takes there.
                    client = self._make(*key, s3={**own, "addressing_style": "virtual"})
                use_fast_base64(client)
                self._clients[key] = client
            return self._clients[key]

    def _make(self, service: str, region: str, **more: Any) -> Any:
        return self._session.client(
            service,  # type: ignore[call-overload]
            region_name=region,
            config=Config(
                max_pool_connections=self._connections,
                # NAT gateways and endpoints drop a silent connection after 350 s.
                tcp_keepalive=True,
                user_agent=USER_AGENT,
                **{
                    "connect_timeout": 10,
                    "read_timeout": 60,
                    **_PATIENT,
                    **_CONFIG.get(service, {}),
                    **(_IN_A_TICK if self._in_a_tick and service == "s3" else {}),
                    **more,
                },
            ),
        )

    def partition(self, region: str) -> str:
        """The part of AWS, with accounts of its own, that a Region belongs to: ``aws``, ``aws-us-gov`` …"""
        try:
            return self._session.get_partition_for_region(region)
        except UnknownRegionError:
            return "aws"

    def offered(self, service: str, region: str) -> bool:
        """Whether boto3 knows of the service in the Region."""
        return region in self._session.get_available_regions(service, partition_name=self.partition(region))

    def session_end(self) -> tuple[bool, datetime | None]:
        """Whether the credentials in use are those of a session, and when it ends, where boto3 knows that."""
        credentials = self._session.get_credentials()
        if credentials is None or not credentials.get_frozen_credentials().token:
            return False, None
        # botocore, which renews them in time, tells nobody when.
        return True, getattr(credentials, "_expiry_time", None)

    def s3(self, bucket: str) -> Any:
        """A client for S3 in the bucket's own Region.

        Raises `SettingsError` if there is no such bucket, no credentials, or no way to it.
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
        except BotoCoreError as error:
            raise SettingsError(f"BG_BUCKET: bucket '{bucket}' cannot be reached: {error}") from error
        return self.client("s3", answer.get("BucketRegion") or self.own_region)


def make_aws(settings: Settings) -> Aws:
    """The clients for these settings; nothing is called yet."""
    return Aws(settings.regions, connections=max(10, settings.max_concurrency))
