"""What the doctor finds out about a bucket, on the stand-in's storage and on moto's."""

import json
import uuid
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner

from bg_pipeline.aws.clients import Aws
from bg_pipeline.cli.main import main
from bg_pipeline.doctor.bucket import bucket as examine_bucket
from bg_pipeline.doctor.bucket import configuration, cors_rules, reads_and_writes, set_cors
from bg_pipeline.doctor.findings import Finding, Level
from bg_pipeline.errors import UsageError
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import Store


@pytest.fixture(params=["stand_in", "moto"])
def store(request: pytest.FixtureRequest) -> Store:
    """A new bucket of the stand-in's storage, and one of moto's."""
    request.getfixturevalue("stand_in")
    endpoint = request.getfixturevalue("moto_s3") if request.param == "moto" else None
    client = boto3.client("s3", endpoint_url=endpoint)
    name = f"doctor-{uuid.uuid4().hex}"
    client.create_bucket(Bucket=name)
    return Store(client, name)


pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def found(store: Store, subject: str) -> Finding:
    (finding,) = (each for each in configuration(store) if each.subject == f"bucket {subject}")
    return finding


def test_reads_writes_and_conditions_are_tried_and_nothing_is_left_behind(
    store: Store, request: pytest.FixtureRequest
) -> None:
    (finding,) = reads_and_writes(store)
    if request.node.callspec.params["store"] == "moto":
        # moto ignores this one, and is found out.
        assert finding.level is Level.FAILED
        assert "ignores the condition of a copy of one version (x-amz-copy-source-if-match):" in finding.words
    else:
        assert finding.words == "can be written, copied in and deleted from, also with conditions"
        assert finding.level is Level.OK
    assert list(store.list("")) == []


def test_a_bucket_that_can_be_listed_is_examined(store: Store) -> None:
    aws = Aws(("us-east-1",))
    aws.s3 = lambda name: store.client  # type: ignore[method-assign, assignment]
    findings = list(examine_bucket(settings(bucket=store.bucket), aws))
    assert "can be listed" in findings[0].words
    assert {each.subject for each in findings} >= {
        "bucket versioning",
        "bucket encryption",
        "bucket Object Lock",
        "bucket public access",
        "bucket lifecycle",
        "bucket CORS",
    }


class ReadOnly(Store):
    def write(self, *_: object, **__: object) -> str:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject")


class NoCopies(Store):
    def copy(self, *_: object, **__: object) -> str:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "CopyObject")


class UnconditionalWrites(Store):
    def write(self, key: str, data: Any, *, media_type: str, **_: object) -> str:
        return super().write(key, data, media_type=media_type)


class UnconditionalDeletes(Store):
    def delete(self, key: str, *, if_etag: str | None = None) -> None:
        super().delete(key)


class UnconditionalCopies(Store):
    def copy(self, source: str, target: str, **_: Any) -> str:
        return super().copy(source, target)


class NoConditions(Store):
    def delete(self, key: str, *, if_etag: str | None = None) -> None:
        if if_etag:
            raise ClientError({"Error": {"Code": "NotImplemented", "Message": "no"}}, "DeleteObject")
        super().delete(key)


@pytest.mark.parametrize("kind", [ReadOnly, NoCopies])
def test_a_missing_right_is_named(s3, bucket: str, kind: type[Store]) -> None:
    (finding,) = reads_and_writes(kind(s3, bucket))
    assert finding.level is Level.FAILED
    assert "cannot be written: AccessDenied" in finding.words
    assert "s3:PutObjectTagging" in finding.advice


@pytest.mark.parametrize(
    ("kind", "condition"),
    [
        (UnconditionalWrites, "a write if the object does not exist (If-None-Match)"),
        (UnconditionalWrites, "a write of one version (If-Match)"),
        (UnconditionalDeletes, "a delete of one version"),
        (UnconditionalCopies, "a copy of one version"),
        (NoConditions, "a delete of one version"),
    ],
)
def test_a_store_that_ignores_a_condition_is_refused_for_several_processes(
    s3, bucket: str, kind: type[Store], condition: str
) -> None:
    (finding,) = reads_and_writes(kind(s3, bucket))
    assert finding.level is Level.FAILED
    assert condition in finding.words
    assert "must not be used by several processes at once" in finding.words
    assert list(Store(s3, bucket).list("")) == []


class Late(Store):
    """Listings that show nothing of what was just written."""

    def list(self, prefix: str, *, start_after: str = "") -> Any:
        return iter(())


def test_a_listing_that_lags_behind_fails(s3, bucket: str) -> None:
    conditions, listing = reads_and_writes(Late(s3, bucket))
    assert conditions.level is Level.OK
    assert (listing.subject, listing.level) == ("bucket listing", Level.FAILED)


