"""The right to make one paid call: a small object that one process writes, and another takes over when it is gone.

What a claim stands for, and when it may be taken over, is for `bg_pipeline.state.answers` to say.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.errors import BgPipelineError, ClaimLost, OutcomeUnknown, PreconditionFailed
from bg_pipeline.state.own_writes import write_own
from bg_pipeline.store import Store

T = TypeVar("T")

RENEW_SECONDS = 100
"""A claim that waited so long for its call is renewed right before it."""

CALL_SECONDS = 480
"""So long after its last renewal a claimed call is over, however it ended: `RENEW_SECONDS`, the longest read timeout
(330 s) and some."""

TRIES = 2
"""A call whose end is unknown may have been billed; it is repeated once, and then only when a person asks again.

One that a process died over is made again whenever that happens: it is a process that has to be mended then.
"""


def held_by(data: bytes) -> dict[str, Any]:
    """What a stored claim says of its holder and of earlier calls; of what is no claim, that nobody holds it."""
    try:
        held = orjson.loads(data)
        counts = {name: int(held.get(name, 0)) for name in ("Unknown", "Abandoned")}
        return {**{name: str(held.get(name, "")) for name in ("Holder", "Batch", "Retry", "Token")}, **counts}
    except (orjson.JSONDecodeError, AttributeError, TypeError, ValueError):
        return {"Holder": "", "Batch": "", "Retry": "", "Token": "", "Unknown": 0, "Abandoned": 0}


class Claim:
    """The right to make one paid call; left as it is once the answer is stored, as the mark that it was made."""

    def __init__(self, store: Store, key: str, document: dict[str, Any], clock: Callable[[], float]) -> None:
        self._store = store
        self._key = key
        self._document = document
        self._clock = clock
        self._etag = ""
        self._written_at = 0.0

    def take(self, over: str | None) -> bool:
        """Takes the claim over the version ``over`` (None: where none is), unless somebody else was first."""
        now = self._clock()
        etag = write_own(
            self._store,
            self._key,
            orjson.dumps(self._document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE),
            token=self._document["Token"],
            over=over,
        )
        self._etag, self._written_at = etag or "", now
        return etag is not None

    def _write(self) -> None:
        if not self.take(over=self._etag):
            raise ClaimLost("ClaimLost", "another process has taken the call over")

    def renew(self) -> None:
        """Says that the call is made now, not when it was claimed, if that was long ago; call it right before.

        Raises `ClaimLost` if another process has given up on it meanwhile.
        """
        if self._clock() - self._written_at > RENEW_SECONDS:
            self._document["Renewed"] += 1
            self._write()

    @property
    def token(self) -> str:
        """What no other claim has; the same for as long as nobody takes it over."""
        return str(self._document["Token"])

    @property
    def maybe_billed(self) -> int:
        """Earlier calls of this kind whose end is unknown, or that a process died over."""
        return int(self._document["Unknown"] + self._document["Abandoned"])

    def make(self, call: Callable[[], T]) -> T:
        """Makes the call; repeats it once if its end stays unknown.

        A call that failed for a known reason gives the claim back, so that it may be made again. Raises
        `ClaimLost`, without a call, if another process has it by now.
        """
        while True:
            try:
                return call()
            except ClaimLost:
                raise
            except OutcomeUnknown as error:
                if not self._ended_unknown(error):
                    raise
            except BgPipelineError:
                self._give_back()
                raise
            except (ClientError, BotoCoreError):
                raise  # S3 does not take the answer; whoever takes the claim over counts this call
            except Exception as error:
                # A fault of ours, maybe after a call that is billed.
                self._document["Holder"] = ""
                self._ended_unknown(error)
                raise

    def _ended_unknown(self, error: Exception) -> bool:
        """Counts a call that may have been billed; whether it may be made once more."""
        self._document["Unknown"] += 1
        more: bool = self._document["Unknown"] < TRIES
        if not more:
            self._document["Holder"] = ""
        try:
            self._write()
        except ClaimLost:
            raise error from None  # what was called may have been billed, whoever goes on
        return more

    def _give_back(self) -> None:
        try:
            if self.maybe_billed:
                self._document["Holder"] = ""
                self._write()
            else:
                self._store.delete(self._key, if_etag=self._etag)
        except (PreconditionFailed, ClaimLost):
            pass  # another process has it by now
