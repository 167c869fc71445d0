"""Exports and searches captions and alternative texts.

They are read from the batches' ledgers. The search index is a local file in ``BG_STATE_DIR`` (SQLite with FTS5, no
server); it contains only data that is also in the bucket. An update reads the ledgers that have changed.
"""

import csv
import hashlib
import io
import re
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Final, TypeVar

import orjson

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.s3_keys import UploadDate, date_path
from bg_pipeline.domain.text import spreadsheet_text
from bg_pipeline.errors import BgPipelineError
from bg_pipeline.run.batch_work import BatchWork, open_work, stored_batches
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import ObjectInfo, Store

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """The texts of one image, with the field names of the export; ``Results`` and ``Source`` are keys.

    ``Labels`` are those in use, separated by commas. ``AltText`` is empty if none was asked for.
    """

    ImageName: str
    Ref: str
    AltText: str
    Caption: str
    Labels: str
    Batch: str
    Source: str
    Results: tuple[str, ...]


_NAMES = tuple(field.name for field in fields(CaptionedImage))


def captions(
    store: Store, settings: Settings, dates: Iterable[UploadDate], only: Collection[Batch] = ()
) -> Iterator[CaptionedImage]:
    """All images of the dates that have a caption or labels; one batch is in memory at a time."""
    for uploaded, ledger in stored_batches(store, dates, only):
        if ledger:
            yield from _captioned_images(open_work(store, settings, uploaded, ledger))


def _captioned_images(work: BatchWork) -> Iterator[CaptionedImage]:
    for image in work.images:
        entry = work.ledger.get(image)
        if entry is not None and (entry.caption or entry.labels):
            yield CaptionedImage(
                image,
                work.ref(image),
                entry.alt_text,
                entry.caption,
                entry.labels,
                work.locations.batch.path,
                f"{work.locations.input_prefix}/{image}",
                tuple(output["Key"] for output in entry.outputs if output["Key"]),
            )


def as_csv(images: Iterable[CaptionedImage]) -> Iterator[bytes]:
    """A CSV table in UTF-8, line by line, safe for spreadsheets; several results are lines of one cell."""
    yield _line(_NAMES)
    for image in images:
        *texts, results = astuple(image)
        yield _line(spreadsheet_text(text) for text in (*texts, "\n".join(results)))


def as_json(images: Iterable[CaptionedImage]) -> Iterator[bytes]:
    """A JSON list with one line for each image."""
    start = b"[\n"
    for image in images:
        yield start + orjson.dumps(image)
        start = b",\n"
    yield b"\n]\n" if start == b",\n" else b"[]\n"


def _line(cells: Iterable[str]) -> bytes:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow(cells)
    return out.getvalue().encode()


# Search

WAIT_SECONDS: Final = 30.0
"""Seconds to wait while another process writes to the index."""

_VERSION = 1
_TABLES = f"""
BEGIN EXCLUSIVE;
CREATE TABLE IF NOT EXISTS batches (path TEXT PRIMARY KEY, version TEXT, first INTEGER, last INTEGER);
CREATE VIRTUAL TABLE IF NOT EXISTS images USING fts5(
  ImageName, Ref, AltText, Caption, Labels, Batch UNINDEXED, Source UNINDEXED, Results UNINDEXED,
  tokenize = 'porter unicode61 remove_diacritics 2'
);
PRAGMA user_version = {_VERSION};
COMMIT;
"""


def index_file(settings: Settings) -> Path:
    """The local file of the index for the settings' bucket."""
    return settings.state_dir / "search" / f"{settings.bucket}.sqlite"


