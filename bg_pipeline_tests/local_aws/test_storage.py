"""The features of S3, SQS and SNS that the pipeline needs, tested with both emulators: MiniStack and moto."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from bg_pipeline_local_aws.launcher import LocalAws
from bg_pipeline_tests.local_aws.pictures import refusal

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

NAMES = [
    "a b+c%20.jpg",
    "x='y'\"&<>.jpg",
    "😀.jpg",
    "..hidden..jpg",
    "deep/er/ü.jpg",
    "a/../b.jpg",
    "q.jpg.meta.json",
]


@pytest.fixture(params=["stand_in", "moto"])
def storage(request: pytest.FixtureRequest) -> "S3Client":
    """An S3 client with a bucket ``shop``, of the stand-in and of moto."""
    endpoint = request.getfixturevalue("stand_in").storage if request.param == "stand_in" else None
    client = boto3.client("s3", endpoint_url=endpoint or request.getfixturevalue("moto_s3"))
    if "shop" not in [found["Name"] for found in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket="shop")
    return client


def put(client: "S3Client", key: str, data: bytes = b"x", **conditions: Any) -> str:
    """Writes an object and returns its ETag."""
    return client.put_object(Bucket="shop", Key=key, Body=data, **conditions)["ETag"]


@pytest.mark.parametrize("name", NAMES)
def test_any_object_name_is_kept_unchanged(storage: "S3Client", name: str) -> None:
    key = f"names/{name}"
    storage.put_object(Bucket="shop", Key=key, Body=b"data", ContentType="image/jpeg", Metadata={"by": "me"})
    found = storage.get_object(Bucket="shop", Key=key)
    assert (found["Body"].read(), found["ContentType"], found["Metadata"]) == (
        b"data",
        "image/jpeg",
        {"by": "me"},
    )
    listed = storage.list_objects_v2(Bucket="shop", Prefix="names/")["Contents"]
    assert key in [entry["Key"] for entry in listed]
    assert [e["Key"] for e in listed] == sorted((e["Key"] for e in listed), key=str.encode)


def test_a_write_can_be_conditional_on_absence_and_on_an_etag(storage: "S3Client") -> None:
    storage.delete_object(Bucket="shop", Key="lease")
    tag = put(storage, "lease", IfNoneMatch="*")
    assert refusal(lambda: put(storage, "lease", IfNoneMatch="*"))[2] == 412
    newer = put(storage, "lease", b"y", IfMatch=tag)
    assert refusal(lambda: put(storage, "lease", IfMatch=tag))[2] == 412
    assert refusal(lambda: put(storage, "no such lease", IfMatch=newer))[2] in (404, 412)


def test_one_of_many_concurrent_conditional_writes_succeeds(storage: "S3Client") -> None:
    storage.delete_object(Bucket="shop", Key="race")

    def won(number: int) -> bool:
        try:
            put(storage, "race", str(number).encode(), IfNoneMatch="*")
        except storage.exceptions.ClientError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(won, range(24))) == 1


def test_listing_starts_after_a_key_and_groups_by_folder(storage: "S3Client") -> None:
    for day in ("01", "02", "03"):
        put(storage, f"days/{day}/a")
        put(storage, f"days/{day}/b")
    grouped = storage.list_objects_v2(Bucket="shop", Prefix="days/", Delimiter="/", StartAfter="days/01/~")
    assert [folder["Prefix"] for folder in grouped["CommonPrefixes"]] == ["days/02/", "days/03/"]
    page = storage.list_objects_v2(Bucket="shop", Prefix="days/", MaxKeys=4)
    assert page["IsTruncated"]
    rest = storage.list_objects_v2(
        Bucket="shop", Prefix="days/", ContinuationToken=page["NextContinuationToken"]
    )
    assert [entry["Key"] for entry in rest["Contents"]] == ["days/03/a", "days/03/b"]


def test_an_upload_sends_an_event_to_a_queue(stand_in: LocalAws, bucket: str, s3: "S3Client") -> None:
    sqs = boto3.client("sqs")
    queue = sqs.create_queue(QueueName=bucket)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    rule: Any = {"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]}
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=rule)
    s3.put_object(Bucket=bucket, Key="inbox/my pic.jpg", Body=b"x")
    bodies: list[str] = []
    while not any("inbox/my+pic.jpg" in body for body in bodies):
        found = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=5)["Messages"]
        bodies += [message["Body"] for message in found]
    assert any("s3:TestEvent" in body for body in bodies)


def test_a_notification_reaches_a_queue(stand_in: LocalAws, bucket: str) -> None:
    sqs, sns = boto3.client("sqs"), boto3.client("sns")
    queue = sqs.create_queue(QueueName=bucket)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    topic = sns.create_topic(Name=bucket)["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"})
    sns.publish(TopicArn=topic, Message="all good")
    (message,) = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=5)["Messages"]
    assert message["Body"] == "all good"
