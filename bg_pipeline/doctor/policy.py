"""The permissions that each kind of process needs, as an IAM policy for the settings in use.

Least privilege by prefix: a submitter writes only uploads; the page also writes reviews and published results; only
the pipeline writes leases, ledgers, caps and paid answers. The HTTP API makes pictures itself and therefore has the
pipeline's permissions. Each kind of program appends audit lines under a prefix of its own and can change none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.aws.clients import Aws
from bg_pipeline.captioners import nova
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.domain.people import Via
from bg_pipeline.generators import Operation, generator
from bg_pipeline.generators.scenes import scene_painter
from bg_pipeline.labelers import custom_labels
from bg_pipeline.models.geography import callable_regions, inference_regions, runs_outside_region
from bg_pipeline.run.archive import PREFIX as ARCHIVE_HERE
from bg_pipeline.settings import Settings

Role = Literal["pipeline", "submitter", "page", "api", "auditor"]
ROLES: tuple[Role, ...] = ("pipeline", "submitter", "page", "api", "auditor")

OUTPUT_PREFIXES = (s3_keys.LABELS, s3_keys.CAPTIONS, s3_keys.MASKS, s3_keys.RESULTS, s3_keys.REPORTS)
"""Prefixes of the pipeline's outputs."""
DATA_PREFIXES = (s3_keys.RESULTS, s3_keys.REPORTS)
"""Those of them that are in the bucket that a request names."""

MANAGED_POLICY = 6_144
"""Most characters, without white space, of a managed policy; a role's inline policies may have 10,240."""

Statement = dict[str, Any]


@dataclass(frozen=True)
class PolicyInputs:
    """What a policy needs from the account: its number, its AWS partition, and the KMS keys of its buckets."""

    account: str
    partition: str
    keys: tuple[str, ...] = ()


def policy_inputs(settings: Settings, aws: Aws) -> tuple[PolicyInputs, list[str]]:
    """The account's values, and a sentence for each that could not be found. Nothing is billed."""
    unknowns = []
    account = "*"
    try:
        account = aws.client("sts").get_caller_identity()["Account"]
    except (ClientError, BotoCoreError) as error:
        unknowns.append(f"the account's number is unknown ({error}): the policy has '*' instead")
    keys = []
    for bucket in filter(None, (settings.bucket, *settings.allowed_buckets, _archive(settings))):
        try:
            encryption = aws.client("s3").get_bucket_encryption(Bucket=bucket)
        except (ClientError, BotoCoreError) as error:
            unknowns.append(
                f"whether {bucket} is encrypted with a KMS key is unknown ({error}); if it is, add kms:Decrypt and "
                "kms:GenerateDataKey on that key"
            )
            continue
        for rule in encryption["ServerSideEncryptionConfiguration"]["Rules"]:
            key = rule.get("ApplyServerSideEncryptionByDefault", {}).get("KMSMasterKeyID")
            if key:
                keys.append(key)
    return PolicyInputs(account, aws.partition(aws.own_region), tuple(dict.fromkeys(keys))), unknowns


def policy(settings: Settings, aws: Aws, role: Role, inputs: PolicyInputs) -> dict[str, Any]:
    """The IAM policy document of a role; raises `SettingsError` for a generator that cannot be loaded."""
    statements: list[Statement] = []
    if role == "submitter":
        statements += _submitter(settings, inputs)
    elif role == "auditor":
        statements += _auditor(settings, inputs)
    elif role == "page":
        statements += [*_submitter(settings, inputs), *_page(settings, inputs), *_questions(inputs)]
    else:
        statements += [*_pipeline(settings, inputs), *_models(settings, aws, inputs), *_questions(inputs)]
        statements += _others(settings, aws, inputs)
        if role == "api":
            statements += [*_submitter(settings, inputs), *_outputs(settings, inputs)]
    if written := _AUDIT_LINES[role]:
        statements.append(_append_only(settings, inputs, "Audit", [s3_keys.audit_of(via) for via in written]))
    if role in ("page", "api"):
        statements.append(_append_only(settings, inputs, "OwnBatches", [s3_keys.OWNERS]))
    if inputs.keys:
        statements.append(
            _allow(
                "Keys", ("kms:Decrypt", "kms:GenerateDataKey"), *(_key(key, inputs) for key in inputs.keys)
            )
        )
    return {"Version": "2012-10-17", "Statement": statements}


