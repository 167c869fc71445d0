"""Free checks of the bucket: what the pipeline relies on is tried, and settings that can harm it are read."""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.aws.clients import Aws
from bg_pipeline.doctor.findings import AWS_ERRORS, Finding, Level, error_text
from bg_pipeline.domain import s3_keys
from bg_pipeline.errors import PreconditionFailed, SettingsError, UsageError
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store, open_bucket

_KEPT = (s3_keys.STATE, s3_keys.RESULTS, s3_keys.LABELS, s3_keys.CAPTIONS, s3_keys.MASKS)
"""Prefixes whose objects were paid for, or say what was."""
_UNSUPPORTED = {"NotImplemented", "MethodNotAllowed", "501", "405"}
_ARCHIVE_CLASSES = {"GLACIER", "DEEP_ARCHIVE"}
_OLD_VERSIONS = {
    "ID": "bg-pipeline-old-state",
    "Status": "Enabled",
    "Filter": {"Prefix": f"{s3_keys.STATE}/"},
    "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
    "Expiration": {"ExpiredObjectDeleteMarker": True},
}
"""The lifecycle rule that a bucket with versions should have."""
_REMADE = f"{s3_keys.STATE}/thumbnails/"
"""Prefix of state that is made again from the pictures when somebody looks at them."""


def bucket(settings: Settings, aws: Aws) -> Iterator[Finding]:
    """Whether the bucket can be used by several processes at once, and which of its settings need attention."""
    try:
        store = open_bucket(settings, aws)
        next(store.list(f"{s3_keys.UPLOADS}/"), None)
    except SettingsError as error:
        yield Finding(Level.FAILED, "bucket", str(error), "set BG_BUCKET; check the policy's s3:ListBucket")
        return
    except AWS_ERRORS as error:
        yield Finding(
            Level.FAILED, "bucket", f"cannot be listed: {error_text(error)}", "grant s3:ListBucket on it"
        )
        return
    region = store.client.meta.region_name
    yield Finding(Level.OK, "bucket", f"{store.bucket} in {region} can be listed")
    yield from reads_and_writes(store)
    yield from configuration(store)


def reads_and_writes(store: Store) -> Iterator[Finding]:
    """Tries conditional writes, copies and deletes, and listing after them, on new objects that are deleted again.

    Leases, claims and caps need every condition. A store that ignores one fails: two processes would delete each
    other's leases, or pay twice.
    """
    key = f"{s3_keys.STATE}/doctor/{uuid.uuid4()}.json"
    copy = f"{key}.copy"
    ignored: list[str] = []
    listed = True
    try:
        etag = store.write_json(key, {"Made": datetime.now(UTC).isoformat()}, if_absent=True)
        listed = _is_listed(store, key)

        def write(**condition: Any) -> Callable[[], Any]:
            return lambda: store.write_json(key, {}, **condition)

        attempts = {
            "a write if the object does not exist (If-None-Match)": write(if_absent=True),
            "a write of one version (If-Match)": write(if_etag="0" * 32),
            "a copy of one version (x-amz-copy-source-if-match)": lambda: store.copy(
                key, copy, if_etag="0" * 32
            ),
            "a delete of one version (If-Match of DeleteObject)": lambda: store.delete(key, if_etag="0" * 32),
        }
        ignored = [name for name, attempt in attempts.items() if not _is_refused(attempt)]
        if not ignored:
            etag = store.write_json(key, {}, if_etag=etag)
            store.copy(key, copy, if_etag=etag)
            store.delete(key, if_etag=etag)
        for each in (key, copy):
            store.delete(each)
        listed = listed and not _is_listed(store, key)
    except AWS_ERRORS as error:
        yield Finding(
            Level.FAILED,
            "bucket",
            f"cannot be written: {error_text(error)}",
            "grant s3:PutObject, s3:GetObject, s3:DeleteObject, s3:GetObjectTagging and s3:PutObjectTagging on its "
            "objects (`bg-pipeline doctor --policy`); a bucket policy that demands an encryption header must be "
            "replaced by default encryption",
        )
        return
    if ignored:
        yield Finding(
            Level.FAILED,
            "bucket",
            f"ignores the condition of {'; of '.join(ignored)}: it must not be used by several processes at once, "
            "which would overwrite or delete each other's leases and spending caps",
            "use Amazon S3 or another store with conditional requests",
        )
    else:
        yield Finding(Level.OK, "bucket", "can be written, copied in and deleted from, also with conditions")
    if not listed:
        yield Finding(
            Level.FAILED,
            "bucket listing",
            "does not show at once what was written or deleted, so uploads could be missed",
            "use Amazon S3 or another store whose listings are consistent",
        )


def _is_refused(attempt: Callable[[], Any]) -> bool:
    """Whether a request with an unmet condition was refused."""
    try:
        attempt()
    except PreconditionFailed:
        return True
    except ClientError as error:
        if error.response.get("Error", {}).get("Code", "") in _UNSUPPORTED:
            return False
        raise
    return False


