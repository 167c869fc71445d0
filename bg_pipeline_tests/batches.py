"""Test batches: uploads photos and requests, runs the pipeline over them, and reads what was stored."""

import functools
import json
import os
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from bg_pipeline import pipeline
from bg_pipeline.aws.clients import Aws
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.rows import Row
from bg_pipeline.reports.report import Report
from bg_pipeline.run.date_result import DateResult
from bg_pipeline.settings import Settings, settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline_tests.pictures import photo

DATE = date(2025, 11, 20)
"""The default upload date: in the past for every clock that tests use, and so one of Dagster's partitions."""


def aws(*regions: str) -> Aws:
    """Clients for these Regions (default: us-east-1), cached because creating them takes longer than most tests."""
    variables = sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    return _aws(regions or ("us-east-1",), tuple(variables))


@functools.cache
def _aws(regions: tuple[str, ...], environment: tuple[tuple[str, str], ...]) -> Aws:
    return Aws(regions)


@dataclass
class Bench:
    """A bucket with batches, and the pipeline with the test's settings; ``notes`` collects its log lines."""

    store: Store
    overrides: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def settings(self, **overrides: Any) -> Settings:
        defaults = {
            "max_concurrency": 8,
            # Without the network: it takes longer than all else that a run does for a small photo.
            "mask_sources": "alpha,studio,cut-out",
            "settle_seconds": 0,
            "bucket": self.store.bucket,
            "quota_titan_v1_rpm": 60_000,
            "quota_titan_v2_rpm": 60_000,
            "quota_nova_canvas_rpm": 60_000,
            "quota_stability_inpaint_rpm": 60_000,
            "quota_stability_remove_background_rpm": 60_000,
            "quota_caption_rpm": 60_000,
            "quota_detect_labels_tps": 1_000,
        }
        return settings(**{**defaults, **self.overrides, **overrides})

    def draft(self, name: str = "101530") -> Batch:
        """A draft with two photos and a mask."""
        batch = self.submit({"a.jpg": photo(1), "b/c.jpg": photo(2)}, batch=name, requested=False)
        self.put(batch.upload_key(".mask-1.png"), photo(3))
        self.put(batch.draft_key, b"{}")
        return batch

    def put(self, key: str, data: bytes) -> None:
        self.store.write(key, data, media_type="application/octet-stream")

    def submit(
        self,
        photos: dict[str, bytes] | int,
        *,
        batch: str = "101530",
        day: date = DATE,
        requested: bool = True,
        **request: Any,
    ) -> Batch:
        """Uploads photos (by name, or this number of different ones) and, if ``requested``, the request last."""
        submitted = Batch(day, batch)
        if isinstance(photos, int):
            photos = {f"photo-{number}.jpg": photo(number) for number in range(photos)}
        for name, data in photos.items():
            self.put(submitted.upload_key(name), data)
        if requested:
            document = {"Id": f"id-{batch}", "Prompt": "a sunny beach", **request}
            self.put(submitted.request_key, json.dumps(document).encode())
        return submitted

    def run(
        self,
        *days: date,
        again: tuple[str, ...] = (),
        retry: bool = False,
        stages: Any = None,
        **overrides: Any,
    ) -> DateResult:
        """Runs the dates (default: `DATE`) and returns the result of the last one."""
        chosen = self.settings(**overrides)
        more = {} if stages is None else {"stages": stages}
        results = pipeline.run(
            chosen,
            days or (DATE,),
            aws=aws(*chosen.regions),
            store=self.store,
            again=again,
            retry=retry,
            note=self.notes.append,
            **more,
        )
        return results[(days or (DATE,))[-1]]

    def rows(self, batch: Batch, batch_id: str | None = None) -> dict[str, Row]:
        """The rows of the stored report, by image name."""
        key = f"{batch.status_prefix}/status_report_{batch_id or f'id-{batch.name}'}.json"
        content = self.store.read(key)
        assert content is not None, f"there is no report {key}"
        return {row.ImageName: row for row in Report.read(content.data).rows}

    def keys(self, prefix: str) -> list[str]:
        return [found.key for found in self.store.list(prefix)]
