"""Where the things of one batch lie."""

from dataclasses import dataclass

from bg_pipeline.layout import Batch, ResultNames
from bg_pipeline.store import Store


@dataclass(frozen=True)
class Place:
    """A batch's bucket, its prefixes, the names bound to its results, and its own cap."""

    batch: Batch
    data: Store
    input_prefix: str
    output_prefix: str
    status_prefix: str
    names: ResultNames
    request_id: str
    cap_usd: float | None