def _is_listed(store: Store, key: str) -> bool:
    return key in [each.key for each in store.list(key)]


def configuration(store: Store) -> Iterator[Finding]:
    """What the bucket's settings mean for the pipeline. Settings that may not be read are named in one finding."""
    denied: list[str] = []

    def read(action: str, method: str) -> Mapping[str, Any] | None:
        """The answer, empty if the bucket has no such setting, None if it cannot be read."""
        try:
            return dict(getattr(store.client, method)(Bucket=store.bucket))
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code.startswith("NoSuch") or code.endswith("NotFoundError"):
                return {}
            if code not in _UNSUPPORTED:
                denied.append(action)
        except BotoCoreError:
            denied.append(action)
        return None

    lifecycle = read("s3:GetLifecycleConfiguration", "get_bucket_lifecycle_configuration")
    rules = [rule for rule in (lifecycle or {}).get("Rules", ()) if rule.get("Status") == "Enabled"]
    if lifecycle is not None:
        yield from _lifecycle(rules)
    if (versioning := read("s3:GetBucketVersioning", "get_bucket_versioning")) is not None:
        yield _versioning(str(versioning.get("Status", "")), rules, lifecycle is not None)
    if (encryption := read("s3:GetEncryptionConfiguration", "get_bucket_encryption")) is not None:
        yield _encryption(encryption.get("ServerSideEncryptionConfiguration", {}).get("Rules") or ())
    if (lock := read("s3:GetBucketObjectLockConfiguration", "get_object_lock_configuration")) is not None:
        yield _object_lock(lock.get("ObjectLockConfiguration") or {})
    if (block := read("s3:GetBucketPublicAccessBlock", "get_public_access_block")) is not None:
        yield _public_access(block.get("PublicAccessBlockConfiguration") or {})
    if (cors := read("s3:GetBucketCORS", "get_bucket_cors")) is not None:
        yield _cors(cors.get("CORSRules") or ())
    if denied:
        yield Finding(
            Level.ATTENTION,
            "bucket settings",
            f"these credentials may not read {len(denied)} of them, which the pipeline does not need",
            f"to see what the doctor would say of them, run it with {', '.join(denied)}",
        )


def _prefix(rule: Mapping[str, Any]) -> str | None:
    """The prefix of a lifecycle rule; None if it is limited in another way (tags, sizes)."""
    rule_filter = rule.get("Filter") or {}
    if (
        "And" in rule_filter
        or "Tag" in rule_filter
        or any(name.startswith("ObjectSize") for name in rule_filter)
    ):
        return None
    return str(rule_filter.get("Prefix", rule.get("Prefix", "")))


def _touched(rule: Mapping[str, Any], prefixes: Sequence[str]) -> list[str]:
    """Those of ``prefixes`` of which a rule affects at least some objects; all if it is limited by tags or sizes."""
    prefix = _prefix(rule) or ""
    if prefix.startswith(_REMADE):
        return []
    return [each for each in prefixes if f"{each}/".startswith(prefix) or prefix.startswith(f"{each}/")]


