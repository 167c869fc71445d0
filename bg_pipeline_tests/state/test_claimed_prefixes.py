"""Claims on result prefixes: two batches never write under equal or nested prefixes."""

import json
from datetime import date
from typing import Any

import pytest

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.errors import RequestError
from bg_pipeline.state.claimed_prefixes import claim, is_claimed_by
from bg_pipeline.storage.object_store import Store
from bg_pipeline_tests.batches import Bench, aws

OURS, THEIRS = Batch(date(2026, 11, 20), "ours"), Batch(date(2026, 11, 20), "theirs")
TOP = "generated-image-files"


@pytest.fixture
def store(bucket: str) -> Store:
    return Store(aws().s3(bucket), bucket)


def refusal(store: Store, batch: Batch, prefix: str) -> str:
    with pytest.raises(RequestError) as caught:
        claim(store, batch, prefix, "OutputS3Prefix")
    ((field, words),) = caught.value.problems
    assert field == "OutputS3Prefix"
    return words


def owner(store: Store, prefix: str) -> str:
    """The path of the batch that has claimed the prefix."""
    return str(store.read_json(s3_keys.prefix_claim_key(prefix))["Batch"])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("shop", "shop"),
        ("shop", "shop/sub"),
        ("shop/sub/deep", "shop"),
        ("shop", "Shop"),
        ("Shop", "shop/sub"),
        ("Shop/Sub", "SHOP"),
        ("stra\u00dfe", "STRASSE/x"),
        ("caf\u00e9", "cafe\u0301"),
        ("cafe\u0301/sub", "CAF\u00c9"),
        ("\u1100\u1161", "\uac00/x"),
        ("\u0390", "\u03b9\u0308\u0301"),
    ],
)
def test_a_prefix_that_overlaps_another_batchs_is_refused(store: Store, first: str, second: str) -> None:
    claim(store, THEIRS, f"{TOP}/{first}", "OutputS3Prefix")
    for _ in range(2):
        assert THEIRS.path in refusal(store, OURS, f"{TOP}/{second}")
    claim(store, THEIRS, f"{TOP}/{first}", "OutputS3Prefix")


@pytest.mark.parametrize(
    ("first", "second"), [("shop", "shop2"), ("shop/a", "shop/b"), ("a.json", "a"), ("x/y", "y")]
)
def test_sibling_prefixes_do_not_conflict(store: Store, first: str, second: str) -> None:
    claim(store, THEIRS, f"{TOP}/{first}", "OutputS3Prefix")
    claim(store, OURS, f"{TOP}/{second}", "OutputS3Prefix")
    claim(store, OURS, f"{TOP}/{second}/inside", "OutputS3Prefix")
    assert owner(store, f"{TOP}/{first}") == THEIRS.path
    assert owner(store, f"{TOP}/{second}") == owner(store, f"{TOP}/{second}/inside") == OURS.path


def test_a_refused_batch_leaves_no_claim(store: Store) -> None:
    claim(store, THEIRS, f"{TOP}/shop/sub", "OutputS3Prefix")
    refusal(store, OURS, f"{TOP}/shop")
    claim(store, THEIRS, f"{TOP}/shop", "OutputS3Prefix")
    assert owner(store, f"{TOP}/shop") == THEIRS.path


def test_a_pending_claim_is_checked_again(store: Store) -> None:
    pending = {"Version": 1, "Batch": OURS.path, "Pending": True}
    store.write_json(s3_keys.prefix_claim_key(f"{TOP}/shop"), pending)
    store.write_json(s3_keys.prefix_claim_key(f"{TOP}/shop/sub"), {"Version": 1, "Batch": THEIRS.path})
    assert "shop/sub" in refusal(store, OURS, f"{TOP}/shop")


def test_a_claim_with_capitals_of_an_earlier_version_still_counts(store: Store) -> None:
    store.write_json(s3_keys.prefix_claim_key(f"{TOP}/Shop"), {"Version": 1, "Batch": THEIRS.path})
    refusal(store, OURS, f"{TOP}/Shop")
    refusal(store, OURS, f"{TOP}/Shop/sub")
    claim(store, THEIRS, f"{TOP}/Shop", "OutputS3Prefix")


@pytest.mark.parametrize("stored", ["cafe\u0301", "caf\u00e9", "Cafe\u0301"])
def test_a_claim_of_an_earlier_version_in_another_form_of_unicode_still_counts(
    store: Store, stored: str
) -> None:
    store.write_json(s3_keys.prefix_claim_key(f"{TOP}/{stored}"), {"Version": 1, "Batch": THEIRS.path})
    assert is_claimed_by(store, THEIRS, f"{TOP}/{stored}")
    if stored.islower():
        for given in ("caf\u00e9", "cafe\u0301", "caf\u00e9/sub"):
            refusal(store, OURS, f"{TOP}/{given}")
    else:
        refusal(store, OURS, f"{TOP}/{stored}")
    claim(store, THEIRS, f"{TOP}/{stored}", "OutputS3Prefix")


def test_a_prefix_that_other_forms_make_too_long_for_a_key_can_be_claimed(store: Store) -> None:
    prefix = f"{TOP}/" + "\uac01" * 250
    claim(store, THEIRS, prefix, "OutputS3Prefix")
    assert is_claimed_by(store, THEIRS, prefix)


@pytest.mark.parametrize(
    ("field", "top"), [("OutputS3Prefix", TOP), ("StatusS3Prefix", "status-report-files")]
)
def test_the_second_of_two_batches_with_nested_prefixes_is_refused_before_any_payment(
    bucket: str, field: str, top: str
) -> None:
    bench = Bench(Store(aws().s3(bucket), bucket))
    outer: dict[str, Any] = {field: f"{top}/shop"}
    inner: dict[str, Any] = {field: f"{top}/shop/sub"}
    first = bench.submit(1, **outer)
    bench.run()
    second = bench.submit(1, batch="another", **inner)
    before = bench.keys("pipeline-state/answers/")
    bench.run()
    assert bench.keys("pipeline-state/answers/") == before
    (report,) = (
        key for key in bench.keys(f"{second.status_prefix}/") if key.endswith(".json") and "status_" in key
    )
    text = json.dumps(json.loads(bench.store.read(report).data))
    assert field in text
    assert first.path in text


def test_two_batches_with_the_same_id_each_have_their_report(bucket: str) -> None:
    bench = Bench(Store(aws().s3(bucket), bucket))
    batches = [bench.submit(1, batch=name, Id="same") for name in ("one", "two")]
    bench.run()
    for batch in batches:
        assert f"{batch.status_prefix}/status_report_same.json" in bench.keys(f"{batch.status_prefix}/")
