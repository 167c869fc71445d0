"""Objects that are too large to be held, written from a file and read in blocks; listings that went wrong."""

from tempfile import SpooledTemporaryFile

import pytest

from bg_pipeline.store import BLOCK, Store
from bg_pipeline_tests.scripted_s3 import CUT, scripted_s3


@pytest.fixture
def store(s3, bucket: str) -> Store:
    return Store(s3, bucket)


@pytest.mark.parametrize("memory", [1_000, 10_000_000])
def test_a_file_is_stored_whole_wherever_it_was_left_and_stays_open(store: Store, memory: int) -> None:
    text = b"".join(b"line %d\n" % number for number in range(100_000))
    with SpooledTemporaryFile(memory) as file:
        file.write(text)
        tag = store.write("a.txt", file, media_type="text/plain")
        assert store.write("b.txt", file, media_type="text/plain") == tag
    for key in ("a.txt", "b.txt"):
        content = store.read(key)
        assert content is not None
        assert (content.data, content.etag, content.media_type) == (text, tag, "text/plain")


def test_an_objects_blocks_are_its_bytes_and_none_is_large(store: Store) -> None:
    text = bytes(range(256)) * 1_000
    store.write("a.bin", text, media_type="application/octet-stream")
    blocks = list(store.blocks("a.bin"))
    assert b"".join(blocks) == text
    assert len(blocks) > 1
    assert max(map(len, blocks)) <= BLOCK
    store.write("empty.bin", b"", media_type="application/octet-stream")
    assert b"".join(store.blocks("empty.bin")) == b""


def test_what_is_not_there_has_no_blocks(store: Store) -> None:
    assert list(store.blocks("missing.bin")) == []


_LISTING = b"""<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>false</IsTruncated>
<Contents><Key>a&amp;b</Key><ETag>&quot;1&quot;</ETag><Size>3</Size><LastModified>2026-11-28T10:00:00.000Z</LastModified>
</Contents></ListBucketResult>"""


@pytest.mark.parametrize(
    "trouble", [b"<Error><Code>InternalError</Code></Error>", _LISTING[:200], CUT, b"", b"<html/>"]
)
def test_a_listing_that_is_an_error_or_torn_is_asked_for_again(trouble: bytes) -> None:
    with scripted_s3() as scripted:
        scripted.answers = [(200, trouble), (200, _LISTING)]
        (found,) = Store(scripted.client, "shop").list("")
        assert (found.key, found.etag, found.size) == ("a&b", "1", 3)
        assert len(scripted.asked) == 2
