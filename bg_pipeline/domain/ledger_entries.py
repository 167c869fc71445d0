"""The ledger entry of one image: its source, the outcome of each stage, its results and its payments."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import orjson

from bg_pipeline.domain.payments import BEFORE_PAYMENTS, Payment, as_stored, from_stored


@dataclass(slots=True)
class StageRecord:
    """The outcome of one stage of one image.

    ``made_for`` is the fingerprint of everything that the outcome depends on. ``final`` means that repeating the
    stage with the same fingerprint would give the same outcome. ``occasion`` names the refresh that last repeated
    it. ``wish`` is the fingerprint of the request's part alone, without the settings. ``note`` describes a later
    attempt that did not replace this outcome; ``tried`` is the fingerprint of such an attempt whose repetition would
    be useless.
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
    """The ledger entry of one image.

    ``outputs`` are the outputs of the report's row with their numbers. ``files`` maps each result's key to its
    ETag, ``names`` each result's number to the name reserved for it. ``unproven`` maps keys of ``files`` to the ETag
    of a newer version that was stored but not read back yet, so that it does not count. ``outdated`` maps replaced
    results that could not be deleted yet to their ETags. ``archived`` is the ``s3://bucket/key`` to which the source
    was moved; it is ignored if there is an object at the upload's key again. ``payments`` has every call that was
    ever paid for the image, including calls whose answer was not used.
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
    unproven: dict[str, str] = field(default_factory=dict)
    outdated: dict[str, str] = field(default_factory=dict)
    payments: dict[str, Payment] = field(default_factory=dict)


_ENTRY = [each.name for each in fields(Entry)]

DEFAULTS = asdict(Entry(""))

_RECORD = frozenset(each.name for each in fields(StageRecord))


def dump_entry(entry: Entry) -> bytes:
    document = {name: value for name in _ENTRY if (value := getattr(entry, name))}
    if entry.payments:
        document["payments"] = as_stored(entry.payments)
    # Copied, because the bytes from orjson keep their whole buffer, 4 KB and more for a line of 1 KB.
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
    "Confidence": None,
}
"""Defaults of an output's fields; the default of ``Number`` is its place in the list, counted from 1."""


def load_entry(line: bytes) -> Entry:
    """The entry in a line written by any version: unknown fields are ignored, missing fields get defaults."""
    document = orjson.loads(line)
    stages = document.get("stages", {})
    known = {name: document[name] for name in _ENTRY if name in document}
    known["stages"] = {
        name: StageRecord(**{key: value for key, value in record.items() if key in _RECORD})
        for name, record in stages.items()
        # A record without these two is unusable: the stage counts as not done.
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
    """The payments of a ledger that was written before single payments were stored: one sum for each stage."""
    payments = {}
    for name, record in stages.items():
        if record.get("cost_usd") or record.get("unpriced"):
            call = f"{BEFORE_PAYMENTS}{name}"
            usd = None if record.get("unpriced") else float(record["cost_usd"])
            payments[call] = Payment(call, name, usd)
    return payments
