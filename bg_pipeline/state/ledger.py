"""What was done for each image of a batch, so that a re-run does only what is missing, failed or changed.

A batch's ledger is one object of gzipped JSON lines: a header, then an entry for each image. While a run
works, what it finished is appended in segments beside it, which the end of the run folds into the one object;
after a crash the segments are read as well. The ledger is a record of what is stored, never the only copy of
anything that was paid for: what a crash keeps out of it is found again in `answers`.
"""

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from bg_pipeline.layout import Batch
from bg_pipeline.state.lines import Lines
from bg_pipeline.store import Store, Stored

WHOLE = "ledger.jsonl.gz"
VERSION = 1


@dataclass(slots=True)
class StageRecord:
    """How one stage of one image ended.

    ``made_for`` is the fingerprint of everything its outcome depends on. ``final`` says that doing it again
    with the same fingerprint would end the same way.
    """

    made_for: str
    status: str
    final: bool = True
    error: str = ""
    cause: str = ""
    cost_usd: float = 0.0
    unpriced: bool = False
    seconds: float = 0.0
    reused: bool = False


@dataclass(slots=True)
class Entry:
    """What is known of one image: its source, each stage's record, and what came of it.

    ``outputs`` are the outputs of the report's row with their number, ``files`` maps a result's key to the tag
    it was stored under, ``names`` a result's number to the name bound to it. ``archived`` is where the source was
    moved to (``s3://bucket/key``); it counts while nothing lies where it was uploaded.
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


def _dump(entry: Entry) -> bytes:
    # A copy: orjson's own bytes keep the buffer they were written into, 4 KB and more for a line of 1 KB.
    return bytes(memoryview(orjson.dumps(entry)))


_FIELDS = frozenset(Entry.__dataclass_fields__)
_RECORD_FIELDS = frozenset(StageRecord.__dataclass_fields__)
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


def _load(line: bytes) -> Entry:
    """An entry as any version of the program wrote it: unknown fields are left out, missing ones have defaults."""
    document = orjson.loads(line)
    said = {field: document[field] for field in document if field in _FIELDS}
    said["stages"] = {
        name: StageRecord(**{field: record[field] for field in record if field in _RECORD_FIELDS})
        for name, record in document.get("stages", {}).items()
        # Without these two nothing can be told of the stage: it counts as not done.
        if "made_for" in record and "status" in record
    }
    said["outputs"] = [
        {**_OUTPUT, "Number": number, **output}
        for number, output in enumerate(document.get("outputs", ()), 1)
        if "Status" in output
    ]
    return Entry(**said)


def _number(segment_key: str) -> int:
    number = segment_key.rpartition("segment-")[2].partition(".")[0]
    return int(number) if number.isdecimal() else 0


class Ledger:
    """One batch's ledger, in the hands of whoever holds the batch's lease; threads may read, and one of them put."""

    def __init__(self, store: Store, batch: Batch) -> None:
        self._store = store
        self._batch = batch
        self._lines = Lines()
        self._unsaved: set[str] = set()
        self._segments = 0
        self._changed = False
        self.header: dict[str, Any] = {}

    @classmethod
    def read(cls, store: Store, batch: Batch, objects: Sequence[Stored]) -> "Ledger":
        """The stored ledger; ``objects`` is the listing of the batch's ledger prefix.

        What cannot be read (torn or foreign) is passed over: its images are checked again, nothing is lost.
        """
        ledger = cls(store, batch)
        whole = batch.ledger_key(WHOLE)
        segments = sorted(found.key for found in objects if found.key != whole)
        for key in [whole, *segments] if len(segments) < len(objects) else segments:
            content = store.read(key)
            if content is not None:
                ledger._take(content.data)
        ledger._segments = max((_number(key) for key in segments), default=-1) + 1
        ledger._changed = bool(segments)
        return ledger

    def _take(self, data: bytes) -> None:
        try:
            # Line by line: the text of 10,000 images takes 10 MB.
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as text:
                document = orjson.loads(text.readline())
                if not isinstance(document, dict) or document.get("Version") != VERSION:
                    return
                lines = Lines()
                for line in text:
                    entry = orjson.loads(line)
                    if isinstance(entry, dict) and "image" in entry:
                        lines[entry["image"]] = line.rstrip(b"\n")
        except (OSError, EOFError, zlib.error, ValueError):
            return
        self.header = document
        if self._lines:
            self._lines.update(lines)
        else:
            self._lines = lines

    def __len__(self) -> int:
        return len(self._lines)

    def get(self, image: str) -> Entry | None:
        """The entry of an image, or None if nothing was done for it."""
        line = self._lines.get(image)
        return None if line is None else _load(line)

    def put(self, entry: Entry) -> None:
        """Takes an image's new entry; it is stored by the next `checkpoint` or `finish`."""
        line = _dump(entry)
        if self._lines.get(entry.image) != line:
            self._lines[entry.image] = line
            self._unsaved.add(entry.image)

    def keep_only(self, images: Sequence[str]) -> None:
        """Forgets images that are no longer asked for."""
        for image in self._lines.keys() - set(images):
            del self._lines[image]
            self._unsaved.discard(image)
            self._changed = True

    def describe(self, **facts: Any) -> None:
        """Sets facts of the batch as a whole."""
        if {**self.header, **facts} != self.header:
            self.header |= facts
            self._changed = True

    def entries(self) -> Iterator[Entry]:
        """Every entry, in the order in which the images were first seen."""
        return map(_load, self._lines.values())

    def each(self, field: str) -> Iterator[tuple[str, Any]]:
        """Every image with one field of its entry, in a quarter of the time that `entries` takes."""
        return ((image, orjson.loads(line).get(field)) for image, line in self._lines.items())

    @property
    def unsaved(self) -> int:
        return len(self._unsaved)

    def checkpoint(self) -> None:
        """Stores what is new since the last time, in a segment of its own."""
        if self._unsaved:
            lines = map(self._lines.__getitem__, self._unsaved)
            self._write(f"segment-{self._segments:06}.jsonl.gz", lines)
            self._segments += 1
            self._unsaved.clear()
            self._changed = True

    def finish(self) -> None:
        """Stores the whole ledger as one object, if anything changed, and removes the segments."""
        if not self._changed and not self._unsaved:
            return
        self._write(WHOLE, self._lines.values())
        self._unsaved.clear()
        for found in self._store.list(f"{self._batch.ledger_prefix}/segment-"):
            self._store.delete(found.key)
        self._segments = 0
        self._changed = False

    def _write(self, name: str, lines: Iterable[bytes]) -> None:
        header = orjson.dumps({**self.header, "Version": VERSION})
        file = io.BytesIO()
        # Level 1: a tenth of the size for a tenth of the time of the default level.
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0) as text:
            text.write(header)
            text.writelines(b"\n" + line for line in lines)
        self._store.write(self._batch.ledger_key(name), file.getvalue(), media_type="application/gzip")
