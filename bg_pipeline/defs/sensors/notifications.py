"""The sensor that tells people what came of runs: a sensor, so that notices go out on bad days too."""

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
"""Runs taken up in one tick, each of 30 dates at most."""
TICK_SECONDS: Final = 25.0
"""When a tick begins nothing more: one notice may take 30 s, and the daemon kills a tick at 60 s."""
BLIND_AFTER: Final = 3
"""After so many attempts to look at the bucket, the bad end of a run is told without."""

_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def notices(
    settings: Settings,
    partitions: dg.DailyPartitionsDefinition,
    jobs: Collection[str],
    report: dg.AssetKey,
    *,
    clock: Callable[[], float] = time.time,
) -> dg.SensorDefinition:
    """The sensor that sends a notice for each report that a run wrote, and for each run that left one out.

    It looks at ended runs of ``jobs`` and of the asset ``report``, however they were started. It is on from the
    start, since it spends nothing; where S3 or a receiver does not answer, it tries again for a day.
    """

    @dg.sensor(
        name="notices",
        required_resource_keys={"aws", "bucket"} if settings.bucket else set(),
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells what came of runs, by SNS (BG_SNS_TOPIC_ARN) and web hook (BG_WEBHOOK_URL).",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if not settings.bucket:
            return skip(context, NO_BUCKET)
        now, started = clock(), time.monotonic()
        agenda = NotificationCursor.read(context.cursor, now)
        for record in _ended_runs(context.instance, agenda):
            days = _days(context.instance, partitions, record.dagster_run, jobs, report)
            agenda.add(record.dagster_run.run_id, record.update_timestamp.timestamp(), days)
        due = [errand for errand in agenda.errands if errand.due <= now]
        told = "no run has ended since the last look"
        if due:
            told = _work_off(
                context, settings, agenda, due, now, lambda: time.monotonic() - started > TICK_SECONDS
            )
        context.log.info(told)
        return dg.SensorResult(skip_reason=told, cursor=agenda.model_dump_json())

    return sensor


def senders(settings: Settings, aws: Aws) -> list[Sender]:
    """The ways that the settings name for notices to leave."""
    found: list[Sender] = []
    if settings.sns_topic_arn:
        region = settings.sns_topic_arn.split(":")[3]
        found.append(SnsSender(aws.client("sns", region), settings.sns_topic_arn))
    if settings.webhook_url:
        found.append(WebhookSender(settings.webhook_url, settings.webhook_secret.get_secret_value()))
    return found


def _work_off(
    context: dg.SensorEvaluationContext,
    settings: Settings,
    agenda: NotificationCursor,
    due: list[PendingRun],
    now: float,
    is_late: Callable[[], bool],
) -> str:
    """Tells what is due, as far as the tick's time goes; what that came to, in words."""
    aws: Aws = context.resources.aws
    outbox = Notifier(
        settings,
        context.resources.bucket,
        senders(settings, aws),
        lambda store, key: share_link(aws, store, key, settings.report_link_seconds, datetime.now(UTC)),
        context.log.info,
        is_late,
    )
    for errand in due:
        if is_late():
            break
        run = _ended(context.instance, errand.run_id)
        problem = _tell(outbox, run, errand) if run else ""
        if problem is None:
            break
        if not problem:
            agenda.errands.remove(errand)
            continue
        kept = agenda.postpone(errand, now)
        context.log.warning(
            f"run {errand.run_id}, {errand.day}: {problem}; {'tried again later' if kept else 'given up'}"
        )
    sent, left = counted(outbox.sent, "notice"), len(agenda.errands)
    return f"{sent} sent" + (
        f"; {counted(left, 'date')} {'is' if left == 1 else 'are'} still to be told of" if left else ""
    )


def _tell(outbox: Notifier, run: EndedRun, errand: PendingRun) -> str | None:
    """Tells one errand; the problem where that was not possible, None where there was no time for all of it."""
    try:
        return "" if outbox.notify(run, errand.day) else None
    except NotSent as error:
        return str(error)
    except (ClientError, BotoCoreError) as error:
        if not run.succeeded and not errand.told_blindly and errand.attempts >= BLIND_AFTER:
            try:
                outbox.notify_without_details(run, errand.day)
                errand.told_blindly = True
            except NotSent as another:
                return str(another)
        return f"bucket '{outbox.store.bucket}' (BG_BUCKET) cannot be looked at: {error}"


def _ended_runs(instance: dg.DagsterInstance, agenda: NotificationCursor) -> Sequence[dg.RunRecord]:
    """Runs that ended and may be news, the one that ended first in front."""
    return instance.get_run_records(
        dg.RunsFilter(statuses=_ENDED, updated_after=datetime.fromtimestamp(agenda.oldest, UTC)),
        limit=MAX_RUNS + len(agenda.seen),
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
    """The dates whose reports a run was to write; none if it was to write none."""
    if run.job_name not in jobs and report not in (run.asset_selection or ()):
        return []
    first = run.tags.get("dagster/partition") or run.tags.get("dagster/asset_partition_range_start", "")
    last = run.tags.get("dagster/asset_partition_range_end", first)
    if partitions.has_partition_key(first) and partitions.has_partition_key(last):
        keys = partitions.get_partition_keys_in_range(dg.PartitionKeyRange(first, last))
    else:
        # A job that finds its dates by itself: those whose reports it says it has written.
        events = instance.get_records_for_run(
            run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
        ).records
        keys = [event.partition_key for event in events if event.asset_key == report and event.partition_key]
    return sorted({date.fromisoformat(key) for key in keys})


def _ended(instance: dg.DagsterInstance, run_id: str) -> EndedRun | None:
    """What Dagster knows of a run that ended; None if it was deleted."""
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
    """Why a run failed: the words of the step that failed, else those of Dagster."""
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
