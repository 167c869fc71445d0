"""The S3 locations of one batch."""

from dataclasses import dataclass, field

from bg_pipeline.budget.image_budget import RetryFamily
from bg_pipeline.domain.batches import Batch, mending_key
from bg_pipeline.domain.file_names import ResultNames
from bg_pipeline.state.thumbnails import Thumbnails
from bg_pipeline.storage.object_store import Store


@dataclass(frozen=True)
class BatchLocations:
    """A batch's buckets and prefixes, the names of its results, its cost cap, and its thumbnails.

    ``store`` is the bucket with the pipeline's state, ``data`` the bucket with the batch's photos and results.
    ``names`` assigns file names to results. ``cap_usd`` is the batch's cap in dollars, or None; ``family`` is the cap
    that it shares with its retries and redoes, if any. ``retries`` is true if the batch is a retry of another one.
    ``moved`` maps the key of a photo to its current address (``s3://bucket/key``) if it is stored under another key:
    because it was archived, or because its name has another Unicode form.
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

    def bucket_of(self, key: str) -> Store:
        """The bucket with a mask or backdrop that the request names.

        That is the bucket of the photos, except for a mask that a person mended, which lies beside the request.
        """
        return self.data if mending_key(key) is None else self.store

    def resolve(self, key: str) -> tuple[Store, str]:
        """The bucket and key under which an object of the batch is stored now; ``key`` is where it was uploaded."""
        if key not in self.moved:
            return self.data, key
        bucket, _, moved_to = self.moved[key].removeprefix("s3://").partition("/")
        return self.data.in_bucket(bucket), moved_to
