"""Notices: what they say, that they arrive, once, also when a run crashed or a receiver was away."""

import base64
import hashlib
import hmac
import json
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import dagster as dg
import pytest
import requests

from bg_pipeline.aws.clients import Aws
from bg_pipeline.definitions import definitions
from bg_pipeline.defs.partitions import upload_dates
from bg_pipeline.defs.sensors.notifications import notices
from bg_pipeline.domain.rows import Output, Row, Status, complete_row
from bg_pipeline.errors import SettingsError
from bg_pipeline.notifications.delivery import EndedRun, Notifier
from bg_pipeline.notifications.messages import (
    BatchOutcome,
    Notification,
    RunFailure,
    StoredReport,
    batch_finished,
    batch_unreported,
    is_news,
    outcome_of,
)
from bg_pipeline.notifications.pending_runs import ATTEMPTS, FIRST_LOOK_SECONDS, NotificationCursor
from bg_pipeline.notifications.senders import ATTEMPTS as POSTS
from bg_pipeline.notifications.senders import (
    SIGNATURE,
    NotSent,
    SnsSender,
    WebhookSender,
    standard_signature,
    subject,
    webhook_key,
)
from bg_pipeline.reports.overview import ShareLink, share_link
from bg_pipeline.reports.report import Report
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import DATE, Bench
from bg_pipeline_tests.pictures import photo

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SECRET = "a secret between two"


# What is said


def row(image: str, status: Status, error: str = "", cause: str = "") -> Row:
    key = f"generated-image-files/2025/11/20/b/{image}"
    outputs = (Output(key, status),) if status in (Status.SUCCEEDED, Status.NEEDS_REVIEW) else ()
    return complete_row(
        Row(
            Id="id-b", ImageName=image, Status=status, Error=error, Cause=cause, Outputs=outputs, CostUSD=0.04
        )
    )


GOOD = row("bus.png", Status.SUCCEEDED)
BAD = row("dog.png", Status.FAILED, "NotAnImage", "this is no picture")
LOOK = row("cat.png", Status.NEEDS_REVIEW, "Fidelity", "2% of the subject's pixels changed")
CAPPED = row("car.png", Status.SKIPPED, "CapReached", "the cap of this run, BG_MAX_COST_USD, has no room")
SAMPLE = row("fox.png", Status.SKIPPED, "SampleWaits", "the sample waits for approval")


def said(*rows: Row, until: datetime = NOW + timedelta(days=1), sure: bool = True) -> Notification:
    link = ShareLink("https://bucket.s3.amazonaws.com/r.html?X-Amz-Signature=1", until, sure)
    filed = StoredReport(
        "2025/11/20/b", "photos", "status-report-files/2025/11/20/b/r.json", Report(rows), link
    )
    return batch_finished(filed, NOW)


@pytest.mark.parametrize(
    ("rows", "outcome", "words"),
    [
        ([GOOD, GOOD], BatchOutcome.ALL_GOOD, "all done, 2 images"),
        ([GOOD, BAD, LOOK], BatchOutcome.SOME_FAILED, "1 of 3 images done, 2 not"),
        ([LOOK], BatchOutcome.SOME_FAILED, "0 of 1 image done, 1 not"),
        ([BAD], BatchOutcome.NOTHING_WORKED, "nothing worked, none of 1 image done"),
        ([GOOD, CAPPED, BAD], BatchOutcome.STOPPED_AT_CAP, "stopped at a spending cap, 1 of 3 images done"),
        ([GOOD, SAMPLE], BatchOutcome.WAITING, "1 of 2 images done, 1 waiting until the sample is approved"),
        ([], BatchOutcome.ALL_GOOD, "no image was requested"),
    ],
)
def test_each_outcome_has_a_subject_of_its_own(rows: list[Row], outcome: BatchOutcome, words: str) -> None:
    assert outcome_of(Report(tuple(rows))) is outcome
    notice = said(*rows)
    assert notice.outcome is outcome
    assert notice.subject == f"bg_pipeline: 2025/11/20/b: {words}"
    assert words in notice.text


