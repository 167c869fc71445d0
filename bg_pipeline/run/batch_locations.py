"""Where the things of one batch lie."""

from dataclasses import dataclass, field

from bg_pipeline.budget.image_budget import RetryFamily
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.file_names import ResultNames
from bg_pipeline.state.thumbnails import Thumbnails
from bg_pipeline.storage.object_store import Store


@dataclass(frozen=True)
class BatchLocations:
    """A batch's buckets and prefixes, the names bound to its results, its own cap, and its small pictures.

    ``store`` is the bucket with the pipeline's state, ``data`` the one with the batch's photos and results.

    It ``retries`` if it asks again for what failed in another batch. ``moved`` tells of uploads that were moved to
    the archive, by their keys, where they are (``s3://bucket/key``).
    """

    batch: Batch
    store: Store
    data: Store
    input_prefix: str
    output_prefix: str
    status_prefix: str
    names: ResultNames
    request_id: str
    cap_usd: float | None
    thumbnails: Thumbnails
    family: RetryFamily | None = None
    retries: bool = False
    moved: dict[str, str] = field(default_factory=dict)

    def resolve(self, key: str) -> tuple[Store, str]:
        """Where an object of the batch is now: a photo's key stays its name when it is moved to the archive."""
        if key not in self.moved:
            return self.data, key
        bucket, _, moved_to = self.moved[key].removeprefix("s3://").partition("/")
        return self.data.in_bucket(bucket), moved_to
