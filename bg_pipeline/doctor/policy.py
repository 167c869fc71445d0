"""The rights that each kind of process needs, as an IAM policy for the settings in use.

Least privilege by prefix: who submits writes uploads and nothing else, the page writes reviews and what is published
besides, and nobody but the pipeline writes leases, ledgers, caps and paid answers. The HTTP API makes pictures itself
and therefore has the pipeline's rights.
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
from bg_pipeline.generators import Operation, generator
from bg_pipeline.labelers import custom_labels
from bg_pipeline.models.geography import callable_regions, inference_regions, runs_outside_region
from bg_pipeline.run.archive import PREFIX as ARCHIVE_HERE
from bg_pipeline.settings import Settings

Role = Literal["pipeline", "submitter", "page", "api"]
ROLES: tuple[Role, ...] = ("pipeline", "submitter", "page", "api")

MADE = (s3_keys.LABELS, s3_keys.CAPTIONS, s3_keys.MASKS, s3_keys.RESULTS, s3_keys.REPORTS)
"""What the pipeline makes of uploads."""
DATA = (s3_keys.RESULTS, s3_keys.REPORTS)
"""The part of it that lies in the bucket that a request names."""

MANAGED_POLICY = 6_144
"""Characters, without white space, of the longest managed policy; a role's inline policies may have 10,240."""

Statement = dict[str, Any]


@dataclass(frozen=True)
class PolicyInputs:
    """What the account adds to the settings: its number, its part of AWS, and the KMS keys of its buckets."""

    account: str
    partition: str
    keys: tuple[str, ...] = ()


def policy_inputs(settings: Settings, aws: Aws) -> tuple[PolicyInputs, list[str]]:
    """What can be found out about the account, and a line for each thing that could not; nothing is billed."""
    untold = []
    account = "*"
    try:
        account = aws.client("sts").get_caller_identity()["Account"]
    except (ClientError, BotoCoreError) as error:
        untold.append(f"the account's number is not known ({error}): '*' stands for it")
    keys = []
    for bucket in filter(None, (settings.bucket, *settings.allowed_buckets, _archive(settings))):
        try:
            found = aws.client("s3").get_bucket_encryption(Bucket=bucket)
        except (ClientError, BotoCoreError) as error:
            untold.append(
                f"whether {bucket} is encrypted with a KMS key is not known ({error}); if so, add kms:Decrypt and "
                "kms:GenerateDataKey on that key"
            )
            continue
        for rule in found["ServerSideEncryptionConfiguration"]["Rules"]:
            key = rule.get("ApplyServerSideEncryptionByDefault", {}).get("KMSMasterKeyID")
            if key:
                keys.append(key)
    return PolicyInputs(account, aws.partition(aws.own_region), tuple(dict.fromkeys(keys))), untold


def policy(settings: Settings, aws: Aws, role: Role, around: PolicyInputs) -> dict[str, Any]:
    """The IAM policy document of a role; raises `SettingsError` for a generator that cannot be loaded."""
    statements: list[Statement] = []
    if role == "submitter":
        statements += _submitter(settings, around)
    elif role == "page":
        statements += [*_submitter(settings, around), *_page(settings, around), *_questions(around)]
    else:
        statements += [*_pipeline(settings, around), *_models(settings, aws, around), *_questions(around)]
        statements += _others(settings, aws, around)
        if role == "api":
            statements += [*_submitter(settings, around), *_outputs(settings, around)]
    if around.keys:
        statements.append(
            _allow(
                "Keys", ("kms:Decrypt", "kms:GenerateDataKey"), *(_key(key, around) for key in around.keys)
            )
        )
    return {"Version": "2012-10-17", "Statement": statements}


def _allow(sid: str, actions: Sequence[str], *resources: str, **condition: Any) -> Statement:
    made: Statement = {
        "Sid": sid,
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": list(dict.fromkeys(resources)),
    }
    return {**made, "Condition": condition["condition"]} if condition else made


def _bucket(around: PolicyInputs, name: str) -> str:
    return f"arn:{around.partition}:s3:::{name}"


def _under(around: PolicyInputs, bucket: str, *prefixes: str) -> list[str]:
    return [f"{_bucket(around, bucket)}/{prefix}/*" for prefix in prefixes]


def _key(key: str, around: PolicyInputs) -> str:
    return key if key.startswith("arn:") else f"arn:{around.partition}:kms:*:{around.account}:key/{key}"


def _archive(settings: Settings) -> str:
    """The other bucket that originals go to, if there is one."""
    return "" if settings.archive_to in ("", ARCHIVE_HERE) else settings.archive_to


def _submitter(settings: Settings, around: PolicyInputs) -> Iterator[Statement]:
    bucket = settings.bucket
    yield _allow("FindBatches", ("s3:ListBucket",), _bucket(around, bucket))
    yield _allow(
        "Submit",
        # A large photo is uploaded in parts, and what was begun and failed is taken away.
        ("s3:PutObject", "s3:AbortMultipartUpload", "s3:PutObjectTagging"),
        *_under(around, bucket, s3_keys.UPLOADS),
    )
    yield _allow(
        "EndDrafts", ("s3:DeleteObject",), f"{_bucket(around, bucket)}/{s3_keys.UPLOADS}/*/{s3_keys.DRAFT}"
    )
    yield _allow(
        "SeeWhatBecame",
        ("s3:GetObject", "s3:GetObjectTagging"),
        *_under(around, bucket, s3_keys.UPLOADS, s3_keys.ASSETS, *DATA),
        *(arn for name in settings.allowed_buckets for arn in _under(around, name, s3_keys.UPLOADS, *DATA)),
    )