def test_each_outcome_has_a_text_of_its_own() -> None:
    texts = {said(*rows).text.split("\n\n")[1] for rows in ([GOOD], [GOOD, BAD], [BAD], [CAPPED], [SAMPLE])}
    assert len(texts) == 5
    assert "Raise it or wait for the next day" in said(GOOD, CAPPED).text


def test_the_text_has_counts_cost_causes_and_where_everything_lies() -> None:
    text = said(GOOD, BAD).text
    assert "Succeeded: 1\nFailed: 1\nCost: 0.08 USD" in text
    assert "- dog.png (Failed): this is no picture" in text
    assert "Results: s3://photos/generated-image-files/2025/11/20/b/" in text
    assert "Report: https://bucket.s3.amazonaws.com/r.html" in text
    assert "(The link works until 2026-11-22 12:00 UTC." in text
    assert "stays at s3://photos/status-report-files/2025/11/20/b/r.json.)" in text


def test_a_link_whose_end_is_not_known_is_not_promised() -> None:
    text = said(GOOD, sure=False).text
    assert "works until the AWS session that signed it ends, 2026-11-22 12:00 UTC at the latest" in text


def test_many_failures_are_counted_and_long_or_wild_causes_cut() -> None:
    wild = row("a\nb.png", Status.FAILED, "X", "no\r\nSubject: forged\n" + "long " * 200)
    text = said(GOOD, wild, *[BAD] * 30).text
    assert "- and 21 more; the report has all" in text
    line = next(line for line in text.splitlines() if line.startswith("- a"))
    assert line.startswith("- a\\x0ab.png (Failed): no Subject: forged long")
    assert line.endswith(" …")
    assert len(line) < 350


def test_the_document_says_the_same_to_programs() -> None:
    document = said(GOOD, BAD).document
    assert json.loads(json.dumps(document)) == document
    assert document["Kind"] == "batch_finished"
    assert document["BatchOutcome"] == "some_failed"
    assert document["Counts"] == {"Succeeded": 1, "Failed": 1}
    assert document["Batch"] == "2025/11/20/b"
    assert document["Id"] == "id-b"
    assert document["ReportLink"]["Until"] == "2026-11-22T12:00:00+00:00"
    assert document["Problems"][0]["ImageName"] == "dog.png"


def test_the_same_news_have_the_same_id_and_other_news_another() -> None:
    assert said(GOOD).id == said(GOOD, until=NOW + timedelta(days=2)).id
    assert said(GOOD).id != said(GOOD, BAD).id


def test_a_run_that_left_no_report_is_told_with_its_reason_and_what_to_do() -> None:
    crash = RunFailure("run-1", DATE, False, "exit code -9", False, ["2025/11/20/b"])
    notice = batch_unreported(crash, "photos", NOW)
    assert notice.subject == "bg_pipeline: 2025-11-20: the run failed without a report"
    assert "Without a report is: 2025/11/20/b." in notice.text
    assert "Reason: exit code -9" in notice.text
    assert "bg-pipeline run --date 2025-11-20" in notice.text
    assert notice.document["Batches"] == ["2025/11/20/b"]
    again = batch_unreported(RunFailure("run-1", DATE, True, "", True, None), "photos", NOW)
    assert "was cancelled" in again.subject
    assert "The bucket could not be read" in again.text
    assert "Dagster starts the run again automatically" in again.text
    assert "bg-pipeline run" not in again.text


@pytest.mark.parametrize("words", ["ü 🚌\n\tx", "x" * 300])
def test_a_subject_is_what_sns_takes(words: str) -> None:
    made = subject(words)
    assert made.isascii()
    assert made.isprintable()
    assert len(made) < 100


# Links


def test_a_link_opens_the_report_and_says_how_long_it_works(bucket: str, s3: Any) -> None:
    store = Store(Aws().s3(bucket), bucket)
    store.write("status-report-files/r.csv", b"words", media_type="text/csv")
    made = share_link(Aws(), store, "status-report-files/r.csv", 600, NOW)
    assert requests.get(made.url, timeout=10).content == b"words"
    assert "X-Amz-Expires=600" in made.url
    assert (made.until, made.sure) == (NOW + timedelta(seconds=600), True)


