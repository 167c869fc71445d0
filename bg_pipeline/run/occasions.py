"""A person's wish to make something anew is paid for once, whoever repeats it.

A wish has an occasion: Dagster's root run, which re-executions share, or the moment a command was given. The ledger
of a batch remembers the occasion of each wish until it is fulfilled. Whoever asks again meanwhile (after a crash,
by a second command, from another machine) goes on with it; whoever asked before it was fulfilled has nothing left
to do.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

RETRY: Final = "retry"
"""The name, beside those of stages, of the wish that what failed for a lasting reason be tried again."""

ABANDONED: Final = timedelta(days=7)
"""A wish that was not fulfilled in this time is not gone on with: who asks then means a new one."""

REMEMBERED: Final = 100
"""Fulfilled occasions of a batch that are remembered: a run that is executed again much later pays nothing."""

_HEADER: Final = "Wishes"
_FULFILLED: Final = "FulfilledWishes"


@dataclass(frozen=True)
class RefreshRequest:
    """What is wanted anew: ``stages``, and with ``retry`` what failed; ``occasion`` and ``asked_at`` say when."""

    stages: Collection[str] = ()
    retry: bool = False
    occasion: str = ""
    asked_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def names(self) -> list[str]:
        return [*sorted(self.stages), *([RETRY] if self.retry else [])]


def occasions(header: Mapping[str, Any], wish: RefreshRequest) -> dict[str, str]:
    """By name, the occasion on which each part of the wish is to be fulfilled for a batch with this ledger header.

    A part that was fulfilled since it was asked for is left out.
    """
    found = {}
    for name in wish.names:
        stored = _stored(header, name)
        if [name, wish.occasion] in header.get(_FULFILLED, ()) and (
            stored is None or stored.occasion != wish.occasion
        ):
            continue
        if stored is None or stored.asked_at + ABANDONED < wish.asked_at:
            found[name] = wish.occasion
        elif stored.done_at is None or stored.occasion == wish.occasion:
            found[name] = stored.occasion
        elif stored.done_at < wish.asked_at:
            found[name] = wish.occasion
    return found


def occasions_begun(header: Mapping[str, Any], wish: RefreshRequest, on: Mapping[str, str]) -> dict[str, Any]:
    """The header's facts that say that parts of a wish are being fulfilled; empty where they said so before."""
    wishes = dict(header.get(_HEADER, {}))
    for name, occasion in on.items():
        stored = _stored(header, name)
        if stored is None or stored.occasion != occasion:
            wishes[name] = {"Occasion": occasion, "AskedAt": wish.asked_at.isoformat(), "DoneAt": ""}
        elif wish.occasion != occasion and wish.occasion not in wishes[name].get("Joined", ()):
            # It is gone on with on another occasion, and so fulfilled together with that.
            wishes[name] = {**wishes[name], "Joined": [*wishes[name].get("Joined", ()), wish.occasion]}
    return {_HEADER: wishes} if wishes != header.get(_HEADER, {}) else {}


def occasions_fulfilled(header: Mapping[str, Any], names: Collection[str], at: datetime) -> dict[str, Any]:
    """The header's facts that say that these parts of a wish are fulfilled."""
    wishes = dict(header.get(_HEADER, {}))
    done = list(header.get(_FULFILLED, ()))
    for name in names:
        if name in wishes and not wishes[name].get("DoneAt"):
            wishes[name] = {**wishes[name], "DoneAt": at.isoformat()}
            occasions_done = [wishes[name].get("Occasion", ""), *wishes[name].get("Joined", ())]
            done += [[name, occasion] for occasion in occasions_done]
    return {_HEADER: wishes, _FULFILLED: done[-REMEMBERED:]} if wishes else {}


@dataclass(frozen=True)
class _Stored:
    occasion: str
    asked_at: datetime
    done_at: datetime | None


def _stored(header: Mapping[str, Any], name: str) -> _Stored | None:
    try:
        document = header[_HEADER][name]
        done = document.get("DoneAt", "")
        return _Stored(
            str(document["Occasion"]),
            datetime.fromisoformat(document["AskedAt"]),
            datetime.fromisoformat(done) if done else None,
        )
    except (KeyError, TypeError, AttributeError, ValueError):
        return None
