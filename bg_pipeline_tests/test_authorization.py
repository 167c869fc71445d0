"""Roles from groups, and what each role may do: whatever is not exactly a right is none."""

import logging
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bg_pipeline.authorization import Authorization, Right, groups_of, in_words, upload_mark
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.people import ALL_ROLES, Person, Role, Via
from bg_pipeline.domain.requests import BatchRequest, ImageEntry
from bg_pipeline.errors import NoSuchBatch, NotAllowed, RequestError
from bg_pipeline.settings import Settings, settings
from bg_pipeline.state import owners
from bg_pipeline.state.follow_ups import remember_origin
from bg_pipeline.state.owners import UNREADABLE, owner_of, set_owner
from bg_pipeline.storage.object_store import Store
from bg_pipeline_tests.batches import DATE, aws

ISSUER = "https://pool.example"
OWN, OTHERS, UNOWNED = Batch(DATE, "own"), Batch(DATE, "others"), Batch(DATE, "unowned")


def chosen(**more: Any) -> Settings:
    groups = {
        "submitter_groups": "studio",
        "reviewer_groups": "art",
        "publisher_groups": "shop,web",
        "admin_groups": "owners",
    }
    return settings(**{"bucket": "photos", "oidc_issuer": ISSUER, **groups, **more})


@pytest.fixture
def store(bucket: str) -> Store:
    return Store(aws().s3(bucket), bucket)


@pytest.fixture
def access(store: Store) -> Authorization:
    access = Authorization(chosen(bucket=store.bucket), store)
    for batch, owner in ((OWN, "ada"), (OTHERS, "bob")):
        set_owner(store, batch, person(access, owner, "studio"))
    return access


def person(access: Authorization, subject: str, *groups: str, **claims: Any) -> Person:
    said = {"iss": ISSUER, "sub": subject, "cognito:groups": list(groups), **claims}
    return access.person(said, Via.API)


@pytest.mark.parametrize(
    ("claim", "groups"),
    [
        (["owners", "art"], {"owners", "art"}),
        ("owners", {"owners"}),
        ("owners,art", {"owners,art"}),
        ("[owners art]", {"[owners art]"}),
        ("", {""}),
        (["owners", 1, None, ["art"], {"a": "b"}], {"owners"}),
        ({"owners": True}, set()),
        (None, set()),
        (1, set()),
        (True, set()),
        ([], set()),
    ],
)
def test_groups_are_the_texts_of_a_list_or_one_text(claim: object, groups: set[str]) -> None:
    assert groups_of(claim) == groups


@pytest.mark.parametrize(
    "group", ["Owners", "OWNERS", "owners ", " owners", "ownersx", "owner", "owners,art", "оwners", ""]
)
def test_a_group_whose_name_only_looks_like_one_gives_nothing(access: Authorization, group: str) -> None:
    assert person(access, "ada", group).roles == frozenset()
    assert person(access, "ada", **{"cognito:groups": group}).roles == frozenset()


def test_another_claim_can_name_the_groups(store: Store) -> None:
    access = Authorization(chosen(bucket=store.bucket, oidc_groups_claim="roles"), store)
    assert person(access, "ada", "owners").roles == frozenset()
    assert person(access, "ada", roles=["owners"]).roles == {Role.ADMIN}


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://pool.example.evil"},
        {"iss": "https://other-pool.example"},
        {"iss": None},
        {"iss": ["https://pool.example"]},
        {"sub": ""},
        {"sub": " "},
        {"sub": None},
        {"sub": 5},
    ],
)
def test_a_token_of_another_pool_or_of_nobody_is_nobody(
    access: Authorization, claims: dict[str, Any]
) -> None:
    with pytest.raises(NotAllowed):
        person(access, "ada", "owners", **claims)


def test_without_groups_in_the_settings_everybody_may_do_everything_and_it_is_said(store: Store) -> None:
    free = settings(bucket=store.bucket, oidc_issuer=ISSUER)
    access = Authorization(free, store)
    assert person(access, "ada").roles == ALL_ROLES
    assert access.sees(person(access, "ada"), UNOWNED)
    assert "everybody who signs in may do everything" in in_words(free, signs_in=True)
    assert "everybody on this machine" in in_words(free, signs_in=False)
    assert "submitters: studio; reviewers: art" in in_words(chosen(), signs_in=True)