def test_a_link_ends_with_the_session_that_signed_it(
    bucket: str, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", ends.isoformat())
    aws = Aws()
    store = Store(aws.client("s3"), bucket)
    now = datetime.now(UTC)
    made = share_link(aws, store, "r.csv", 86_400, now)
    assert (made.until, made.sure) == (ends, True)
    monkeypatch.delenv("AWS_CREDENTIAL_EXPIRATION")
    unknown = share_link(Aws(), store, "r.csv", 86_400, now)
    assert (unknown.until, unknown.sure) == (now + timedelta(days=1), False)


# Ways out


@dataclass
class Hook:
    """A web hook: what was posted to it, and the statuses it answers, the last one from then on."""

    url: str
    answers: list[int] = field(default_factory=lambda: [204])
    posts: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.posts]


@pytest.fixture
def hook() -> Iterator[Hook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.posts.append((dict(self.headers), body))
            status = made.answers.pop(0) if len(made.answers) > 1 else made.answers[0]
            self.send_response(status)
            self.send_header("Content-Length", "0")
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Hook(f"http://127.0.0.1:{server.server_port}/hook?token=very-secret")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bg_pipeline.notifications.senders.PAUSE", 0)


def test_a_post_is_signed_so_that_its_receiver_can_tell_it_is_ours(hook: Hook) -> None:
    notice = said(GOOD)
    WebhookSender(hook.url, SECRET).send(notice)
    ((headers, body),) = hook.posts
    assert headers[SIGNATURE] == f"sha256={hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()}"
    assert headers["Content-Type"] == "application/json"
    assert headers["Idempotency-Key"] == notice.id
    assert json.loads(body) == notice.document


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        (SECRET, SECRET.encode()),
        (
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            b"1\xf2\x90\xf6\xbf\x06)\x8a\xabO\x08\xd4<?\x08,\xf6H\xa3b\xda-\xa4\xb0",
        ),
    ],
)
def test_a_post_has_the_headers_of_standard_webhooks(hook: Hook, secret: str, key: bytes) -> None:
    WebhookSender(hook.url, secret).send(said(GOOD))
    ((headers, body),) = hook.posts
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


def test_the_signature_is_that_of_the_specifications_example() -> None:
    key = webhook_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    found = standard_signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_of_standard_webhooks_has_base64() -> None:
    with pytest.raises(SettingsError, match="whsec_"):
        settings(bucket="any", webhook_url="https://example.org", webhook_secret="whsec_no base64")


def test_a_post_that_is_not_taken_is_tried_again(hook: Hook) -> None:
    hook.answers = [503, 429, 200]
    WebhookSender(hook.url, SECRET).send(said(GOOD))
    assert len(hook.posts) == 3
    assert len({body for _, body in hook.posts}) == 1


def test_a_hook_that_never_takes_it_is_told_without_its_token(hook: Hook) -> None:
    hook.answers = [500]
    with pytest.raises(NotSent, match=r"the web hook at 127.0.0.1 \(BG_WEBHOOK_URL\) answered 500"):
        WebhookSender(hook.url, SECRET).send(said(GOOD))
    assert len(hook.posts) == POSTS
    with pytest.raises(NotSent) as gone:
        WebhookSender("http://127.0.0.1:9/hook?token=very-secret", SECRET).send(said(GOOD))
    assert "very-secret" not in str(gone.value)


@pytest.mark.parametrize("status", [302, 400, 401, 410])
def test_what_a_hook_refuses_is_not_repeated_and_no_redirect_is_followed(hook: Hook, status: int) -> None:
    hook.answers = [status]
    with pytest.raises(NotSent, match=str(status)):
        WebhookSender(hook.url, SECRET).send(said(GOOD))
    assert len(hook.posts) == 1


