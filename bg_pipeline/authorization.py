"""Decides who may do what: the groups in a sign-in token give roles, and roles and ownership give rights.

Without groups in the settings everybody who signs in has every role, as has everybody where sign-in is off. A batch
that somebody may not see does not exist for that person. All decisions fail closed: a claim of an unexpected type, an
owner that cannot be read and a group whose name differs in a letter's case give nothing.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch, find_batch
from bg_pipeline.domain.people import ALL_ROLES, Person, Role, Via
from bg_pipeline.domain.requests import BatchRequest, names_object
from bg_pipeline.domain.text import listed, printable
from bg_pipeline.errors import NoSuchBatch, NotAllowed, RequestError
from bg_pipeline.settings import Settings
from bg_pipeline.state.claimed_prefixes import is_claimed_by
from bg_pipeline.state.owners import Owner, OwnerLists, owner_of, set_owner
from bg_pipeline.state.sign_ins import SignIns
from bg_pipeline.storage.object_store import Store

_log = logging.getLogger(__name__)


class Right(StrEnum):
    """What a role allows; the value completes "to …"."""

    SUBMIT = "submit batches"
    SEE_ALL = "see batches of others"
    REVIEW = "decide about results"
    PUBLISH = "publish results"
    MANAGE = "change batches of others"


RIGHTS: Final[Mapping[Role, frozenset[Right]]] = {
    Role.SUBMITTER: frozenset({Right.SUBMIT}),
    Role.REVIEWER: frozenset({Right.SEE_ALL, Right.REVIEW}),
    Role.PUBLISHER: frozenset({Right.SEE_ALL, Right.PUBLISH}),
    Role.ADMIN: frozenset(Right),
}


def groups_by_role(settings: Settings) -> dict[Role, tuple[str, ...]]:
    """The groups that have each role by the settings."""
    return {
        Role.SUBMITTER: settings.submitter_groups,
        Role.REVIEWER: settings.reviewer_groups,
        Role.PUBLISHER: settings.publisher_groups,
        Role.ADMIN: settings.admin_groups,
    }


def uses_groups(settings: Settings) -> bool:
    """Whether any group is set, so that people have only the roles of their groups."""
    return any(groups_by_role(settings).values())


def in_words(settings: Settings, *, signs_in: bool) -> str:
    """A sentence about who may do what, for the log at the start and for the doctor."""
    if not signs_in:
        return "sign-in is off: everybody on this machine may do everything"
    if not uses_groups(settings):
        return (
            "everybody who signs in may do everything: no groups are set (BG_SUBMITTER_GROUPS, "
            "BG_REVIEWER_GROUPS, BG_PUBLISHER_GROUPS, BG_ADMIN_GROUPS)"
        )
    roles = "; ".join(
        f"{role.value}s: {listed(groups) or 'nobody'}" for role, groups in groups_by_role(settings).items()
    )
    return printable(f"rights by the groups in the claim {settings.oidc_groups_claim}: {roles}")


def groups_of(claim: Any) -> frozenset[str]:
    """The groups in a token's claim: the texts of a list, or one text, which is one group and never several."""
    if isinstance(claim, str):
        return frozenset({claim})
    if isinstance(claim, (list, tuple)):
        return frozenset(group for group in claim if isinstance(group, str))
    return frozenset()


