"""A request to refresh stages, or to retry failures, is paid for once, however often it is repeated.

Each such request has an occasion, a name that its repetitions share: the id of Dagster's root run, which
re-executions share, or the id of a command. The ledger header of a batch stores the occasion of each refresh until it
is fulfilled. A request that starts meanwhile (after a crash, from a second command or another machine) continues that
refresh. A request that was made before the refresh was fulfilled, and starts afterwards, does nothing.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

RETRY: Final = "retry"
"""The name, next to those of stages, of the request to try final failures again."""

ABANDONED: Final = timedelta(days=7)
"""A refresh that was not fulfilled in this time is abandoned: a later request starts a new one."""

REMEMBERED: Final = 100
"""How many fulfilled occasions a batch remembers: a Dagster run that is re-executed much later pays nothing."""

_HEADER: Final = "Wishes"
_FULFILLED: Final = "FulfilledWishes"


@dataclass(frozen=True)
class RefreshRequest:
    """A request to do ``stages`` again, and with ``retry`` to try final failures again.

    ``occasion`` identifies the request, ``asked_at`` is when it was made.
    """

    stages: Collection[str] = ()
    retry: bool = False
    occasion: str = ""
    asked_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def names(self) -> list[str]:
        """The stages in alphabetical order, then `RETRY` if it is requested."""
        return [*sorted(self.stages), *([RETRY] if self.retry else [])]


def occasions(header: Mapping[str, Any], refresh: RefreshRequest) -> dict[str, str]:
    """The occasion of each stage to refresh (and of `RETRY`) for a batch with this ledger header, by name.

    Leaves out what was fulfilled since it was requested.
    """
    result = {}
    for name in refresh.names:
        stored = _stored(header, name)
        if [name, refresh.occasion] in header.get(_FULFILLED, ()) and (
            stored is None or stored.occasion != refresh.occasion
        ):
            continue
        if stored is None or stored.asked_at + ABANDONED < refresh.asked_at:
            result[name] = refresh.occasion
        elif stored.done_at is None or stored.occasion == refresh.occasion:
            result[name] = stored.occasion
        elif stored.done_at < refresh.asked_at:
            result[name] = refresh.occasion
    return result


def start_occasions(
    header: Mapping[str, Any], refresh: RefreshRequest, started: Mapping[str, str]
) -> dict[str, Any]:
    """The header fields that record the start of these refreshes; empty if they are recorded already.

    ``started`` are the occasions by name, as `occasions` returns them.
    """
    refreshes = dict(header.get(_HEADER, {}))
    for name, occasion in started.items():
        stored = _stored(header, name)
        if stored is None or stored.occasion != occasion:
            refreshes[name] = {"Occasion": occasion, "AskedAt": refresh.asked_at.isoformat(), "DoneAt": ""}
        elif refresh.occasion != occasion and refresh.occasion not in refreshes[name].get("Joined", ()):
            # This request joins a refresh of another occasion and is fulfilled together with it.
            joined = [*refreshes[name].get("Joined", ()), refresh.occasion]
            refreshes[name] = {**refreshes[name], "Joined": joined}
    return {_HEADER: refreshes} if refreshes != header.get(_HEADER, {}) else {}


def fulfil_occasions(header: Mapping[str, Any], names: Collection[str], at: datetime) -> dict[str, Any]:
    """The header fields that record that these refreshes were completed at ``at``."""
    refreshes = dict(header.get(_HEADER, {}))
    fulfilled = list(header.get(_FULFILLED, ()))
    for name in names:
        if name in refreshes and not refreshes[name].get("DoneAt"):
            refreshes[name] = {**refreshes[name], "DoneAt": at.isoformat()}
            all_occasions = [refreshes[name].get("Occasion", ""), *refreshes[name].get("Joined", ())]
            fulfilled += [[name, occasion] for occasion in all_occasions]
    return {_HEADER: refreshes, _FULFILLED: fulfilled[-REMEMBERED:]} if refreshes else {}


@dataclass(frozen=True)
class _StoredRefresh:
    occasion: str
    asked_at: datetime
    done_at: datetime | None


def _stored(header: Mapping[str, Any], name: str) -> _StoredRefresh | None:
    try:
        document = header[_HEADER][name]
        done = document.get("DoneAt", "")
        return _StoredRefresh(
            str(document["Occasion"]),
            datetime.fromisoformat(document["AskedAt"]),
            datetime.fromisoformat(done) if done else None,
        )
    except (KeyError, TypeError, AttributeError, ValueError):
        return None
