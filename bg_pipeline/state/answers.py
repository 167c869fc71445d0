"""The store of paid model answers, addressed by the content of the request, so that nothing is paid for twice.

The identity of an answer is the SHA-256 of the source's bytes and of all request parameters, but not of the model
that answered. An answer is stored before anything else is done with it. Each call is claimed first by a conditional
write: so two processes do not pay for the same answer, and a call that was in progress when its process died is
known to have been started.
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
    MAX_CALLS,
    Claim,
    Price,
    is_active,
    mark_certain,
    parse_call_claim,
)
from bg_pipeline.state.leases import CLOCK_SKEW, seconds_since_boot
from bg_pipeline.state.process_identity import is_dead
from bg_pipeline.storage.object_store import ObjectContent, Store

POLL_SECONDS = 2.0
"""Seconds between two reads of a claim that another process holds."""

MAX_OCCASIONS = 8
"""Number of occasions that an answer records; its S3 metadata must fit into 2 KB."""

KEEP_PAUSES = (1.0, 4.0)
"""Seconds to wait before storing an answer again after S3 failed; boto3 has made its own retries by then."""


def identity(kind: str, source_sha256: str, asked: Mapping[str, Any]) -> str:
    """The SHA-256, in hex, that identifies the answer to a request (``asked``) about a source's bytes."""
    document = {"kind": kind, "source": source_sha256, "asked": asked}
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """A service's answer and its cost; ``cost_usd`` is None if the price is unknown.

    ``made_for`` is a short digest of the key of the image that paid for it; any other image gets it free.
    ``by_words`` says that the model found the subject from words. ``claim`` is the token of the claim under which
    the call was made, ``call`` the id of the call, and ``paid_usd`` the cost of the whole call including its other
    pictures. ``earlier`` is the number of earlier calls' payments in the claim, ``maybe_billed`` the number of those
    whose outcome is unknown. ``occasion`` is the id of the refresh that made it, or empty; ``occasions`` are that id
    and those of the answers it replaced, the latest `MAX_OCCASIONS`.
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
        """The payment for the call that returned this answer."""
        return Payment(self.call, "", self.paid_usd, certain=True, made_for=self.made_for)

    def is_acceptable(self, policy: "AnswerPolicy | None") -> bool:
        """Whether the policy allows its use; without a policy every answer may be used."""
        if policy is None:
            return True
        # An answer that replaced this occasion's answer counts too; otherwise two concurrent refreshes would
        # replace, and pay for, each other's answers in turns.
        made_on = {self.occasion, *self.occasions}
        return self.is_by(policy.models) and (not policy.occasion or not made_on.isdisjoint(policy.occasions))

    def is_by(self, models: Collection[str]) -> bool:
        """Whether one of ``models`` made it; True for any model if ``models`` is empty."""
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
        return {"answer": json.dumps(document)}  # S3 metadata must be ASCII, 2 KB in all


@dataclass(frozen=True)
class AnswerPolicy:
    """Which stored answers may be used, and for whom a call is made if there is none.

    The answer must be made by one of ``models`` (any model if empty) and on the refresh ``occasion`` (if not empty).
    ``refresh_occasion`` is the refresh that the run was started for: if a batch continues an earlier refresh, what is
    made for it counts for both and serves the other batches of the run. ``batch`` is the batch in work; it is written
    into the claim for people who read it. ``retry`` is the id of the occasion on which a person retried failed
    images, or empty. Setting ``stop`` ends all waiting.
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
            # Answers from before payments were recorded contain only their own price.
            paid_usd=document.get("paid", document.get("cost")),
            earlier=document.get("earlier", 0),
            occasion=document.get("occasion", ""),
            occasions=tuple(document.get("occasions", ())),
        )
    except (AttributeError, KeyError, TypeError, orjson.JSONDecodeError):
        return None  # the object was not written by this program