class CaptionIndex:
    """A full-text index of the texts of a bucket's images. Safe for threads and for several processes.

    A file that is damaged, of another program or of another version is created again, because all of its data is in
    the bucket.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def update(
        self, store: Store, settings: Settings, dates: Collection[UploadDate], only: Collection[Batch] = ()
    ) -> None:
        """Updates the index for the dates: two listings for each date, and the ledgers that have changed."""

        def update(connection: sqlite3.Connection) -> None:
            known = dict(connection.execute("SELECT path, version FROM batches").fetchall())
            days = {date_path(date) for date in dates}
            gone = {path for path in known if path[:10] in days and not only}
            for uploaded, ledger in stored_batches(store, dates, only):
                path, version = uploaded.batch.path, _version(ledger)
                gone.discard(path)
                if known.get(path, _version([])) != version:
                    _replace(
                        connection,
                        path,
                        version,
                        _captioned_images(open_work(store, settings, uploaded, ledger)),
                    )
            for path in gone:
                _replace(connection, path, _version([]), [])

        self._with_connection(update)

    def search(
        self,
        words: str,
        *,
        first: UploadDate | None = None,
        last: UploadDate | None = None,
        only: Collection[Batch] = (),
        limit: int = 100,
    ) -> list[CaptionedImage]:
        """The images whose texts contain all ``words``, best match first, as of the last `update`.

        A word also finds longer words that begin with it and other forms of it ("dogs" finds "dog"); case and
        accents do not matter. No character is an operator. Words without a letter or digit find nothing.
        """
        query = " ".join(f'"{word}"*' for word in re.findall(r"\w+", words))
        if not query:
            return []
        where, values = ["images MATCH ?"], [query]
        if first:
            where.append("Batch >= ?")
            values.append(date_path(first))
        if last:
            where.append("Batch < ?")
            values.append(f"{date_path(last)}0")  # "0" is the character after "/"
        if only:
            where.append(f"Batch IN ({', '.join('?' * len(only))})")
            values += [batch.path for batch in only]
        statement = (
            f"SELECT {', '.join(_NAMES)} FROM images WHERE {' AND '.join(where)} ORDER BY rank LIMIT ?"  # noqa: S608
        )
        rows = self._with_connection(
            lambda connection: connection.execute(statement, [*values, limit]).fetchall()
        )
        return [CaptionedImage(*[*row[:-1], tuple(orjson.loads(row[-1]))]) for row in rows]

    def _with_connection(self, use: Callable[[sqlite3.Connection], T]) -> T:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        try:
            try:
                with closing(_opened(self._file)) as connection:
                    return use(connection)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                self._file.unlink(missing_ok=True)
                with closing(_opened(self._file)) as connection:
                    return use(connection)
        except sqlite3.Error as error:
            raise BgPipelineError(
                f"the search index {self._file} cannot be used ({error}); check that BG_STATE_DIR is writable"
            ) from error


def _opened(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=WAIT_SECONDS, isolation_level=None)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"it is of version {version}")
        if version == 0:
            connection.executescript(_TABLES)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _version(ledger: Iterable[ObjectInfo]) -> str:
    """A digest of the listing of a batch's ledger."""
    return hashlib.sha256(orjson.dumps([(found.key, found.etag) for found in ledger])).hexdigest()


def _replace(
    connection: sqlite3.Connection, path: str, version: str, images: Iterable[CaptionedImage]
) -> None:
    """Replaces the images of a batch, in one transaction."""
    rows = [(*texts, orjson.dumps(results).decode()) for *texts, results in map(astuple, images)]
    marks = ", ".join("?" * len(_NAMES))
    connection.execute("BEGIN IMMEDIATE")
    try:
        # The images of a batch are always written together, so their row numbers are contiguous.
        before = connection.execute("SELECT first, last FROM batches WHERE path = ?", (path,)).fetchone()
        connection.execute("DELETE FROM images WHERE rowid BETWEEN ? AND ?", before or (1, 0))
        (last,) = connection.execute("SELECT coalesce(max(last), 0) FROM batches").fetchone()
        connection.executemany(
            f"INSERT INTO images (rowid, {', '.join(_NAMES)}) VALUES (?, {marks})",  # noqa: S608
            ((number, *row) for number, row in enumerate(rows, last + 1)),
        )
        connection.execute(
            "INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?)", (path, version, last + 1, last + len(rows))
        )
        connection.execute("COMMIT")
    except sqlite3.Error:
        connection.execute("ROLLBACK")
        raise
