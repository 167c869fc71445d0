"""Links to stored documents that anyone may open, with how long they truly work."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bg_pipeline.aws.clients import Aws
from bg_pipeline.storage.object_store import Store


@dataclass(frozen=True)
class ShareLink:
    """A link that anyone may open until ``until``; not ``sure``: or until the session that signed it ends."""

    url: str
    until: datetime
    sure: bool

    @property
    def life(self) -> str:
        """How long it works, in words."""
        if self.sure:
            return f"works until {_time(self.until)}"
        return f"works until the AWS session that signed it ends, {_time(self.until)} at the latest"


def share_link(aws: Aws, store: Store, key: str, seconds: int, now: datetime) -> ShareLink:
    """A link to an object for ``seconds``, or until the credentials that sign it end, if sooner.

    The end of a role's session is known where boto3 renews it by itself; of a session token that was given to
    this process it is not, so the link may end earlier than it says.
    """
    url = store.presign(key, seconds)
    until = now + timedelta(seconds=seconds)
    temporary, ends = aws.session_end()
    return ShareLink(url, min(until, ends or until), sure=ends is not None or not temporary)


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