class AnswerStore:
    """The stored answers of a bucket; thread-safe. ``holder`` is this process's name in its claims."""

    def __init__(self, store: Store, holder: str, *, clock: Callable[[], float] = seconds_since_boot) -> None:
        self._store = store
        self._holder = holder
        self._clock = clock
        self._lock = threading.Lock()
        self._busy: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def lock_for(self, name: str) -> Iterator[None]:
        """A lock for one answer among the threads of this process."""
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

    def find(self, kind: str, name: str, policy: AnswerPolicy | None = None) -> Answer | None:
        """The stored answer if ``policy`` allows its use; None if there is none."""
        answer = self._stored(kind, name)
        return answer if answer and answer.is_acceptable(policy) else None

    def _stored(self, kind: str, name: str) -> Answer | None:
        content = self._store.read(s3_keys.answer_key(kind, name))
        return _read(content.data, content.metadata) if content else None

    def payments(self, name: str) -> list[Payment]:
        """The payments recorded in the claim of a call, for any image."""
        content = self._store.read(s3_keys.call_claim_key(name))
        return parse_call_claim(content.data)["Payments"] if content else []

    def keep(
        self, kind: str, name: str, answer: Answer, *, media_type: str, claim: Claim | None = None
    ) -> Answer:
        """Stores the answer with the facts from its ``claim``; once this returns it is never paid for again.

        A temporary failure of S3 is retried after `KEEP_PAUSES`, because otherwise a paid answer would be lost.
        """
        if claim is not None:
            made_on = (*claim.occasions, *([answer.occasion] if answer.occasion else []))
            answer = replace(
                answer,
                claim=claim.token,
                maybe_billed=claim.maybe_billed,
                earlier=len(claim.earlier),
                occasions=tuple(dict.fromkeys(made_on))[-MAX_OCCASIONS:],
            )
        key = s3_keys.answer_key(kind, name)
        for pause in (*KEEP_PAUSES, None):
            try:
                self._store.write(key, answer.data, media_type=media_type, metadata=answer.metadata())
            except (ClientError, BotoCoreError) as error:
                if pause is None or not _is_temporary(error):
                    raise
                time.sleep(pause)
            else:
                break
        return answer

    def once(
        self,
        kind: str,
        name: str,
        policy: AnswerPolicy,
        call: Callable[[Claim], Answer],
        *,
        media_type: str,
        price: Price,
        look_first: bool = True,
    ) -> Answer:
        """The answer that `find` returns, else the result of ``call``, which is stored first; errors as `claim`.

        With ``look_first=False`` the call is claimed before the answer is looked up: one request less if there is no
        answer, two more if there is one.
        """

        def call_and_keep(claim: Claim) -> Answer:
            answer = replace(call(claim), occasion=policy.occasion)
            return self.keep(kind, name, answer, media_type=media_type, claim=claim)

        with self.lock_for(name):
            while True:
                answer = self.find(kind, name, policy) if look_first or policy.occasion else None
                claim = answer or self.claim(kind, name, policy, price)
                if isinstance(claim, Answer):
                    return claim
                try:
                    return claim.make(partial(call_and_keep, claim))
                except ClaimLost:
                    continue

    def claim(self, kind: str, name: str, policy: AnswerPolicy, price: Price | None) -> Claim | Answer:
        """Claims the call, or returns an acceptable answer that was stored meanwhile.

        ``price`` is the expected cost, None if the call is paid under another claim. Waits while another process is
        making the call: its claim is taken over only if that process is known to be dead, or after `CALL_SECONDS`,
        when every call has ended. Raises `CallError` ``MaybeBilled`` if the call was made `MAX_CALLS` times with an
        unknown outcome; a ``policy.retry`` that the claim does not contain yet allows one more call. Raises
        `RunStopped` if ``policy.stop`` is set while it waits.
        """
        key = s3_keys.call_claim_key(name)
        document = {
            "Holder": self._holder,
            "Batch": policy.batch,
            "Retry": policy.retry,
            "Unknown": 0,
            "Renewed": 0,
            "Token": uuid.uuid4().hex,
        }
        claim = Claim(self._store, key, document, self._clock, price)
        if not policy.occasion:
            if claim.take(if_etag=None):
                return claim
            answer = self.find(kind, name, policy)
            if answer is not None:
                return answer
        seen_etag, since = "", 0.0
        while True:
            content = self._store.read(key)
            # Read after the claim: a holder that is gone by now may have stored its answer just before.
            answer = self._stored(kind, name)
            if answer is not None and answer.is_acceptable(policy):
                return answer
            claim.occasions = (*(answer.occasions if answer is not None else ()), *policy.occasions)
            if content is None:
                if claim.take(if_etag=None, earlier=[answer.payment] if answer and answer.call else []):
                    return claim
                continue
            if content.etag != seen_etag:
                seen_etag, since = content.etag, self._clock()
            held = parse_call_claim(content.data)
            # If the stored answer belongs to another claim, this claim's call may still be in progress.
            answered = answer is not None and answer.claim in ("", held["Token"])
            # Our own process holds the claim, but none of its threads works under it any more.
            left = held["Holder"] == self._holder and not is_active(held["Token"])
            gone = not held["Holder"] or left or is_dead(held["Holder"])
            if gone or answered or self._is_over(content, since):
                if held["Unknown"] >= MAX_CALLS and not answered and policy.retry in ("", held["Retry"]):
                    raise CallError(
                        "MaybeBilled",
                        f"the {kind} call was made {held['Unknown']} times with unknown outcome and may "
                        "have been billed; `bg-pipeline retry` or `run --retry` makes it once more",
                    )
                document["Unknown"] = 0 if answered else held["Unknown"]
                earlier = held["Payments"]
                if answer is not None and answer.call:
                    earlier = mark_certain(earlier, answer.call, answer.paid_usd)
                if claim.take(if_etag=content.etag, earlier=earlier):
                    claim.is_answered = lambda: self.find(kind, name, policy) is not None
                    return claim
            elif policy.stop.wait(POLL_SECONDS):
                raise RunStopped("the run was stopped")

    def _is_over(self, content: ObjectContent, since: float) -> bool:
        """Whether the call of a claim must have ended; ``since`` is when this version was first seen (own clock).

        Clocks of two machines are not compared, except when S3's date of the claim is so old that even the largest
        clock error that S3 accepts (`CLOCK_SKEW`) cannot explain it.
        """
        age = datetime.now(UTC) - content.modified
        return self._clock() - since > CALL_SECONDS or age > timedelta(seconds=CALL_SECONDS) + CLOCK_SKEW


def _is_temporary(error: ClientError | BotoCoreError) -> bool:
    """Whether the same write may succeed later: S3 was not reached, or answered with a 5xx."""
    if isinstance(error, ClientError):
        return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500
    return True
