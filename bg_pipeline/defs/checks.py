"""The asset checks: the asset and the severity of each, and their results for Dagster.

Most are made by the image flow for the dates of its run, so that there are results on bad days too. The check for
forgotten uploads concerns all dates, so it is a check of its own that can run at any time.
"""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.domain.stages import PICTURES, REPORT
from bg_pipeline.errors import RunStopped
from bg_pipeline.quality import checks
from bg_pipeline.quality.checks import NEAR_END, CheckResult, RunOutcome, uploads_without_report
from bg_pipeline.quality.missing_reports import find_unreported_uploads
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store, explain_s3_error

EVERY_UPLOAD: Final = "every_upload_has_a_report"
CHECK_SECONDS: Final = 10.0
"""Time for the check for forgotten uploads in a run; the sensor `forgotten_uploads` takes more."""


@dataclass(frozen=True)
class Check:
    """A check that the image flow makes.

    Its failure is an ``error``, otherwise a warning; if it is ``blocking``, it fails the run. The ``name`` must not
    change: Dagster keeps the check's history, and people's alerts, under it.
    """

    asset: str
    name: str
    judge: Callable[[RunOutcome], CheckResult]
    description: str
    error: bool = False
    blocking: bool = False


CHECKS: Final = (
    Check(
        PICTURES,
        "every_image_succeeded",
        checks.every_image_succeeded,
        "Every image asked for has its pictures.",
    ),
    Check(
        PICTURES,
        "subject_unchanged",
        checks.subject_unchanged,
        "The pixels of the subjects are those of the photos.",
    ),
    Check(
        PICTURES,
        "results_open",
        checks.results_open,
        "Every result is stored as it was when it was opened.",
        error=True,
    ),
    Check(PICTURES, "within_cost", checks.within_cost, "Spending is well below its caps."),
    Check(
        PICTURES,
        "models_live_on",
        checks.models_live_on,
        f"No model in use ends within {NEAR_END.days} days.",
    ),
    Check(
        REPORT,
        "report_complete",
        checks.report_complete,
        "The report has each image asked for.",
        error=True,
        blocking=True,
    ),
)
"""The checks of the image flow, in the order of its assets."""


def check_specs(key: Callable[[str], dg.AssetKey]) -> list[dg.AssetCheckSpec]:
    """The check specs of the image flow; ``key`` returns the asset key of an asset's name."""
    return [
        dg.AssetCheckSpec(
            check.name, asset=key(check.asset), description=check.description, blocking=check.blocking
        )
        for check in CHECKS
    ]


def check_results(
    outcome: RunOutcome, asset: dg.AssetKey, selected: Collection[dg.AssetCheckKey]
) -> Iterator[dg.AssetCheckResult]:
    """The results of the selected checks of an asset."""
    for check in CHECKS:
        if check.asset == asset.path[-1] and dg.AssetCheckKey(asset, check.name) in selected:
            try:
                result = check.judge(outcome)
            except (ClientError, BotoCoreError, RunStopped) as error:
                # An impossible check fails as a check only; the materialization stays valid.
                result = CheckResult(False, f"This could not be checked for {outcome.dates}: {error}")
            yield dg.AssetCheckResult(
                check_name=check.name,
                asset_key=asset,
                passed=result.passed,
                severity=dg.AssetCheckSeverity.ERROR if check.error else dg.AssetCheckSeverity.WARN,
                description=result.description,
                metadata=result.figures,
            )


def every_upload_has_a_report(settings: Settings, report: dg.AssetKey) -> dg.AssetChecksDefinition:
    """The check that finds uploads without a report, on all dates of the look-back."""

    @dg.asset_check(
        asset=report,
        name=EVERY_UPLOAD,
        description=f"No upload older than {settings.stale_hours:g} hours is without a report.",
    )
    def check(bucket: dg.ResourceParam[Store]) -> dg.AssetCheckResult:
        deadline = time.monotonic() + CHECK_SECONDS
        try:
            uploads = find_unreported_uploads(
                bucket, settings, datetime.now(UTC), time_is_up=lambda: time.monotonic() > deadline
            )
            result = uploads_without_report(settings, uploads)
        except (ClientError, BotoCoreError) as error:
            result = CheckResult(False, f"This could not be checked: {explain_s3_error(bucket, error)}")
        return dg.AssetCheckResult(
            passed=result.passed,
            severity=dg.AssetCheckSeverity.WARN,
            description=result.description,
            metadata=result.figures,
        )

    return check
