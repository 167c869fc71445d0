"""What callers with different groups may do through the API: nothing with batches of others, and all in the log."""

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any

import pytest
import requests
from botocore.exceptions import ClientError

from bg_pipeline.domain.batches import Batch
from bg_pipeline.state.audit import AuditLog, AuditRecord
from bg_pipeline.storage.object_store import Store
from bg_pipeline.web import batch_lists
from bg_pipeline.web import sign_in as api_sign_in
from bg_pipeline.web.api import make_app
from bg_pipeline.web.batch_status import batch_status
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_local_aws.launcher import LocalAws
from bg_pipeline_tests.batches import Bench, aws
from bg_pipeline_tests.pictures import photo
from bg_pipeline_tests.web.openid import AUDIENCE, Provider, openid_provider
from bg_pipeline_tests.web.serving import Caller, problem, served

pytestmark = pytest.mark.dates

GROUPS = {
    "submitter_groups": "studio",
    "reviewer_groups": "art",
    "publisher_groups": "shop",
    "admin_groups": "owners",
}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with openid_provider() as running:
        yield running


@pytest.fixture
def bench(bucket: str, control: ControlClient, provider: Provider) -> Bench:
    control.switch(canned=True)
    return Bench(Store(aws().s3(bucket), bucket), {**GROUPS, **sign_in(provider), "api_wait_seconds": 60})


@pytest.fixture
def api(bench: Bench) -> Iterator[Caller]:
    with served(bench.settings(), bench.store) as caller:
        yield caller


@pytest.fixture
def ada(api: Caller, provider: Provider) -> Caller:
    return caller(api, provider, "ada", "studio")


@pytest.fixture
def bob(api: Caller, provider: Provider) -> Caller:
    return caller(api, provider, "bob", "studio")


def sign_in(provider: Provider) -> dict[str, str]:
    return {"oidc_issuer": provider.issuer, "oidc_audience": AUDIENCE}


def caller(api: Caller, provider: Provider, subject: str, *groups: str, **claims: Any) -> Caller:
    said = {"sub": subject, "cognito:groups": list(groups), **claims}
    return Caller(api.address, {"Authorization": f"Bearer {provider.token(**said)}"})


def uploaded(api: Caller) -> dict[str, Any]:
    answer = api.post("/batches", {"Files": [{"Name": "a.jpg"}]})
    assert answer.status_code == 201, answer.text
    made = {**answer.json(), "path": answer.headers["location"]}
    (upload,) = made["Uploads"]
    sent = requests.post(upload["Url"], data=upload["Fields"], files={"file": ("a", photo(1))}, timeout=30)
    assert sent.ok
    return made


def uploaded_photo(api: Caller) -> dict[str, Any]:
    form: dict[str, Any] = api.post("/upload", {"Filename": "me.jpg", "ContentType": "image/jpeg"}).json()
    sent = requests.post(form["Url"], data=form["Fields"], files={"file": ("a", photo(1))}, timeout=30)
    assert sent.ok
    return form


def submit(api: Caller, made: dict[str, Any], **fields: Any) -> requests.Response:
    return api("PUT", f"{made['path']}/request", json={"Id": made["Id"], "Prompt": "a beach", **fields})


def batch_of(made: dict[str, Any]) -> Batch:
    day, name = made["Batch"][:10].replace("/", "-"), made["Batch"][11:]
    return Batch(date.fromisoformat(day), name)


def audited(bench: Bench) -> list[AuditRecord]:
    today = datetime.now(UTC).date()
    return list(AuditLog(bench.store).records(today - timedelta(2), today + timedelta(1)))


class Needs(StrEnum):
    """What a route asks of its caller."""

    NOTHING = "nothing"
    A_ROLE = "a role"
    TO_SUBMIT = "the right to submit"
    TO_SEE = "to see the batch"
    TO_SEE_THE_ORDER = "to see the order"
    TO_CHANGE = "to change the batch"
    TO_REVIEW = "to see the batch, and the right to review"
    TO_PUBLISH = "to see the batch, and the right to publish"