def _page(settings: Settings, around: PolicyInputs) -> Iterator[Statement]:
    buckets = (settings.bucket, *settings.allowed_buckets)
    yield _allow(
        "SeeAll", ("s3:GetObject", "s3:GetObjectTagging"), *(f"{_bucket(around, b)}/*" for b in buckets)
    )
    if settings.allowed_buckets:
        yield _allow(
            "ListOthers", ("s3:ListBucket",), *(_bucket(around, name) for name in settings.allowed_buckets)
        )
    yield _allow("EndUploads", ("s3:DeleteObject",), *_under(around, settings.bucket, s3_keys.UPLOADS))
    yield _allow(
        "Review",
        ("s3:PutObject", "s3:DeleteObject", "s3:PutObjectTagging"),
        *(arn for name in buckets for arn in _under(around, name, s3_keys.REVIEWS, s3_keys.PUBLISHED)),
    )
    # Of the state, only the lists of what people asked for here: what was published, and which batch is done again.
    yield _allow(
        "Record",
        ("s3:PutObject",),
        *_under(around, settings.bucket, f"{s3_keys.STATE}/published", f"{s3_keys.STATE}/retries"),
    )


def _pipeline(settings: Settings, around: PolicyInputs) -> Iterator[Statement]:
    bucket, others = settings.bucket, settings.allowed_buckets
    yield _allow("List", ("s3:ListBucket",), *(_bucket(around, name) for name in (bucket, *others)))
    yield _allow(
        "Read",
        ("s3:GetObject", "s3:GetObjectTagging"),
        *(f"{_bucket(around, name)}/*" for name in (bucket, *others)),
    )
    written = [*MADE, s3_keys.STATE]
    written += [s3_keys.PAYLOADS] if settings.keep_payloads else []
    written += [s3_keys.ARCHIVE] if settings.archive_to == ARCHIVE_HERE else []
    targets = _under(around, bucket, *written)
    for name in others:
        targets += _under(around, name, *DATA)
    yield _allow(
        "Write",
        ("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:PutObjectTagging"),
        *targets,
    )
    if settings.archive_to:
        yield _allow("TakeOriginals", ("s3:DeleteObject",), *_under(around, bucket, s3_keys.UPLOADS))
    if other := _archive(settings):
        yield _allow(
            "Archive",
            ("s3:GetObject", "s3:PutObject", "s3:PutObjectTagging", "s3:AbortMultipartUpload"),
            f"{_bucket(around, other)}/*",
        )


def _outputs(settings: Settings, around: PolicyInputs) -> Iterator[Statement]:
    yield _allow(
        "AnswerCalls",
        ("s3:PutObject", "s3:DeleteObject", "s3:PutObjectTagging"),
        *_under(
            around,
            settings.bucket,
            s3_keys.UPLOADS,
            s3_keys.OUTPUTS,
            s3_keys.PHOTOS,
            s3_keys.REVIEWS,
            s3_keys.PUBLISHED,
        ),
    )


def _models(settings: Settings, aws: Aws, around: PolicyInputs) -> Iterator[Statement]:
    images = [generator(name) for name in settings.image_models]
    places: dict[Operation, Sequence[str]] = {
        operation: runs_outside_region(aws, (operation,)) or aws.regions
        for each in images
        for operation in (each.replaces, each.removes)
        if operation and operation.service == "bedrock-runtime"
    }
    captions = nova.regions(settings, aws)
    places |= {nova.operation(name): captions for name in nova.models(settings, aws)}
    resources: list[str] = []
    third_party = False
    for operation, regions in places.items():
        sources = callable_regions(operation)
        regions = [region for region in regions if not sources or region in sources]
        if regions:
            resources += _invoked(operation, regions, around)
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


def _invoked(operation: Operation, regions: Sequence[str], around: PolicyInputs) -> list[str]:
    """The ARNs that a call of a model is checked against: its profile's, and the model's wherever it may run."""
    arn = f"arn:{around.partition}:bedrock"
    if operation.model_id.startswith("arn:"):
        return [operation.model_id]
    if not operation.profile:
        return [f"{arn}:{region}::foundation-model/{operation.model_id}" for region in regions]
    profiles = [
        f"{arn}:{region}:{around.account}:inference-profile/{operation.invoke_id}" for region in regions
    ]
    # A global profile also names the model without a Region.
    everywhere = inference_regions(operation) == ("*",)
    places = ["", "*"] if everywhere else [*regions, *inference_regions(operation)]
    return profiles + [f"{arn}:{place}::foundation-model/{operation.model_id}" for place in places]


def _questions(around: PolicyInputs) -> Iterator[Statement]:
    """Free questions; without these rights the pipeline works, and knows less before it spends."""
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


def _others(settings: Settings, aws: Aws, around: PolicyInputs) -> Iterator[Statement]:
    if settings.sam_endpoint:
        yield _allow(
            "Segment",
            ("sagemaker:InvokeEndpoint",),
            f"arn:{around.partition}:sagemaker:{aws.regions[0]}:{around.account}:endpoint/{settings.sam_endpoint.lower()}",
        )
    if settings.sns_topic_arn:
        yield _allow("Notify", ("sns:Publish",), settings.sns_topic_arn)
    if settings.queue_url:
        yield _allow(
            "TakeEvents",
            ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"),
            _queue(settings.queue_url, around),
        )


def _queue(url: str, around: PolicyInputs) -> str:
    """The ARN of ``https://sqs.<region>.amazonaws.com/<account>/<name>``."""
    address = urlsplit(url)
    host = (address.hostname or "").split(".")
    region = host[1] if host[0] == "sqs" and len(host) > 2 else "*"
    account, _, name = address.path.strip("/").rpartition("/")
    return f"arn:{around.partition}:sqs:{region}:{account or around.account}:{name}"