@dataclass
class Mail:
    """An SNS topic and a queue that gets what is published to it."""

    arn: str
    url: str

    def messages(self) -> list[dict[str, Any]]:
        """What came since the last look: SNS' own documents, oldest first."""
        sqs, found = boto3.client("sqs"), []
        while answer := sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages"):
            for message in answer:
                found.append(json.loads(message["Body"]))
                sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
        return sorted(found, key=lambda document: document["Timestamp"])

    def subjects(self) -> list[str]:
        return [message["Subject"] for message in self.messages()]


@pytest.fixture
def mail(stand_in: Any) -> Mail:
    name = f"notices-{uuid.uuid4().hex[:12]}"
    sns, sqs = boto3.client("sns"), boto3.client("sqs")
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    queue = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    arn = sns.create_topic(Name=name)["TopicArn"]
    sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue)
    return Mail(arn, url)


def test_a_topics_subscribers_get_subject_text_and_outcome(mail: Mail) -> None:
    notice = said(GOOD, BAD)
    SnsSender(boto3.client("sns"), mail.arn).send(notice)
    (message,) = mail.messages()
    assert (message["Subject"], message["Message"]) == (notice.subject, notice.text)
    assert message["MessageAttributes"]["outcome"]["Value"] == "some_failed"


def test_a_topic_that_is_not_there_is_told(stand_in: Any) -> None:
    arn = "arn:aws:sns:us-east-1:000000000000:gone"
    with pytest.raises(NotSent, match=rf"SNS topic {arn} \(BG_SNS_TOPIC_ARN\): NotFound"):
        SnsSender(boto3.client("sns"), arn).send(said(GOOD))


# What the sensor remembers


def test_a_cursor_that_says_nothing_looks_back_a_day() -> None:
    for cursor in (None, "", "{}", "[nonsense"):
        assert NotificationCursor.read(cursor, 1e9).since == 1e9 - FIRST_LOOK_SECONDS


def test_a_run_is_taken_up_once_although_it_is_seen_again() -> None:
    agenda = NotificationCursor(since=0)
    agenda.add("a", 100, [DATE])
    agenda = NotificationCursor.read(agenda.model_dump_json(), 0)
    agenda.add("a", 100, [DATE])
    agenda.add("b", 101, [])
    assert [errand.run_id for errand in agenda.errands] == ["a"]
    agenda.add("c", 1000, [DATE])
    assert list(agenda.seen) == ["c"]


def test_what_could_not_be_told_is_tried_for_a_day_and_then_given_up() -> None:
    agenda = NotificationCursor(since=0)
    agenda.add("a", 100, [DATE])
    (errand,) = agenda.errands
    now, tries = 0.0, 0
    while agenda.postpone(errand, now):
        assert errand.due > now
        now, tries = errand.due, tries + 1
    assert tries == ATTEMPTS - 1
    assert 20 * 3600 < now < 36 * 3600
    assert agenda.errands == []


# The sensor


@dataclass
class Desk:
    """The pipeline's definitions with notices on, an instance, and the sensor with its cursor and its clock."""

    bench: Bench
    instance: dg.DagsterInstance
    overrides: dict[str, Any]
    cursor: str | None = None
    late: float = 0.0

    @cached_property
    def whole_date(self) -> dg.JobDefinition:
        repository = definitions(self.bench.settings(**self.overrides)).get_repository_def()
        return repository.get_job("whole_date")

    def run(self, **tags: str) -> dg.ExecuteInProcessResult:
        """A run of Dagster's, in this process."""
        return self.whole_date.execute_in_process(
            instance=self.instance,
            tags=tags or {"dagster/partition": DATE.isoformat()},
            raise_on_error=False,
        )

    def made(self, status: dg.DagsterRunStatus, **run: Any) -> dg.DagsterRun:
        """A run of the date that Dagster believes to have this status."""
        return self.instance.create_run_for_job(
            self.whole_date, status=status, tags={"dagster/partition": DATE.isoformat()}, **run
        )

    def work(self, **overrides: Any) -> None:
        """The same as `run`, for whom Dagster's part in it does not matter."""
        day = self.bench.run(**overrides)
        self.made(dg.DagsterRunStatus.FAILURE if day.nothing_worked else dg.DagsterRunStatus.SUCCESS)

    def crash(self, status: dg.DagsterRunStatus = dg.DagsterRunStatus.FAILURE, **run: Any) -> str:
        """A run that ended before it did anything; its id."""
        made = self.made(dg.DagsterRunStatus.STARTED, **run)
        if status == dg.DagsterRunStatus.CANCELED:
            self.instance.report_run_canceled(made)
        else:
            self.instance.report_run_failed(made, "the process ended unexpectedly with exit code -9")
        return made.run_id

    def tick(self) -> Any:
        chosen = self.bench.settings(**self.overrides)
        sensor = notices(
            chosen,
            upload_dates(chosen),
            ["whole_date", "report_only"],
            dg.AssetKey("status_report"),
            clock=lambda: time.time() + self.late,
        )
        with dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            resources={"aws": Aws(("us-east-1",)), "bucket": self.bench.store},
        ) as context:
            data = sensor.evaluate_tick(context)
        self.cursor = data.cursor
        return data