def _allow(sid: str, actions: Sequence[str], *resources: str, **condition: Any) -> Statement:
    statement: Statement = {
        "Sid": sid,
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": list(dict.fromkeys(resources)),
    }
    return {**statement, "Condition": condition["condition"]} if condition else statement


_AUDIT_LINES: dict[Role, tuple[Via, ...]] = {
    "pipeline": (Via.RUN, Via.LOCAL),
    "submitter": (Via.LOCAL,),
    "page": (Via.PAGE, Via.LOCAL),
    "api": (Via.API, Via.RUN),
    "auditor": (),
}
"""The programs as which a role acts; with the rights of most roles people also use the command line."""


def _append_only(settings: Settings, inputs: PolicyInputs, sid: str, prefixes: Sequence[str]) -> Statement:
    """The right to create objects and to replace none: S3 refuses a PutObject without the header If-None-Match.

    Source: "Enforce conditional writes on Amazon S3 buckets" in the Amazon S3 user guide.
    """
    condition = {"Null": {"s3:if-none-match": "false"}}
    return _allow(sid, ("s3:PutObject",), *_under(inputs, settings.bucket, *prefixes), condition=condition)


def _auditor(settings: Settings, inputs: PolicyInputs) -> Iterator[Statement]:
    condition = {"StringLike": {"s3:prefix": f"{s3_keys.AUDIT}/*"}}
    yield _allow("FindLines", ("s3:ListBucket",), _bucket(inputs, settings.bucket), condition=condition)
    yield _allow("ReadLines", ("s3:GetObject",), *_under(inputs, settings.bucket, s3_keys.AUDIT))


def _bucket(inputs: PolicyInputs, name: str) -> str:
    return f"arn:{inputs.partition}:s3:::{name}"


def _under(inputs: PolicyInputs, bucket: str, *prefixes: str) -> list[str]:
    """The ARNs of all objects under the prefixes."""
    return [f"{_bucket(inputs, bucket)}/{prefix}/*" for prefix in prefixes]


def _key(key: str, inputs: PolicyInputs) -> str:
    return key if key.startswith("arn:") else f"arn:{inputs.partition}:kms:*:{inputs.account}:key/{key}"


def _archive(settings: Settings) -> str:
    """The other bucket to which originals are moved; empty if there is none."""
    return "" if settings.archive_to in ("", ARCHIVE_HERE) else settings.archive_to


def _submitter(settings: Settings, inputs: PolicyInputs) -> Iterator[Statement]:
    bucket = settings.bucket
    yield _allow("FindBatches", ("s3:ListBucket",), _bucket(inputs, bucket))
    yield _allow(
        "Submit",
        # Large photos are uploaded in parts; the parts of a failed upload are deleted.
        ("s3:PutObject", "s3:AbortMultipartUpload", "s3:PutObjectTagging"),
        *_under(inputs, bucket, s3_keys.UPLOADS),
    )
    yield _allow(
        "EndDrafts", ("s3:DeleteObject",), f"{_bucket(inputs, bucket)}/{s3_keys.UPLOADS}/*/{s3_keys.DRAFT}"
    )
    yield _allow(
        "SeeWhatBecame",
        ("s3:GetObject", "s3:GetObjectTagging"),
        *_under(inputs, bucket, s3_keys.UPLOADS, s3_keys.ASSETS, *DATA_PREFIXES),
        *(
            arn
            for name in settings.allowed_buckets
            for arn in _under(inputs, name, s3_keys.UPLOADS, *DATA_PREFIXES)
        ),
    )