class Authorization:
    """The decisions for the batches of one bucket. Thread-safe; what is stored in any process counts at once."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._owners = OwnerLists(store)
        idle = settings.page_idle_minutes
        self.sign_ins = SignIns(store, timedelta(minutes=idle) if idle else None)
        self.uses_groups = uses_groups(settings)

    def person(
        self,
        claims: Mapping[str, Any],
        via: Via,
        *,
        name: str = "",
        until: datetime | None = None,
        issued: datetime | None = None,
    ) -> Person:
        """The person in the claims of a verified token.

        With ``issued``, the time of a sign-in to the page, the sign-in is over when the person signs out or does
        nothing for BG_PAGE_IDLE_MINUTES. Raises `NotAllowed` if the claims do not identify anybody, or are not of the
        issuer in the settings.
        """
        issuer, subject = claims.get("iss"), claims.get("sub")
        if not isinstance(issuer, str) or issuer.rstrip("/") != self._settings.oidc_issuer.rstrip("/"):
            raise NotAllowed("this sign-in is not one of BG_OIDC_ISSUER; sign out and sign in again")
        if not isinstance(subject, str) or not subject.strip() or _as_text(subject) != subject:
            raise NotAllowed("this sign-in does not say who you are (sub)")
        if self._settings.oidc_acr and claims.get("acr") not in self._settings.oidc_acr:
            raise NotAllowed(
                "this sign-in is not strong enough (its acr is not one of BG_OIDC_ACR); sign in again, with a second "
                "factor if you are asked for one"
            )
        return Person(
            _as_text(name or subject),
            via,
            self._roles(groups_of(claims.get(self._settings.oidc_groups_claim))),
            self._settings.oidc_issuer,
            subject,
            until,
            self.sign_ins.of(self._settings.oidc_issuer, subject, issued) if issued else None,
        )

    def _roles(self, groups: frozenset[str]) -> frozenset[Role]:
        if not self.uses_groups:
            return ALL_ROLES
        return frozenset(
            role for role, named in groups_by_role(self._settings).items() if not groups.isdisjoint(named)
        )

    # Rights

    def may(self, person: Person, right: Right) -> bool:
        """Whether one of the person's roles allows it; nobody may do anything after the end of the sign-in."""
        return not person.expired and any(right in RIGHTS[role] for role in person.roles)

    def require(self, person: Person, right: Right) -> None:
        """Raises `NotAllowed` if no role of the person allows it."""
        if not self.may(person, right):
            raise _refused(person, f"to {right.value}", [role for role in Role if right in RIGHTS[role]])

    def sees(self, person: Person, batch: Batch) -> bool:
        """Whether the person may see a batch: the own ones, or with some roles all."""
        if self.may(person, Right.SEE_ALL):
            return True
        return self.may(person, Right.SUBMIT) and _is(owner_of(self._store, batch), person)

    def visible(self, person: Person, batches: Iterable[Batch]) -> set[Batch]:
        """Those of the batches that the person may see."""
        if self.may(person, Right.SEE_ALL):
            return set(batches)
        return self._owners.owned_by(person, batches) if self.may(person, Right.SUBMIT) else set()

    def require_role(self, person: Person) -> None:
        """Raises `NotAllowed` if the person has no role, or the sign-in has ended."""
        if person.expired or not person.roles:
            raise _refused(person, "to use this program", list(Role))

    def require_visible(self, person: Person, batch: Batch) -> None:
        """Raises `NoSuchBatch` if the person may not see the batch, whether it exists or not."""
        self.require_role(person)
        if not self.sees(person, batch):
            raise NoSuchBatch(f"there is no batch {batch.path}")

    def may_change(self, person: Person, batch: Batch) -> bool:
        """Whether the person may continue, submit, retry or discard a batch: the own ones, or with a role all."""
        if self.may(person, Right.MANAGE):
            return True
        return self.may(person, Right.SUBMIT) and _is(owner_of(self._store, batch), person)

    def require_change(self, person: Person, batch: Batch) -> None:
        """Raises `NoSuchBatch` or `NotAllowed` unless `may_change`."""
        self.require_visible(person, batch)
        if not self.may_change(person, batch):
            raise _refused(person, f"to change batch {batch.path}, which is not yours,", [Role.ADMIN])

    def take(self, person: Person, batch: Batch) -> None:
        """Makes the person the owner of a new batch. Raises `NotAllowed` if somebody else is."""
        self.require(person, Right.SUBMIT)
        owner = set_owner(self._store, batch, person)
        if owner is not None and not owner.is_(person):
            raise _refused(person, f"to use batch {batch.path}, which is not yours,", [])

    # What a person's requests may name

    def check_request(self, person: Person, batch: Batch, request: BatchRequest) -> None:
        """Raises `RequestError` by field if a request reads or writes where only others may look.

        Somebody who sees all batches may name any place that a request may name.
        """
        if self.may(person, Right.SEE_ALL):
            return
        problems = []
        if request.S3Bucket != self._store.bucket:
            problems.append(("S3Bucket", f"only people who see all batches may use '{request.S3Bucket}'"))
        for field, prefix in (
            ("InputS3Prefix", request.InputS3Prefix),
            ("OutputS3Prefix", request.OutputS3Prefix),
            ("StatusS3Prefix", request.StatusS3Prefix),
        ):
            other = find_batch(prefix)
            if other is None and field == "InputS3Prefix":
                problems.append((field, f"'{prefix}' is not the folder of a batch of yours"))
            elif other is not None and other != batch and not self.sees(person, other):
                problems.append((field, f"'{prefix}' does not belong to a batch of yours"))
        levels = [("", request), *((f"Images[{n}].", each) for n, each in enumerate(request.Images or ()))]
        for place, level in levels:
            for field, key in (("MaskKey", level.MaskKey), ("Backdrop", level.Backdrop)):
                if key and names_object(key) and not self._may_use(person, key, batch):
                    problems.append((f"{place}{field}", f"'{key}' does not belong to a batch of yours"))
        if problems:
            raise RequestError(problems[:100])

    def may_read_key(self, person: Person, bucket: str, key: str) -> bool:
        """Whether the person may have a photo under any key of a bucket read, for example to cut it out."""
        if self.may(person, Right.SEE_ALL):
            return True
        return bucket == self._store.bucket and self._may_use(person, key, None)

    def may_read_report(self, person: Person, batch: Batch, status_prefix: str) -> bool:
        """Whether the report under a batch's status prefix is the batch's own.

        A request may name any prefix, and until a run has claimed it another batch's report may lie there.
        """
        if self.may(person, Right.SEE_ALL) or status_prefix == batch.status_prefix:
            return True
        return is_claimed_by(self._store, batch, status_prefix)

    def _may_use(self, person: Person, key: str, batch: Batch | None) -> bool:
        top, _, rest = key.partition("/")
        if top == s3_keys.ASSETS:
            return True
        if top == s3_keys.PHOTOS:
            folder = rest.partition("/")[0]
            return self.may(person, Right.SUBMIT) and folder.endswith(f"-{upload_mark(person)}")
        other = find_batch(key) if top in (s3_keys.UPLOADS, s3_keys.RESULTS) else None
        return other is not None and (other == batch or self.sees(person, other))


def upload_mark(person: Person) -> str:
    """A part of the keys of a person's single uploads, which says whose they are; no two people have the same."""
    identity = f"{person.issuer}\n{person.subject}" if person.signed_in else ""
    return hashlib.sha256(identity.encode()).hexdigest()[:24]


def _as_text(claim: str) -> str:
    """A claim that can be stored: JSON can name halves of characters, which have no UTF-8."""
    return claim.encode("utf-8", "replace").decode()


def _is(owner: Owner | None, person: Person) -> bool:
    return owner is not None and owner.is_(person)


def _refused(person: Person, what: str, roles: list[Role]) -> NotAllowed:
    """The refusal, which is logged: the log shows who tries doors."""
    who = f"{person.name} ({person.subject})" if person.subject != person.name else person.name
    _log.warning("refused: %s via %s, %s", printable(who), person.via.value, printable(what))
    if person.expired:
        return NotAllowed("your sign-in has ended; sign in again")
    if not roles:
        return NotAllowed(f"you are not allowed {what.rstrip(',')}")
    needed = " or ".join(role.value for role in roles if role is not Role.ADMIN) or Role.ADMIN.value
    return NotAllowed(f"you are not allowed {what} without the role {needed}: ask whoever manages the groups")