@pytest.fixture
def desk(s3: Any, bucket: str, control: ControlClient, mail: Mail, hook: Hook) -> Iterator[Desk]:
    control.switch(canned=True)
    overrides = {"sns_topic_arn": mail.arn, "webhook_url": hook.url, "webhook_secret": SECRET}
    with dg.DagsterInstance.ephemeral() as instance:
        yield Desk(Bench(Store(s3, bucket)), instance, overrides)


def test_the_sensor_is_there_only_with_somebody_to_tell(bench_settings: Any) -> None:
    def names(**overrides: Any) -> set[str]:
        found = definitions(bench_settings(**overrides)).get_repository_def()
        return {sensor.name for sensor in found.sensor_defs}

    assert "notices" not in names()
    assert "notices" in names(sns_topic_arn="arn:aws:sns:us-east-1:000000000000:x")
    assert "notices" in names(webhook_url="https://example.org", webhook_secret=SECRET)


def test_the_sensor_is_on_from_the_start(bench_settings: Any) -> None:
    defs = definitions(bench_settings(sns_topic_arn="arn:aws:sns:us-east-1:000000000000:x"))
    sensor = defs.get_repository_def().get_sensor_def("notices")
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING


@pytest.fixture
def bench_settings() -> Any:
    return lambda **overrides: settings(bucket="any", **overrides)


def test_each_finished_batch_is_told_once_through_every_way(desk: Desk, mail: Mail, hook: Hook) -> None:
    desk.bench.submit(2, batch="1")
    desk.bench.submit({"bad.jpg": b"<html>", "good.jpg": photo(1)}, batch="2")
    desk.run()
    assert desk.tick().skip_message == "4 notices sent"
    assert mail.subjects() == [
        "bg_pipeline: 2025/11/20/1: all done, 2 images",
        "bg_pipeline: 2025/11/20/2: 1 of 2 images done, 1 not",
    ]
    assert [document["BatchOutcome"] for document in hook.documents()] == ["all_good", "some_failed"]
    assert desk.tick().skip_message == "no run has ended since the last tick"
    assert mail.subjects() == []


def test_who_asked_for_a_single_photo_is_not_told_by_mail(desk: Desk, mail: Mail) -> None:
    desk.bench.submit(1, batch="api-101530-0123456789abcdef")
    desk.work()
    desk.tick()
    assert mail.subjects() == []
    desk.bench.submit(1, batch="1")
    desk.work()
    desk.tick()
    assert mail.subjects() == ["bg_pipeline: 2025/11/20/1: all done, 1 image"]


def test_a_batch_that_waits_for_the_custom_labels_model_is_told_when_it_is_made() -> None:
    waits = row("elk.png", Status.SKIPPED, "WaitsForWindow", "it waits for the next window")
    assert not is_news(Report((GOOD, waits)))
    assert is_news(Report((GOOD, waits, BAD)))
    assert is_news(Report((GOOD, SAMPLE)))
    assert is_news(Report(()))


