"""The IAM policies that the doctor prints: enough for what is called, and no more than that."""

import fnmatch
import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from bg_pipeline import pipeline
from bg_pipeline.acts import Acts
from bg_pipeline.aws.clients import Aws
from bg_pipeline.cli.main import main
from bg_pipeline.doctor.policy import ROLES, PolicyInputs, Role, policy, policy_inputs
from bg_pipeline.domain.batches import Batch, origin_key, redone_key, retried_key
from bg_pipeline.domain.people import local_person
from bg_pipeline.domain.rows import Status
from bg_pipeline.run.archive import PREFIX
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads import submitting
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import DATE, Bench, aws
from bg_pipeline_tests.pictures import photo

ACCOUNT = PolicyInputs("000000000000", "aws")
BATCH = Batch(DATE, "101530")
ANN = local_person("ann")
Called = tuple[str, str]
"""An action and what it was done to."""

# What an S3 call needs besides the action of its own name.
_S3 = {
    "ListObjectsV2": "ListBucket",
    "HeadBucket": "ListBucket",
    "HeadObject": "GetObject",
    "CopyObject": "PutObject",
}
_PARTS = ("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload")


def allows(document: dict[str, Any], called: Called) -> bool:
    """Whether a policy of Allow statements lets the call through; conditions count as met."""
    action, resource = called
    return any(
        action in statement["Action"]
        and any(fnmatch.fnmatchcase(resource, each) for each in statement["Resource"])
        for statement in document["Statement"]
    )


class Recorder:
    """What the clients of a process call, as IAM sees it."""

    def __init__(self) -> None:
        self.called: set[Called] = set()

    def listen(self, client: Any) -> None:
        region = client.meta.region_name

        def parameters(params: dict[str, Any], model: Any, **_: Any) -> None:
            self.called |= set(_seen(model.service_model.service_name, model.name, region, params))

        client.meta.events.register_last("before-parameter-build", parameters)


def _seen(service: str, operation: str, region: str, asked: dict[str, Any]) -> Iterator[Called]:
    """The rights that a call needs."""
    if service == "s3":
        yield from _of_s3(operation, asked)
    elif service == "bedrock-runtime":
        # Every call of these tests goes through a US profile, which may run it in three Regions.
        profile = asked["modelId"]
        bare = profile.removeprefix("us.")
        yield "bedrock:InvokeModel", f"arn:aws:bedrock:{region}:000000000000:inference-profile/{profile}"
        for place in ("us-east-1", "us-east-2", "us-west-2"):
            yield "bedrock:InvokeModel", f"arn:aws:bedrock:{place}::foundation-model/{bare}"
    elif service == "service-quotas":
        yield f"servicequotas:{operation}", "*"
    elif service != "sts":
        yield f"{service}:{operation}", "*"


