"""The obstore fast path does what boto3 does, or leaves the request to boto3."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import boto3
import dagster as dg
import obstore
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import ClientError, CredentialRetrievalError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bg_pipeline.storage.fast_s3 as fast_s3_module
from bg_pipeline.aws.clients import make_aws
from bg_pipeline.defs.resources import resources
from bg_pipeline.errors import PreconditionFailed, SettingsError
from bg_pipeline.settings import settings as made_settings
from bg_pipeline.storage.fast_s3 import BACKOFF_SECONDS, MAX_BYTES, FallbackNeeded, fast_s3
from bg_pipeline.storage.object_store import Store, open_bucket
from bg_pipeline_tests.scripted_s3 import ABSENT, CONFLICT, CUT, DOWN, ScriptedS3, scripted_s3


@pytest.fixture
def fast(s3, bucket):
    found = fast_s3(s3, bucket)
    assert found is not None
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40))
def test_a_key_is_the_same_for_obstore_and_boto3_or_is_left_to_boto3(fast, s3, bucket: str, key: str) -> None:
    try:
        fast.write(key, b"x", media_type="text/plain", metadata={})
    except FallbackNeeded:
        return
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == b"x"
    assert fast.read(key)[0] == b"x"


@pytest.mark.parametrize(
    "key",
    ["a//b", "/a", "a/", "a/../b", "./a", ".a", "a/.b", "ü.jpg", "a b", "a%2Fb", "a~b", "a?b", "a\nb", ""],
)
def test_a_key_that_obstore_would_change_is_left_to_boto3(fast, key: str) -> None:
    with pytest.raises(FallbackNeeded):
        fast.write(key, b"x", media_type="text/plain", metadata={})
    with pytest.raises(FallbackNeeded):
        fast.read(key)


def test_an_object_is_read_with_the_same_attributes_as_by_boto3(fast, s3, bucket: str) -> None:
    metadata = {"answer": "0123", "made-for": "a b"}
    etag = fast.write("a/b.json", b"{}", media_type="application/json", metadata=metadata)
    theirs = s3.get_object(Bucket=bucket, Key="a/b.json")
    assert (theirs["ETag"], theirs["ContentType"], theirs["Metadata"]) == (
        f'"{etag}"',
        "application/json",
        metadata,
    )
    expected = (b"{}", etag, "application/json", metadata, theirs["LastModified"])
    assert fast.read("a/b.json") == expected


def test_content_encoding_is_not_decoded(fast, s3, bucket: str) -> None:
    s3.put_object(
        Bucket=bucket, Key="a.gz", Body=b"not gzip", ContentEncoding="gzip", CacheControl="no-store"
    )
    data, _, _, metadata, _ = fast.read("a.gz")
    assert (data, metadata) == (b"not gzip", {})


def test_only_the_first_of_two_conditional_writes_succeeds(s3, bucket: str) -> None:
    store = Store(s3, bucket)
    etag = store.write("a", b"1", media_type="text/plain", if_absent=True)
    with pytest.raises(PreconditionFailed):
        store.write("a", b"2", media_type="text/plain", if_absent=True)
    store.write("a", b"3", media_type="text/plain", if_etag=etag)
    with pytest.raises(PreconditionFailed):
        store.write("a", b"4", media_type="text/plain", if_etag=etag)
    with pytest.raises(PreconditionFailed):
        store.write("nothing", b"4", media_type="text/plain", if_etag=etag)
    content = store.read("a")
    assert content is not None
    assert content.data == b"3"


def test_a_missing_object_is_none_and_a_missing_bucket_is_an_error(s3, bucket: str) -> None:
    assert Store(s3, bucket).read("nothing") is None
    with pytest.raises(ClientError, match="NoSuchBucket"):
        Store(s3, f"{bucket}-none").read("nothing")


def test_a_large_body_is_left_to_boto3(fast) -> None:
    with pytest.raises(FallbackNeeded):
        fast.write("a", bytes(MAX_BYTES + 1), media_type="text/plain", metadata={})


@pytest.mark.parametrize(("s3_client", "uses_obstore"), [("auto", True), ("boto3", False)])
@pytest.mark.parametrize("opened_by", ["settings", "dagster"])
def test_the_setting_boto3_switches_obstore_off(
    s3, bucket: str, monkeypatch: pytest.MonkeyPatch, s3_client: str, uses_obstore: bool, opened_by: str
) -> None:
    requests: list[str] = []

    def recording(name: str) -> Callable[..., Any]:
        send = getattr(obstore, name)

        def record(store: object, key: str, *args: Any, **options: Any) -> Any:
            requests.append(f"{name} {key}")
            return send(store, key, *args, **options)

        return record

    for name in ("get", "put"):
        monkeypatch.setattr(obstore, name, recording(name))
    configured = made_settings(bucket=bucket, s3_client=s3_client)
    if opened_by == "settings":
        use(open_bucket(configured, make_aws(configured)))
    else:
        resource = resources(bucket, (), 10, use_obstore=configured.use_obstore)["bucket"]
        with dg.build_resources({"bucket": resource}) as opened:
            use(opened.bucket)
    expected = ["put a.txt", "get a.txt", "get missing.txt"]
    assert requests == (expected if uses_obstore else [])


def use(store: Store) -> None:
    """Writes and reads an object, then reads a missing one through a store derived with `Store.in_bucket`."""
    store.write("a.txt", b"x", media_type="text/plain")
    content = store.read("a.txt")
    assert content is not None
    assert content.data == b"x"
    assert store.in_bucket(f"{store.bucket}-other").in_bucket(store.bucket).read("missing.txt") is None


def test_the_setting_takes_no_other_value(bucket: str) -> None:
    with pytest.raises(SettingsError, match="BG_S3_CLIENT"):
        made_settings(bucket=bucket, s3_client="obstore")


@pytest.fixture
def scripted() -> Iterator[ScriptedS3]:
    with scripted_s3() as script:
        yield script


def test_existing_and_missing_objects_cost_one_request(scripted: ScriptedS3) -> None:
    store = Store(scripted.client, "shop")
    scripted.answers[:] = [ABSENT, (200, b"y"), (412, b""), (200, b"")]
    assert store.read("a/nothing") is None
    found = store.read("a/b")
    assert found is not None
    assert found.data == b"y"
    with pytest.raises(PreconditionFailed):
        store.write("a/b", b"x", media_type="text/plain", if_absent=True)
    assert store.write("a/b", b"x", media_type="text/plain", if_etag="1") == "1"
    assert scripted.asked == ["GET /shop/a/nothing", "GET /shop/a/b", "PUT /shop/a/b", "PUT /shop/a/b"]


def test_a_bucket_with_its_own_host_name_is_addressed_there(
    scripted: ScriptedS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Names such as shop.localhost lead nowhere on many machines.
    own = scripted.client.meta.endpoint_url
    monkeypatch.setattr(
        scripted.client,
        "generate_presigned_url",
        lambda _, **asked: f"{own}/{asked['Params']['Key']}?X-Amz-Signature=0",
    )
    fast = fast_s3(scripted.client, "shop")
    assert fast is not None
    fast.read("a/b")
    fast.write("c", b"x", media_type="text/plain", metadata={})
    assert scripted.asked == ["GET /a/b", "PUT /c"]


@pytest.mark.parametrize("trouble", [DOWN, (500, b""), (200, CUT), (403, b""), (301, b"")])
def test_after_an_error_only_boto3_is_used_for_a_while(
    scripted: ScriptedS3, monkeypatch: pytest.MonkeyPatch, trouble: tuple[int, bytes]
) -> None:
    now = 1000.0
    monkeypatch.setattr(fast_s3_module, "time", SimpleNamespace(monotonic=lambda: now))
    fast = fast_s3(scripted.client, "shop")
    assert fast is not None
    scripted.answers[:] = [trouble]
    with pytest.raises(FallbackNeeded):
        fast.read("a")
    now += BACKOFF_SECONDS - 1
    with pytest.raises(FallbackNeeded):
        fast.read("a")
    assert len(scripted.asked) == 1
    now += 2
    assert fast.read("a")[0] == b"x"


def test_temporary_errors_are_retried_by_boto3(scripted: ScriptedS3) -> None:
    store = Store(scripted.client, "shop")
    scripted.answers[:] = [DOWN, DOWN, (200, b"y")]
    found = store.read("a")
    assert found is not None
    assert found.data == b"y"
    store = Store(scripted.client, "shop")
    scripted.answers[:] = [DOWN, DOWN, (200, b"")]
    assert store.write("a", b"x", media_type="text/plain", if_absent=True) == "1"


def test_only_a_conditional_write_raises_precondition_failed(scripted: ScriptedS3) -> None:
    refused = (412, b"<Error><Code>PreconditionFailed</Code></Error>")
    for condition in ({"if_absent": True}, {"if_etag": "1"}):
        scripted.answers[:] = [refused]
        with pytest.raises(PreconditionFailed):
            Store(scripted.client, "shop").write("a", b"x", media_type="text/plain", **condition)
    assert len(scripted.asked) == 2
    scripted.answers[:] = [refused, refused]
    with pytest.raises(ClientError):
        Store(scripted.client, "shop").write("a", b"x", media_type="text/plain")


@pytest.mark.parametrize("condition", [{"if_absent": True}, {"if_etag": "1"}])
def test_a_conflicting_write_is_left_to_boto3(scripted: ScriptedS3, condition: dict[str, Any]) -> None:
    fast = fast_s3(scripted.client, "shop")
    assert fast is not None
    scripted.answers[:] = [(409, CONFLICT)]
    with pytest.raises(FallbackNeeded):
        fast.write("a", b"x", media_type="text/plain", metadata={}, **condition)


def test_a_torn_answer_is_read_again(scripted: ScriptedS3) -> None:
    scripted.answers[:] = [(200, CUT), (200, b"whole")]
    found = Store(scripted.client, "shop").read("a")
    assert found is not None
    assert found.data == b"whole"


def test_an_unreachable_endpoint_is_left_to_boto3(bucket: str) -> None:
    away = boto3.client("s3", endpoint_url="http://127.0.0.1:9")
    for ask in (
        lambda fast: fast.read("a"),
        lambda fast: fast.write("a", b"", media_type="text/plain", metadata={}),
    ):
        fast = fast_s3(away, bucket)
        assert fast is not None
        with pytest.raises(FallbackNeeded):
            ask(fast)


def test_credentials_refreshed_by_boto3_are_used(
    scripted: ScriptedS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_s3_module, "CREDENTIAL_SECONDS", 0)
    renewed = iter(("second", "third"))

    def renew() -> dict[str, str]:
        end = datetime.now(UTC) + timedelta(hours=1)
        return {"access_key": next(renewed), "secret_key": "s", "token": "t", "expiry_time": end.isoformat()}

    soon = datetime.now(UTC) + timedelta(seconds=5)
    scripted.client._request_signer._credentials = RefreshableCredentials(
        "first", "s", "t", soon, renew, "test"
    )
    fast = fast_s3(scripted.client, "shop")
    assert fast is not None
    fast.read("a")
    scripted.client._request_signer._credentials._expiry_time = soon
    fast.read("a")
    assert scripted.keys == ["second", "third"]


def test_credentials_that_cannot_be_refreshed_are_left_to_boto3(scripted: ScriptedS3) -> None:
    class Ending(RefreshableCredentials):
        ended = False

        def get_frozen_credentials(self) -> Any:
            if self.ended:
                raise CredentialRetrievalError(provider="test", error_msg="the session has ended")
            return super().get_frozen_credentials()

    later = datetime.now(UTC) + timedelta(hours=1)
    credentials = Ending("a", "s", "t", later, dict, "test")
    scripted.client._request_signer._credentials = credentials
    fast = fast_s3(scripted.client, "shop")
    assert fast is not None
    credentials.ended = True
    with pytest.raises(FallbackNeeded):
        fast.read("a")


def test_a_forked_process_uses_boto3_only(scripted: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = fast_s3(scripted.client, "shop")
    assert fast is not None
    monkeypatch.setattr(fast_s3_module, "os", SimpleNamespace(getpid=lambda: 0))
    with pytest.raises(FallbackNeeded):
        fast.read("a")


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "http_proxy", "ALL_PROXY"])
def test_with_a_proxy_in_the_environment_only_boto3_is_used(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fast_s3(boto3.client("s3"), "shop") is None


@pytest.mark.parametrize(
    ("given", "bucket"),
    [
        ({"verify": False, "endpoint_url": "https://127.0.0.1:9"}, "shop"),
        ({"verify": "/etc/hosts", "endpoint_url": "https://127.0.0.1:9"}, "shop"),
        ({"config": Config(signature_version=UNSIGNED)}, "shop"),
        ({"config": Config(signature_version="s3")}, "shop"),
        ({"config": Config(proxies={"http": "http://127.0.0.1:9"})}, "shop"),
        ({}, "arn:aws:s3:us-east-1:123456789012:accesspoint/shop"),
        ({}, "shop--use1-az4--x-s3"),
    ],
)
def test_a_client_that_obstore_cannot_imitate_has_no_fast_path(given: dict[str, object], bucket: str) -> None:
    assert fast_s3(boto3.client("s3", **given), bucket) is None  # type: ignore[call-overload]