def test_a_digest_tells_of_all_batches_of_its_time_at_once(desk: Desk, mail: Mail, hook: Hook) -> None:
    desk.overrides["notice_digest_minutes"] = 10
    desk.bench.submit(1, batch="1")
    desk.work()
    desk.tick()
    desk.bench.submit({"good.jpg": photo(1), "bad.jpg": b"<html>"}, batch="2")
    desk.work()
    desk.late = 500
    desk.tick()
    assert mail.subjects() == []
    desk.late = 700
    desk.tick()
    (message,) = mail.messages()
    assert message["Subject"] == "bg_pipeline: 2 batches: 1 in part, 1 all done"
    assert "- 2025/11/20/2: 1 of 2 images done, 1 not\n  http" in message["Message"]
    (document,) = hook.documents()
    assert (document["Kind"], document["BatchOutcome"]) == ("digest", "some_failed")
    assert [each["Batch"] for each in document["Notices"]] == ["2025/11/20/2", "2025/11/20/1"]
    desk.tick()
    desk.cursor = None
    desk.late += 700
    desk.tick()
    desk.late += 700
    desk.tick()
    assert mail.subjects() == [], "what was told is told once"


def test_a_digest_of_one_batch_is_its_notice_and_a_failed_run_waits_for_none(desk: Desk, mail: Mail) -> None:
    desk.overrides["notice_digest_minutes"] = 10
    desk.bench.submit(1, batch="1")
    desk.work()
    desk.bench.submit(1, batch="2")
    desk.crash()
    desk.tick()
    assert mail.subjects() == [
        "bg_pipeline: 2025/11/20/1: all done, 1 image",
        "bg_pipeline: 2025-11-20: the run failed without a report",
    ]
    desk.work()
    desk.tick()
    desk.late = 700
    desk.tick()
    assert mail.subjects() == ["bg_pipeline: 2025/11/20/2: all done, 1 image"]


def test_a_digest_that_was_not_taken_is_sent_again_to_who_did_not_take_it(
    desk: Desk, mail: Mail, hook: Hook
) -> None:
    desk.overrides["notice_digest_minutes"] = 10
    for name in ("1", "2"):
        desk.bench.submit(1, batch=name)
    desk.work()
    desk.tick()
    desk.late, hook.answers = 700, [500]
    desk.tick()
    assert mail.subjects() == ["bg_pipeline: 2 batches: 2 all done"]
    hook.answers, hook.posts = [204], []
    desk.late += 60
    desk.tick()
    assert [document["Kind"] for document in hook.documents()] == ["digest"]
    assert mail.subjects() == []


def test_the_report_link_of_a_notice_opens_the_page_for_people(desk: Desk, hook: Hook) -> None:
    desk.bench.submit(1)
    desk.work()
    desk.tick()
    (document,) = hook.documents()
    answer = requests.get(document["ReportLink"]["URL"], timeout=10)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    for_programs = requests.get(document["ReportJsonURL"], timeout=10)
    assert [row["Status"] for row in for_programs.json()] == ["Succeeded"]


def test_a_run_that_is_executed_again_tells_nothing_twice_and_what_is_new(desk: Desk, mail: Mail) -> None:
    desk.bench.submit(1, batch="1")
    desk.work()
    desk.tick()
    desk.work()
    desk.tick()
    assert mail.subjects() == ["bg_pipeline: 2025/11/20/1: all done, 1 image"]
    desk.bench.submit(1, batch="2")
    desk.work()
    desk.cursor = None  # lost, with all that the sensor remembered
    desk.tick()
    assert mail.subjects() == ["bg_pipeline: 2025/11/20/2: all done, 1 image"]


def test_what_a_crashed_run_had_reported_is_told_by_the_run_that_repeats_it(desk: Desk, mail: Mail) -> None:
    desk.bench.submit(1, batch="1")
    killed = desk.made(dg.DagsterRunStatus.STARTED)  # and nobody ever learns that it was killed
    desk.bench.run()
    desk.crash(dg.DagsterRunStatus.CANCELED, root_run_id=killed.run_id, parent_run_id=killed.run_id)
    desk.tick()
    assert mail.subjects() == ["bg_pipeline: 2025/11/20/1: all done, 1 image"]


