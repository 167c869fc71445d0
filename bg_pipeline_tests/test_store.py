"""Objects that are too large to be held: written from a file, read line by line."""

from tempfile import SpooledTemporaryFile

import pytest

from bg_pipeline.store import BLOCK, Store


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
