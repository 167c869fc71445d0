"""Messages of one SQS queue: the only module that speaks SQS."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

HIDDEN_SECONDS: Final = 180
"""How long a message that was received is not given again: longer than a tick, its runs' start and the next tick."""
WAIT_SECONDS: Final = 1
"""How long to wait for a first message; without a wait SQS asks only some of its servers, and may miss some."""
BATCH: Final = 10
"""Messages in one call, the most that SQS takes."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message as received: ``receipt`` is what deletes it, ``receives`` counts how often it was given, from 1."""

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
        """Up to `BATCH` messages, in no order, which nobody else is given for `HIDDEN_SECONDS`."""
        answer = self.client.receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=BATCH,
            WaitTimeSeconds=WAIT_SECONDS,
            VisibilityTimeout=HIDDEN_SECONDS,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        return [
            Message(
                found["MessageId"],
                found["Body"],
                found["ReceiptHandle"],
                int(found.get("Attributes", {}).get("ApproximateReceiveCount", "1")),
            )
            for found in answer.get("Messages", ())
        ]

    def delete(self, receipts: Sequence[str]) -> None:
        """Deletes the messages received with these receipts; one that SQS would not delete is received again."""
        for start in range(0, len(receipts), BATCH):
            some = enumerate(receipts[start : start + BATCH])
            self.client.delete_message_batch(
                QueueUrl=self.url, Entries=[{"Id": f"{n}", "ReceiptHandle": receipt} for n, receipt in some]
            )

    @cached_property
    def has_dead_letters(self) -> bool:
        """Whether SQS moves a message elsewhere that was received too often."""
        answer = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=["RedrivePolicy"])
        return "RedrivePolicy" in answer.get("Attributes", {})


def region_of(url: str) -> str | None:
    """The Region that a queue's address names, None for an address that names none."""
    match = re.search(r"(?:^|\.)([a-z]{2}(?:-[a-z]+)+-\d)\.", urlsplit(url).hostname or "")
    return match[1] if match else None
