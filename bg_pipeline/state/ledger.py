"""The ledger of a batch: what was done for each image, so that a re-run does only what is missing, failed or changed.

A ledger is one S3 object of gzipped JSON lines: a header, then one entry for each image. During a run, new entries
are stored in separate segment objects; the end of the run merges them into the one object, and after a crash the
segments are read as well. The ledger only records what is stored elsewhere: entries that a crash loses are rebuilt
from the stored answers (`answers`), so nothing is paid for again.

Each holder of the batch's lease writes under its own generation, one higher than any it found. A segment with a lower
generation than the merged ledger was written by a holder that had lost the lease, and is ignored.

If several runs work on parts of the batch (`batch_parts`), each part has segments of its own, with the generation of
the run that divided the batch. They have entries only, no header, and are merged like the others.
"""

import gzip
import io
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from typing import Any

import orjson

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.ledger_entries import (
    DEFAULTS,
    Entry,
    dump_entry,
    load_entry,
    stored_payments,
)
from bg_pipeline.domain.payments import Payment, as_stored, from_stored, record
from bg_pipeline.errors import NewerDocument
from bg_pipeline.state import batch_parts
from bg_pipeline.state.batch_parts import Parts
from bg_pipeline.state.compressed_rows import CompressedRows
from bg_pipeline.state.leased_writes import LeasedWriter
from bg_pipeline.storage.object_store import ObjectInfo, Store

WHOLE = "ledger.jsonl.gz"
VERSION = 2
_PART = "Part"
"""The header field of a part's segment, whose other fields do not count."""
VERSIONS = frozenset({1, 2})
"""Versions that can be read. Version 1 has a sum for each stage instead of payments."""

_SEGMENT = re.compile(r"segment-(?:([0-9]+)-)?([0-9]+)\.")
_PART_SEGMENT = re.compile(r"segment-([0-9]+)-([0-9]+)-([0-9]+)-([0-9]+)\.")
"""Generation, number of the part counted from 1, holder of the part, number."""


def _segment(key: str) -> tuple[int, int, int, int]:
    """Generation, part (0: none), holder of the part and number of a segment; in version 1 the generation is 0."""
    name = key.rpartition("/")[2]
    if part := _PART_SEGMENT.search(name):
        return int(part[1]), int(part[2]), int(part[3]), int(part[4])
    match = _SEGMENT.search(name)
    return (int(match[1] or 0), 0, 0, int(match[2])) if match else (0, 0, 0, 0)


