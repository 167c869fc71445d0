"""Messages of one SQS queue; all SQS requests of the pipeline are made here."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

HIDDEN_SECONDS: Final = 180
"""Visibility timeout of received messages: longer than a tick, the start of its runs and the next tick together."""
WAIT_SECONDS: Final = 1
"""Long polling: with no wait SQS queries only some of its servers and may miss messages."""
BATCH: Final = 10
"""Messages in one call; the maximum of SQS."""


@dataclass(frozen=True, slots=True)
class Message:
    """A received message: ``receipt`` is needed to delete it, ``receives`` is how often it was received, from 1."""

    id: str
    body: str
    receipt: str
    receives: int


class Queue:
    """Receives and deletes messages of the queue at ``url`` through one boto3 client."""

    def __init__(self, client: "SQSClient", url: str) -> None:
        self.client = client
        self.url = url

    def receive(self) -> list[Message]:
        """Up to `BATCH` messages in no particular order, hidden from other receivers for `HIDDEN_SECONDS`."""
        answer = self.client.receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=BATCH,
            WaitTimeSeconds=WAIT_SECONDS,
            VisibilityTimeout=HIDDEN_SECONDS,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        return [
            Message(
                message["MessageId"],
                message["Body"],
                message["ReceiptHandle"],
                int(message.get("Attributes", {}).get("ApproximateReceiveCount", "1")),
            )
            for message in answer.get("Messages", ())
        ]

    def delete(self, receipts: Sequence[str]) -> None:
        """Deletes the messages with these receipts; a message that SQS fails to delete is received again later."""
        for start in range(0, len(receipts), BATCH):
            batch = enumerate(receipts[start : start + BATCH])
            self.client.delete_message_batch(
                QueueUrl=self.url, Entries=[{"Id": f"{n}", "ReceiptHandle": receipt} for n, receipt in batch]
            )

    @cached_property
    def has_dead_letters(self) -> bool:
        """Whether the queue has a dead-letter queue for messages that were received too often."""
        answer = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=["RedrivePolicy"])
        return "RedrivePolicy" in answer.get("Attributes", {})


def region_of(url: str) -> str | None:
    """The Region in a queue's URL; None if the URL contains none."""
    match = re.search(r"(?:^|\.)([a-z]{2}(?:-[a-z]+)+-\d)\.", urlsplit(url).hostname or "")
    return match[1] if match else None
