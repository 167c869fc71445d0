"""A large batch that several runs work on at once, each on one part after the other.

The run that has leased the batch, its owner, divides it, takes part in the work, waits for the parts that others
have, and completes the batch when every image of every part was recorded. Other runs of the date help. If the owner
ends, one of them leases the batch, waits until all parts were given back, and is the next owner. How a part changes
hands: `bg_pipeline.state.batch_parts`.

An image that was recorded in a part is not tried again by the runs that share the batch. A run that must stop leaves
the images that it did not start; only the owner records why they were skipped.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace

from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.run.outcomes import RowOutcome
from bg_pipeline.state.batch_parts import Parts, digest_of_names, divided, part_lease_key, part_leases
from bg_pipeline.state.leased_writes import LeasedWriter
from bg_pipeline.state.leases import Lease, Leases
from bg_pipeline.state.ledger import Ledger
from bg_pipeline.storage.object_store import Store


class SharedBatch:
    """The parts of a batch, as one run works on them. Only the thread that calls `Engine.run` uses it.

    ``work`` is the whole batch, ``own`` says whether this run has leased it. ``stopped`` is why this run starts no
    further image of the batch; ``broken`` why it cannot store what it did.
    """

    def __init__(self, store: Store, leases: Leases, work: BatchWork, parts: Parts, *, own: bool) -> None:
        self._store = store
        self._leases = leases
        self.work = work
        self.parts = parts
        self.own = own
        self.stopped: RowOutcome | None = None
        self.broken = ""
        self.withdrawn = False
        """Whether another run has the batch now, or closed the division: no further image of a part is started."""
        images: defaultdict[int, list[str]] = defaultdict(list)
        for image in work.due:
            images[parts.number_of(image)].append(image)
        self._images: Mapping[int, list[str]] = images
        # The owner begins at one end and the others at the other, so that they rarely try the same part.
        self._left = sorted(images, reverse=not own)
        self._open: set[int] = set()

    @property
    def done(self) -> bool:
        """Whether every image of every part was recorded."""
        return not self._left

    @property
    def working(self) -> bool:
        """Whether this run has a part of the batch."""
        return bool(self._open)

    def next_part(self) -> BatchWork | None:
        """Leases the next part that has images left; None if others have the rest, or nothing is left.

        Raises errors of S3.
        """
        for number in list(self._left):
            if number in self._open:
                continue
            lease = self._leases.acquire(part_lease_key(self.work.locations.batch, number))
            if lease is None:
                continue
            part = None
            try:
                part = self._opened(number, lease)
            finally:
                if part is None:
                    lease.release()
            if part is not None or self.withdrawn:
                return part
        return None

    def _opened(self, number: int, lease: Lease) -> BatchWork | None:
        """A leased part; None if none of its images is left, or if this run may no longer work on it."""
        ledger = self.work.ledger.part(self.parts, number, self._images[number])
        left = [image for image in self._images[number] if image not in ledger.recorded]
        # Helpers that would work on other images than the owner waits for do nothing.
        images = {*self._images[number], *ledger.recorded}
        if not left or (not self.own and digest_of_names(images) != self.parts.contents[number]):
            self._left.remove(number)
            return None
        # Afterwards: then the segments were still there, and the owner waits for what is left.
        if not self.still_open():
            return None
        lost = self.work.lost
        part = replace(
            self.work,
            ledger=ledger,
            due={image: self.work.due[image] for image in left},
            lost={image: lost[image] for image in left if image in lost},
            lease=lease,
            writer=LeasedWriter(lease, self.work.locations.batch.path),
            pending=len(left),
            shared=self,
            part=number,
        )
        if lease.left_behind:
            # A write of the last holder's first segment, which it began before it was suspended, must find that there
            # is one.
            ledger.checkpoint(part.writer, header=True)
        # Whoever had the batch before may have paid for answers that no ledger has.
        lease.left_behind |= self.parts.left_behind
        self._open.add(number)
        return part

    def still_open(self) -> bool:
        """Whether this run may go on with the parts that it has; sets ``withdrawn`` if not. Errors of S3."""
        if not self.own and not self.parts.is_open(self._store, self.work.locations.batch):
            self.withdrawn = True
        return not self.withdrawn

    def end_part(self, part: BatchWork, *, stored: bool) -> None:
        """Must be called at the end of a part; ``stored`` if all that this run did in it is in the part's ledger."""
        if part.part is not None:
            self._open.discard(part.part)
            if stored and not part.left and part.part in self._left:
                self._left.remove(part.part)
        self.stopped = self.stopped or part.stopped

    def delete_leases(self) -> None:
        """Deletes the leases that killed runs left of parts in which there was nothing to do for them.

        Call it only once the division is deleted: nobody works on a part then. Errors of S3.
        """
        for lease in self._store.list(part_leases(self.work.locations.batch)):
            self._store.delete(lease.key)

    def merged_ledger(self) -> Ledger:
        """The stored ledger with all that was recorded in the parts so far, and the header of ``work``."""
        batch, header = self.work.locations.batch, self.work.ledger.header
        ledger = Ledger.read(self._store, batch, list(self._store.list(f"{batch.ledger_prefix}/")))
        ledger.header = header
        return ledger


def digest_of(work: BatchWork, stages: Collection[str]) -> str:
    """Stands for all that a run of these stages does with the images of a batch, whatever is done already."""
    facts = (
        work.prints_digest,
        ",".join(sorted(stages)),
        str(work.ledger.header.get("RequestETag", "")),
        work.locations.output_prefix,
        str(sorted(work.submission.changed.items())),
    )
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]


def share(store: Store, leases: Leases, work: BatchWork, stages: Collection[str], size: int) -> SharedBatch:
    """Divides a leased batch into parts of ``size`` images, which other runs may work on from now on.

    Raises `LeaseLost` or `NotDelivered`; nothing is shared then.
    """
    if work.lease is None:
        raise ValueError("a batch is divided by the run that has leased it")
    batch = work.locations.batch
    # If this run is killed when all parts are done, the next one must report the batch.
    work.ledger.update_header(Reported="")
    work.ledger.checkpoint(work.writer, header=True)
    before = work.ledger.parts
    starts, contents = divided(work.due, size)
    parts = Parts(
        work.lease.token,
        work.ledger.generation,
        digest_of(work, stages),
        starts,
        contents,
        left_behind=work.lease.left_behind,
        etag=before.etag if before else "",
    ).write(store, batch, work.writer)
    work.ledger.parts = parts
    work.shared = SharedBatch(store, leases, work, parts, own=True)
    return work.shared


def has_names_of_its_own(work: BatchWork) -> bool:
    """Whether the results' names are unique by the images' names alone, so that runs need not agree on them."""
    numbers = set()
    for image in work.due:
        settings = work.settings_of(image)
        if any(rendition.FileName for rendition in settings.renditions) or "~" in image:
            return False
        numbers.add(len(settings.outputs) * (len(settings.renditions) or 1))
    return len(numbers) == 1
