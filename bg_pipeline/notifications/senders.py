"""Sends notifications: as a message of an SNS topic, or as a signed POST to a web hook."""

import base64
import hashlib
import hmac
import time
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

import orjson
import requests
from botocore.exceptions import BotoCoreError, ClientError
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from bg_pipeline.errors import BgPipelineError
from bg_pipeline.notifications.messages import Notification

if TYPE_CHECKING:
    from types_boto3_sns import SNSClient

SUBJECT: Final = 99
"""Maximum length of an SNS subject ("less than 100"), which must be ASCII."""
SIGNATURE: Final = "X-Bg-Pipeline-Signature"
"""Header with ``sha256=`` and the hexadecimal HMAC-SHA256 of the body's bytes with ``BG_WEBHOOK_SECRET``."""
STANDARD_SECRET: Final = "whsec_"  # noqa: S105 (the beginning of every such secret)
"""A secret that begins with it is the base64 of the key, as Standard Webhooks has it."""
ATTEMPTS: Final = 3
PAUSE: Final = 0.5
"""Seconds before the second attempt; the pauses double."""
SECONDS: Final = (3.0, 6.0)
"""Timeouts to connect and to answer in each attempt at a web hook; a sensor's tick has 60 s for everything."""


class NotSent(BgPipelineError):
    """A notification could not be sent; the text names the sender and contains no secret."""


class Sender(Protocol):
    """One way to send notifications; ``name`` is part of the keys of the markers of sent notifications."""

    name: str

    def send(self, notice: Notification) -> None:
        """Sends the notification. Raises `NotSent` unless it was accepted."""


class SnsSender:
    """Publishes to an SNS topic, whose subscribers may filter by the attribute ``outcome``."""

    name = "sns"

    def __init__(self, client: "SNSClient", arn: str) -> None:
        self._client = client
        self._arn = arn

    def send(self, notice: Notification) -> None:
        first_in_first_out = (
            {"MessageGroupId": "bg-pipeline", "MessageDeduplicationId": notice.id}
            if self._arn.endswith(".fifo")
            else {}
        )
        try:
            self._client.publish(
                TopicArn=self._arn,
                Subject=subject(notice.subject),
                Message=notice.text,
                MessageAttributes={
                    "outcome": {"DataType": "String", "StringValue": notice.outcome.value},
                },
                **first_in_first_out,
            )
        except ClientError as error:
            details = error.response.get("Error", {})
            raise NotSent(
                f"SNS topic {self._arn} (BG_SNS_TOPIC_ARN): {details.get('Code', '')} {details.get('Message', '')}"
            ) from error
        except BotoCoreError as error:
            raise NotSent(f"SNS topic {self._arn} (BG_SNS_TOPIC_ARN): {error}") from error


def subject(text: str) -> str:
    """``text`` as a valid SNS subject: printable ASCII, cut to `SUBJECT` characters."""
    plain = text.encode("ascii", "replace").decode()
    plain = "".join(char if char.isprintable() else "?" for char in plain)
    return plain if len(plain) <= SUBJECT else f"{plain[: SUBJECT - 3]}..."


class WebhookSender:
    """Posts a notification's document as JSON with its signature; failed posts are repeated a few times."""

    name = "webhook"

    def __init__(self, url: str, secret: str) -> None:
        self._url = url
        self._secret = secret.encode()
        self._key = webhook_key(secret)
        retry = Retry(
            ATTEMPTS - 1,
            backoff_factor=PAUSE,
            status_forcelist=(408, 429, 500, 502, 503, 504),
            allowed_methods=None,
            # Long waits are left to the sensor's next tick.
            respect_retry_after_header=False,
            raise_on_status=False,
        )
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))

    def send(self, notice: Notification) -> None:
        body = orjson.dumps(notice.document)
        seconds = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "bg-pipeline",
            "Idempotency-Key": notice.id,
            SIGNATURE: signature(self._secret, body),
            "webhook-id": notice.id,
            "webhook-timestamp": str(seconds),
            "webhook-signature": standard_signature(self._key, notice.id, seconds, body),
        }
        # The URL may contain a token, and so may an error's text: only the host name is reported.
        host = urlsplit(self._url).hostname
        try:
            with self._session.post(
                self._url, data=body, headers=headers, timeout=SECONDS, allow_redirects=False
            ) as answer:
                status = answer.status_code
        except requests.RequestException as error:
            raise NotSent(
                f"the web hook at {host} (BG_WEBHOOK_URL) did not answer: {type(error).__name__}"
            ) from None
        if not 200 <= status < 300:
            raise NotSent(f"the web hook at {host} (BG_WEBHOOK_URL) answered {status}")


def webhook_key(secret: str) -> bytes:
    """The key of the signatures by Standard Webhooks; raises ``ValueError`` if the base64 of a ``whsec_`` is none."""
    if not secret.startswith(STANDARD_SECRET):
        return secret.encode()
    return base64.b64decode(secret.removeprefix(STANDARD_SECRET), validate=True)


def standard_signature(key: bytes, id: str, seconds: int, body: bytes) -> str:
    """The header ``webhook-signature`` of Standard Webhooks (https://www.standardwebhooks.com), version 1."""
    signed = hmac.new(key, f"{id}.{seconds}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(signed).decode()}"


def signature(secret: bytes, body: bytes) -> str:
    """The value of the header `SIGNATURE`."""
    return f"sha256={hmac.new(secret, body, hashlib.sha256).hexdigest()}"
