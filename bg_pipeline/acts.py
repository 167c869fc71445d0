"""What people do: each act is authorized, written to the audit log, done, and its end is written.

A refusal for want of a role is in the program's log, not in the audit log: who may do nothing can add nothing to it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from bg_pipeline import review
from bg_pipeline.authorization import Authorization, Right
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.people import Person
from bg_pipeline.domain.requests import BatchRequest
from bg_pipeline.reports.overview import BatchOverview
from bg_pipeline.review import Decision, Item, MendedMask, Place, PublishResult, Results, Retry, State
from bg_pipeline.run.batch_work import BatchWork, open_batch
from bg_pipeline.settings import Settings
from bg_pipeline.state.audit import Act, AuditLog
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads import submitting
from bg_pipeline.uploads.listing import discard_draft, move_draft
from bg_pipeline.uploads.submitting import Upload

RESULTS_PER_LINE: Final = 500
"""Results that one audit line names; a decision about more has several lines."""


class Acts:
    """The acts on the batches of one bucket. Thread-safe."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self.authorization = Authorization(settings, store)
        self.log = AuditLog(store)

    # Submitting

    def upload_and_submit(
        self,
        person: Person,
        batch: Batch,
        photos: Sequence[Upload],
        request: bytes,
        *,
        others: Mapping[str, Upload] | None = None,
        done: Callable[[str], None] = lambda name: None,
        new_name: bool = False,
    ) -> None:
        """Uploads a new batch with its request (`submitting.submit`); a batch of a person who signed in is theirs.

        With ``new_name``, for a name that a person chose, raises `UsageError` if the batch exists.
        """
        self.authorization.require(person, Right.SUBMIT)
        if new_name:
            submitting.reserve_name(self._store, batch)
        self.authorization.take(person, batch)
        with self.log.act(person, Act.SUBMIT, batch, Photos=len(photos)) as result:
            submitting.submit(self._store, batch, photos, request, others=others, done=done)
            result["RequestETag"] = self._request_etag(batch)

    def submit(
        self,
        person: Person,
        batch: Batch,
        data: bytes,
        request: BatchRequest,
        *,
        closed_with: Mapping[str, str] | None,
        draft: bool,
    ) -> bool:
        """Submits a batch with a request, given as JSON and parsed (`submitting.hand_over`).

        ``draft`` is whether it had a draft when its photos were listed. False if it was submitted with another
        request. Raises `NoSuchBatch` if its draft was discarded meanwhile.
        """
        self.authorization.require_change(person, batch)
        self.authorization.check_request(person, batch, request)
        with self.log.act(person, Act.SUBMIT, batch, Photos=len(closed_with or ())) as result:
            accepted = submitting.hand_over(self._store, batch, data, closed_with=closed_with, draft=draft)
            result |= {"RequestETag": self._request_etag(batch), "Accepted": accepted}
        return accepted

    def discard(self, person: Person, batch: Batch) -> int:
        """Deletes a draft; returns the number of its photos."""
        self.authorization.require_change(person, batch)
        with self.log.act(person, Act.DISCARD, batch) as result:
            photos = discard_draft(self._store, batch)
            result["Photos"] = photos
        return photos

    def rename_draft(
        self, person: Person, batch: Batch, to: Batch, document: Callable[[bytes], bytes]
    ) -> None:
        """Gives a draft another name (`listing.move_draft`). Raises `UsageError` if there is a batch of that name."""
        self.authorization.require_change(person, batch)
        self.authorization.require(person, Right.SUBMIT)
        submitting.reserve_name(self._store, to)
        self.authorization.take(person, to)
        with self.log.act(person, Act.RENAME, batch, NewName=to.name) as result:
            result |= {"Photos": move_draft(self._store, batch, to, document), "NewBatch": to.path}

    # After a run

    def approve_sample(self, person: Person, overview: BatchOverview, *, seen: str = "") -> bool:
        """Approves a sample (`review.approve_sample`)."""
        self.authorization.require_visible(person, overview.batch)
        self.authorization.require(person, Right.REVIEW)
        tag = seen or overview.request_etag
        with self.log.act(person, Act.APPROVE_SAMPLE, overview.batch, request_etag=tag) as result:
            approved = review.approve_sample(
                self._store,
                overview,
                by=person.name,
                seen=seen,
                secret=self._settings.approval_secret.get_secret_value(),
            )
            result["ApprovedBefore"] = not approved
        return approved

    def retry(self, person: Person, overview: BatchOverview, prepared: Retry) -> Batch:
        """Submits a prepared retry (`Retry.submit`); returns its batch."""
        self.authorization.require_change(person, overview.batch)
        about: dict[str, Any] = {"Photos": prepared.images, "PaidPictures": prepared.pictures}
        with self.log.act(
            person, Act.RETRY, overview.batch, request_etag=overview.request_etag, **about
        ) as result:
            batch = prepared.submit(self._store)
            result["NewBatch"] = batch.path
        return batch

    def decide(
        self, person: Person, work: BatchWork, items: Sequence[Item], state: State, *, reason: str = ""
    ) -> list[Decision]:
        """Stores a person's decision about results (`review.decide`); if it cannot be about one, none is stored."""
        self._require_review(person, work)
        items = list(items)
        review.check_decision(items, state, by=person.name, reason=reason)
        decisions = []
        for start in range(0, max(len(items), 1), RESULTS_PER_LINE):
            some = items[start : start + RESULTS_PER_LINE]
            about = {"Decision": state.value, "Reason": reason, "Results": _named(some)}
            with self._about(person, Act.DECIDE, work, about):
                decisions += review.decide(work.locations.data, some, state, by=person.name, reason=reason)
        return decisions

    def decide_as_seen(
        self, person: Person, work: BatchWork, items: Sequence[Item], state: State, *, reason: str = ""
    ) -> list[str]:
        """Stores decisions where nobody has decided since the person looked (`review.decide_as_seen`).

        If it cannot be about one of the results, none is stored. The audit lines say of which nothing was stored.
        """
        self._require_review(person, work)
        items = list(items)
        review.check_decision(items, state, by=person.name, reason=reason)
        etags: list[str] = []
        for start in range(0, len(items), RESULTS_PER_LINE):
            some = items[start : start + RESULTS_PER_LINE]
            about = {"Decision": state.value, "Reason": reason, "Results": _named(some)}
            with self._about(person, Act.DECIDE, work, about) as result:
                stored = review.decide_as_seen(
                    work.locations.data, some, state, by=person.name, reason=reason
                )
                result["NotStored"] = _without(stored, (item.key for item in some))
            etags += stored
        return etags

    def take_back(self, person: Person, work: BatchWork, decided: Sequence[tuple[str, str]]) -> list[str]:
        """Takes decisions about a batch's results back (`review.take_back`); anybody who reviews may."""
        self._require_review(person, work)
        etags: list[str] = []
        for start in range(0, len(decided), RESULTS_PER_LINE):
            some = decided[start : start + RESULTS_PER_LINE]
            about = {"Results": [{"Key": key} for key, _ in some]}
            with self._about(person, Act.TAKE_BACK, work, about) as result:
                stored = review.take_back(work.locations.data, some, by=person.name)
                result["NotStored"] = _without(stored, (key for key, _ in some))
            etags += stored
        return etags

    def redo(
        self,
        person: Person,
        work: BatchWork,
        items: Sequence[Item],
        *,
        prompt: str = "",
        seed: int | None = None,
    ) -> Batch:
        """Asks for other pictures (`review.redo`); returns the batch that makes them."""
        self._require_review(person, work)
        about = {"Prompt": prompt, "Seed": seed, "Results": _named(items)}
        with self._about(person, Act.REDO, work, about) as result:
            batch = review.redo(
                self._store, self._settings, work, items, by=person.name, prompt=prompt, seed=seed
            )
            result["NewBatch"] = batch.path
        return batch

    def mend(self, person: Person, work: BatchWork, mended: MendedMask) -> Batch:
        """Makes a photo's results anew with a mended mask (`review.mend`); returns the batch that makes them."""
        self._require_review(person, work)
        about = {
            "Results": _named(mended.items),
            "MaskSHA256": mended.digest,
            "PaidPictures": mended.pictures,
        }
        with self._about(person, Act.MEND, work, about) as result:
            batch = review.mend(self._store, self._settings, work, mended, by=person.name)
            result["NewBatch"] = batch.path
        return batch

    def results(self, person: Person, batch: Batch) -> Results:
        """The results of a batch. Raises `UsageError` if it does not exist, or not for this person."""
        self.authorization.require_visible(person, batch)
        return Results(open_batch(self._store, self._settings, batch), self._settings)

    def places(self, person: Person, batch: Batch) -> list[Place]:
        """The places of a batch's results (`review.places`), as `publish` takes them.

        Pictures of batches that the person may not see stand in no place. Raises as `results`.
        """
        return review.places(self.results(person, batch), partial(self.results, person))

    def publish(self, person: Person, work: BatchWork, places: Sequence[Place]) -> PublishResult:
        """Publishes the approved results of ``places``, pictures that were made again in those of their originals.

        See `review.publish`.
        """
        self.authorization.require_visible(person, work.locations.batch)
        self.authorization.require(person, Right.PUBLISH)
        items = list(review.to_publish(places))
        approved = [item for item in items if item.state is State.APPROVED and item.key]
        about = {"Approved": len(approved), "Results": _named(approved[:RESULTS_PER_LINE])}
        with self._about(person, Act.PUBLISH, work, about) as result:
            done = review.publish(work, items)
            result |= {
                "Copied": done.copied,
                "Kept": done.kept,
                "Removed": done.removed,
                "Stale": list(done.stale[:RESULTS_PER_LINE]),
            }
        return done

    @contextmanager
    def spend(self, person: Person, batch: Batch, what: str, photos: int) -> Iterator[dict[str, Any]]:
        """Records paid calls that a person makes before the batch is submitted."""
        self.authorization.require_change(person, batch)
        with self.log.act(person, Act.SPEND, batch, For=what, Photos=photos) as result:
            yield result

    def _require_review(self, person: Person, work: BatchWork) -> None:
        self.authorization.require_visible(person, work.locations.batch)
        self.authorization.require(person, Right.REVIEW)

    @contextmanager
    def _about(
        self, person: Person, act: Act, work: BatchWork, about: Mapping[str, Any]
    ) -> Iterator[dict[str, Any]]:
        tag = work.uploaded.request.etag if work.uploaded.request else ""
        with self.log.act(person, act, work.locations.batch, request_etag=tag, **about) as result:
            yield result

    def _request_etag(self, batch: Batch) -> str:
        info = self._store.head(batch.request_key)
        return info.etag if info else ""


def _without(stored: Sequence[str], keys: Iterable[str]) -> list[str]:
    """The keys of results of which nothing was stored, because somebody else had decided meanwhile."""
    return [key for key, etag in zip(keys, stored, strict=True) if not etag]


def _named(items: Sequence[Item]) -> list[dict[str, str]]:
    return [{"Key": item.key or item.image, "ETag": item.etag} for item in items]
