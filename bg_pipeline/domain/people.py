"""People and what they may do: roles, and through which program a person acts."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol


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


class SignIn(Protocol):
    """A sign-in that may be over before its time (`bg_pipeline.state.sign_ins`)."""

    @property
    def is_over(self) -> bool:
        """Whether it was signed out of, or not used for too long."""

    def use(self) -> None:
        """Notes that its person did something."""

    def end(self) -> None:
        """Ends it."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who acts. ``name`` is for people to read and proves nothing.

    ``issuer`` and ``subject`` are the identity that the sign-in service proved; both are empty without sign-in.
    ``until`` is when the sign-in ends; None if it does not. ``sign_in`` may end earlier; only the page's people have
    one.
    """

    name: str
    via: Via
    roles: frozenset[Role] = frozenset()
    issuer: str = ""
    subject: str = ""
    until: datetime | None = None
    sign_in: SignIn | None = field(default=None, compare=False, repr=False)

    @property
    def signed_in(self) -> bool:
        """Whether a sign-in service proved who it is."""
        return bool(self.issuer and self.subject)

    @property
    def expired(self) -> bool:
        """Whether the sign-in has ended; may read S3."""
        if self.until is not None and datetime.now(UTC) >= self.until:
            return True
        return self.sign_in is not None and self.sign_in.is_over

    def use_sign_in(self) -> None:
        """Notes that the person did something, so that the sign-in is not idle; may write to S3."""
        if self.sign_in is not None:
            self.sign_in.use()


def local_person(name: str, via: Via = Via.LOCAL) -> Person:
    """Somebody at a machine without sign-in, who has every role: AWS decides what the credentials there may do."""
    return Person(name or "unknown", via, ALL_ROLES)