ABOUT_ONE = "/batches/{date}/{name}"
REQUEST = {"Id": "x", "Prompt": "a beach"}
PHOTO = {"Key": "assets/nothing.jpg"}
CUT_OUT = {"params": {"input_key": "assets/nothing.jpg"}, "headers": {"X-BG-Client": "x"}}
ROUTES: dict[tuple[str, str], tuple[Needs, dict[str, Any]]] = {
    ("GET", "/"): (Needs.NOTHING, {}),
    ("GET", "/docs"): (Needs.NOTHING, {}),
    ("GET", "/openapi.json"): (Needs.NOTHING, {}),
    ("GET", "/batches"): (Needs.A_ROLE, {}),
    ("POST", "/batches"): (Needs.TO_SUBMIT, {"json": {"Files": []}}),
    ("GET", ABOUT_ONE): (Needs.TO_SEE, {}),
    ("DELETE", ABOUT_ONE): (Needs.TO_CHANGE, {}),
    ("POST", f"{ABOUT_ONE}/uploads"): (Needs.TO_CHANGE, {"json": {"Files": []}}),
    ("PUT", f"{ABOUT_ONE}/request"): (Needs.TO_CHANGE, {"json": REQUEST}),
    ("POST", f"{ABOUT_ONE}/plan"): (Needs.TO_CHANGE, {"json": REQUEST}),
    ("PUT", f"{ABOUT_ONE}/approval"): (Needs.TO_REVIEW, {}),
    ("POST", f"{ABOUT_ONE}/retry"): (Needs.TO_CHANGE, {}),
    ("GET", f"{ABOUT_ONE}/report"): (Needs.TO_SEE, {}),
    ("GET", f"{ABOUT_ONE}/results"): (Needs.TO_SEE, {}),
    ("GET", f"{ABOUT_ONE}/events"): (Needs.TO_SEE, {}),
    ("GET", f"{ABOUT_ONE}/review"): (Needs.TO_SEE, {}),
    ("POST", f"{ABOUT_ONE}/review"): (
        Needs.TO_REVIEW,
        {"json": {"Decisions": [{"Result": "a.jpg", "Decision": "approve"}]}},
    ),
    ("POST", f"{ABOUT_ONE}/redo"): (Needs.TO_REVIEW, {"json": {"Results": ["a.jpg"]}}),
    ("POST", f"{ABOUT_ONE}/publish"): (Needs.TO_PUBLISH, {}),
    ("GET", f"{ABOUT_ONE}/labels"): (Needs.TO_SEE, {"params": {"image": "a.jpg"}}),
    ("POST", f"{ABOUT_ONE}/labels"): (Needs.TO_CHANGE, {"json": {"ImageName": "a.jpg"}}),
    ("POST", "/upload"): (
        Needs.TO_SUBMIT,
        {"json": {"Filename": "a.jpg", "ContentType": "image/jpeg"}},
    ),
    ("POST", "/photo"): (Needs.TO_SUBMIT, {"json": PHOTO}),
    ("POST", "/photo-api"): (Needs.TO_SUBMIT, {"json": PHOTO}),
    ("GET", "/photo-api/{order}"): (Needs.TO_SEE_THE_ORDER, {}),
    ("POST", "/image-bg-removal"): (Needs.TO_SUBMIT, {"json": {"Keys": ["assets/nothing.jpg"]}}),
    ("GET", "/image-bg-removal"): (Needs.TO_SUBMIT, CUT_OUT),
    ("GET", "/image-bg-removeal"): (Needs.TO_SUBMIT, CUT_OUT),
}
"""Every route, and a call of it that is right but for its caller. A route that is not here fails the next test."""

