"""The asset jobs: a whole upload date, or parts of it."""

from typing import Any

import dagster as dg

from bg_pipeline.domain.stages import CAPTIONS, LABELS, REPORT, STAGES
from bg_pipeline.settings import Settings


def jobs(settings: Settings) -> list[Any]:
    """The job for a whole date first, then those for parts of it."""
    prefix = [settings.key_prefix] if settings.key_prefix else []

    def job(name: str, assets: list[str], description: str) -> Any:
        keys = [dg.AssetKey([*prefix, asset]) for asset in assets]
        name = f"{settings.key_prefix}_{name}" if settings.key_prefix else name
        return dg.define_asset_job(name, selection=keys, description=description)

    return [
        job(
            "whole_date", ["raw_images", *STAGES], "Brings an upload date up to date, from photos to report."
        ),
        job("labels_only", [LABELS], "Labels of a date's photos."),
        job("captions_only", [CAPTIONS], "Captions of a date's photos."),
        job("report_only", [REPORT], "Writes a date's reports again from what is stored."),
    ]