def test_a_run_that_crashed_before_the_report_is_told_once_with_its_reason(
    desk: Desk, mail: Mail, hook: Hook
) -> None:
    desk.bench.submit(1)
    run_id = desk.crash()
    desk.tick()
    (message,) = mail.messages()
    assert message["Subject"] == "bg_pipeline: 2025-11-20: the run failed without a report"
    assert "Without a report is: 2025/11/20/101530." in message["Message"]
    assert "exit code -9" in message["Message"]
    assert hook.documents()[0]["RunId"] == run_id
    desk.cursor = None
    desk.tick()
    assert mail.subjects() == []
    desk.work()
    desk.tick()
    assert mail.subjects() == ["bg_pipeline: 2025/11/20/101530: all done, 1 image"]


def test_a_run_that_failed_with_everything_reported_is_told_by_its_batches_alone(
    desk: Desk, mail: Mail
) -> None:
    desk.bench.submit({"bad.jpg": b"<html>"})
    desk.work()
    desk.tick()
    assert mail.subjects() == ["bg_pipeline: 2025/11/20/101530: nothing worked, none of 1 image done"]


def test_a_run_stopped_at_its_cap_says_so(desk: Desk, mail: Mail) -> None:
    desk.bench.submit(4)
    desk.work(max_cost_usd=0.03, max_concurrency=1)
    desk.tick()
    (told,) = mail.subjects()
    assert "stopped at a spending cap, " in told


def test_a_run_that_cannot_reach_its_bucket_is_told_nevertheless(
    desk: Desk, mail: Mail, s3: Any, bucket: str
) -> None:
    desk.bench = Bench(Store(s3, f"{bucket}-gone"))
    assert not desk.run().success
    assert desk.tick().skip_message == "0 notices sent; notices about 1 date still wait"
    for _ in range(5):
        desk.late += 4000
        desk.tick()
    (message,) = mail.messages()
    assert "The bucket could not be read" in message["Message"]
    assert "NoSuchBucket" in message["Message"]


def test_a_hook_that_is_away_delays_neither_the_mail_nor_forgets_its_own(
    desk: Desk, mail: Mail, hook: Hook
) -> None:
    hook.answers = [503]
    for batch in ("1", "2"):
        desk.bench.submit(1, batch=batch)
    desk.work()
    assert "notices about 1 date still wait" in desk.tick().skip_message
    assert len(mail.subjects()) == 2
    assert len(hook.posts) == POSTS  # it is not asked again for the second batch
    desk.tick()
    assert len(hook.posts) == POSTS  # nor before its time
    hook.answers, hook.posts = [200], []
    desk.late = 3600
    assert desk.tick().skip_message == "2 notices sent"
    assert [document["Batch"] for document in hook.documents()] == ["2025/11/20/1", "2025/11/20/2"]
    assert mail.subjects() == []


def test_what_a_tick_has_no_time_for_is_told_in_the_next(s3: Any, bucket: str, mail: Mail) -> None:
    bench = Bench(Store(s3, bucket))
    for batch in ("1", "2", "3"):
        bench.submit({"bad.jpg": b"<html>"}, batch=batch)
    bench.run()
    now = datetime.now(UTC)
    run = EndedRun("run-1", since=now - timedelta(hours=1), until=now)
    told = []
    for _ in range(3):
        outbox = Notifier(
            bench.settings(),
            bench.store,
            [SnsSender(boto3.client("sns"), mail.arn)],
            unopened,
            lambda line: None,
        )
        outbox.is_late = lambda outbox=outbox: outbox.sent == 1  # type: ignore[misc]
        told.append(outbox.notify(run, DATE))
    assert told == [False, False, True]
    assert len(mail.subjects()) == 3