def _page(settings: Settings, inputs: PolicyInputs) -> Iterator[Statement]:
    buckets = (settings.bucket, *settings.allowed_buckets)
    yield _allow(
        "SeeAll", ("s3:GetObject", "s3:GetObjectTagging"), *(f"{_bucket(inputs, b)}/*" for b in buckets)
    )
    if settings.allowed_buckets:
        yield _allow(
            "ListOthers", ("s3:ListBucket",), *(_bucket(inputs, name) for name in settings.allowed_buckets)
        )
    yield _allow("EndUploads", ("s3:DeleteObject",), *_under(inputs, settings.bucket, s3_keys.UPLOADS))
    yield _allow(
        "Review",
        ("s3:PutObject", "s3:DeleteObject", "s3:PutObjectTagging"),
        *(arn for name in buckets for arn in _under(inputs, name, s3_keys.REVIEWS, s3_keys.PUBLISHED)),
    )
    # The only state that the page writes: lists of published results, of retried batches and of redone results, and
    # when sign-ins were used last. Finding labels before the submission is a paid call, which needs the pipeline's
    # rights.
    yield _allow(
        "Record",
        ("s3:PutObject",),
        *_under(
            inputs,
            settings.bucket,
            *(f"{s3_keys.STATE}/{name}" for name in ("published", "retries", "redoes", "sign-ins")),
        ),
    )


def _pipeline(settings: Settings, inputs: PolicyInputs) -> Iterator[Statement]:
    bucket, others = settings.bucket, settings.allowed_buckets
    yield _allow("List", ("s3:ListBucket",), *(_bucket(inputs, name) for name in (bucket, *others)))
    yield _allow(
        "Read",
        ("s3:GetObject", "s3:GetObjectTagging"),
        *(f"{_bucket(inputs, name)}/*" for name in (bucket, *others)),
    )
    written = [*OUTPUT_PREFIXES, s3_keys.STATE]
    written += [s3_keys.PAYLOADS] if settings.keep_payloads else []
    written += [s3_keys.ARCHIVE] if settings.archive_to == ARCHIVE_HERE else []
    targets = _under(inputs, bucket, *written)
    for name in others:
        targets += _under(inputs, name, *DATA_PREFIXES)
    yield _allow(
        "Write",
        ("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:PutObjectTagging"),
        *targets,
    )
    if settings.archive_to or settings.draft_days:
        yield _allow("TakeOriginals", ("s3:DeleteObject",), *_under(inputs, bucket, s3_keys.UPLOADS))
    if settings.draft_days:
        # A draft is marked before it is deleted.
        drafts = f"{_bucket(inputs, bucket)}/{s3_keys.UPLOADS}/*/{s3_keys.DRAFT}"
        yield _allow("MarkDrafts", ("s3:PutObject",), drafts)
    if other := _archive(settings):
        yield _allow(
            "Archive",
            ("s3:GetObject", "s3:PutObject", "s3:PutObjectTagging", "s3:AbortMultipartUpload"),
            f"{_bucket(inputs, other)}/*",
        )


def _outputs(settings: Settings, inputs: PolicyInputs) -> Iterator[Statement]:
    yield _allow(
        "AnswerCalls",
        ("s3:PutObject", "s3:DeleteObject", "s3:PutObjectTagging"),
        *_under(
            inputs,
            settings.bucket,
            s3_keys.UPLOADS,
            s3_keys.OUTPUTS,
            s3_keys.PHOTOS,
            s3_keys.DOCUMENTS,
            s3_keys.REVIEWS,
            s3_keys.PUBLISHED,
        ),
    )


