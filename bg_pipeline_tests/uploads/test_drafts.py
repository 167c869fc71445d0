"""Drafts are looked at and discarded; what was submitted is not."""

import pytest

from bg_pipeline.domain.batches import Batch
from bg_pipeline.errors import UsageError
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.listing import discard_draft, find_draft
from bg_pipeline_tests.batches import DATE, Bench


@pytest.fixture
def bench(s3, bucket) -> Bench:
    return Bench(Store(s3, bucket))


def test_a_draft_is_discarded_with_all_that_was_uploaded_for_it_and_nothing_else(bench: Bench) -> None:
    batch, other = bench.draft(), bench.draft("101530b")
    assert discard_draft(bench.store, batch) == 2
    left = bench.keys("image-files")
    assert len(left) == 4
    assert all(key.startswith(f"{other.input_prefix}/") for key in left)


def test_a_draft_without_photos_can_be_discarded(bench: Bench) -> None:
    batch = Batch(DATE, "101530")
    bench.put(batch.draft_key, b"{}")
    assert find_draft(bench.store, batch).last_change.year > 2000
    assert discard_draft(bench.store, batch) == 0
    assert bench.keys("image-files") == []


@pytest.mark.parametrize("with_draft", [True, False])
def test_what_was_submitted_is_never_discarded(bench: Bench, with_draft: bool) -> None:
    batch = bench.submit(1)
    if with_draft:  # a submission that was interrupted right after its request
        bench.put(batch.draft_key, b"{}")
    before = bench.keys("image-files")
    with pytest.raises(UsageError, match="was submitted"):
        discard_draft(bench.store, batch)
    assert bench.keys("image-files") == before


def test_a_folder_without_a_request_is_no_draft(bench: Bench) -> None:
    batch = bench.submit(1, requested=False)
    with pytest.raises(UsageError, match="no draft"):
        discard_draft(bench.store, batch)
    with pytest.raises(UsageError, match="no draft"):
        discard_draft(bench.store, Batch(DATE, "never"))
