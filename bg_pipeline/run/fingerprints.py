"""The stages of an image and what each one's outcome depends on: a stage is due when that has changed."""

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
_MADE = frozenset({Affects.MASK, Affects.RESULT})


def fingerprint(*parts: object) -> str:
    """A short digest of everything an outcome depends on."""
    data = orjson.dumps(parts, default=str, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(data).hexdigest()[:20]


def fingerprints(
    settings: Settings, asked: ImageSettings, etag: str, named_etags: Mapping[str, str]
) -> dict[str, str]:
    """Each stage's fingerprint for an image; ``named_etags`` are the tags of masks and backdrops by key.

    They are made of what settings and request fields declare that they affect. Neither the model nor the quotas are
    part of it: that a model died is no reason to pay again.
    """
    # The values alone, as ever: were labels due again, a Custom Labels model would be started for them.
    labels = fingerprint(LABELS, etag, *identity_of_call(settings, Affects.LABELS_CALL).values())
    captions = fingerprint(CAPTIONS, etag, *identity_of_call(settings, Affects.CAPTION_CALL).values())
    if not settings.caption_models:
        captions = "off"
    wanted = {name for prompt in asked.prompts for name in placeholders(prompt)}
    named_labels = asked.subject == "LABELS" and not asked.labels
    return {
        LABELS: labels,
        # Without caption models there is no such stage.
        **(
            {CAPTIONS: fingerprint(captions, *chain(*values(settings, _CAPTION).values()))}
            if settings.caption_models
            else {}
        ),
        PICTURES: fingerprint(
            PICTURES,
            VERSION,
            etag,
            picture_fields(asked),
            values(settings, _MADE),
            values(settings, _SAM_CALL) if asked.subject == "FACES" else "",
            labels if named_labels or "labels" in wanted else "",
            captions if "caption" in wanted else "",
            [named_etags.get(key, "") for key in (asked.mask_key, asked.backdrop) if key],
        ),
    }


def request_fingerprint(asked: ImageSettings, etag: str) -> str:
    """The fingerprint of what a request asks for a photo, whatever the settings."""
    return fingerprint(etag, picture_fields(asked))


def stages_due(
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
            or prints[stage] not in (record.made_for, record.tried)
            or occasions.get(stage, record.occasion) != record.occasion
            or (record.status in AGAIN_LATER and (retry or not record.final))
            or (stage == PICTURES and any(results.get(key) != etag for key, etag in entry.files.items()))
        ):
            wanted[stage] = prints[stage]
    return wanted
