"""The stages of an image and what each one's outcome depends on: a stage is due when that has changed."""

import hashlib
from collections.abc import Collection, Mapping

import orjson

from bg_pipeline.batch import ImageSettings, placeholders
from bg_pipeline.flow.finishing import VERSION
from bg_pipeline.reports.report import Status
from bg_pipeline.settings import Settings
from bg_pipeline.state.ledger import Entry

LABELS = "labels"
CAPTIONS = "captions"
PICTURES = "generated_images"
REPORT = "status_report"
STAGES = (LABELS, CAPTIONS, PICTURES, REPORT)
"""In lineage order, by the names of their assets."""

AGAIN_LATER = (Status.FAILED, Status.SKIPPED)
"""Statuses of what the next run does again, unless the failure is final."""


def fingerprint(*parts: object) -> str:
    """A short digest of everything an outcome depends on."""
    data = orjson.dumps(parts, default=repr, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(data).hexdigest()[:20]


def fingerprints(
    settings: Settings, asked: ImageSettings, etag: str, named_etags: Mapping[str, str]
) -> dict[str, str]:
    """Each stage's fingerprint for an image; ``named_etags`` are the tags of masks and backdrops by key.

    Neither the model nor the quotas are part of it: that a model died is no reason to pay again.
    """
    labels = fingerprint(LABELS, etag, settings.label_confidence)
    if settings.custom_labels_arn:
        # Which version of a model of one's own sees what is chosen by its owner; nothing takes its place.
        labels = fingerprint(LABELS, etag, settings.custom_labels_arn, settings.custom_labels_confidence)
    captions = fingerprint(CAPTIONS, etag, settings.caption_prompt, settings.alt_text_length > 0)
    if not settings.caption_models:
        captions = "off"
    wanted = {name for prompt in asked.prompts for name in placeholders(prompt)}
    named_labels = asked.subject == "LABELS" and not asked.labels
    return {
        LABELS: labels,
        # Without caption models there is no such stage.
        **({CAPTIONS: fingerprint(captions, settings.alt_text_length)} if settings.caption_models else {}),
        PICTURES: fingerprint(
            PICTURES,
            VERSION,
            etag,
            asked,
            settings.feather,
            settings.mask_sources,
            str(settings.onnx_model or ""),
            settings.sam_endpoint if asked.subject == "FACES" else "",
            labels if named_labels or "labels" in wanted else "",
            captions if "caption" in wanted else "",
            [named_etags.get(key, "") for key in (asked.mask_key, asked.backdrop) if key],
        ),
    }


def due(
    entry: Entry | None,
    prints: Mapping[str, str],
    *,
    stages: Collection[str],
    occasions: Mapping[str, str],
    results: Mapping[str, str],
    retry: bool = False,
) -> dict[str, str]:
    """The stages that have to be done for an image, with the fingerprints they will have been done for.

    ``occasions`` names, by stage, the refresh on which a stage has to have been made. With ``retry`` what failed
    for a lasting reason is tried again too; a refusal by content policy never is. ``results`` are the tags of the
    objects under the output prefix: a result that is gone, torn or foreign is made again, from its stored answer.
    """
    wanted = {}
    for stage in (LABELS, CAPTIONS, PICTURES):
        if stage not in stages or stage not in prints:
            continue
        record = entry.stages.get(stage) if entry else None
        if (
            record is None
            or entry is None
            or record.made_for != prints[stage]
            or occasions.get(stage, record.occasion) != record.occasion
            or (record.status in AGAIN_LATER and (retry or not record.final))
            or (stage == PICTURES and any(results.get(key) != etag for key, etag in entry.files.items()))
        ):
            wanted[stage] = prints[stage]
    return wanted
