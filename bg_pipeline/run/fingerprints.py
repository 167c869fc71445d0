"""The fingerprint of a stage covers everything its outcome depends on: when it changes, the stage is due again."""

import hashlib
from collections.abc import Collection, Mapping
from itertools import chain

import orjson

from bg_pipeline.domain.effects import Affects, identity_of_call, values
from bg_pipeline.domain.ledger_entries import Entry
from bg_pipeline.domain.requests import ImageSettings, picture_fields, placeholders
from bg_pipeline.domain.rows import AGAIN_LATER
from bg_pipeline.domain.stages import CAPTIONS, LABELS, PICTURES
from bg_pipeline.run.results import VERSION
from bg_pipeline.settings import Settings

_CAPTION = frozenset({Affects.CAPTION})
_SAM_CALL = frozenset({Affects.SAM_CALL})
_MASK_AND_RESULT = frozenset({Affects.MASK, Affects.RESULT})


def fingerprint(*parts: object) -> str:
    """A digest of ``parts``, which have to be convertible to JSON: 20 hexadecimal digits."""
    data = orjson.dumps(parts, default=str, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(data).hexdigest()[:20]


def fingerprints(
    settings: Settings, image_settings: ImageSettings, etag: str, named_etags: Mapping[str, str]
) -> dict[str, str]:
    """The fingerprint of each stage of an image, by stage.

    ``etag`` is the photo's, ``named_etags`` are those of masks and backdrops by key. Which settings and request
    fields are part of which fingerprint follows from their declared effects (`bg_pipeline.domain.effects`). The model
    and the quotas are not part of any: when a model is retired, nothing is paid again.
    """
    # Without the names of the settings, as in earlier versions: another fingerprint would make all labels due again,
    # and a Custom Labels model would be started for them.
    labels = fingerprint(LABELS, etag, *identity_of_call(settings, Affects.LABELS_CALL).values())
    captions = fingerprint(CAPTIONS, etag, *identity_of_call(settings, Affects.CAPTION_CALL).values())
    if not settings.caption_models:
        captions = "off"
    used_placeholders = _used_placeholders(image_settings)
    return {
        LABELS: labels,
        # Without caption models the stage does not exist.
        **(
            {CAPTIONS: fingerprint(captions, *chain(*values(settings, _CAPTION).values()))}
            if settings.caption_models
            else {}
        ),
        PICTURES: fingerprint(
            PICTURES,
            VERSION,
            etag,
            picture_fields(image_settings),
            values(settings, _MASK_AND_RESULT),
            values(settings, _SAM_CALL) if image_settings.subject == "FACES" else "",
            labels if uses_labels(image_settings) else "",
            captions if "caption" in used_placeholders else "",
            [named_etags.get(key, "") for key in (image_settings.mask_key, image_settings.backdrop) if key],
        ),
    }


def uses_labels(image_settings: ImageSettings) -> bool:
    """Whether an image's pictures depend on the labels that a model finds."""
    finds_subject_by_labels = image_settings.subject == "LABELS" and not image_settings.labels
    return finds_subject_by_labels or "labels" in _used_placeholders(image_settings)


def _used_placeholders(image_settings: ImageSettings) -> set[str]:
    return {name for prompt in image_settings.prompts for name in placeholders(prompt)}


def request_fingerprint(image_settings: ImageSettings, etag: str) -> str:
    """The fingerprint of a photo and of what the request asks for it, independent of ``BG_*`` settings."""
    return fingerprint(etag, picture_fields(image_settings))


def stages_due(
    entry: Entry | None,
    prints: Mapping[str, str],
    *,
    stages: Collection[str],
    occasions: Mapping[str, str],
    results: Mapping[str, str],
    retry: bool = False,
    on_request: Collection[str] = (),
) -> dict[str, str]:
    """The stages that have to be done for an image, with their current fingerprints (``prints``).

    Only ``stages`` are considered. ``occasions`` maps a stage to the refresh for which it has to have been done. With
    ``retry``, final failures are tried again too; a refusal by content policy never is. ``results`` are the ETags of
    the objects under the output prefix: a result that is missing or was overwritten is made again, from its stored
    answer. Stages ``on_request`` are due only for a refresh.
    """
    due = {}
    for stage in (LABELS, CAPTIONS, PICTURES):
        if stage not in stages or stage not in prints:
            continue
        record = entry.stages.get(stage) if entry else None
        if stage in on_request and occasions.get(stage, "") in ("", record.occasion if record else ""):
            continue
        if (
            record is None
            or entry is None
            or prints[stage] not in (record.made_for, record.tried)
            or occasions.get(stage, record.occasion) != record.occasion
            or (record.status in AGAIN_LATER and (retry or not record.final))
            or (stage == PICTURES and any(results.get(key) != etag for key, etag in entry.files.items()))
        ):
            due[stage] = prints[stage]
    return due
