"""The asset checks: where each belongs, how bad its failing is, and how it is told to Dagster.

Most are made by the flow itself, of the dates that it ran over, so that they are told on bad days too. Whether an
upload was forgotten is no matter of one date: that check looks back by itself, whenever it is asked.
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
LOOK_SECONDS: Final = 10.0
"""How long a run looks back for forgotten uploads; the sensor `forgotten_uploads` takes more time for it."""


@dataclass(frozen=True)
class Check:
    """A check that the flow makes: an ``error`` or else a warning; a ``blocking`` one fails the run."""

    asset: str
    judge: Callable[[RunOutcome], CheckResult]
    description: str
    error: bool = False
    blocking: bool = False

    @property
    def name(self) -> str:
        return self.judge.__name__


CHECKS: Final = (
    Check(PICTURES, checks.every_image_succeeded, "Every image asked for has its pictures."),
    Check(PICTURES, checks.subject_unchanged, "The pixels of the subjects are those of the photos."),
    Check(PICTURES, checks.results_open, "Every result is stored as it was when it was opened.", error=True),
    Check(PICTURES, checks.within_cost, "Spending is well below its caps."),
    Check(PICTURES, checks.models_live_on, f"No model in use ends within {NEAR_END.days} days."),
    Check(REPORT, checks.report_complete, "The report has each image asked for.", error=True, blocking=True),
)
"""The checks that the flow makes, in the order of its assets."""


def check_specs(key: Callable[[str], dg.AssetKey]) -> list[dg.AssetCheckSpec]:
    """What the flow declares; ``key`` makes an asset's key of its name."""
    return [
        dg.AssetCheckSpec(
            check.name, asset=key(check.asset), description=check.description, blocking=check.blocking
        )
        for check in CHECKS
    ]


def check_results(
    ran: RunOutcome, asset: dg.AssetKey, selected: Collection[dg.AssetCheckKey]
) -> Iterator[dg.AssetCheckResult]:
    """What the checks of an asset came to, of those that were selected."""
    for check in CHECKS:
        if check.asset == asset.path[-1] and dg.AssetCheckKey(asset, check.name) in selected:
            try:
                judgment = check.judge(ran)
            except (ClientError, BotoCoreError, RunStopped) as error:
                # What was made stays made, whether or not it can be checked.
                judgment = CheckResult(False, f"This could not be checked for {ran.dates}: {error}")
            yield dg.AssetCheckResult(
                check_name=check.name,
                asset_key=asset,
                passed=judgment.passed,
                severity=dg.AssetCheckSeverity.ERROR if check.error else dg.AssetCheckSeverity.WARN,
                description=judgment.description,
                metadata=judgment.figures,
            )


def every_upload_has_a_report(settings: Settings, report: dg.AssetKey) -> dg.AssetChecksDefinition:
    """The check that finds uploads that nothing came of, of all dates of the look-back."""

    @dg.asset_check(
        asset=report,
        name=EVERY_UPLOAD,
        description=f"No upload older than {settings.stale_hours:g} hours is without a report.",
    )
    def check(bucket: dg.ResourceParam[Store]) -> dg.AssetCheckResult:
        late = time.monotonic() + LOOK_SECONDS
        try:
            looked = find_unreported_uploads(
                bucket, settings, datetime.now(UTC), time_is_up=lambda: time.monotonic() > late
            )
            judgment = uploads_without_report(settings, looked)
        except (ClientError, BotoCoreError) as error:
            judgment = CheckResult(False, f"This could not be checked: {explain_s3_error(bucket, error)}")
        return dg.AssetCheckResult(
            passed=judgment.passed,
            severity=dg.AssetCheckSeverity.WARN,
            description=judgment.description,
            metadata=judgment.figures,
        )

    return check