def test_old_reports_of_a_date_that_is_run_again_are_no_news(s3: Any, bucket: str, mail: Mail) -> None:
    bench = Bench(Store(s3, bucket))
    bench.submit({"bad.jpg": b"<html>"})
    bench.run()
    outbox = Notifier(
        bench.settings(), bench.store, [SnsSender(boto3.client("sns"), mail.arn)], unopened, lambda line: None
    )
    later = datetime.now(UTC) + timedelta(hours=1)
    outbox.notify(EndedRun("run-2", since=later, until=later), DATE)
    assert mail.subjects() == []
    outbox.notify(EndedRun("run-1", since=later - timedelta(hours=1), until=later), DATE)
    assert len(mail.subjects()) == 1


def unopened(store: Store, key: str) -> ShareLink:
    return ShareLink(f"https://example.org/{key}", NOW, True)


def test_a_report_in_a_place_of_the_requests_own_is_told(desk: Desk, mail: Mail) -> None:
    desk.bench.submit(
        1,
        StatusS3Prefix="status-report-files/mine",
        OutputS3Prefix="generated-image-files/mine",
    )
    desk.work()
    desk.tick()
    (message,) = mail.messages()
    assert "s3://" + desk.bench.store.bucket + "/generated-image-files/mine/" in message["Message"]
    assert "/status-report-files/mine/status_report_id-101530.json" in message["Message"]


def test_all_dates_of_a_range_are_told(desk: Desk, mail: Mail) -> None:
    days = [date(2025, 11, day) for day in (16, 17, 18)]
    for day in (days[0], days[2]):
        desk.bench.submit(1, day=day)
    desk.run(
        **{
            "dagster/asset_partition_range_start": days[0].isoformat(),
            "dagster/asset_partition_range_end": days[2].isoformat(),
        }
    )
    desk.tick()
    assert mail.subjects() == [
        "bg_pipeline: 2025/11/16/101530: all done, 1 image",
        "bg_pipeline: 2025/11/18/101530: all done, 1 image",
    ]


def test_a_job_that_finds_its_dates_by_itself_is_told_by_what_it_reported(desk: Desk, mail: Mail) -> None:
    @dg.op(out=dg.Out(dg.Nothing))
    def window(context: dg.OpExecutionContext) -> None:
        desk.bench.submit(1)
        desk.bench.run()
        context.log_event(dg.AssetMaterialization("status_report", partition=DATE.isoformat()))

    @dg.job(name="report_only")
    def job() -> None:
        window()

    job.execute_in_process(instance=desk.instance)
    desk.tick()
    assert mail.subjects() == ["bg_pipeline: 2025/11/20/101530: all done, 1 image"]


def test_runs_of_others_are_left_alone(desk: Desk, mail: Mail) -> None:
    @dg.asset(partitions_def=dg.DailyPartitionsDefinition("2025-11-01", end_offset=2))
    def of_somebody_else() -> None:
        raise dg.Failure("nothing to do with us")

    desk.bench.submit(1)
    dg.materialize(
        [of_somebody_else], instance=desk.instance, partition_key=DATE.isoformat(), raise_on_error=False
    )
    assert desk.tick().skip_message == "no run has ended since the last tick"


def test_without_a_bucket_the_sensor_says_so(desk: Desk) -> None:
    definition = notices(
        settings(bucket=""), dg.DailyPartitionsDefinition("2024-01-01"), [], dg.AssetKey("status_report")
    )
    with dg.build_sensor_context(instance=desk.instance) as context:
        assert "BG_BUCKET is not set" in str(definition.evaluate_tick(context).skip_message)


# Settings


def test_a_web_hook_needs_a_secret_that_is_never_shown() -> None:
    with pytest.raises(SettingsError, match="BG_WEBHOOK_SECRET: is required with BG_WEBHOOK_URL"):
        settings(webhook_url="https://example.org")
    made = settings(webhook_url="https://example.org", webhook_secret=SECRET)
    assert SECRET not in repr(made)


def test_a_topic_must_be_one() -> None:
    with pytest.raises(SettingsError, match="BG_SNS_TOPIC_ARN"):
        settings(sns_topic_arn="my-topic")
