"""The owner of a batch: who prepared it on the page or through the API, by the identity that sign-in proved.

An owner is stored before anything else of the batch and never replaced. A retry or a redo belongs to the owner of the
batch that it repeats, whoever asked for it. Batches from the command line or from S3, and those from before owners
were stored, have none.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import orjson

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.people import Person
from bg_pipeline.errors import PreconditionFailed
from bg_pipeline.state.follow_ups import origin
from bg_pipeline.storage.object_store import Store

MOST_GENERATIONS: Final = 100
"""Retries of retries that are followed to find an owner."""
THREADS: Final = 16


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


def owned_by(store: Store, person: Person, batches: Iterable[Batch]) -> set[Batch]:
    """Those of the batches whose owner is this person."""
    candidates = list(batches)
    with ThreadPoolExecutor(THREADS, "owners") as pool:
        owners = list(pool.map(lambda batch: owner_of(store, batch), candidates))
    return {
        batch
        for batch, owner in zip(candidates, owners, strict=True)
        if owner is not None and owner.is_(person)
    }


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