def test_versions_need_a_rule_that_deletes_the_old_ones_of_the_state(store: Store) -> None:
    assert found(store, "versioning").level is Level.OK
    client, name = store.client, store.bucket
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    finding = found(store, "versioning")
    assert finding.level is Level.ATTENTION
    rule = json.loads(finding.advice[finding.advice.index("{") :])
    client.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": [rule]})
    assert found(store, "versioning").level is Level.OK
    # The advised rule itself deletes nothing that is needed.
    assert found(store, "lifecycle").level is Level.OK


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"Filter": {"Prefix": ""}, "Expiration": {"Days": 30}}, "deletes objects under pipeline-state"),
        (
            {"Filter": {"Prefix": "generated-image-files/2026/"}, "Expiration": {"Days": 30}},
            "deletes objects under generated-image-files",
        ),
        (
            {
                "Filter": {"Prefix": "image-files/"},
                "Transitions": [{"Days": 1, "StorageClass": "DEEP_ARCHIVE"}],
            },
            "moves objects under image-files to DEEP_ARCHIVE",
        ),
        ({"Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 30}}, "no rule deletes"),
        (
            {"Filter": {"Prefix": "pipeline-state/thumbnails/"}, "Expiration": {"Days": 90}},
            "no rule deletes",
        ),
    ],
)
def test_rules_that_delete_or_archive_what_is_needed_are_named(
    store: Store, rule: dict[str, Any], words: str
) -> None:
    store.client.put_bucket_lifecycle_configuration(
        Bucket=store.bucket,
        LifecycleConfiguration={"Rules": [{"ID": "tidy", "Status": "Enabled", **rule}]},  # type: ignore[list-item]
    )
    finding = found(store, "lifecycle")
    assert words in finding.words
    assert (finding.level is Level.OK) is words.startswith("no rule")


def test_encryption_with_kms_is_reported_with_the_key(store: Store) -> None:
    assert found(store, "encryption").level is Level.OK
    key = "arn:aws:kms:us-east-1:123456789012:key/k"
    for bucket_key, level in ((False, Level.ATTENTION), (True, Level.OK)):
        store.client.put_bucket_encryption(
            Bucket=store.bucket,
            ServerSideEncryptionConfiguration={
                "Rules": [
                    {
                        "ApplyServerSideEncryptionByDefault": {
                            "SSEAlgorithm": "aws:kms",
                            "KMSMasterKeyID": key,
                        },
                        "BucketKeyEnabled": bucket_key,
                    }
                ]
            },
        )
        finding = found(store, "encryption")
        assert key in finding.words
        assert finding.level is level


def test_object_lock_is_reported_with_what_to_set(store: Store) -> None:
    assert found(store, "Object Lock").level is Level.OK
    name = f"locked-{uuid.uuid4().hex}"
    store.client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    store.client.put_object_lock_configuration(
        Bucket=name,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 7}},
        },
    )
    finding = found(store.in_bucket(name), "Object Lock")
    assert finding.level is Level.ATTENTION
    assert "for 7 days" in finding.words
    assert "BG_S3_CLIENT=boto3" in finding.advice


def test_public_access_that_is_not_blocked_is_reported(store: Store) -> None:
    assert found(store, "public access").level is Level.ATTENTION
    store.client.put_public_access_block(
        Bucket=store.bucket,
        PublicAccessBlockConfiguration={
            "BlockPublicAcls": True,
            "IgnorePublicAcls": True,
            "BlockPublicPolicy": True,
            "RestrictPublicBuckets": True,
        },
    )
    assert found(store, "public access").level is Level.OK


def test_settings_that_may_not_be_read_are_named_once(
    s3, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(**_: Any) -> Any:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "GetBucketCors")

    client = boto3.client("s3")
    for name in ("get_bucket_cors", "get_bucket_versioning"):
        monkeypatch.setattr(client, name, denied)
    (finding,) = (each for each in configuration(Store(client, bucket)) if each.subject == "bucket settings")
    assert finding.level is Level.ATTENTION
    assert "s3:GetBucketVersioning, s3:GetBucketCORS" in finding.advice


def test_a_cors_rule_is_added_and_others_stay(store: Store) -> None:
    other = {"AllowedOrigins": ["https://other.example"], "AllowedMethods": ["GET"]}
    set_cors(store, [other])
    assert "no web site may upload" in found(store, "CORS").words
    for _ in range(2):
        set_cors(store, cors_rules(store, ["https://shop.example.com"]))
    rules = store.client.get_bucket_cors(Bucket=store.bucket)["CORSRules"]
    assert [rule["AllowedOrigins"] for rule in rules] == [
        ["https://other.example"],
        ["https://shop.example.com"],
    ]
    assert "https://shop.example.com may upload" in found(store, "CORS").words
    set_cors(store, [{"AllowedOrigins": ["*"], "AllowedMethods": ["PUT", "POST"]}])
    assert found(store, "CORS").level is Level.ATTENTION


@pytest.mark.parametrize("origin", ["shop.example.com", "https://shop.example.com/x", "https://*"])
def test_only_an_origin_is_taken(store: Store, origin: str) -> None:
    with pytest.raises(UsageError, match="is not an origin"):
        cors_rules(store, [origin])


def test_fix_prints_the_rules_and_sets_them_on_consent(
    s3, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BG_BUCKET", bucket)
    nobody = CliRunner().invoke(main, ["doctor", "--fix"])
    assert nobody.exit_code == 2
    assert "--origin" in nobody.stderr
    command = ["doctor", "--fix", "--origin", "https://shop.example.com"]
    refused = CliRunner().invoke(main, command, input="n\n")
    assert refused.exit_code == 2
    (rule,) = json.loads(refused.stdout)["CORSRules"]
    assert rule["AllowedOrigins"] == ["https://shop.example.com"]
    with pytest.raises(ClientError):
        s3.get_bucket_cors(Bucket=bucket)
    agreed = CliRunner().invoke(main, [*command, "--yes"])
    assert agreed.exit_code == 0, agreed.output
    (rule,) = s3.get_bucket_cors(Bucket=bucket)["CORSRules"]
    assert rule["AllowedMethods"] == ["GET", "HEAD", "PUT", "POST"]
