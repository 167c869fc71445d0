"""Where the things of one batch lie."""

from dataclasses import dataclass

from bg_pipeline.layout import Batch, ResultNames
from bg_pipeline.store import Store
from bg_pipeline.thumbnails import Thumbnails


@dataclass(frozen=True)
class Place:
    """A batch's bucket, its prefixes, the names bound to its results, its own cap, and its small pictures."""

    batch: Batch
    data: Store
    input_prefix: str
    output_prefix: str
    status_prefix: str
    names: ResultNames
    request_id: str
    cap_usd: float | None
    thumbnails: Thumbnails