class Ledger:
    """One batch's ledger; used by the holder of the batch's lease. Several threads may read while one calls `put`."""

    def __init__(self, store: Store, batch: Batch) -> None:
        self._store = store
        self._batch = batch
        self._lines = CompressedRows()
        # A dict for its order: reading lines in the order in which they were set is fast.
        self._unsaved: dict[str, None] = {}
        self._generation = 1
        self._segments = 0
        self._changed = False
        self._etag: str | None = None
        self._part: tuple[int, int, int] | None = None
        self.header: dict[str, Any] = {}
        self.parts: Parts | None = None
        """The stored division of the batch into parts, if there is one."""
        self.recorded: frozenset[str] = frozenset()
        """In the ledger of a part: the images that were recorded since the batch was divided."""

    @classmethod
    def read(cls, store: Store, batch: Batch, objects: Sequence[ObjectInfo]) -> "Ledger":
        """Reads the stored ledger; ``objects`` is the listing of the batch's ledger prefix.

        Torn or foreign objects are ignored: their images are checked again, and nothing is lost. Raises
        `NewerDocument` for a ledger of a newer version.
        """
        ledger = cls(store, batch)
        whole, parts = batch.ledger_key(WHOLE), batch.ledger_key(batch_parts.NAME)
        keys = [each.key for each in objects]
        segments = sorted((key for key in keys if key not in (whole, parts)), key=_segment)
        newest = 0
        if whole in keys:
            content = store.read(whole)
            if content is not None:
                ledger._etag = content.etag
                ledger._read_lines(content.data)
                newest = _generation(ledger.header)
        for key in segments:
            if _segment(key)[0] >= newest:
                content = store.read(key)
                if content is not None:
                    ledger._read_lines(content.data)
        if parts in keys:
            ledger.parts = Parts.read(store, batch)
        divided = ledger.parts.generation if ledger.parts else 0
        ledger._generation = 1 + max([newest, divided, *(_segment(key)[0] for key in segments)])
        ledger._changed = bool(segments) or parts in keys
        return ledger

    @property
    def generation(self) -> int:
        """The generation under which this ledger is written."""
        return self._generation

    def part(self, parts: Parts, number: int, images: Collection[str]) -> "Ledger":
        """The ledger of one part (counted from 0) with the present entries of its ``images``; two or more requests.

        Its `checkpoint` writes segments of the part. The part's lease has to be held.
        """
        part = Ledger(self._store, self._batch)
        for image in images:
            if image in self._lines:
                part._lines[image] = self._lines[image]
        prefix = self._batch.ledger_key(f"segment-{parts.generation:06}-{number + 1:05}-")
        segments = sorted((each.key for each in self._store.list(prefix)), key=_segment)
        recorded: set[str] = set()
        for key in segments:
            content = self._store.read(key)
            if content is not None:
                recorded.update(part._read_lines(content.data))
        part.recorded = frozenset(recorded)
        holder = 1 + max((_segment(key)[2] for key in segments), default=0)
        part._part = parts.generation, number + 1, holder
        return part

    def _read_lines(self, data: bytes) -> Iterable[str]:
        """Adds the entries of a stored object and returns their images; none if it is torn or foreign."""
        try:
            # Read line by line, because the text of 10,000 images has 10 MB.
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as text:
                document = orjson.loads(text.readline())
                version = document.get("Version") if isinstance(document, dict) else None
                if isinstance(version, int) and version > VERSION:
                    raise NewerDocument(
                        f"the ledger of batch {self._batch.path} was written by a newer bg_pipeline (its version is "
                        f"{version}, this one knows {VERSION}); run it with that one, or update this one"
                    )
                if version not in VERSIONS:
                    return ()
                lines = CompressedRows()
                for line in text:
                    entry = orjson.loads(line)
                    if isinstance(entry, dict) and "image" in entry:
                        lines[entry["image"]] = line.rstrip(b"\n")
        except (OSError, EOFError, zlib.error, ValueError):
            return ()
        if _PART not in document:
            self.header = document
        images = list(lines)
        if self._lines:
            self._lines.update(lines)
        else:
            self._lines = lines
        return images

    def __len__(self) -> int:
        return len(self._lines)

    def get(self, image: str) -> Entry | None:
        """The entry of an image; None if there is none."""
        line = self._lines.get(image)
        return None if line is None else load_entry(line)

    def images(self) -> Set[str]:
        """The names of all images with an entry."""
        return self._lines.keys()

    def put(self, entry: Entry) -> None:
        """Sets an image's entry; the next `checkpoint` or `finish` stores it."""
        line = dump_entry(entry)
        # In a part an entry also says that the image was tried, whether its outcome is another one or not.
        if self._part is not None or self._lines.get(entry.image) != line:
            self._lines[entry.image] = line
            self._unsaved.pop(entry.image, None)
            self._unsaved[entry.image] = None

    def keep_only(self, images: Sequence[str]) -> None:
        """Removes the entries of all other images; their payments are kept in the header.

        An image that is in ``images`` again gets its payments back.
        """
        self._restore_dropped(images)
        for image in self._lines.keys() - set(images):
            dropped = load_entry(self._lines[image]).payments
            if dropped:
                self.header["Dropped"] = {**self.header.get("Dropped", {}), image: as_stored(dropped)}
            del self._lines[image]
            self._unsaved.pop(image, None)
            self._changed = True

    def _restore_dropped(self, images: Sequence[str]) -> None:
        restored = self.dropped.keys() & set(images)
        for image in restored:
            entry = self.get(image) or Entry(image)
            for payment in self.dropped[image].values():
                record(entry.payments, payment)
            self.put(entry)
        if restored:
            self.header["Dropped"] = {
                image: paid for image, paid in self.header["Dropped"].items() if image not in restored
            }
            self._changed = True

    @property
    def dropped(self) -> dict[str, dict[str, Payment]]:
        """The payments for images without an entry (see `keep_only`), by image and call."""
        return {image: from_stored(paid) for image, paid in self.header.get("Dropped", {}).items()}

    def update_header(self, **facts: Any) -> None:
        """Sets header fields, which hold facts about the whole batch."""
        if {**self.header, **facts} != self.header:
            self.header |= facts
            self._changed = True

    def entries(self) -> Iterator[Entry]:
        """Yields all entries in the order in which the images were added."""
        return map(load_entry, self._lines.values())

    def field_of_each(self, field: str) -> Iterator[tuple[str, Any]]:
        """Yields each image with one field of its entry; takes a quarter of the time of `entries`."""
        default = DEFAULTS[field]
        return ((image, orjson.loads(line).get(field, default)) for image, line in self._lines.items())

    def payments(self) -> Iterator[Payment]:
        """Yields all payments, including those for dropped images; takes half the time of `entries`."""
        for line in self._lines.values():
            yield from stored_payments(orjson.loads(line)).values()
        for dropped in self.dropped.values():
            yield from dropped.values()

    @property
    def unsaved(self) -> int:
        """Number of entries that are not stored yet."""
        return len(self._unsaved)

    def checkpoint(self, writer: LeasedWriter, *, header: bool = False) -> None:
        """Stores the unsaved entries and the header as a new segment; with ``header`` also if no entry is unsaved."""
        if self._unsaved or header:
            lines = [self._lines[image] for image in self._unsaved]
            name = f"segment-{self._generation:06}"
            if self._part is not None:
                generation, number, holder = self._part
                name = f"segment-{generation:06}-{number:05}-{holder:03}"
            self._write(writer, f"{name}-{self._segments:06}.jsonl.gz", lines)
            self._segments += 1
            self._unsaved.clear()
            self._changed = True

    def finish(self, writer: LeasedWriter) -> None:
        """Stores the whole ledger as one object if anything changed; deletes the segments and the division."""
        if not self._changed and not self._unsaved:
            return
        self.header["Generation"] = self._generation
        self._etag = self._write(writer, WHOLE, self._lines.values(), known_etag=self._etag)
        self._unsaved.clear()
        if self.parts is not None:
            # First: a run that finds no segments of a part must not find the division either.
            writer.delete(self._store, self._batch.ledger_key(batch_parts.NAME), self.parts.etag)
            self.parts = None
        for segment in self._store.list(f"{self._batch.ledger_prefix}/segment-"):
            if _segment(segment.key)[0] <= self._generation:
                self._store.delete(segment.key)
        self._segments = 0
        self._changed = False

    def _write(
        self, writer: LeasedWriter, name: str, lines: Iterable[bytes], *, known_etag: str | None = None
    ) -> str:
        header = orjson.dumps(
            {**self.header, "Version": VERSION}
            if self._part is None
            else {"Version": VERSION, _PART: self._part[1]}
        )
        file = io.BytesIO()
        # Level 1 compresses to a tenth of the size, in a tenth of the time of the default level.
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0) as text:
            text.write(header)
            text.writelines(b"\n" + line for line in lines)
        key = self._batch.ledger_key(name)
        return writer.write(
            self._store, key, file.getvalue(), media_type="application/gzip", known_etag=known_etag
        )


def _generation(header: dict[str, Any]) -> int:
    generation = header.get("Generation", 0)
    return generation if isinstance(generation, int) else 0