def test_a_role_without_a_group_is_nobodys(store: Store) -> None:
    access = Authorization(chosen(bucket=store.bucket, publisher_groups=""), store)
    everyone = person(access, "ada", "studio", "art", "shop", "web")
    assert not access.may(everyone, Right.PUBLISH)
    assert access.may(person(access, "eve", "owners"), Right.PUBLISH)


@pytest.mark.parametrize(
    ("group", "rights"),
    [
        ("studio", {Right.SUBMIT}),
        ("art", {Right.SEE_ALL, Right.REVIEW}),
        ("shop", {Right.SEE_ALL, Right.PUBLISH}),
        ("owners", set(Right)),
        ("none", set()),
    ],
)
def test_each_role_has_its_rights_and_no_other(access: Authorization, group: str, rights: set[Right]) -> None:
    somebody = person(access, "ada", group)
    assert {right for right in Right if access.may(somebody, right)} == rights
    for right in set(Right) - rights:
        with pytest.raises(NotAllowed):
            access.require(somebody, right)


def test_a_submitter_sees_the_own_batches_only(access: Authorization) -> None:
    ada = person(access, "ada", "studio")
    assert access.visible(ada, [OWN, OTHERS, UNOWNED]) == {OWN}
    access.require_change(ada, OWN)
    for batch in (OTHERS, UNOWNED, Batch(DATE, "never")):
        with pytest.raises(NoSuchBatch, match=f"there is no batch {batch.path}"):
            access.require_change(ada, batch)


@pytest.mark.parametrize("group", ["art", "shop"])
def test_who_sees_all_batches_changes_none(access: Authorization, group: str) -> None:
    somebody = person(access, "carol", group)
    assert access.visible(somebody, [OWN, OTHERS, UNOWNED]) == {OWN, OTHERS, UNOWNED}
    with pytest.raises(NotAllowed, match="not yours"):
        access.require_change(somebody, OWN)


def test_an_admin_changes_all(access: Authorization) -> None:
    for batch in (OWN, OTHERS, UNOWNED):
        access.require_change(person(access, "root", "owners"), batch)


def test_whoever_left_the_group_does_not_even_see_the_own_batches(access: Authorization) -> None:
    assert access.visible(person(access, "ada"), [OWN]) == set()
    with pytest.raises(NotAllowed):
        access.require_visible(person(access, "ada"), OWN)


def test_nothing_is_allowed_after_the_end_of_a_sign_in(access: Authorization) -> None:
    said = {"iss": ISSUER, "sub": "ada", "cognito:groups": ["owners", "studio"]}
    late = access.person(said, Via.PAGE, until=datetime.now(UTC) - timedelta(seconds=1))
    assert not any(access.may(late, right) for right in Right)
    assert not access.sees(late, OWN)
    with pytest.raises(NotAllowed, match="sign in again"):
        access.require_visible(late, OWN)


def test_subjects_that_differ_in_case_are_two_people(access: Authorization) -> None:
    assert not access.sees(person(access, "Ada", "studio"), OWN)
    assert upload_mark(person(access, "Ada")) != upload_mark(person(access, "ada"))


def test_the_same_subject_of_another_pool_is_somebody_else(access: Authorization, store: Store) -> None:
    moved = Authorization(chosen(bucket=store.bucket, oidc_issuer="https://new.example"), store)
    other_ada = person(moved, "ada", "studio", iss="https://new.example")
    assert not moved.sees(other_ada, OWN)
    with pytest.raises(NotAllowed):
        moved.take(other_ada, OWN)


def test_the_first_owner_stays(access: Authorization, store: Store) -> None:
    with pytest.raises(NotAllowed):
        access.take(person(access, "bob", "studio"), OWN)
    access.take(person(access, "ada", "studio"), OWN)
    assert owner_of(store, OWN).subject == "ada"


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b'{"Subject": "ada"}', b'{"Issuer": 1, "Subject": "ada"}']
)
def test_an_owner_that_cannot_be_read_is_nobody(access: Authorization, store: Store, data: bytes) -> None:
    store.write(UNOWNED.owner_key, data, media_type="application/json")
    assert owner_of(store, UNOWNED) == UNREADABLE
    assert not access.sees(person(access, "ada", "studio"), UNOWNED)


