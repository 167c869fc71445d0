"""People and what they may do: roles, and through which program a person acts."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum


class Role(StrEnum):
    """A role that groups of the sign-in service have by the settings; one person may have several."""

    SUBMITTER = "submitter"
    REVIEWER = "reviewer"
    PUBLISHER = "publisher"
    ADMIN = "admin"


ALL_ROLES = frozenset(Role)


class Via(StrEnum):
    """The program through which somebody acts; each writes its audit lines under a prefix of its own.

    ``PAGE`` and ``API`` know people by their sign-in. ``LOCAL`` (command line, Python) knows the name that was given
    on that machine. ``RUN`` is a run that pays for calls.
    """

    PAGE = "page"
    API = "api"
    LOCAL = "local"
    RUN = "run"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who acts. ``name`` is for people to read and proves nothing.

    ``issuer`` and ``subject`` are the identity that the sign-in service proved; both are empty without sign-in.
    ``until`` is when the sign-in ends; None if it does not.
    """

    name: str
    via: Via
    roles: frozenset[Role] = frozenset()
    issuer: str = ""
    subject: str = ""
    until: datetime | None = None

    @property
    def signed_in(self) -> bool:
        """Whether a sign-in service proved who it is."""
        return bool(self.issuer and self.subject)

    @property
    def expired(self) -> bool:
        """Whether the sign-in has ended."""
        return self.until is not None and datetime.now(UTC) >= self.until


def local_person(name: str, via: Via = Via.LOCAL) -> Person:
    """Somebody at a machine without sign-in, who has every role: AWS decides what the credentials there may do."""
    return Person(name or "unknown", via, ALL_ROLES)