def _models(settings: Settings, aws: Aws, inputs: PolicyInputs) -> Iterator[Statement]:
    images = [generator(name) for name in settings.image_models]
    regions_of: dict[Operation, Sequence[str]] = {
        operation: runs_outside_region(aws, (operation,)) or aws.regions
        for each in images
        for operation in (each.replaces, each.removes)
        if operation and operation.service == "bedrock-runtime"
    }
    regions_of |= {
        operation: runs_outside_region(aws, (operation,)) or aws.regions
        for operation in (scene_painter(name).paints for name in settings.scene_models)
    }
    captions = nova.regions(settings, aws)
    regions_of |= {nova.operation(name): captions for name in nova.models(settings, aws)}
    resources: list[str] = []
    third_party = False
    for operation, regions in regions_of.items():
        sources = callable_regions(operation)
        regions = [region for region in regions if not sources or region in sources]
        if regions:
            resources += _model_arns(operation, regions, inputs)
            third_party |= facts_of(operation.name, operation.invoke_id).provider != "Amazon"
    if resources:
        yield _allow("CallModels", ("bedrock:InvokeModel",), *resources)
    if third_party:
        yield _allow(
            "SubscribeByFirstCall",
            ("aws-marketplace:Subscribe", "aws-marketplace:ViewSubscriptions"),
            "*",
            condition={"StringEquals": {"aws:CalledViaLast": "bedrock.amazonaws.com"}},
        )
    if settings.custom_labels_arn:
        arn = settings.custom_labels_arn
        project = arn.partition("/version/")[0]
        yield _allow(
            "CustomLabels",
            (
                "rekognition:DetectCustomLabels",
                "rekognition:StartProjectVersion",
                "rekognition:StopProjectVersion",
                "rekognition:DescribeProjectVersions",
            ),
            arn,
            f"{project}/*",
        )
        yield _allow(
            "CustomLabelsProjects",
            ("rekognition:DescribeProjects",),
            "*",
            condition={"StringEquals": {"aws:RequestedRegion": custom_labels.region(arn)}},
        )
    yield _allow(
        "Look",
        ("rekognition:DetectLabels", "rekognition:DetectFaces"),
        "*",
        condition={"StringEquals": {"aws:RequestedRegion": list(aws.regions)}},
    )


def _model_arns(operation: Operation, regions: Sequence[str], inputs: PolicyInputs) -> list[str]:
    """The ARNs that IAM checks for a model's calls: its profile, and the model in each Region where it may run."""
    arn = f"arn:{inputs.partition}:bedrock"
    if operation.model_id.startswith("arn:"):
        return [operation.model_id]
    if not operation.profile:
        return [f"{arn}:{region}::foundation-model/{operation.model_id}" for region in regions]
    profiles = [
        f"{arn}:{region}:{inputs.account}:inference-profile/{operation.invoke_id}" for region in regions
    ]
    # A global profile also names the model without a Region.
    is_global = inference_regions(operation) == ("*",)
    model_regions = ["", "*"] if is_global else [*regions, *inference_regions(operation)]
    return profiles + [f"{arn}:{region}::foundation-model/{operation.model_id}" for region in model_regions]


def _questions(inputs: PolicyInputs) -> Iterator[Statement]:
    """Free calls about models and quotas. The pipeline works without them, but knows less before it spends."""
    yield _allow(
        "AskWhatLives",
        (
            "bedrock:GetFoundationModel",
            "bedrock:GetFoundationModelAvailability",
            "bedrock:GetInferenceProfile",
            "servicequotas:GetServiceQuota",
            "servicequotas:ListServiceQuotas",
        ),
        "*",
    )


def _others(settings: Settings, aws: Aws, inputs: PolicyInputs) -> Iterator[Statement]:
    if settings.sam_endpoint:
        yield _allow(
            "Segment",
            ("sagemaker:InvokeEndpoint",),
            f"arn:{inputs.partition}:sagemaker:{aws.regions[0]}:{inputs.account}:endpoint/{settings.sam_endpoint.lower()}",
        )
    if settings.sns_topic_arn:
        yield _allow("Notify", ("sns:Publish",), settings.sns_topic_arn)
    if settings.queue_url:
        yield _allow(
            "TakeEvents",
            ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"),
            _queue(settings.queue_url, inputs),
        )


def _queue(url: str, inputs: PolicyInputs) -> str:
    """The ARN of ``https://sqs.<region>.amazonaws.com/<account>/<name>``."""
    address = urlsplit(url)
    host = (address.hostname or "").split(".")
    region = host[1] if host[0] == "sqs" and len(host) > 2 else "*"
    account, _, name = address.path.strip("/").rpartition("/")
    return f"arn:{inputs.partition}:sqs:{region}:{account or inputs.account}:{name}"