def test_a_retry_belongs_to_the_owner_of_its_batch_whoever_asked_for_it(
    access: Authorization, store: Store
) -> None:
    retry, again = Batch(DATE, "retry"), Batch(DATE, "again")
    remember_origin(store, retry, OWN)
    remember_origin(store, again, retry)
    assert access.sees(person(access, "ada", "studio"), again)
    assert not access.sees(person(access, "bob", "studio"), again)


def test_origins_in_a_circle_have_no_owner(access: Authorization, store: Store) -> None:
    one, two = Batch(DATE, "one"), Batch(DATE, "two")
    remember_origin(store, one, two)
    remember_origin(store, two, one)
    assert owner_of(store, one) is None


def test_lists_show_exactly_what_can_be_opened(access: Authorization, store: Store) -> None:
    """Owners, retries of retries on other dates, circles, documents that cannot be read: found in two ways."""
    chance = random.Random(21)
    days = [DATE, DATE + timedelta(1), DATE - timedelta(40)]
    batches = [Batch(day, f"batch-{number}") for day in days for number in range(8)]
    people = [person(access, name, "studio") for name in ("ada", "bob", "Ada")]
    for batch in batches:
        if chance.random() < 0.4:
            set_owner(store, batch, chance.choice(people))
        elif chance.random() < 0.1:
            store.write(batch.owner_key, b"[]", media_type="application/json")
        if chance.random() < 0.6:
            remember_origin(store, batch, chance.choice(batches))
    for somebody in people:
        opened = {batch for batch in batches if access.sees(somebody, batch)}
        assert access.visible(somebody, batches) == opened
        assert access.visible(somebody, batches[:3]) == opened & set(batches[:3])
    assert any(access.visible(somebody, batches) for somebody in people)


