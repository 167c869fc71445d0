"""Links to stored documents that anyone may open, with how long they truly work."""

from datetime import datetime, timedelta

from bg_pipeline.aws import Aws
from bg_pipeline.notices.texts import Link
from bg_pipeline.store import Store


def link(aws: Aws, store: Store, key: str, seconds: int, now: datetime) -> Link:
    """A link to an object for ``seconds``, or until the credentials that sign it end, if sooner.

    The end of a role's session is known where boto3 renews it by itself; of a session token that was given to
    this process it is not, so the link may end earlier than it says.
    """
    url = store.presign(key, seconds)
    until = now + timedelta(seconds=seconds)
    temporary, ends = aws.session_end()
    return Link(url, min(until, ends or until), sure=ends is not None or not temporary)
