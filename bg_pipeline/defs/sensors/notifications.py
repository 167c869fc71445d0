"""The sensor that sends notices about runs; as a sensor it also works for runs that failed or were killed."""

import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, date, datetime
from typing import Final

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.aws.clients import Aws
from bg_pipeline.defs.sensors import NO_BUCKET, skip
from bg_pipeline.domain.text import counted
from bg_pipeline.notifications.delivery import EndedRun, Notifier
from bg_pipeline.notifications.pending_runs import NotificationCursor, PendingRun
from bg_pipeline.notifications.senders import NotSent, Sender, SnsSender, WebhookSender
from bg_pipeline.reports.overview import share_link
from bg_pipeline.settings import Settings

EVERY_SECONDS: Final = 30
MAX_RUNS: Final = 20
"""Ended runs read in one tick, each of at most 30 dates."""
TICK_SECONDS: Final = 25.0
"""Age of a tick after which it starts no more notices: one may take 30 s, and the daemon kills a tick at 60 s."""
MAX_READ_ATTEMPTS: Final = 3
"""After this number of failed attempts to read the bucket, a failed run is reported without details."""

_ENDED_STATUSES = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def notices(
    settings: Settings,
    partitions: dg.DailyPartitionsDefinition,
    jobs: Collection[str],
    report: dg.AssetKey,
    *,
    clock: Callable[[], float] = time.time,
) -> dg.SensorDefinition:
    """The sensor that sends a notice for each report that a run wrote, and for each run that did not write one.

    It looks at ended runs of ``jobs`` and of the asset ``report``, however they were started. It is on by default,
    since it spends nothing. If S3 or a receiver does not answer, it tries again for a day.
    """

    @dg.sensor(
        name="notices",
        required_resource_keys={"aws", "bucket"} if settings.bucket else set(),
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Sends a notice about each ended run to SNS (BG_SNS_TOPIC_ARN) and a web hook (BG_WEBHOOK_URL).",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if not settings.bucket:
            return skip(context, NO_BUCKET)
        now, started = clock(), time.monotonic()
        cursor = NotificationCursor.read(context.cursor, now)
        for record in _ended_runs(context.instance, cursor):
            days = _days(context.instance, partitions, record.dagster_run, jobs, report)
            failed = record.dagster_run.status != dg.DagsterRunStatus.SUCCESS
            cursor.add(record.dagster_run.run_id, record.update_timestamp.timestamp(), days, failed=failed)
        digest = cursor.digest_is_due(now, settings.notice_digest_minutes)
        due = [pending for pending in cursor.errands if pending.due <= now and (pending.failed or digest)]
        summary = "no run has ended since the last tick"
        if due:
            summary = _send_due(
                context, settings, cursor, due, now, lambda: time.monotonic() - started > TICK_SECONDS
            )
        context.log.info(summary)
        return dg.SensorResult(skip_reason=summary, cursor=cursor.model_dump_json())

    return sensor


def senders(settings: Settings, aws: Aws) -> list[Sender]:
    """The senders that the settings name: SNS, a web hook, or both."""
    result: list[Sender] = []
    if settings.sns_topic_arn:
        region = settings.sns_topic_arn.split(":")[3]
        result.append(SnsSender(aws.client("sns", region), settings.sns_topic_arn))
    if settings.webhook_url:
        result.append(WebhookSender(settings.webhook_url, settings.webhook_secret.get_secret_value()))
    return result


def _send_due(
    context: dg.SensorEvaluationContext,
    settings: Settings,
    cursor: NotificationCursor,
    due: list[PendingRun],
    now: float,
    is_late: Callable[[], bool],
) -> str:
    """Sends the notices that are due until the tick's time is up; returns a sentence about it."""
    aws: Aws = context.resources.aws
    notifier = Notifier(
        settings,
        context.resources.bucket,
        senders(settings, aws),
        lambda store, key: share_link(aws, store, key, settings.report_link_seconds, datetime.now(UTC)),
        context.log.info,
        is_late,
    )
    collected: list[PendingRun] = []

    def postpone(pending: PendingRun, problem: str) -> None:
        kept = cursor.postpone(pending, now)
        context.log.warning(
            f"run {pending.run_id}, {pending.day}: {problem}; "
            f"{'it is tried again later' if kept else 'no notice is sent'}"
        )

    for pending in due:
        run = None if is_late() else _ended_run(context.instance, pending.run_id)
        notifier.digest = bool(settings.notice_digest_minutes) and not pending.failed
        problem = None if is_late() else _notify(notifier, run, pending) if run else ""
        if problem is None:
            # The rest of a digest does not wait for the next one.
            cursor.digest_due = now if notifier.digest else cursor.digest_due
            break
        if problem:
            postpone(pending, problem)
        elif notifier.digest:
            collected.append(pending)
        else:
            cursor.errands.remove(pending)
    problem = _flush(notifier)
    for pending in collected:
        if problem:
            cursor.digest_due = now
            postpone(pending, problem)
        else:
            cursor.errands.remove(pending)
    sent, left = counted(notifier.sent, "notice"), len(cursor.errands)
    return f"{sent} sent" + (f"; notices about {counted(left, 'date')} still wait" if left else "")


def _flush(notifier: Notifier) -> str:
    """Sends the digest; returns the problem, empty if there was none."""
    try:
        notifier.flush()
    except NotSent as error:
        return str(error)
    except (ClientError, BotoCoreError) as error:
        return f"bucket '{notifier.store.bucket}' (BG_BUCKET) cannot be written: {error}"
    return ""


def _notify(notifier: Notifier, run: EndedRun, pending: PendingRun) -> str | None:
    """Sends the notices of one run and date.

    Returns the problem if that failed, an empty string if it succeeded, None if there was no time for all of them.
    """
    try:
        return "" if notifier.notify(run, pending.day) else None
    except NotSent as error:
        return str(error)
    except (ClientError, BotoCoreError) as error:
        if not run.succeeded and not pending.told_blindly and pending.attempts >= MAX_READ_ATTEMPTS:
            try:
                notifier.notify_without_details(run, pending.day)
                pending.told_blindly = True
            except NotSent as another:
                return str(another)
        return f"bucket '{notifier.store.bucket}' (BG_BUCKET) cannot be read: {error}"


def _ended_runs(instance: dg.DagsterInstance, cursor: NotificationCursor) -> Sequence[dg.RunRecord]:
    """Ended runs that may not have been seen before, in the order in which they ended."""
    return instance.get_run_records(
        dg.RunsFilter(statuses=_ENDED_STATUSES, updated_after=datetime.fromtimestamp(cursor.oldest, UTC)),
        limit=MAX_RUNS + len(cursor.seen),
        order_by="update_timestamp",
        ascending=True,
    )


def _days(
    instance: dg.DagsterInstance,
    partitions: dg.DailyPartitionsDefinition,
    run: dg.DagsterRun,
    jobs: Collection[str],
    report: dg.AssetKey,
) -> list[date]:
    """The dates whose reports a run had to write; empty if it writes no reports."""
    if run.job_name not in jobs and report not in (run.asset_selection or ()):
        return []
    first = run.tags.get("dagster/partition") or run.tags.get("dagster/asset_partition_range_start", "")
    last = run.tags.get("dagster/asset_partition_range_end", first)
    if partitions.has_partition_key(first) and partitions.has_partition_key(last):
        keys = partitions.get_partition_keys_in_range(dg.PartitionKeyRange(first, last))
    else:
        # A job without partitions, which chooses its dates itself: the dates whose reports it has materialized.
        events = instance.get_records_for_run(
            run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
        ).records
        keys = [event.partition_key for event in events if event.asset_key == report and event.partition_key]
    return sorted({date.fromisoformat(key) for key in keys})


def _ended_run(instance: dg.DagsterInstance, run_id: str) -> EndedRun | None:
    """Dagster's record of an ended run; None if it was deleted."""
    record = _record(instance, run_id)
    if record is None:
        return None
    run = record.dagster_run
    root = record if run.root_run_id is None else _record(instance, run.root_run_id) or record
    succeeded = run.status == dg.DagsterRunStatus.SUCCESS
    return EndedRun(
        run_id,
        since=root.create_timestamp,
        until=record.update_timestamp,
        succeeded=succeeded,
        cancelled=run.status == dg.DagsterRunStatus.CANCELED,
        reason="" if succeeded else _reason(instance, run_id),
        retried=run.tags.get("dagster/will_retry") == "true",
    )


def _record(instance: dg.DagsterInstance, run_id: str) -> dg.RunRecord | None:
    return next(iter(instance.get_run_records(dg.RunsFilter(run_ids=[run_id]), limit=1)), None)


def _reason(instance: dg.DagsterInstance, run_id: str) -> str:
    """Why a run failed: the message of the step that failed, or else of the run's failure."""
    kinds = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    for record in instance.get_records_for_run(run_id, of_type=kinds).records:
        event = record.event_log_entry.dagster_event
        if event is None:
            continue
        if event.is_step_failure:
            failure = event.step_failure_data
            if failure.user_failure_data and failure.user_failure_data.description:
                return failure.user_failure_data.description
            if failure.error:
                return (failure.error.cause or failure.error).message
        elif event.message:
            return event.message
    return ""
