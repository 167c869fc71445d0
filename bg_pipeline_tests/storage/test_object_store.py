"""Streamed objects, torn bodies and listings, and conflicting writes."""

from collections.abc import Iterator
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

import bg_pipeline.storage.object_store as store_module
from bg_pipeline.errors import PreconditionFailed
from bg_pipeline.storage.object_store import BLOCK, CONFLICT_PAUSES, READ_PAUSES, Store
from bg_pipeline_tests.scripted_s3 import ABSENT, CONFLICT, CUT, STALL, ScriptedS3, scripted_s3


@pytest.fixture
def store(s3, bucket: str) -> Store:
    return Store(s3, bucket)


@pytest.mark.parametrize("memory", [1_000, 10_000_000])
def test_a_file_is_stored_from_its_beginning_and_stays_open(store: Store, memory: int) -> None:
    text = b"".join(b"line %d\n" % number for number in range(100_000))
    with SpooledTemporaryFile(memory) as file:
        file.write(text)
        tag = store.write("a.txt", file, media_type="text/plain")
        assert store.write("b.txt", file, media_type="text/plain") == tag
    for key in ("a.txt", "b.txt"):
        content = store.read(key)
        assert content is not None
        assert (content.data, content.etag, content.media_type) == (text, tag, "text/plain")


def test_blocks_are_the_objects_bytes_and_limited_in_size(store: Store) -> None:
    text = bytes(range(256)) * 1_000
    store.write("a.bin", text, media_type="application/octet-stream")
    blocks = list(store.blocks("a.bin"))
    assert b"".join(blocks) == text
    assert len(blocks) > 1
    assert max(map(len, blocks)) <= BLOCK
    store.write("empty.bin", b"", media_type="application/octet-stream")
    assert b"".join(store.blocks("empty.bin")) == b""


def test_a_missing_object_has_no_blocks(store: Store) -> None:
    assert list(store.blocks("missing.bin")) == []


_LISTING = b"""<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>false</IsTruncated>
<Contents><Key>a&amp;b</Key><ETag>&quot;1&quot;</ETag><Size>3</Size><LastModified>2026-11-28T10:00:00.000Z</LastModified>
</Contents></ListBucketResult>"""


@pytest.mark.parametrize(
    "trouble", [b"<Error><Code>InternalError</Code></Error>", _LISTING[:200], CUT, b"", b"<html/>"]
)
def test_an_invalid_or_torn_listing_is_requested_again(trouble: bytes) -> None:
    with scripted_s3() as scripted:
        scripted.answers = [(200, trouble), (200, _LISTING)]
        (found,) = Store(scripted.client, "shop").list("")
        assert (found.key, found.etag, found.size) == ("a&b", "1", 3)
        assert len(scripted.asked) == 2


def test_only_the_torn_page_of_a_listing_is_requested_again() -> None:
    first = _LISTING.replace(
        b"<IsTruncated>false</IsTruncated>",
        b"<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>",
    )
    last = _LISTING.replace(b"a&amp;b", b"c")
    with scripted_s3() as scripted:
        scripted.answers = [(200, first), (200, last[:200]), (200, CUT), (200, last)]
        assert [found.key for found in Store(scripted.client, "shop").list("")] == ["a&b", "c"]
        assert ["continuation-token" in each for each in scripted.asked] == [False, True, True, True]


# Torn bodies


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "READ_PAUSES", (0,) * len(READ_PAUSES))
    monkeypatch.setattr(store_module, "CONFLICT_PAUSES", (0,) * len(CONFLICT_PAUSES))


@pytest.fixture
def scripted(no_pause: None) -> Iterator[ScriptedS3]:
    with scripted_s3(read_timeout=0.2) as script:
        yield script


@pytest.fixture
def by_boto3(scripted: ScriptedS3) -> Store:
    """A store on the scripted S3 that uses boto3 only."""
    return Store(scripted.client, "shop", use_obstore=False)


TROUBLE = pytest.mark.parametrize("trouble", [(200, CUT), (200, STALL), (500, CUT)])


@TROUBLE
def test_an_object_whose_body_is_cut_or_stalls_is_read_again(
    scripted: ScriptedS3, by_boto3: Store, trouble: tuple[int, bytes]
) -> None:
    scripted.answers = [trouble] * len(READ_PAUSES) + [(200, b"whole")]
    found = by_boto3.read("a")
    assert found is not None
    assert found.data == b"whole"
    assert len(scripted.asked) == len(READ_PAUSES) + 1


