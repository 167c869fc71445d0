"""What a batch's ledger knows of one image."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import orjson

from bg_pipeline.domain.payments import BEFORE_PAYMENTS, Payment, as_stored, from_stored


@dataclass(slots=True)
class StageRecord:
    """How one stage of one image ended.

    ``made_for`` is the fingerprint of everything its outcome depends on. ``final`` says that doing it again
    with the same fingerprint would end the same way. ``occasion`` names the refresh on which it was last made anew.
    ``wish`` is the fingerprint of what the request asks for, whatever the settings. ``note`` tells of a later attempt
    that left this outcome as it is, and ``tried`` is the fingerprint of one that would end the same way again.
    """

    made_for: str
    status: str
    final: bool = True
    error: str = ""
    cause: str = ""
    seconds: float = 0.0
    reused: bool = False
    occasion: str = ""
    wish: str = ""
    note: str = ""
    tried: str = ""


@dataclass(slots=True)
class Entry:
    """What is known of one image: its source, each stage's record, what came of it and what was paid for it.

    ``outputs`` are the outputs of the report's row with their number, ``files`` maps a result's key to the tag
    it was stored under, ``names`` a result's number to the name bound to it. ``outdated`` are results, with their
    tags, that were replaced and could not be deleted yet. ``archived`` is where the source was moved to
    (``s3://bucket/key``); it counts while nothing lies where it was uploaded. ``payments`` has every call that was
    ever paid for the image, whatever became of its answer.
    """

    image: str
    etag: str = ""
    sha256: str = ""
    ref: str = ""
    labels: str = ""
    caption: str = ""
    alt_text: str = ""
    archived: str = ""
    stages: dict[str, StageRecord] = field(default_factory=dict)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    outdated: dict[str, str] = field(default_factory=dict)
    payments: dict[str, Payment] = field(default_factory=dict)


_ENTRY = [each.name for each in fields(Entry)]

DEFAULTS = asdict(Entry(""))

_RECORD = frozenset(each.name for each in fields(StageRecord))


def dump_entry(entry: Entry) -> bytes:
    document = {name: value for name in _ENTRY if (value := getattr(entry, name))}
    if entry.payments:
        document["payments"] = as_stored(entry.payments)
    # A copy: orjson's own bytes keep the buffer they were written into, 4 KB and more for a line of 1 KB.
    return bytes(memoryview(orjson.dumps(document)))


_OUTPUT: Mapping[str, Any] = {
    "Key": "",
    "Error": "",
    "Cause": "",
    "Final": True,
    "Model": "",
    "Region": "",
    "Seed": None,
    "CostUSD": 0.0,
    "SubjectChanged": None,
}
"""What an output has where it says nothing; its ``Number`` is its place in the list, counted from 1."""


def load_entry(line: bytes) -> Entry:
    """An entry as any version of the program wrote it: unknown fields are left out, missing ones have defaults."""
    document = orjson.loads(line)
    stages = document.get("stages", {})
    known = {name: document[name] for name in _ENTRY if name in document}
    known["stages"] = {
        name: StageRecord(**{key: value for key, value in record.items() if key in _RECORD})
        for name, record in stages.items()
        # Without these two nothing can be told of the stage: it counts as not done.
        if "made_for" in record and "status" in record
    }
    known["outputs"] = [
        {**_OUTPUT, "Number": number, **output}
        for number, output in enumerate(document.get("outputs", ()), 1)
        if "Status" in output
    ]
    known["payments"] = stored_payments(document)
    return Entry(**known)


def stored_payments(document: dict[str, Any]) -> dict[str, Payment]:
    if "payments" in document:
        return from_stored(document["payments"])
    return _payments_from_stage_sums(document.get("stages", {}))


def _payments_from_stage_sums(stages: dict[str, dict[str, Any]]) -> dict[str, Payment]:
    """What was paid as ledgers told it before they kept payments: a sum for each stage."""
    found = {}
    for name, told in stages.items():
        if told.get("cost_usd") or told.get("unpriced"):
            call = f"{BEFORE_PAYMENTS}{name}"
            usd = None if told.get("unpriced") else float(told["cost_usd"])
            found[call] = Payment(call, name, usd)
    return found
