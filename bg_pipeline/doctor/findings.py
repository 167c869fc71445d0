"""The findings of the doctor's checks."""

from dataclasses import dataclass
from enum import StrEnum

from botocore.exceptions import BotoCoreError, ClientError

AWS_ERRORS = (ClientError, BotoCoreError)


class Level(StrEnum):
    """The level of a finding; only a failure keeps the pipeline from working."""

    OK = "OK"
    ATTENTION = "attention"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """The result of one check; ``advice`` says what to do if it is not OK."""

    level: Level
    subject: str
    words: str
    advice: str = ""


def error_text(error: ClientError | BotoCoreError) -> str:
    """Code and message of an AWS error."""
    if isinstance(error, ClientError):
        details = error.response.get("Error", {})
        return f"{details.get('Code', '')} {details.get('Message', '')}".strip()
    return str(error)
