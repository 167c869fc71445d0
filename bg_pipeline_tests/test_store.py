"""Objects that are too large to be held: written from a file, read line by line."""

from tempfile import SpooledTemporaryFile

import pytest

from bg_pipeline.store import Store


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


def test_an_objects_lines_are_its_text_whatever_the_size_of_its_parts(store: Store) -> None:
    lines = [*(b"x" * (number % 977) + b"\n" for number in range(1_000)), b"the last"]
    store.write("a.txt", b"".join(lines), media_type="text/plain")
    assert list(store.lines("a.txt")) == lines
    store.write("empty.txt", b"", media_type="text/plain")
    assert list(store.lines("empty.txt")) == []


def test_what_is_not_there_has_no_lines(store: Store) -> None:
    assert list(store.lines("missing.txt")) == []