def test_a_list_that_is_read_again_reads_no_document_again(
    access: Authorization, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, others = person(access, "ada", "studio"), [Batch(DATE, f"other-{number}") for number in range(30)]
    for batch in others:
        set_owner(store, batch, person(access, "bob", "studio"))
    read: list[str] = []
    original = Store.read
    monkeypatch.setattr(Store, "read", lambda self, key: read.append(key) or original(self, key))
    everything = [OWN, OTHERS, UNOWNED, *others]
    assert access.visible(ada, everything) == {OWN}
    assert len(read) == 32
    read.clear()
    assert access.visible(ada, everything) == {OWN}
    assert read == []
    # What another process has stored meanwhile counts at once.
    set_owner(store, UNOWNED, ada)
    retry = Batch(DATE, "retry")
    remember_origin(store, retry, OWN)
    assert access.visible(ada, [*everything, retry]) == {OWN, UNOWNED, retry}
    assert len(read) == 2
    store.delete(OWN.owner_key)
    assert access.visible(ada, [*everything, retry]) == {UNOWNED}
    store.write(UNOWNED.owner_key, b"{}", media_type="application/json")
    assert access.visible(ada, everything) == set()


def test_the_list_of_owners_in_memory_is_bounded(
    store: Store, access: Authorization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners, "MOST_CACHED", 2)
    small = Authorization(chosen(bucket=store.bucket), store)
    ada, batches = person(small, "ada", "studio"), [Batch(DATE, f"mine-{number}") for number in range(7)]
    for batch in batches:
        set_owner(store, batch, ada)
    for _ in range(2):
        assert small.visible(ada, [*batches, OTHERS]) == set(batches)


def refused(access: Authorization, somebody: Person, **fields: Any) -> set[str]:
    request = BatchRequest(
        **{
            "Id": "x",
            "Prompt": "a beach",
            "S3Bucket": access._store.bucket,
            "InputS3Prefix": OWN.input_prefix,
            "OutputS3Prefix": OWN.output_prefix,
            "StatusS3Prefix": OWN.status_prefix,
            **fields,
        }
    )
    try:
        access.check_request(somebody, OWN, request)
    except RequestError as error:
        return {field for field, _ in error.problems}
    return set()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, set()),
        ({"Backdrop": "blur"}, set()),
        ({"MaskKey": f"{OWN.input_prefix}/masks/"}, set()),
        ({"MaskKey": f"{OTHERS.input_prefix}/masks/"}, {"MaskKey"}),
        ({"MaskKey": "image-files/2025/11/20/"}, {"MaskKey"}),
        ({"InputS3Prefix": OTHERS.input_prefix}, {"InputS3Prefix"}),
        ({"InputS3Prefix": f"{OTHERS.input_prefix}/shoes"}, {"InputS3Prefix"}),
        ({"InputS3Prefix": "image-files/2025/11/20"}, {"InputS3Prefix"}),
        ({"InputS3Prefix": "image-files"}, {"InputS3Prefix"}),
        ({"InputS3Prefix": f"{OWN.input_prefix}-2"}, {"InputS3Prefix"}),
        ({"StatusS3Prefix": OTHERS.status_prefix}, {"StatusS3Prefix"}),
        ({"OutputS3Prefix": OTHERS.output_prefix}, {"OutputS3Prefix"}),
        ({"S3Bucket": "elsewhere"}, {"S3Bucket"}),
        ({"MaskKey": OTHERS.upload_key("a.png"), "Subject": "MASK"}, {"MaskKey"}),
        ({"Backdrop": OTHERS.upload_key("a.png")}, {"Backdrop"}),
        ({"Backdrop": OWN.upload_key("a.png")}, set()),
        ({"Backdrop": "assets/beach.png"}, set()),
        ({"Backdrop": "#ffffff"}, set()),
        (
            {"Images": (ImageEntry(ImageName="a.jpg", Backdrop=OTHERS.upload_key("b.png")),)},
            {"Images[0].Backdrop"},
        ),
    ],
)
def test_a_submitters_request_names_nothing_of_others(
    access: Authorization, fields: dict[str, Any], named: set[str]
) -> None:
    assert refused(access, person(access, "ada", "studio"), **fields) == named
    assert refused(access, person(access, "root", "owners"), **fields) == set()


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        (OWN.upload_key("a.jpg"), True),
        (f"{OWN.output_prefix}/a.jpg", True),
        (OTHERS.upload_key("a.jpg"), False),
        (f"{OTHERS.output_prefix}/a.jpg", False),
        (f"{OTHERS.status_prefix}/status_report_x.json", False),
        (f"{OWN.input_prefix}/../others/a.jpg", True),  # S3 resolves nothing: the key lies in the own folder
        ("image-files/2025/11/20//a.jpg", False),
        ("photo/0f/a.jpg", False),
        ("outputs/a.png", False),
        ("archive/2025/11/20/others/a.jpg", False),
        ("published/2025/11/20/others/a.jpg", False),
        ("image-masks/2025/11/20/own/a.jpg.png", False),
        ("audit/page/2025/11/20/x.json", False),
        ("anything/a.jpg", False),
        ("assets/a.jpg", True),
    ],
)
def test_a_submitter_names_only_own_keys(
    access: Authorization, store: Store, key: str, allowed: bool
) -> None:
    ada = person(access, "ada", "studio")
    assert access.may_read_key(ada, store.bucket, key) is allowed
    assert not access.may_read_key(ada, "elsewhere", key)
    assert access.may_read_key(person(access, "carol", "art"), store.bucket, key)


def test_a_single_upload_is_its_uploaders(access: Authorization, store: Store) -> None:
    ada, bob = person(access, "ada", "studio"), person(access, "bob", "studio")
    key = f"photo/0f-{upload_mark(ada)}/a.jpg"
    assert access.may_read_key(ada, store.bucket, key)
    assert not access.may_read_key(bob, store.bucket, key)


def test_refusals_are_logged_in_one_line_without_the_names_control_characters(
    access: Authorization, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(NotAllowed):
        access.require(person(access, "eve\n2026 INFO all is well\x1b[2J", "studio"), Right.PUBLISH)
    (record,) = caplog.records
    assert "\n" not in record.getMessage()
    assert "\x1b" not in record.getMessage()
    assert "publish results" in record.getMessage()