NOT_ALLOWED, NO_BATCH = (403, "NotAllowed"), (404, "NoSuchBatch")
_NO_ROLE = dict.fromkeys(set(Needs) - {Needs.NOTHING}, NOT_ALLOWED)
_UNKNOWN = set(Needs) - {Needs.NOTHING}
REFUSALS: dict[str, dict[Needs, tuple[int, str]]] = {
    "nobody": dict.fromkeys(_UNKNOWN, (401, "SignInNeeded")),
    "somebody whose sign-in has ended": dict.fromkeys(_UNKNOWN, (401, "BadToken")),
    "somebody without a group": _NO_ROLE,
    "another submitter": {
        **dict.fromkeys((Needs.TO_SEE, Needs.TO_CHANGE, Needs.TO_REVIEW, Needs.TO_PUBLISH), NO_BATCH),
        Needs.TO_SEE_THE_ORDER: (404, "NoSuchOrder"),
    },
    "the owner": {Needs.TO_REVIEW: NOT_ALLOWED, Needs.TO_PUBLISH: NOT_ALLOWED},
    "a reviewer": dict.fromkeys((Needs.TO_SUBMIT, Needs.TO_CHANGE, Needs.TO_PUBLISH), NOT_ALLOWED),
    "a publisher": dict.fromkeys((Needs.TO_SUBMIT, Needs.TO_CHANGE, Needs.TO_REVIEW), NOT_ALLOWED),
    "an admin": {},
}
"""What each caller is refused, by what the route asks; everything else is answered."""

ALL_REFUSALS = {answer for refused in REFUSALS.values() for answer in refused.values()} | {
    (403, "KeyNotAllowed"),
    (403, "Foreign"),
}
CALLS = [
    (method, path.removeprefix(ABOUT_ONE), call)
    for (method, path), (_, call) in ROUTES.items()
    if path.startswith(ABOUT_ONE)
]


@dataclass(frozen=True)
class Shop:
    """A served API with a reported batch and an order of ada's, and a caller of every kind."""

    bench: Bench
    api: Caller
    made: dict[str, Any]
    order: str
    callers: dict[str, Caller]

    def call(self, who: str, method: str, path: str, call: dict[str, Any]) -> requests.Response:
        batch = batch_of(self.made)
        filled = path.format(date=batch.date, name=batch.name, order=self.order)
        return self.callers[who](method, filled, **call)

    def stored(self) -> dict[str, str]:
        """Everything in the bucket, with its version."""
        return {found.key: found.etag for found in self.bench.store.list("")}


@pytest.fixture(scope="module")
def shop(provider: Provider, s3: Any, stand_in: LocalAws) -> Iterator[Shop]:
    ControlClient(stand_in.models).switch(canned=True)
    bucket = f"test-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=bucket)
    bench = Bench(Store(aws().s3(bucket), bucket), {**GROUPS, **sign_in(provider)})
    with served(bench.settings(), bench.store) as api:
        ada = caller(api, provider, "ada", "studio")
        made = uploaded(ada)
        assert submit(ada, made).status_code == 202
        bench.run(batch_of(made).date)
        order = ada.post("/photo-api", {"Key": uploaded_photo(ada)["Key"]}).json()["Id"]
        until = time.monotonic() + 120
        while ada.get(f"/photo-api/{order}").json()["Status"] in ("Waiting", "Working"):
            assert time.monotonic() < until, "the order was not finished"
            time.sleep(0.05)
    # The first server has ended, and so has all work of its order.
    with served(bench.settings(api_requests_per_minute=100_000), bench.store) as api:
        callers = {
            "nobody": Caller(api.address),
            "somebody whose sign-in has ended": caller(api, provider, "ada", "studio", "owners", exp=1),
            "somebody without a group": caller(api, provider, "ada"),
            "another submitter": caller(api, provider, "bob", "studio"),
            "the owner": caller(api, provider, "ada", "studio"),
            "a reviewer": caller(api, provider, "carol", "art"),
            "a publisher": caller(api, provider, "dave", "shop"),
            "an admin": caller(api, provider, "root", "owners"),
        }
        yield Shop(bench, api, made, order, callers)


