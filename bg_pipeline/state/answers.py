"""Paid answers, kept by what was asked, so that nothing is paid for twice.

The identity of an answer is the SHA-256 of the source's bytes and of everything asked about them, but not of
the model that happened to answer. An answer is stored before anything else is done with it. A call is claimed
first, with a conditional write, so that two processes do not pay for one answer and so that a call that was under
way when a process died is known to have been.
"""

import hashlib
import json
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import orjson

from bg_pipeline import layout
from bg_pipeline.errors import CallError, ClaimLost, RunStopped
from bg_pipeline.state.claims import CALL_SECONDS, TRIES, Claim, held_by
from bg_pipeline.state.leases import CLOCK_SKEW, seconds_since_boot
from bg_pipeline.state.processes import is_dead
from bg_pipeline.store import Content, Store

POLL_SECONDS = 2.0


def identity(kind: str, source_sha256: str, asked: Mapping[str, Any]) -> str:
    """The SHA-256, in hex, under which the answer to this question about these bytes is kept."""
    document = {"kind": kind, "source": source_sha256, "asked": asked}
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered, and what that cost; ``cost_usd`` is None where the price is not known.

    ``made_for`` is a short digest of the image's key for which it was paid; any other image gets it free.
    ``maybe_billed`` counts calls before it whose end is unknown. ``by_words`` says that the model found the
    subject from words. ``claim`` is the token of the claim under which the call was made.
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
        }
        return {"answer": json.dumps(document)}  # object metadata is ASCII, 2 KB in all


@dataclass(frozen=True)
class Terms:
    """Which answers will do, and on whose behalf a call is made where there is none.

    One of ``models`` has to have made it (any, if none is named); with ``again`` this process itself. ``batch`` is
    one whose lease the caller holds, or "". ``retry`` names the occasion on which a person asked again for what
    failed, or is "". ``stop`` ends all waiting.
    """

    stop: threading.Event
    batch: str = ""
    retry: str = ""
    models: Collection[str] = ()
    again: bool = False


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
        )
    except (AttributeError, KeyError, TypeError, orjson.JSONDecodeError):
        return None  # a foreign object under an answer's key is not an answer


class Answers:
    """The stored answers of a bucket, as one process sees them. Safe for threads."""

    def __init__(self, store: Store, holder: str, *, clock: Callable[[], float] = seconds_since_boot) -> None:
        self._store = store
        self._holder = holder
        self._clock = clock
        self._lock = threading.Lock()
        self._busy: dict[str, tuple[threading.Lock, int]] = {}
        self._fresh: set[str] = set()

    @contextmanager
    def one_at_a_time(self, name: str) -> Iterator[None]:
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

    def find(self, kind: str, name: str, terms: Terms | None = None) -> Answer | None:
        """The stored answer, if it will do; without ``terms`` any will."""
        if terms is not None and terms.again and name not in self._fresh:
            return None
        answer = self._stored(kind, name)
        return answer if answer and (terms is None or answer.is_by(terms.models)) else None

    def _stored(self, kind: str, name: str) -> Answer | None:
        content = self._store.read(layout.answer_key(kind, name))
        return _read(content.data, content.metadata) if content else None

    def keep(
        self, kind: str, name: str, answer: Answer, *, media_type: str, claim: Claim | None = None
    ) -> Answer:
        """Stores the answer with what its ``claim`` tells of it; when this returns it will not be paid for again."""
        if claim is not None:
            answer = replace(answer, claim=claim.token, maybe_billed=claim.maybe_billed)
        self._store.write(
            layout.answer_key(kind, name), answer.data, media_type=media_type, metadata=answer.metadata()
        )
        self._fresh.add(name)
        return answer

    def once(
        self,
        kind: str,
        name: str,
        terms: Terms,
        ask: Callable[[Claim], Answer],
        *,
        media_type: str,
        looks: bool = True,
    ) -> Answer:
        """The answer that `find` gives, or else what ``ask`` returns, which is stored first; errors as `claim`.

        ``looks=False`` claims the call before it looks for an answer: one request less where there is none, two more
        where there is one.
        """

        def asked(claim: Claim) -> Answer:
            return self.keep(kind, name, ask(claim), media_type=media_type, claim=claim)

        with self.one_at_a_time(name):
            while True:
                answer = self.find(kind, name, terms) if looks or terms.again else None
                claim = answer or self.claim(kind, name, terms)
                if isinstance(claim, Answer):
                    return claim
                try:
                    return claim.make(partial(asked, claim))
                except ClaimLost:
                    continue

    def claim(self, kind: str, name: str, terms: Terms) -> Claim | Answer:
        """Takes the right to make this call, or gives the answer that `find` finds by now.

        Waits while another process is making it; on terms of ``again`` takes it over. Raises `CallError` if the call
        was made `TRIES` times without its end being known; then every other ``retry`` has it made once more. Raises
        `RunStopped` when it is told to stop.
        """
        key = layout.call_key(name)
        mine = {
            "Version": 1,
            "Holder": self._holder,
            "Batch": terms.batch,
            "Retry": terms.retry,
            "Unknown": 0,
            "Abandoned": 0,
            "Renewed": 0,
            "Token": uuid.uuid4().hex,
        }
        claim = Claim(self._store, key, mine, self._clock)
        if not terms.again:
            if claim.take(over=None):
                return claim
            answer = self.find(kind, name, terms)
            if answer is not None:
                return answer
        seen, since = "", 0.0
        while True:
            content = self._store.read(key)
            if content is None or terms.again:
                if claim.take(over=content.etag if content else None):
                    return claim
                continue
            # After the claim was read: who is gone by now may have stored its answer last.
            answer = self._stored(kind, name)
            if answer is not None and answer.is_by(terms.models):
                return answer
            if content.etag != seen:
                seen, since = content.etag, self._clock()
            held = held_by(content.data)
            # Whoever holds the lease of a batch knows that its earlier holder is gone.
            abandoned = held["Batch"] == terms.batch != "" and held["Holder"] != self._holder
            # By a model that is not configured any more; another claim than its own may be that of a call under way.
            answered = answer is not None and answer.claim in ("", held["Token"])
            over = not held["Holder"] or is_dead(held["Holder"]) or self._is_over(content, since)
            if over or abandoned or answered:
                if held["Unknown"] >= TRIES and not answered and terms.retry in ("", held["Retry"]):
                    raise CallError(
                        "MaybeBilled",
                        f"the {kind} call was made {held['Unknown']} times without its end being known and may "
                        "have been billed each time; `bg-pipeline retry` or `run --retry` makes it once more",
                    )
                lost = bool(held["Holder"]) and not answered
                mine |= {"Unknown": held["Unknown"], "Abandoned": held["Abandoned"] + lost}
                if claim.take(over=content.etag):
                    return claim
            elif terms.stop.wait(POLL_SECONDS):
                raise RunStopped("the run was stopped")

    def _is_over(self, content: Content, since: float) -> bool:
        """Whether a claim that has been seen unchanged ``since`` then is too old for its call.

        No two machines' clocks are compared, unless S3 dates it further back than a clock S3 accepts can explain.
        """
        age = datetime.now(UTC) - content.modified
        return self._clock() - since > CALL_SECONDS or age > timedelta(seconds=CALL_SECONDS) + CLOCK_SKEW