def _of_s3(operation: str, asked: dict[str, Any]) -> Iterator[Called]:
    bucket = f"arn:aws:s3:::{asked['Bucket']}"
    action = "PutObject" if operation in _PARTS else _S3.get(operation, operation)
    yield f"s3:{action}", bucket if action == "ListBucket" else f"{bucket}/{asked['Key']}"
    if operation == "CopyObject":
        source = asked["CopySource"]
        place = f"{source['Bucket']}/{source['Key']}" if isinstance(source, dict) else source
        place = f"arn:aws:s3:::{place}"
        yield "s3:GetObject", place
        yield "s3:GetObjectTagging", place
        yield "s3:PutObjectTagging", f"{bucket}/{asked['Key']}"


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Listens to every client that is made from now on; S3 is spoken through boto3 alone."""
    made = Recorder()
    create = Aws._create

    def listening(self: Aws, *args: Any, **more: Any) -> Any:
        client = create(self, *args, **more)
        made.listen(client)
        return client

    monkeypatch.setattr(Aws, "_create", listening)
    monkeypatch.setattr(Store, "_fast", None)
    return made


@pytest.fixture
def worked(s3: Any, bucket: str, control: ControlClient, recorder: Recorder) -> tuple[Bench, set[Called]]:
    """A run that labels, captions, paints, reports and archives, and what it called."""
    own = Aws(("us-east-1",))
    bench = Bench(Store(own.s3(bucket), bucket), {"image_models": "stability", "mask_sources": "cut-out"})
    bench.submit(2)
    recorder.called.clear()
    chosen = bench.settings(archive_to=PREFIX, keep_payloads=True)
    day = pipeline.run(chosen, [DATE], aws=own, store=bench.store)[DATE]
    assert day.counts == {Status.SUCCEEDED: 2}
    return bench, set(recorder.called)


def test_the_pipelines_policy_lets_a_whole_run_through_and_every_right_of_it_is_used(
    worked: tuple[Bench, set[Called]],
) -> None:
    bench, called = worked
    chosen = bench.settings(archive_to=PREFIX, keep_payloads=True)
    document = policy(chosen, aws(), "pipeline", ACCOUNT)
    assert [each for each in sorted(called) if not allows(document, each)] == []
    granted = {action for statement in document["Statement"] for action in statement["Action"]}
    # Subscriptions are made by Bedrock, uploads in parts by large photos, faces are looked for on demand, and quotas
    # are listed where their code is not known.
    by_others = {
        "aws-marketplace:Subscribe",
        "aws-marketplace:ViewSubscriptions",
        "s3:AbortMultipartUpload",
        "rekognition:DetectFaces",
        "servicequotas:ListServiceQuotas",
    }
    assert granted - {action for action, _ in called} == by_others


def test_without_any_single_right_something_of_the_run_is_refused(worked: tuple[Bench, set[Called]]) -> None:
    bench, called = worked
    chosen = bench.settings(archive_to=PREFIX, keep_payloads=True)
    for action in {action for action, _ in called}:
        document = policy(chosen, aws(), "pipeline", ACCOUNT)
        for statement in document["Statement"]:
            statement["Action"] = [each for each in statement["Action"] if each != action]
        assert {each for each, resource in called if not allows(document, (each, resource))} == {action}


@pytest.mark.parametrize("role", ["submitter", "page"])
def test_who_submits_can_submit(
    bucket: str, recorder: Recorder, control: ControlClient, role: Role, tmp_path
) -> None:
    store = Store(Aws(("us-east-1",)).s3(bucket), bucket)
    (tmp_path / "a.jpg").write_bytes(photo(1))
    recorder.called.clear()
    batch = submitting.new_batch()
    photos = submitting.find_photos([tmp_path / "a.jpg"])
    Acts(settings(bucket=bucket), store).upload_and_submit(ANN, batch, photos, b'{"Prompt": "x"}')
    assert recorder.called
    document = policy(settings(bucket=bucket), aws(), role, ACCOUNT)
    assert [each for each in sorted(recorder.called) if not allows(document, each)] == []


def test_who_submits_writes_uploads_and_nothing_else() -> None:
    document = policy(settings(bucket="photos"), aws(), "submitter", ACCOUNT)
    for place in ("pipeline-state/x", "generated-image-files/x", "reviews/x", "assets/x", "published/x"):
        for action in ("s3:PutObject", "s3:DeleteObject"):
            assert not allows(document, (action, f"arn:aws:s3:::photos/{place}"))
    assert allows(document, ("s3:PutObject", "arn:aws:s3:::photos/image-files/2026/11/20/b/a.jpg"))
    assert not allows(document, ("s3:DeleteObject", "arn:aws:s3:::photos/image-files/2026/11/20/b/a.jpg"))


@pytest.mark.parametrize(
    ("role", "own"),
    [
        ("submitter", {"local"}),
        ("page", {"page", "local"}),
        ("api", {"api", "run"}),
        ("pipeline", {"run", "local"}),
        ("auditor", set()),
    ],
)
def test_each_role_appends_audit_lines_of_its_own_programs_and_changes_none(
    role: Role, own: set[str]
) -> None:
    document = policy(settings(bucket="photos"), aws(), role, ACCOUNT)
    allowed = [each for each in document["Statement"] if any("/audit/" in arn for arn in each["Resource"])]
    writing = [each for each in allowed if each["Action"] != ["s3:GetObject"]]
    assert {arn.split("/")[2] for each in writing for arn in each["Resource"]} == own
    for statement in writing:
        assert statement["Action"] == ["s3:PutObject"]
        assert statement["Condition"] == {"Null": {"s3:if-none-match": "false"}}
    line = "arn:aws:s3:::photos/audit/page/2026/11/30/101530.000000-0f.json"
    assert not allows(document, ("s3:DeleteObject", line))


def test_an_auditor_reads_the_audit_log_and_nothing_else() -> None:
    document = policy(settings(bucket="photos"), aws(), "auditor", ACCOUNT)
    assert allows(document, ("s3:GetObject", "arn:aws:s3:::photos/audit/run/2026/11/30/x.json"))
    for place in ("image-files/x", "generated-image-files/x", "pipeline-state/x", "reviews/x"):
        assert not allows(document, ("s3:GetObject", f"arn:aws:s3:::photos/{place}"))
    (listing,) = [each for each in document["Statement"] if each["Action"] == ["s3:ListBucket"]]
    assert listing["Condition"] == {"StringLike": {"s3:prefix": "audit/*"}}


@pytest.mark.parametrize("role", ["submitter", "page"])
@pytest.mark.parametrize("place", ["ledger", "leases", "spend", "answers", "claims", "heartbeats"])
def test_nobody_but_the_pipeline_writes_its_state(role: Role, place: str) -> None:
    document = policy(settings(bucket="photos"), aws(), role, ACCOUNT)
    for action in ("s3:PutObject", "s3:DeleteObject"):
        assert not allows(document, (action, f"arn:aws:s3:::photos/pipeline-state/{place}/x.json"))


def test_the_page_may_ask_again_for_failed_images_and_for_other_pictures() -> None:
    document = policy(settings(bucket="photos"), aws(), "page", ACCOUNT)
    for key in (retried_key(BATCH), redone_key(BATCH), origin_key(BATCH), BATCH.published_list_key):
        assert allows(document, ("s3:PutObject", f"arn:aws:s3:::photos/{key}")), key


def test_rights_follow_the_settings_in_use() -> None:
    project = "arn:aws:rekognition:us-west-2:123456789012:project/p/version/v/1767225600000"
    chosen = settings(
        bucket="photos",
        allowed_buckets="others",
        archive_to="old-photos",
        image_models="titan-v2",
        custom_labels_arn=project,
        sam_endpoint="Sam",
        sns_topic_arn="arn:aws:sns:us-east-1:123456789012:told",
        queue_url="https://sqs.eu-west-1.amazonaws.com/123456789012/events",
    )
    around = PolicyInputs("123456789012", "aws", ("arn:aws:kms:us-east-1:123456789012:key/k",))
    document = policy(chosen, aws(), "pipeline", around)
    for called in (
        ("rekognition:StartProjectVersion", project),
        ("rekognition:DescribeProjects", "*"),
        ("sagemaker:InvokeEndpoint", "arn:aws:sagemaker:us-east-1:123456789012:endpoint/sam"),
        ("sns:Publish", "arn:aws:sns:us-east-1:123456789012:told"),
        ("sqs:ReceiveMessage", "arn:aws:sqs:eu-west-1:123456789012:events"),
        ("kms:GenerateDataKey", "arn:aws:kms:us-east-1:123456789012:key/k"),
        ("s3:GetObject", "arn:aws:s3:::others/image-files/a.jpg"),
        ("s3:PutObject", "arn:aws:s3:::old-photos/archive/a.jpg"),
        ("s3:PutObjectTagging", "arn:aws:s3:::old-photos/archive/a.jpg"),
        ("s3:DeleteObject", "arn:aws:s3:::photos/image-files/a.jpg"),
    ):
        assert allows(document, called), called
    assert not allows(document, ("aws-marketplace:Subscribe", "*")), "all models are Amazon's own"
    assert not allows(document, ("s3:PutObject", "arn:aws:s3:::others/pipeline-state/x"))
    bare = policy(settings(bucket="photos"), aws(), "pipeline", ACCOUNT)
    services = {action.partition(":")[0] for statement in bare["Statement"] for action in statement["Action"]}
    assert services == {"s3", "bedrock", "aws-marketplace", "rekognition", "servicequotas"}
    assert not allows(bare, ("s3:DeleteObject", "arn:aws:s3:::photos/image-files/a.jpg"))


def test_a_profile_needs_the_model_wherever_it_may_run() -> None:
    chosen = settings(
        bucket="photos", image_models="stability", caption_models="global.amazon.nova-2-lite-v1:0"
    )
    document = policy(chosen, aws(), "pipeline", ACCOUNT)
    inpaint = "stability.stable-image-inpaint-v1:0"
    for region in ("us-east-1", "us-east-2", "us-west-2"):
        arn = f"arn:aws:bedrock:{region}::foundation-model/{inpaint}"
        assert allows(document, ("bedrock:InvokeModel", arn))
    for region in ("", "eu-west-1", "ap-south-1"):
        arn = f"arn:aws:bedrock:{region}::foundation-model/amazon.nova-2-lite-v1:0"
        assert allows(document, ("bedrock:InvokeModel", arn))


def test_the_key_of_an_encrypted_bucket_is_found_out(bucket: str, s3: Any, control: ControlClient) -> None:
    rule = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "arn:aws:kms:us-east-1:000000000000:key/k"}
    s3.put_bucket_encryption(
        Bucket=bucket,
        ServerSideEncryptionConfiguration={"Rules": [{"ApplyServerSideEncryptionByDefault": rule}]},
    )
    around, _ = policy_inputs(settings(bucket=bucket), aws())
    assert around.keys == (rule["KMSMasterKeyID"],)


@pytest.mark.parametrize("role", ROLES)
def test_the_command_prints_nothing_but_the_policy(
    bucket: str, control: ControlClient, monkeypatch: pytest.MonkeyPatch, role: Role
) -> None:
    monkeypatch.setenv("BG_BUCKET", bucket)
    result = CliRunner().invoke(main, ["doctor", "--policy", role])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["Version"] == "2012-10-17"
    assert len({statement["Sid"] for statement in document["Statement"]}) == len(document["Statement"])
    assert control.paid() == []


@pytest.mark.parametrize(
    ("operation", "action"),
    [("InvokeModel", "bedrock:InvokeModel"), ("DetectLabels", "rekognition:DetectLabels")],
)
def test_a_run_without_a_right_says_which(
    s3: Any, bucket: str, control: ControlClient, operation: str, action: str
) -> None:
    control.switch(canned=True)
    control.fault(
        operation=operation,
        code="AccessDeniedException",
        message=f"User: arn:aws:sts::1:assumed-role/x is not authorized to perform: {action} because no "
        f"identity-based policy allows the {action} action",
        times=0,
    )
    bench = Bench(Store(s3, bucket))
    bench.submit(1)
    assert action in bench.run(image_models="stability").stopped
