"""Paid answers, kept by what was asked, so that nothing is paid for twice.

The identity of an answer is the SHA-256 of the source's bytes and of everything asked about them, but not of
the model that happened to answer. An answer is stored before anything else is done with it. A call is claimed
first, with a conditional write, so that two processes do not pay for one answer and so that a call that was under
way when a process died is known to have been.
"""

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import orjson
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.payments import Payment
from bg_pipeline.errors import CallError, ClaimLost, RunStopped
from bg_pipeline.state.claims import (
    CALL_SECONDS,
    TRIES,
    Claim,
    Price,
    held_by,
    is_active,
    made_certain,
)
from bg_pipeline.state.leases import CLOCK_SKEW, seconds_since_boot
from bg_pipeline.state.process_identity import is_dead
from bg_pipeline.storage.object_store import ObjectContent, Store

POLL_SECONDS = 2.0

REMEMBERED = 8
"""Occasions that an answer names; its metadata is 2 KB in all."""

KEEP_PAUSES = (1.0, 4.0)
"""Seconds between attempts to store an answer that S3 does not take, after boto3's own attempts."""


def identity(kind: str, source_sha256: str, asked: Mapping[str, Any]) -> str:
    """The SHA-256, in hex, under which the answer to this question about these bytes is kept."""
    document = {"kind": kind, "source": source_sha256, "asked": asked}
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered, and what that cost; ``cost_usd`` is None where the price is not known.

    ``made_for`` is a short digest of the image's key for which it was paid; any other image gets it free.
    ``by_words`` says that the model found the subject from words. ``claim`` is the token of the claim under which
    the call was made, ``call`` the id of the call and ``paid_usd`` what the whole call cost, its other pictures
    included. ``earlier`` counts payments of earlier calls that the claim tells of, ``maybe_billed`` those of them
    whose end is unknown. ``occasion`` names the refresh on which it was made, or is empty; ``occasions`` names that
    and those on which answers were made that it has replaced, the latest `REMEMBERED` of them.
    """

    data: bytes
    model: str
    region: str = ""
    seed: int | None = None
    cost_usd: float | None = None
    made_for: str = ""
    maybe_billed: int = 0
    by_words: bool = False
    claim: str = ""
    call: str = ""
    paid_usd: float | None = None
    earlier: int = 0
    occasion: str = ""
    occasions: tuple[str, ...] = ()

    @property
    def payment(self) -> Payment:
        """What the call that gave it cost."""
        return Payment(self.call, "", self.paid_usd, certain=True, made_for=self.made_for)

    def is_acceptable(self, terms: "AnswerPolicy | None") -> bool:
        """Whether it may be used on these terms; without terms any may."""
        if terms is None:
            return True
        # What was made anew since, on another occasion, is as good: two refreshes at once do not pay in turns.
        made_on = {self.occasion, *self.occasions}
        return self.is_by(terms.models) and (not terms.occasion or not made_on.isdisjoint(terms.occasions))

    def is_by(self, models: Collection[str]) -> bool:
        """Whether one of ``models`` made it; any will do if none is named."""
        return not models or self.model in models

    def metadata(self) -> dict[str, str]:
        document = {
            "Version": 1,
            "model": self.model,
            "region": self.region,
            "seed": self.seed,
            "cost": self.cost_usd,
            "for": self.made_for,
            "maybe": self.maybe_billed,
            "words": self.by_words,
            "claim": self.claim,
            "call": self.call,
            "paid": self.paid_usd,
            "earlier": self.earlier,
            "occasion": self.occasion,
            "occasions": self.occasions,
        }
        return {"answer": json.dumps(document)}  # object metadata is ASCII, 2 KB in all


@dataclass(frozen=True)
class AnswerPolicy:
    """Which answers will do, and on whose behalf a call is made where there is none.

    One of ``models`` has to have made it (any, if none is named). ``occasion`` names the refresh on which it has to
    have been made, or is empty. ``refresh_occasion`` is the occasion of the run's own wish: where a batch goes on
    with an earlier refresh, what is made for it is made on both, and serves other batches of the run. ``batch`` is
    the one that is worked on, for people who read the claim. ``retry`` names the occasion on which a person asked
    again for what failed, or is empty. ``stop`` ends all waiting.
    """

    stop: threading.Event
    batch: str = ""
    retry: str = ""
    models: Collection[str] = ()
    occasion: str = ""
    refresh_occasion: str = ""

    @property
    def occasions(self) -> tuple[str, ...]:
        """The refreshes on any of which it may have been made; none where it need not be made anew."""
        return tuple(filter(None, (self.refresh_occasion, self.occasion))) if self.occasion else ()


def _read(data: bytes, metadata: Mapping[str, str]) -> Answer | None:
    try:
        document = orjson.loads(metadata["answer"])
        return Answer(
            data,
            document["model"],
            region=document.get("region", ""),
            seed=document.get("seed"),
            cost_usd=document.get("cost"),
            made_for=document.get("for", ""),
            maybe_billed=document.get("maybe", 0),
            by_words=document.get("words", False),
            claim=document.get("claim", ""),
            call=document.get("call", ""),
            # Before payments were kept each answer told its own price only.
            paid_usd=document.get("paid", document.get("cost")),
            earlier=document.get("earlier", 0),
            occasion=document.get("occasion", ""),
            occasions=tuple(document.get("occasions", ())),
        )
    except (AttributeError, KeyError, TypeError, orjson.JSONDecodeError):
        return None  # a foreign object under an answer's key is not an answer


class AnswerStore:
    """The stored answers of a bucket, as one process sees them. Safe for threads."""

    def __init__(self, store: Store, holder: str, *, clock: Callable[[], float] = seconds_since_boot) -> None:
        self._store = store
        self._holder = holder
        self._clock = clock
        self._lock = threading.Lock()
        self._busy: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def lock_for(self, name: str) -> Iterator[None]:
        """Holds back this process's other threads that want the same answer."""
        with self._lock:
            lock, waiting = self._busy.get(name, (threading.Lock(), 0))
            self._busy[name] = (lock, waiting + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, waiting = self._busy.pop(name)
                if waiting > 1:
                    self._busy[name] = (lock, waiting - 1)

    def find(self, kind: str, name: str, terms: AnswerPolicy | None = None) -> Answer | None:
        """The stored answer, if it will do; without ``terms`` any will."""
        answer = self._stored(kind, name)
        return answer if answer and answer.is_acceptable(terms) else None

    def _stored(self, kind: str, name: str) -> Answer | None:
        content = self._store.read(s3_keys.answer_key(kind, name))
        return _read(content.data, content.metadata) if content else None

    def payments(self, name: str) -> list[Payment]:
        """The payments that the claim of a call tells of, for whatever image they were made."""
        content = self._store.read(s3_keys.call_key(name))
        return held_by(content.data)["Payments"] if content else []

    def keep(
        self, kind: str, name: str, answer: Answer, *, media_type: str, claim: Claim | None = None
    ) -> Answer:
        """Stores the answer with what its ``claim`` tells of it; when this returns it will not be paid for again.

        A passing fault of S3 is waited out for a while: what it would lose is paid for.
        """
        if claim is not None:
            made_on = (*claim.occasions, *([answer.occasion] if answer.occasion else []))
            answer = replace(
                answer,
                claim=claim.etag,
                maybe_billed=claim.maybe_billed,
                earlier=len(claim.earlier),
                occasions=tuple(dict.fromkeys(made_on))[-REMEMBERED:],
            )
        key = s3_keys.answer_key(kind, name)
        for pause in (*KEEP_PAUSES, None):
            try:
                self._store.write(key, answer.data, media_type=media_type, metadata=answer.metadata())
            except (ClientError, BotoCoreError) as error:
                if pause is None or not _passes(error):
                    raise
                time.sleep(pause)
            else:
                break
        return answer

    def once(
        self,
        kind: str,
        name: str,
        terms: AnswerPolicy,
        ask: Callable[[Claim], Answer],
        *,
        media_type: str,
        price: Price,
        looks: bool = True,
    ) -> Answer:
        """The answer that `find` gives, or else what ``ask`` returns, which is stored first; errors as `claim`.

        ``looks=False`` claims the call before it looks for an answer: one request less where there is none, two more
        where there is one.
        """

        def asked(claim: Claim) -> Answer:
            answer = replace(ask(claim), occasion=terms.occasion)
            return self.keep(kind, name, answer, media_type=media_type, claim=claim)

        with self.lock_for(name):
            while True:
                answer = self.find(kind, name, terms) if looks or terms.occasion else None
                claim = answer or self.claim(kind, name, terms, price)
                if isinstance(claim, Answer):
                    return claim
                try:
                    return claim.make(partial(asked, claim))
                except ClaimLost:
                    continue

    def claim(self, kind: str, name: str, terms: AnswerPolicy, price: Price | None) -> Claim | Answer:
        """Takes the right to make this call, or gives the answer that `find` finds by now.

        ``price`` is what the call is expected to cost, None where it is paid under another claim. Waits while
        another process is making the call: a claim is taken over only from a process that is known to be dead, or
        once the longest answer must have come. Raises `CallError` if the call was made `TRIES` times without its
        end being known; then every other ``retry`` has it made once more. Raises `RunStopped` when it is told to
        stop.
        """
        key = s3_keys.call_key(name)
        mine = {
            "Holder": self._holder,
            "Batch": terms.batch,
            "Retry": terms.retry,
            "Unknown": 0,
            "Renewed": 0,
            "Token": uuid.uuid4().hex,
        }
        claim = Claim(self._store, key, mine, self._clock, price)
        if not terms.occasion:
            if claim.take(over=None):
                return claim
            answer = self.find(kind, name, terms)
            if answer is not None:
                return answer
        seen, since = "", 0.0
        while True:
            content = self._store.read(key)
            # After the claim was read: who is gone by now may have stored its answer last.
            answer = self._stored(kind, name)
            if answer is not None and answer.is_acceptable(terms):
                return answer
            claim.occasions = (*(answer.occasions if answer is not None else ()), *terms.occasions)
            if content is None:
                if claim.take(over=None, earlier=[answer.payment] if answer and answer.call else []):
                    return claim
                continue
            if content.etag != seen:
                seen, since = content.etag, self._clock()
            held = held_by(content.data)
            # Another claim than the answer's own may be that of a call under way.
            answered = answer is not None and answer.claim in ("", held["Token"])
            # A thread of this very process that does not work under it any more has left it.
            left = held["Holder"] == self._holder and not is_active(held["Token"])
            gone = not held["Holder"] or left or is_dead(held["Holder"])
            if gone or answered or self._is_over(content, since):
                if held["Unknown"] >= TRIES and not answered and terms.retry in ("", held["Retry"]):
                    raise CallError(
                        "MaybeBilled",
                        f"the {kind} call was made {held['Unknown']} times without its end being known and may "
                        "have been billed each time; `bg-pipeline retry` or `run --retry` makes it once more",
                    )
                mine["Unknown"] = 0 if answered else held["Unknown"]
                earlier = held["Payments"]
                if answer is not None and answer.call:
                    earlier = made_certain(earlier, answer.call, answer.paid_usd)
                if claim.take(over=content.etag, earlier=earlier):
                    return claim
            elif terms.stop.wait(POLL_SECONDS):
                raise RunStopped("the run was stopped")

    def _is_over(self, content: ObjectContent, since: float) -> bool:
        """Whether a claim that has been seen unchanged ``since`` then is too old for its call.

        No two machines' clocks are compared, unless S3 dates it further back than a clock S3 accepts can explain.
        """
        age = datetime.now(UTC) - content.modified
        return self._clock() - since > CALL_SECONDS or age > timedelta(seconds=CALL_SECONDS) + CLOCK_SKEW


def _passes(error: ClientError | BotoCoreError) -> bool:
    """Whether S3 may take later what it does not take now."""
    if isinstance(error, ClientError):
        return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500
    return True
