"""The parts of a large batch, which several runs work on at once.

The run that holds the batch's lease divides the images into parts and stores the division beside the ledger. Each
part has a lease of its own and its own segments of the ledger. Another run may work on a part only while it holds the
part's lease, and if, after it has read the part's segments, the stored division is open and was written by the
present holder of the batch's lease (`Parts.is_open`). A new holder of the batch's lease closes the division that it
finds, and waits until each part's lease was given back or has expired: afterwards nobody works on a part of it.
"""

import bisect
import hashlib
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Final, Self

import orjson

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.s3_keys import STATE, within
from bg_pipeline.errors import NewerDocument
from bg_pipeline.state.leased_writes import LeasedWriter
from bg_pipeline.state.leases import holder_of
from bg_pipeline.storage.object_store import Store

NAME: Final = "parts.json"
"""The name of the stored division under the batch's ledger prefix."""
VERSION: Final = 1


@dataclass(frozen=True)
class Parts:
    """The stored division of a batch.

    ``holder`` is the token of the batch's lease under which it was written, ``generation`` that run's generation of
    the ledger. ``digest`` stands for everything that a run does with the images: only a run that has the same may
    work on a part. ``starts`` are the names of each part's first image, in order; a part reaches to the next one's
    first image. ``left_behind`` says that an earlier run ended without releasing the batch. ``closed`` means that no
    run may begin with a part any more.
    """

    holder: str
    generation: int
    digest: str
    starts: tuple[str, ...]
    contents: tuple[str, ...]
    left_behind: bool = False
    closed: bool = False
    etag: str = ""

    @classmethod
    def read(cls, store: Store, batch: Batch) -> Self | None:
        """The stored division; None if there is none. Raises `NewerDocument` for one of a newer version."""
        content = store.read(batch.ledger_key(NAME))
        if content is None:
            return None
        try:
            document = orjson.loads(content.data)
            version = int(document["Version"])
            if version <= VERSION:
                return cls(
                    str(document["Holder"]),
                    int(document["Generation"]),
                    str(document["Digest"]),
                    tuple(map(str, document["Starts"])),
                    tuple(map(str, document["Contents"])),
                    bool(document.get("LeftBehind", False)),
                    bool(document.get("Closed", False)),
                    content.etag,
                )
        except (KeyError, TypeError, ValueError):
            return None
        raise NewerDocument(
            f"the parts of batch {batch.path} were written by a newer bg_pipeline (their version is {version}, this "
            f"one knows {VERSION}); run it with that one, or update this one"
        )

    def write(self, store: Store, batch: Batch, writer: LeasedWriter) -> Self:
        """Stores the division in the place of the one with ``etag`` while the batch's lease is held.

        Errors as `LeasedWriter.write`.
        """
        document = {
            "Version": VERSION,
            "Holder": self.holder,
            "Generation": self.generation,
            "Digest": self.digest,
            "Starts": self.starts,
            "Contents": self.contents,
            "LeftBehind": self.left_behind,
            "Closed": self.closed,
            "Token": uuid.uuid4().hex,
        }
        etag = writer.write(
            store,
            batch.ledger_key(NAME),
            orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE),
            media_type="application/json",
            known_etag=self.etag or None,
        )
        return replace(self, etag=etag)

    def is_open(self, store: Store, batch: Batch) -> bool:
        """Whether a run that holds a part's lease may work on the part; two requests."""
        stored = Parts.read(store, batch)
        if stored is None or stored.closed or (stored.holder, stored.starts) != (self.holder, self.starts):
            return False
        holder = holder_of(store, batch.lease_key)
        return holder is not None and holder.token == self.holder

    def number_of(self, image: str) -> int:
        """The part that an image belongs to, counted from 0."""
        return max(bisect.bisect_right(self.starts, image) - 1, 0)


def divided(images: Collection[str], size: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """``Parts.starts`` and ``Parts.contents`` of parts of at most ``size`` images."""
    names = sorted(images)
    parts = [names[first : first + size] for first in range(0, len(names), size)]
    return tuple(part[0] for part in parts), tuple(map(digest_of_names, parts))


def digest_of_names(images: Iterable[str]) -> str:
    """A digest of the names of images, whatever their order."""
    return hashlib.sha256("\n".join(sorted(images)).encode()).hexdigest()[:16]


def part_leases(batch: Batch) -> str:
    """The prefix of the leases of a batch's parts; no batch's own lease has it, as names of batches have no slash."""
    return within(f"{STATE}/leases/{batch.path}", "part-")


def part_lease_key(batch: Batch, number: int) -> str:
    """The key of a part's lease."""
    return f"{part_leases(batch)}{number:05}.json"
