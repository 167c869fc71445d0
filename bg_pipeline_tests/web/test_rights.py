"""What callers with different groups may do through the API: nothing with batches of others, and all in the log."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import requests

from bg_pipeline.domain.batches import Batch
from bg_pipeline.state.audit import AuditLog, AuditRecord
from bg_pipeline.storage.object_store import Store
from bg_pipeline.web.api import make_app
from bg_pipeline_local_aws.control_client import ControlClient
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
    sign_in = {"oidc_issuer": provider.issuer, "oidc_audience": AUDIENCE}
    return Bench(Store(aws().s3(bucket), bucket), {**GROUPS, **sign_in, "api_wait_seconds": 60})


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


def submit(api: Caller, made: dict[str, Any], **fields: Any) -> requests.Response:
    return api("PUT", f"{made['path']}/request", json={"Id": made["Id"], "Prompt": "a beach", **fields})


def batch_of(made: dict[str, Any]) -> Batch:
    day, name = made["Batch"][:10].replace("/", "-"), made["Batch"][11:]
    return Batch(date.fromisoformat(day), name)


def audited(bench: Bench) -> list[AuditRecord]:
    today = datetime.now(UTC).date()
    return list(AuditLog(bench.store).records(today - timedelta(2), today + timedelta(1)))


CALLS: list[tuple[str, str, Any]] = [
    ("GET", "", None),
    ("POST", "/uploads", {"Files": []}),
    ("DELETE", "", None),
    ("PUT", "/request", {"Id": "x", "Prompt": "a beach"}),
    ("POST", "/plan", {"Id": "x", "Prompt": "a beach"}),
    ("PUT", "/approval", None),
    ("POST", "/retry", None),
    ("GET", "/report", None),
    ("GET", "/results", None),
]


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_a_batch_of_somebody_else_does_not_exist(
    ada: Caller, bob: Caller, method: str, path: str, body: Any
) -> None:
    made = uploaded(ada)
    own = bob(method, f"{made['path']}{path}", json=body)
    never = bob(method, f"/batches/2026-11-20/never{path}", json=body)
    assert problem(own) == problem(never) == (404, "NoSuchBatch")
    assert own.json()["detail"].replace(made["Batch"], "X") == never.json()["detail"].replace(
        "2026/11/20/never", "X"
    )
    assert ada.get(made["path"]).json()["State"] == "Draft"


def test_the_calls_above_are_all_that_there_are_about_a_batch(bench: Bench) -> None:
    paths = make_app(bench.settings(), aws(), bench.store).openapi()["paths"]
    about_one = {
        (method.upper(), path.removeprefix("/batches/{date}/{name}"))
        for path, methods in paths.items()
        if path.startswith("/batches/{date}/{name}")
        for method in methods
    }
    assert about_one == {(method, path) for method, path, _ in CALLS}


def test_every_call_needs_a_role(bench: Bench, api: Caller, provider: Provider) -> None:
    nobody = caller(api, provider, "eve")
    app = make_app(bench.settings(), aws(), bench.store)
    known = {
        "/batches": {"Files": []},
        "/upload": {"Filename": "a.jpg", "ContentType": "image/jpeg"},
        "/photo": {"Key": "photo/x/a.jpg"},
        "/photo-api": {"Key": "photo/x/a.jpg"},
        "/image-bg-removal": {"Keys": ["a.jpg"]},
    }
    for path, methods in app.openapi()["paths"].items():
        filled = path.format(date="2026-11-20", name="x", order="20261120-101530-0123456789abcdef")
        for method in methods:
            query = {"input_key": "a.jpg"} if filled == "/image-bg-removal" else None
            answer = nobody(
                method.upper(),
                filled,
                json=known.get(path, {"Files": []} if method != "get" else None),
                params=query,
                headers={"X-BG-Client": "x"},
            )
            assert problem(answer) == (403, "NotAllowed"), (method, path, answer.text)


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


@pytest.mark.parametrize("group", ["art", "shop"])
def test_who_sees_all_batches_neither_submits_nor_spends(
    ada: Caller, api: Caller, provider: Provider, group: str, control: ControlClient
) -> None:
    made = uploaded(ada)
    other = caller(api, provider, "carol", group)
    assert other.get(made["path"]).json()["State"] == "Draft"
    for method, path, body in CALLS:
        if method != "GET" and (path, group) != ("/approval", "art"):
            answer = other(method, f"{made['path']}{path}", json=body)
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
    form = ada.post("/upload", {"Filename": "me.jpg", "ContentType": "image/jpeg"}).json()
    sent = requests.post(form["Url"], data=form["Fields"], files={"file": ("a", photo(1))}, timeout=30)
    assert sent.ok
    key = form["Key"]
    theirs = uploaded(ada)
    for wanted in (key, f"image-files/{theirs['Batch']}/a.jpg"):
        assert problem(bob.post("/image-bg-removal", {"Keys": [wanted]})) == (403, "KeyNotAllowed")
        assert problem(bob.post("/photo", {"Key": wanted})) == (403, "KeyNotAllowed")
    assert control.paid() == []
    assert ada.post("/image-bg-removal", {"Keys": [key]}).status_code == 200


def test_an_order_of_somebody_else_does_not_exist(ada: Caller, bob: Caller) -> None:
    form = ada.post("/upload", {"Filename": "me.jpg", "ContentType": "image/jpeg"}).json()
    requests.post(form["Url"], data=form["Fields"], files={"file": ("a", photo(1))}, timeout=30)
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