@TROUBLE
def test_an_incomplete_body_is_an_error_after_three_reads(
    scripted: ScriptedS3, by_boto3: Store, trouble: tuple[int, bytes]
) -> None:
    scripted.answers = [trouble] * 9
    with pytest.raises(BotoCoreError):
        by_boto3.read("a")
    assert len(scripted.asked) == 3


def test_obstore_uses_the_read_timeout_of_the_client(scripted: ScriptedS3) -> None:
    scripted.answers = [(200, STALL), (200, STALL), (200, b"whole")]
    found = Store(scripted.client, "shop").read("a")
    assert found is not None
    assert found.data == b"whole"


def test_an_object_deleted_between_two_reads_is_missing(scripted: ScriptedS3, by_boto3: Store) -> None:
    scripted.answers = [(200, CUT), ABSENT]
    assert by_boto3.read("a") is None


def test_an_object_with_a_wrong_checksum_is_read_again(
    s3, store: Store, no_pause: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(s3, store.bucket, use_obstore=False)
    s3.put_object(Bucket=store.bucket, Key="a", Body=b"whole", ChecksumAlgorithm="CRC32")
    damaged = [b"wrong", b"whole"]

    def get_object(**request: str) -> Any:
        answer = get(**request)
        answer["Body"]._raw_stream = BytesIO(damaged.pop(0))
        return answer

    get = s3.get_object
    monkeypatch.setattr(s3, "get_object", get_object)
    found = store.read("a")
    assert found is not None
    assert found.data == b"whole"
    assert damaged == []


def test_blocks_continue_after_a_broken_body(scripted: ScriptedS3, by_boto3: Store) -> None:
    scripted.answers = [(200, CUT), (206, STALL), (206, b" and the end")]
    # Of a block in which the silence began nothing was given.
    assert b"".join(by_boto3.blocks("a")) == CUT + b" and the end"
    assert scripted.parts == [('"1"', f"bytes={len(CUT)}-")] * 2


@pytest.mark.parametrize("then", [(412, b""), ABSENT, (206, CUT), (403, b"")])
def test_blocks_are_never_of_two_versions(
    scripted: ScriptedS3, by_boto3: Store, then: tuple[int, bytes]
) -> None:
    scripted.answers = [(200, CUT), *[then] * 9]
    with pytest.raises((BotoCoreError, ClientError)):
        list(by_boto3.blocks("a"))
    assert len(scripted.asked) <= 4


def test_a_copy_without_an_etag_in_the_answer_is_an_error(scripted: ScriptedS3, by_boto3: Store) -> None:
    scripted.answers = [(200, b"<html/>")]
    with pytest.raises(BotoCoreError, match="contains no ETag"):
        by_boto3.copy("a", "b")


# Conflicting writes


@pytest.mark.parametrize("condition", [{"if_absent": True}, {"if_etag": "1"}, {}])
@pytest.mark.parametrize("first", ["obstore", "boto3"])
def test_a_write_that_conflicts_with_another_is_repeated(
    scripted: ScriptedS3, condition: dict[str, Any], first: str
) -> None:
    store = Store(scripted.client, "shop", use_obstore=first == "obstore")
    scripted.answers = [*[(409, CONFLICT)] * 3, (200, b"")]
    assert store.write("a", b"x", media_type="text/plain", **condition) == "1"
    assert len(scripted.asked) == 4


def test_a_write_that_always_conflicts_fails(scripted: ScriptedS3, by_boto3: Store) -> None:
    scripted.answers = [(409, CONFLICT)] * 99
    with pytest.raises(PreconditionFailed):
        by_boto3.write("a", b"x", media_type="text/plain", if_absent=True)
    assert len(scripted.asked) == len(CONFLICT_PAUSES) + 1


def test_a_write_fails_if_another_succeeds_during_its_pause(scripted: ScriptedS3, by_boto3: Store) -> None:
    scripted.answers = [(409, CONFLICT), (412, b"")]
    with pytest.raises(PreconditionFailed):
        by_boto3.write("a", b"x", media_type="text/plain", if_etag="1")
    assert len(scripted.asked) == 2


def test_a_file_is_sent_whole_again_after_a_conflict(
    s3, store: Store, no_pause: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = s3.put_object
    refused: list[Any] = []

    def put_object(**request: Any) -> Any:
        if refused:
            return put(**request)
        refused.append(request["Body"].read())
        raise ClientError({"Error": {"Code": "ConditionalRequestConflict"}}, "PutObject")

    monkeypatch.setattr(s3, "put_object", put_object)
    with SpooledTemporaryFile() as file:
        file.write(b"all of it")
        store.write("a", file, media_type="text/plain", if_absent=True)
    assert refused == [b"all of it"]
    assert s3.get_object(Bucket=store.bucket, Key="a")["Body"].read() == b"all of it"