def _lifecycle(rules: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    found = []
    for rule in rules:
        name = rule.get("ID", "without a name")
        expiration = rule.get("Expiration") or {}
        if ("Days" in expiration or "Date" in expiration) and (lost := _touched(rule, _KEPT)):
            found.append(f"rule {name} deletes objects under {', '.join(lost)}")
        classes = {each.get("StorageClass") for each in rule.get("Transitions") or ()} & _ARCHIVE_CLASSES
        if classes and (slow := _touched(rule, (s3_keys.UPLOADS, *_KEPT))):
            found.append(f"rule {name} moves objects under {', '.join(slow)} to {', '.join(sorted(classes))}")
    if found:
        yield Finding(
            Level.ATTENTION,
            "bucket lifecycle",
            "; ".join(found),
            "what was paid for is paid for again if it is gone or cannot be read: limit the rules to other prefixes",
        )
    else:
        yield Finding(Level.OK, "bucket lifecycle", "no rule deletes or archives what the pipeline needs")


def _versioning(status: str, rules: Sequence[Mapping[str, Any]], rules_known: bool) -> Finding:
    if status != "Enabled":
        return Finding(Level.OK, "bucket versioning", "old versions of objects are not kept")
    state = f"{s3_keys.STATE}/"
    if any(
        "NoncurrentVersionExpiration" in rule
        and (prefix := _prefix(rule)) is not None
        and state.startswith(prefix)
        for rule in rules
    ):
        return Finding(Level.OK, "bucket versioning", f"is on, and a rule deletes old versions under {state}")
    words = "is on, and every heartbeat, lease and cap leaves an old version that is billed"
    if not rules_known:
        words += ", unless a lifecycle rule deletes them"
    return Finding(
        Level.ATTENTION,
        "bucket versioning",
        words,
        f"add this to the bucket's lifecycle rules (one request replaces all rules): {json.dumps(_OLD_VERSIONS)}",
    )


def _encryption(rules: Sequence[Mapping[str, Any]]) -> Finding:
    default = next((rule.get("ApplyServerSideEncryptionByDefault") or {} for rule in rules), {})
    algorithm = default.get("SSEAlgorithm", "")
    if not algorithm.startswith("aws:kms"):
        return Finding(Level.OK, "bucket encryption", f"default encryption: {algorithm or 'none reported'}")
    key = default.get("KMSMasterKeyID", "the key aws/s3")
    words = f"default encryption: {algorithm} with {key}; `doctor --policy` has the rights on the key"
    if "KMSMasterKeyID" not in default:
        words = f"default encryption: {algorithm} with {key}"
    if any(rule.get("BucketKeyEnabled") for rule in rules) or algorithm == "aws:kms:dsse":
        return Finding(Level.OK, "bucket encryption", words)
    return Finding(
        Level.ATTENTION,
        "bucket encryption",
        f"{words}; without a bucket key each read and write is a billed request to KMS, which also limits their rate",
        "switch the bucket key on (BucketKeyEnabled)",
    )


def _object_lock(lock: Mapping[str, Any]) -> Finding:
    if lock.get("ObjectLockEnabled") != "Enabled":
        return Finding(Level.OK, "bucket Object Lock", "is off")
    retention = ((lock.get("Rule") or {}).get("DefaultRetention")) or {}
    kept = (
        f"for {retention.get('Days') or retention.get('Years')} {'days' if 'Days' in retention else 'years'}"
    )
    return Finding(
        Level.ATTENTION,
        "bucket Object Lock",
        f"is on{f', and keeps every version {kept}' if retention else ''}: old versions of the pipeline's state "
        "cannot be deleted before their retention ends, and S3 refuses writes without a checksum, which obstore "
        "does not send",
        "set BG_S3_CLIENT=boto3, or use a bucket without Object Lock and copy the results that have to be kept",
    )


def _public_access(block: Mapping[str, Any]) -> Finding:
    names = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    missing = [name for name in names if not block.get(name)]
    if not missing:
        return Finding(Level.OK, "bucket public access", "is blocked")
    return Finding(
        Level.ATTENTION,
        "bucket public access",
        f"is not blocked by the bucket's own settings ({', '.join(missing)} off); the account's may block it",
        "switch all four on: the pipeline shows photos by links that expire and needs no public access",
    )


UPLOAD_METHODS = ("PUT", "POST")


def _cors(rules: Sequence[Mapping[str, Any]]) -> Finding:
    origins = [
        origin
        for rule in rules
        if set(UPLOAD_METHODS) <= set(rule.get("AllowedMethods") or ())
        for origin in rule.get("AllowedOrigins") or ()
    ]
    if not origins:
        return Finding(
            Level.OK,
            "bucket CORS",
            "no web site may upload with the HTTP API's links; if one should, `bg-pipeline doctor --fix "
            "--origin https://shop.example.com` sets the rule",
        )
    if "*" in origins:
        return Finding(
            Level.ATTENTION,
            "bucket CORS",
            "pages of any origin may upload with the HTTP API's links",
            "name the origins of your own pages instead of *",
        )
    return Finding(
        Level.OK, "bucket CORS", f"pages of {', '.join(origins)} may upload with the HTTP API's links"
    )


def cors_rules(store: Store, origins: Sequence[str]) -> list[dict[str, Any]]:
    """The bucket's CORS rules, with one more so that pages of ``origins`` may upload and read with the API's links.

    Raises `UsageError` without an origin, and for one that is not ``https://host`` or ``http://host``.
    """
    if not origins:
        raise UsageError(
            "which web site may upload? Name it with --origin https://shop.example.com, or set BG_PAGE_ADDRESS"
        )
    for origin in origins:
        scheme, _, host = origin.partition("://")
        if scheme not in ("http", "https") or not host or "/" in host or "*" in host:
            raise UsageError(f"--origin '{origin}' is not an origin such as https://shop.example.com")
    try:
        rules = store.client.get_bucket_cors(Bucket=store.bucket).get("CORSRules") or []
    except ClientError as error:
        if error.response.get("Error", {}).get("Code", "") != "NoSuchCORSConfiguration":
            raise
        rules = []
    new = {
        "ID": "bg-pipeline-browser-uploads",
        "AllowedOrigins": list(dict.fromkeys(origins)),
        "AllowedMethods": ["GET", "HEAD", *UPLOAD_METHODS],
        "AllowedHeaders": ["*"],
        "ExposeHeaders": ["ETag"],
        "MaxAgeSeconds": 3600,
    }
    return [*({**rule} for rule in rules if rule.get("ID") != new["ID"]), new]


def set_cors(store: Store, rules: Sequence[Mapping[str, Any]]) -> None:
    """Replaces the bucket's CORS rules; needs s3:PutBucketCORS."""
    store.client.put_bucket_cors(
        Bucket=store.bucket,
        CORSConfiguration={"CORSRules": rules},  # type: ignore[typeddict-item]
    )