def routes_of(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """The methods and paths of an application, also of routers that it includes."""
    for route in routes:
        if included := getattr(route, "original_router", None):
            yield from routes_of(included.routes)
        else:
            yield from ((method, route.path) for method in route.methods)


def test_the_table_above_has_every_route(bench: Bench) -> None:
    app = make_app(bench.settings(), aws(), bench.store)
    described = {
        (method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods
    }
    routes = set(routes_of(app.routes))
    assert described <= routes
    # A route of the framework itself answers HEAD as well.
    assert routes - {("HEAD", "/openapi.json")} == set(ROUTES)


def outcome(answer: requests.Response) -> tuple[int, str]:
    """The status of an answer, and the code of the problem if it is one."""
    is_problem = answer.headers.get("content-type") == "application/problem+json"
    return problem(answer) if is_problem else (answer.status_code, "")


@pytest.mark.parametrize("who", REFUSALS)
def test_each_route_refuses_who_may_not_and_then_leaves_everything_as_it_was(
    shop: Shop, control: ControlClient, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    control.switch(canned=True)
    monkeypatch.setattr(batch_lists, "STREAM_SECONDS", 0.0)
    refused = {route: REFUSALS[who][needs] for route, (needs, _) in ROUTES.items() if needs in REFUSALS[who]}
    before = shop.stored()
    assert {route: outcome(shop.call(who, *route, ROUTES[route][1])) for route in refused} == refused
    assert shop.stored() == before
    assert control.paid() == []
    answered = {
        route: outcome(shop.call(who, *route, call))
        for route, (_, call) in ROUTES.items()
        if route not in refused
    }
    assert {route: said for route, said in answered.items() if said in ALL_REFUSALS} == {}


@pytest.mark.parametrize(
    "who", ["another submitter", "somebody without a group", "a reviewer", "a publisher"]
)
def test_nobody_learns_from_a_wrong_call_what_a_right_one_would_not_say(shop: Shop, who: str) -> None:
    for (method, path), (needs, call) in ROUTES.items():
        refusal = REFUSALS[who].get(needs)
        if "json" in call and refusal:
            answer = shop.call(who, method, path, {"json": {"Wrong": 1}})
            assert problem(answer) == refusal, (method, path)


@pytest.mark.parametrize(("method", "path", "call"), CALLS)
def test_a_batch_of_somebody_else_does_not_exist(
    ada: Caller, bob: Caller, method: str, path: str, call: dict[str, Any]
) -> None:
    made = uploaded(ada)
    own = bob(method, f"{made['path']}{path}", **call)
    never = bob(method, f"/batches/2026-11-20/never{path}", **call)
    assert problem(own) == problem(never) == (404, "NoSuchBatch")
    assert own.json()["detail"].replace(made["Batch"], "X") == never.json()["detail"].replace(
        "2026/11/20/never", "X"
    )
    assert problem(bob(method, f"/batches/{made['Batch']}{path}", **call)) == (404, "NoSuchBatch")
    assert ada.get(made["path"]).json()["State"] == "Draft"


@pytest.mark.parametrize(
    "claim", ["studio,owners", "[studio]", "Studio", "owners ", {"studio": 1}, [["studio"]], 7, None]
)
def test_a_claim_that_is_not_exactly_a_group_gives_no_role(
    api: Caller, provider: Provider, claim: object
) -> None:
    eve = caller(api, provider, "eve", **{"cognito:groups": claim})
    assert problem(eve.post("/batches", {"Files": []})) == (403, "NotAllowed")


def test_one_group_as_a_text_is_that_group(api: Caller, provider: Provider) -> None:
    ada = caller(api, provider, "ada", **{"cognito:groups": "studio"})
    assert ada.post("/batches", {"Files": []}).status_code == 201


@pytest.mark.parametrize(("group", "of_the_group"), [("art", Needs.TO_REVIEW), ("shop", Needs.TO_PUBLISH)])
def test_who_sees_all_batches_neither_submits_nor_spends(
    ada: Caller,
    api: Caller,
    provider: Provider,
    group: str,
    of_the_group: Needs,
    control: ControlClient,
) -> None:
    made = uploaded(ada)
    other = caller(api, provider, "carol", group)
    assert other.get(made["path"]).json()["State"] == "Draft"
    for method, path, call in CALLS:
        if ROUTES[method, f"{ABOUT_ONE}{path}"][0] not in (of_the_group, Needs.TO_SEE):
            answer = other(method, f"{made['path']}{path}", **call)
            assert problem(answer) == (403, "NotAllowed"), (method, path)
    assert problem(other.post("/batches", {"Files": []})) == (403, "NotAllowed")
    removal = other.post("/image-bg-removal", {"Keys": [f"image-files/{made['Batch']}/a.jpg"]})
    assert problem(removal) == (403, "NotAllowed")
    assert control.paid() == []


def test_a_batch_goes_from_submitter_to_reviewer_to_submitter(
    bench: Bench, ada: Caller, bob: Caller, api: Caller, provider: Provider
) -> None:
    made = uploaded(ada)
    assert submit(ada, made, Sample=1).status_code == 202
    bench.run(batch_of(made).date)
    assert problem(ada("PUT", f"{made['path']}/approval")) == (403, "NotAllowed")
    carol = caller(api, provider, "carol", "art")
    assert carol("PUT", f"{made['path']}/approval").status_code == 204
    assert ada.get(f"{made['path']}/results").status_code == 200
    assert problem(bob.get(f"{made['path']}/results")) == (404, "NoSuchBatch")
    lines = {line.act: line for line in audited(bench)}
    assert {name: (line.subject, line.via, line.outcome) for name, line in lines.items()} == {
        "Submit": ("ada", "api", "Done"),
        "Spend": ("", "run", "Done"),
        "ApproveSample": ("carol", "api", "Done"),
    }
    etag = bench.store.head(batch_of(made).request_key).etag
    assert lines["Submit"].result["RequestETag"] == etag
    assert lines["Spend"].request_etag == lines["ApproveSample"].request_etag == etag
    assert lines["Spend"].result["CostUSD"] > 0
    assert lines["Submit"].issuer == provider.issuer


def test_a_report_of_somebody_else_is_not_read_through_a_place_that_a_request_names(
    bench: Bench, ada: Caller, bob: Caller
) -> None:
    theirs = uploaded(ada)
    assert submit(ada, theirs, StatusS3Prefix="status-report-files/ada").status_code == 202
    bench.run(batch_of(theirs).date)
    mine = uploaded(bob)
    assert submit(bob, mine, Id=theirs["Id"], StatusS3Prefix="status-report-files/ada").status_code == 202
    for path in ("/report", "/results"):
        assert problem(bob.get(f"{mine['path']}{path}")) == (409, "NoReport")
    assert ada.get(f"{theirs['path']}/report").status_code == 200


@pytest.mark.parametrize("field", ["InputS3Prefix", "StatusS3Prefix", "OutputS3Prefix", "Backdrop"])
def test_a_request_names_nothing_of_others(ada: Caller, bob: Caller, field: str) -> None:
    theirs, mine = uploaded(ada), uploaded(bob)
    top = {"StatusS3Prefix": "status-report-files", "OutputS3Prefix": "generated-image-files"}
    place = f"{top.get(field, 'image-files')}/{theirs['Batch']}"
    fields = {field: f"{place}/a.jpg" if field == "Backdrop" else place}
    for answer in (
        submit(bob, mine, **fields),
        bob.post(f"{mine['path']}/plan", {"Id": "x", "Prompt": "a beach", **fields}),
    ):
        assert problem(answer) == (422, "RequestError")
        assert answer.json()["Errors"][0]["Field"] == field
    assert bob.get(mine["path"]).json()["State"] == "Draft"


def test_single_photos_are_cut_out_for_whoever_uploaded_them_only(
    ada: Caller, bob: Caller, control: ControlClient
) -> None:
    key = uploaded_photo(ada)["Key"]
    theirs = uploaded(ada)
    for wanted in (key, f"image-files/{theirs['Batch']}/a.jpg"):
        assert problem(bob.post("/image-bg-removal", {"Keys": [wanted]})) == (403, "KeyNotAllowed")
        assert problem(bob.post("/photo", {"Key": wanted})) == (403, "KeyNotAllowed")
    assert control.paid() == []
    assert ada.post("/image-bg-removal", {"Keys": [key]}).status_code == 200


def test_an_order_of_somebody_else_does_not_exist(ada: Caller, bob: Caller) -> None:
    form = uploaded_photo(ada)
    order = ada.post("/photo-api", {"Key": form["Key"]}).json()["Id"]
    assert ada.get(f"/photo-api/{order}").status_code == 200
    answer = bob.get(f"/photo-api/{order}")
    assert problem(answer) == (404, "NoSuchOrder")
    assert answer.json()["detail"] == f"there is no order '{order}'"


def test_an_idempotency_key_of_somebody_else_leads_to_a_batch_of_ones_own(ada: Caller, bob: Caller) -> None:
    key = {"Idempotency-Key": "k1"}
    theirs = ada.post("/batches", {"Files": []}, headers=key).json()
    mine = bob.post("/batches", {"Files": []}, headers=key).json()
    assert mine["Batch"] != theirs["Batch"]
    assert ada.post("/batches", {"Files": []}, headers=key).json()["Batch"] == theirs["Batch"]


def test_a_retry_stays_with_the_batchs_owner(
    bench: Bench, ada: Caller, api: Caller, provider: Provider, control: ControlClient
) -> None:
    control.fault(operation="InvokeModel", code="ModelErrorException", message="broken", times=0)
    made = uploaded(ada)
    assert submit(ada, made).status_code == 202
    bench.run(batch_of(made).date, attempts=1)
    control.reset()
    root = caller(api, provider, "root", "owners")
    retried = root.post(f"{made['path']}/retry", None)
    assert retried.status_code == 202, retried.text
    assert ada.get(retried.headers["location"]).status_code == 200
    (line,) = [line for line in audited(bench) if line.act == "Retry"]
    assert (line.subject, line.result["NewBatch"]) == ("root", retried.json()["Batch"])


def test_without_groups_everybody_who_signs_in_sees_all_and_still_is_the_owner(
    bench: Bench, provider: Provider
) -> None:
    with served(bench.settings(**dict.fromkeys(GROUPS, "")), bench.store) as api:
        made = uploaded(caller(api, provider, "ada"))
        assert caller(api, provider, "bob").get(made["path"]).status_code == 200
    with served(bench.settings(), bench.store) as api:
        assert caller(api, provider, "ada", "studio").get(made["path"]).status_code == 200
        assert problem(caller(api, provider, "bob", "studio").get(made["path"])) == (404, "NoSuchBatch")


def test_a_call_that_is_not_in_the_description_is_guarded_like_the_one_that_is(
    ada: Caller, bob: Caller
) -> None:
    theirs = uploaded(ada)
    answer = bob.get(
        "/image-bg-removeal",
        params={"input_key": f"image-files/{theirs['Batch']}/a.jpg"},
        headers={"X-BG-Client": "x"},
    )
    assert problem(answer) == (403, "KeyNotAllowed")


# What came after the first calls


def listed(api: Caller, **query: Any) -> list[str]:
    """The paths of all batches that a caller is shown, page by page."""
    found: list[str] = []
    after = ""
    while True:
        answer = api.get("/batches", params={**query, "after": after})
        assert answer.status_code == 200, answer.text
        found += [batch["Batch"] for batch in answer.json()["Batches"]]
        after = answer.json()["Next"]
        if not after:
            return found


def test_lists_have_only_what_a_person_may_see(
    bench: Bench, ada: Caller, bob: Caller, api: Caller, provider: Provider
) -> None:
    mine, theirs = [uploaded(bob)["Batch"] for _ in range(2)], uploaded(ada)["Batch"]
    day = batch_of({"Batch": theirs}).date
    stranger = bench.submit(1, day=day, batch="from-s3")
    unreadable = bench.submit(1, day=day, batch="unreadable")
    bench.put(unreadable.owner_key, b"ada")
    everything = sorted([*mine, theirs, stranger.path, unreadable.path])
    assert sorted(listed(ada)) == [theirs]
    for limit in (1, 2, 100):
        assert sorted(listed(bob, limit=limit)) == sorted(mine)
    for group in ("art", "shop", "owners"):
        assert sorted(listed(caller(api, provider, "carol", group), limit=2)) == everything
    assert listed(caller(api, provider, "eve", "studio")) == []
    assert listed(bob, state="Reported") == []


def test_a_photo_of_an_archived_batch_stays_in_its_owners_list(
    bench: Bench, ada: Caller, bob: Caller
) -> None:
    made = uploaded(ada)
    assert submit(ada, made).status_code == 202
    bench.run(batch_of(made).date, archive_to="archive")
    assert listed(ada) == [made["Batch"]]
    assert listed(bob) == []


def test_decisions_are_recorded_with_who_made_them(
    bench: Bench, ada: Caller, api: Caller, provider: Provider
) -> None:
    made = uploaded(ada)
    assert submit(ada, made).status_code == 202
    bench.run(batch_of(made).date)
    carol, dave = caller(api, provider, "carol", "art"), caller(api, provider, "dave", "shop")
    decision = {"Decisions": [{"Result": "a.jpg", "Decision": "approve", "Reason": "good"}]}
    assert carol.post(f"{made['path']}/review", decision).status_code == 200
    assert dave.post(f"{made['path']}/publish", None).json()["DeliveredNow"] == 1
    redone = carol.post(f"{made['path']}/redo", {"Results": ["a.jpg"], "Prompt": "a street"})
    assert redone.status_code == 202, redone.text
    assert redone.json()["Batch"] in listed(ada)
    lines = {line.act: line for line in audited(bench) if line.via == "api"}
    assert {name: (line.subject, line.outcome, line.batch) for name, line in lines.items()} == {
        "Submit": ("ada", "Done", made["Batch"]),
        "Decide": ("carol", "Done", made["Batch"]),
        "Publish": ("dave", "Done", made["Batch"]),
        "Redo": ("carol", "Done", made["Batch"]),
    }
    assert lines["Decide"].details["Reason"] == "good"
    assert lines["Publish"].result["Copied"] == 1
    assert lines["Redo"].result["NewBatch"] == redone.json()["Batch"]
    assert ada.get(f"{made['path']}/review").json()["Items"][0]["State"] == "rejected"


def test_labels_before_the_submission_are_recorded_and_not_paid_without_a_line(
    bench: Bench, ada: Caller, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = uploaded(ada)
    path, wanted = f"{made['path']}/labels", {"ImageName": "a.jpg"}
    append = AuditLog._append

    def denied(self: AuditLog, key: str, document: Any) -> bool:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject")

    monkeypatch.setattr(AuditLog, "_append", denied)
    assert problem(ada.post(path, wanted)) == (502, "StorageError")
    assert control.paid() == []
    monkeypatch.setattr(AuditLog, "_append", append)
    for _ in range(2):
        assert ada.post(path, wanted).status_code == 200
    assert len(control.paid()) == 1
    lines = [line for line in audited(bench) if line.via == "api" and line.act == "Spend"]
    assert [(line.subject, line.details["For"], line.result["Calls"]) for line in lines] == [
        ("ada", "labels", 1),
        ("ada", "labels", 0),
    ]


def test_the_workflows_request_submits_no_folder_of_somebody_else(
    bench: Bench, ada: Caller, bob: Caller, api: Caller, provider: Provider
) -> None:
    theirs = batch_of(uploaded(ada))
    from_s3 = bench.submit(1, batch="from-s3", day=theirs.date, requested=False)
    never = Batch(theirs.date, "never")

    def workflow(batch: Batch) -> dict[str, str]:
        return {"Id": "a", "Prompt": "a beach", "InputS3Prefix": batch.input_prefix}

    for batch in (theirs, from_s3, never):
        answer = bob.post("/batches", workflow(batch))
        assert problem(answer) == (404, "NoSuchBatch")
        assert answer.json()["detail"] == f"there is no batch {batch.path}"
    for group in ("art", "shop"):
        answer = caller(api, provider, "carol", group).post("/batches", workflow(theirs))
        assert problem(answer) == (403, "NotAllowed")
    assert all(bench.store.head(batch.request_key) is None for batch in (theirs, from_s3, never))
    assert [line.act for line in audited(bench)] == []
    root = caller(api, provider, "root", "owners")
    assert root.post("/batches", workflow(from_s3)).status_code == 202
    assert ada.post("/batches", workflow(theirs)).status_code == 202
    assert sorted((line.act, line.subject, line.batch) for line in audited(bench)) == [
        ("Submit", "ada", theirs.path),
        ("Submit", "root", from_s3.path),
    ]


def test_a_stream_ends_with_the_sign_in(
    ada: Caller, api: Caller, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_lists, "EVENT_SECONDS", 0.05)
    monkeypatch.setattr(api_sign_in, "LEEWAY_SECONDS", 0)
    made = uploaded(ada)
    soon = caller(api, provider, "ada", "studio", exp=int(time.time()) + 2)
    answer = soon.get(f"{made['path']}/events")
    events = [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]
    assert events == ["status", "problem"]
    said = json.loads(answer.text.strip().rpartition("data: ")[2])
    assert (said["status"], said["type"]) == (403, "urn:bg-pipeline:NotAllowed")
    assert "sign-in has ended" in said["detail"]


def test_one_person_takes_only_a_share_of_the_streams(
    ada: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_lists, "MOST_STREAMS_OF_CALLER", 2)
    path, theirs = uploaded(ada)["path"], uploaded(bob)["path"]
    lines: list[Iterator[Any]] = []
    with contextlib.ExitStack() as open_streams:

        def follow(caller: Caller, path: str) -> requests.Response:
            answer = requests.get(
                f"{caller.address}{path}/events", headers=caller.headers, stream=True, timeout=60
            )
            open_streams.callback(answer.close)
            if answer.status_code == 200:
                # Kept: the connection ends with the iterator.
                lines.append(answer.iter_lines())
                assert next(lines[-1]).startswith(b"retry:")
            return answer

        assert [follow(ada, path).status_code for _ in range(2)] == [200, 200]
        refused = follow(ada, path)
        assert problem(refused) == (429, "TooManyStreams")
        assert refused.headers["retry-after"]
        assert follow(bob, theirs).status_code == 200


def test_many_who_ask_at_the_same_moment_get_no_more_streams_than_there_are(
    ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each looks whether there is room before any of them has begun."""
    monkeypatch.setattr(batch_lists, "MOST_STREAMS", 3)
    monkeypatch.setattr(batch_lists, "EVENT_SECONDS", 0.05)
    monkeypatch.setattr(batch_lists, "STREAM_SECONDS", 2.0)
    path = uploaded(ada)["path"]
    together, first = threading.Barrier(12), iter(range(12))
    read_status = batch_status

    def at_once(*arguments: Any) -> Any:
        if next(first, None) is not None:
            together.wait(30)
        return read_status(*arguments)

    monkeypatch.setattr(batch_lists, "batch_status", at_once)

    def follow(_: int) -> str:
        return ada.get(f"{path}/events").text

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(follow, range(12)))
    assert sum("event: status" in answer for answer in answers) == 3
    assert sum("urn:bg-pipeline:Busy" in answer for answer in answers) == 9


@pytest.mark.parametrize("end", [10**11, 10**18, 2**63, 1e11 + 0.5])
def test_a_token_that_ends_in_the_far_future_is_a_token(api: Caller, provider: Provider, end: float) -> None:
    assert caller(api, provider, "ada", "studio", exp=end).get("/batches").status_code == 200


def test_a_document_is_no_photo_of_anybody(ada: Caller, bob: Caller) -> None:
    wanted = {"Filename": "list.jpg", "ContentType": "text/csv", "Type": "order"}
    key = ada.post("/upload", wanted).json()["Key"]
    assert key.startswith("docs/")
    for each in (ada, bob):
        assert problem(each.post("/photo", {"Key": key})) == (403, "KeyNotAllowed")
