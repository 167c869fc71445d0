"""The owner of a batch: who prepared it on the page or through the API, by the identity that sign-in proved.

An owner is stored before anything else of the batch and never replaced. A retry or a redo belongs to the owner of the
batch that it repeats, whoever asked for it. Batches from the command line or from S3, and those from before owners
were stored, have none.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

import orjson

from bg_pipeline.domain.batches import Batch, origin_key
from bg_pipeline.domain.people import Person
from bg_pipeline.domain.s3_keys import UploadDate, owners_of, retries_of
from bg_pipeline.errors import PreconditionFailed
from bg_pipeline.state.follow_ups import origin, parse_origin
from bg_pipeline.storage.object_store import Store

MOST_GENERATIONS: Final = 100
"""Retries of retries that are followed to find an owner."""
THREADS: Final = 16
MOST_CACHED: Final = 20_000
"""Documents of each kind; an owner takes about 400 bytes."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The identity of a batch's owner; ``name`` is for people to read."""

    issuer: str
    subject: str
    name: str = ""

    def is_(self, person: Person) -> bool:
        """Whether this is the person: equal issuer and equal subject, to the letter."""
        return person.signed_in and (self.issuer, self.subject) == (person.issuer, person.subject)


UNREADABLE: Final = Owner("", "")
"""The owner in a document that cannot be read: it is nobody."""


def set_owner(store: Store, batch: Batch, person: Person) -> Owner | None:
    """Makes a person who signed in the owner of a new batch; returns the owner, who may be somebody else.

    The first one stays. None for a person who did not sign in: nothing is stored.
    """
    if not person.signed_in:
        return None
    document = {
        "Version": 1,
        "Batch": batch.path,
        "Issuer": person.issuer,
        "Subject": person.subject,
        "Name": person.name,
    }
    try:
        store.write_json(batch.owner_key, document, if_absent=True)
    except PreconditionFailed:
        content = store.read(batch.owner_key)
        return UNREADABLE if content is None else _parse(content.data)
    return Owner(person.issuer, person.subject, person.name)


def owner_of(store: Store, batch: Batch) -> Owner | None:
    """The owner of a batch, or of the batch that it repeats; None if there is none."""
    seen: set[Batch] = set()
    current: Batch | None = batch
    while current is not None and current not in seen and len(seen) < MOST_GENERATIONS:
        content = store.read(current.owner_key)
        if content is not None:
            return _parse(content.data)
        seen.add(current)
        current = origin(store, current)
    return None


class OwnerLists:
    """Finds a person's batches among many, for lists that are read again and again. Thread-safe.

    Each call lists the owners of the batches' dates, so it sees what any process has stored by then. The documents
    are read once for each version (ETag); the `MOST_CACHED` that were used last are kept.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        # Documents that are missing raise, and are not cached.
        self._owner = lru_cache(MOST_CACHED)(self._read_owner)
        self._origin = lru_cache(MOST_CACHED)(self._read_origin)

    def owned_by(self, person: Person, batches: Iterable[Batch]) -> set[Batch]:
        """Those of the batches whose owner is this person."""
        candidates = list(batches)
        etags: dict[str, str] = {}
        listed: set[UploadDate] = set()
        owners: dict[Batch, Owner | None] = {}
        # Each generation of retries leads to older batches, perhaps of other dates.
        left = {batch: batch for batch in candidates}
        for _ in range(MOST_GENERATIONS):
            if not left:
                break
            for date in {batch.date for batch in left.values()} - listed:
                etags |= self._listed(date)
                listed.add(date)
            with ThreadPoolExecutor(THREADS, "owners") as pool:
                found = list(pool.map(partial(self._look, etags), left.values()))
            steps = dict(zip(left, found, strict=True))
            owners |= {batch: step for batch, step in steps.items() if not isinstance(step, Batch)}
            left = {batch: step for batch, step in steps.items() if isinstance(step, Batch)}
        return {batch for batch in candidates if (owner := owners.get(batch)) and owner.is_(person)}

    def _listed(self, date: UploadDate) -> dict[str, str]:
        """The ETags of the documents that lead to the owners of a date's batches, by key."""
        return {
            info.key: info.etag
            for prefix in (owners_of(date), retries_of(date))
            for info in self._store.list(f"{prefix}/")
        }

    def _look(self, etags: Mapping[str, str], batch: Batch) -> Owner | Batch | None:
        """The owner of a batch, or the batch that it repeats; None if there is neither among the listed documents."""
        with suppress(FileNotFoundError):
            if etag := etags.get(batch.owner_key):
                return self._owner(batch.owner_key, etag)
            if etag := etags.get(origin_key(batch)):
                return self._origin(origin_key(batch), etag)
        return None

    def _read_owner(self, key: str, etag: str) -> Owner:
        return _parse(self._read(key))

    def _read_origin(self, key: str, etag: str) -> Batch | None:
        return parse_origin(self._read(key))

    def _read(self, key: str) -> bytes:
        content = self._store.read(key)
        if content is None:
            raise FileNotFoundError(key)
        return content.data


def _parse(data: bytes) -> Owner:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return UNREADABLE
    if not isinstance(document, dict):
        return UNREADABLE
    values = [document.get(name) for name in ("Issuer", "Subject", "Name")]
    issuer, subject, name = (value if isinstance(value, str) else "" for value in values)
    return Owner(issuer, subject, name) if issuer and subject else UNREADABLE
