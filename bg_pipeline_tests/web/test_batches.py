"""The batch calls: prepare, upload straight to storage, plan, submit, run, ask how it stands, read the report."""

import json
from collections.abc import Iterator
from datetime import date
from typing import Any
from urllib.parse import quote

import pytest
import requests

from bg_pipeline.domain.batches import Batch
from bg_pipeline.run import source_image
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench, aws
from bg_pipeline_tests.pictures import photo
from bg_pipeline_tests.web.serving import Caller, problem, served

pytestmark = pytest.mark.dates


@pytest.fixture
def bench(bucket: str, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(aws().s3(bucket), bucket))


@pytest.fixture
def api(bench: Bench) -> Iterator[Caller]:
    with served(bench.settings(), bench.store) as caller:
        yield caller


def prepared(api: Caller, *names: str) -> dict[str, Any]:
    answer = api.post("/batches", {"Files": [{"Name": name} for name in names]})
    assert answer.status_code == 201, answer.text
    return {**answer.json(), "path": answer.headers["location"]}


def date_of(path: str) -> date:
    """The upload date in a batch's path, which the API chose."""
    return date.fromisoformat(path[:10].replace("/", "-"))


def send(upload: dict[str, Any], data: bytes) -> requests.Response:
    return requests.post(upload["Url"], data=upload["Fields"], files={"file": ("any", data)}, timeout=30)


def uploaded(api: Caller, *names: str) -> dict[str, Any]:
    made = prepared(api, *names)
    for number, upload in enumerate(made["Uploads"]):
        assert send(upload, photo(number)).ok
    return made


def submit(api: Caller, made: dict[str, Any], **fields: Any) -> requests.Response:
    request = {"Id": made["Id"], "Prompt": "a sunny beach", **fields}
    return api("PUT", f"{made['path']}/request", json=request)


def test_a_batch_goes_from_upload_to_report(api: Caller, bench: Bench, control: ControlClient) -> None:
    made = uploaded(api, "red.jpg", "boots/blue shoe+.jpg")
    assert api.get(made["path"]).json()["State"] == "Draft"
    planned = api.post(f"{made['path']}/plan", {"Id": made["Id"], "Prompt": "a sunny beach"}).json()
    assert (planned["Images"], planned["Due"]) == (2, 2)
    assert planned["WorstUSD"] > 0
    assert control.paid() == []
    answer = submit(api, made)
    assert answer.status_code == 202, answer.text
    assert answer.json() == {"Id": made["Id"], "Batch": made["Batch"], "Images": 2, "PaidPictures": 2}
    assert api.get(answer.headers["location"]).json()["State"] == "Waiting"
    bench.run(date_of(made["Batch"]))
    found = api.get(made["path"]).json()
    assert (found["State"], found["Images"], found["ToDo"]) == ("Reported", 2, 0)
    assert found["Counts"] == {"Succeeded": 2}
    rows = api.get(f"{made['path']}/report").json()
    assert sorted(row["ImageName"] for row in rows) == ["boots/blue shoe+.jpg", "red.jpg"]
    table = api.get(f"{made['path']}/report?format=csv")
    assert table.headers["content-type"].startswith("text/csv")
    assert table.text.startswith('"Id","ImageName"')
    for row in api.get(f"{made['path']}/results").json():
        assert requests.get(row["Results"][0]["Url"], timeout=10).ok


def test_a_batch_in_preparation_is_left_alone_and_costs_nothing(
    api: Caller, bench: Bench, control: ControlClient
) -> None:
    made = uploaded(api, "red.jpg")
    day = bench.run(date_of(made["Batch"]), default_prompt="a beach")
    assert day.unfinished == [made["Batch"]]
    assert control.paid() == []
    assert bench.store.read_json(f"{made['Prefix']}/draft.json") is not None


def test_storage_refuses_what_is_too_large_or_empty(bench: Bench) -> None:
    with served(bench.settings(api_max_upload_mb=1), bench.store) as api:
        (upload,) = prepared(api, "red.jpg")["Uploads"]
        assert upload["MaxBytes"] == 1_000_000
        assert send(upload, b"x" * 1_000_001).status_code == 400
        assert send(upload, b"").status_code == 400
        assert send(upload, b"x").ok


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([{"Name": "notes.txt"}], (422, "NotAnImage")),
        ([{"Name": "request.json"}], (422, "NotAnImage")),
        ([{"Name": "a/../b.jpg"}], (422, "BadName")),
        ([{"Name": "${filename}.jpg"}], (422, "BadName")),
        ([{"Name": "a.jpg"}, {"Name": "a.jpg"}], (422, "BadName")),
        ([{"Name": "x" * 1000 + ".jpg"}], (422, "KeyTooLong")),
        ([{"Name": "page.jpg", "ContentType": "text/html"}], (422, "InvalidRequest")),
        ([{"Name": f"{number}.jpg"} for number in range(1001)], (422, "InvalidRequest")),
    ],
)
def test_a_file_that_cannot_be_a_photo_of_a_batch_is_refused(
    api: Caller, bench: Bench, files: list[dict[str, str]], expected: tuple[int, str]
) -> None:
    assert problem(api.post("/batches", {"Files": files})) == expected
    assert bench.keys("image-files/") == []


def test_more_uploads_can_be_had_until_it_is_submitted(api: Caller) -> None:
    made = uploaded(api, "red.jpg")
    more = api.post(
        f"{made['path']}/uploads", {"Files": [{"Name": "scan", "ContentType": "image/png"}]}
    ).json()
    assert send(more["Uploads"][0], photo(2)).ok
    assert submit(api, made).json()["Images"] == 2
    late = api.post(f"{made['path']}/uploads", {"Files": [{"Name": "late.jpg"}]})
    assert problem(late) == (409, "AlreadySubmitted")


def test_a_request_is_checked_by_field_before_it_is_stored(api: Caller, bench: Bench) -> None:
    made = uploaded(api, "red.jpg")
    answer = submit(api, made, Mode="SOFT", Colour="red", S3Bucket="somebody-elses")
    assert problem(answer) == (422, "RequestError")
    assert {error["Field"] for error in answer.json()["Errors"]} == {"Mode", "Colour", "S3Bucket"}
    missing = submit(api, made, Images=[{"ImageName": "red.jpg"}, {"ImageName": "green.jpg"}])
    assert missing.json()["Errors"] == [
        {"Field": "Images[1].ImageName", "Cause": "'green.jpg' was not uploaded"}
    ]
    assert bench.store.read(f"{made['Prefix']}/request.json") is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "it is empty"),
        (b'{"Files": [],}', "an extra comma"),
        ("{“Files”: []}".encode(), "typographic quote"),
        (b"{'Files': []}", "single quote"),
        (b'{"Files": [] /* none */}', "comment"),
        (b'{"Files": [], "MaxCostUSD": NaN}', "NaN"),
        ('{"Files": [{"Name": "été.jpg"}]}'.encode("cp1252"), "Windows-1252"),
        ('{"Files": []}'.encode("utf-16"), "UTF-16"),
        (b'{"Files": [], "Files": [{"Name": "a.jpg"}]}', "given twice"),
        (b'{"Files": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", "nested too deeply"),
        (b'{"Seed": ' + b"9" * 6000 + b"}", "thousands of digits"),
        (b"[]", "must be a JSON object"),
    ],
)
def test_a_body_that_is_no_json_is_told_in_the_words_of_a_request_file(
    api: Caller, body: bytes, words: str
) -> None:
    answer = api("POST", "/batches", data=body, headers={"Content-Type": "application/json"})
    assert problem(answer) == (422, "InvalidRequest")
    assert words in answer.json()["detail"]


def test_a_byte_order_mark_before_a_body_is_no_obstacle(api: Caller) -> None:
    answer = api("POST", "/batches", data=b'\xef\xbb\xbf{"Files": [{"Name": "a.jpg"}]}')
    assert answer.status_code == 201


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("Backdrop", {"Backdrop": "assets/none.jpg"}),
        ("Images[0].MaskKey", {"Images": [{"ImageName": "red.jpg", "MaskKey": "assets/none.png"}]}),
        ("MaskKey", {"MaskKey": "{prefix}/red.png"}),
        ("Images[0].Backdrop", {"Images": [{"ImageName": "red.jpg", "Backdrop": "{prefix}/RED.jpg"}]}),
    ],
)
def test_a_mask_or_backdrop_that_is_not_there_is_told_before_its_labels_are_paid(
    api: Caller, control: ControlClient, field: str, fields: dict[str, Any]
) -> None:
    made = uploaded(api, "red.jpg")
    filled = json.loads(json.dumps(fields).replace("{prefix}", made["Prefix"]))
    control.mark()
    for answer in (
        api.post(f"{made['path']}/plan", {"Id": made["Id"], "Prompt": "a beach", **filled}),
        submit(api, made, **filled),
    ):
        assert problem(answer) == (422, "RequestError")
        ((told,),) = [answer.json()["Errors"]]
        assert told["Field"] == field
        assert "there is no object" in told["Cause"]
    assert not control.calls()


def test_one_that_is_there_is_no_obstacle(api: Caller, bench: Bench) -> None:
    made = uploaded(api, "red.jpg", "green.jpg")
    bench.put("assets/ground.jpg", photo(4))
    chosen = {"Backdrop": "assets/ground.jpg"}
    own = {"ImageName": "red.jpg", "Backdrop": f"{made['Prefix']}/green.jpg"}
    assert submit(api, made, **chosen, Images=[own]).status_code == 202


def test_a_photo_that_is_called_otherwise_is_told_with_its_name(api: Caller) -> None:
    made = uploaded(api, "Red shoe.jpg", "b.png")
    for name, meant in (
        ("red shoe.JPG", "Red shoe.jpg"),
        ("b.jpg", "b.png"),
        ("Red  shoe.jpg", "Red shoe.jpg"),
    ):
        answer = submit(api, made, Images=[{"ImageName": name}])
        assert f"did you mean '{meant}'?" in answer.json()["detail"]
    assert "did you mean" not in submit(api, made, Images=[{"ImageName": "z.jpg"}]).json()["detail"]


def test_a_batch_without_photos_is_not_submitted(api: Caller) -> None:
    answer = submit(api, prepared(api, "red.jpg"))
    assert problem(answer) == (422, "RequestError")


def test_the_same_request_may_be_sent_again_but_no_other(api: Caller) -> None:
    made = uploaded(api, "red.jpg")
    assert submit(api, made).status_code == 202
    assert submit(api, made).status_code == 202
    assert problem(submit(api, made, Prompt="another")) == (409, "AlreadySubmitted")


def test_a_batch_is_prepared_once_for_an_idempotency_key(api: Caller, bench: Bench) -> None:
    named = {"Idempotency-Key": "spring"}
    first = api.post("/batches", {"Files": [{"Name": "a.jpg"}]}, headers=named).json()
    again = api.post("/batches", {"Files": [{"Name": "a.jpg"}]}, headers=named).json()
    assert first["Batch"] == again["Batch"]
    other = api.post("/batches", {"Files": [{"Name": "b.jpg"}]}, headers=named)
    assert problem(other) == (422, "IdempotencyKeyReused")


def test_a_batch_that_somebody_else_uploaded_can_be_asked_for(api: Caller, bench: Bench) -> None:
    batch = Batch(date(2026, 11, 20), "10:15:30 & more")
    bench.submit(1, batch=batch.name, day=batch.date, Id="spring")
    path = f"/batches/{batch.date}/{quote(batch.name, safe='')}"
    assert api.get(path).json()["State"] == "Waiting"
    assert problem(api.get(f"{path}/report")) == (409, "NoReport")


def test_a_request_that_cannot_be_read_is_told(api: Caller, bench: Bench) -> None:
    batch = bench.submit(1, Mode="SOFT")
    found = api.get(f"/batches/{batch.date}/{batch.name}").json()
    assert found["State"] == "Refused"
    assert "Mode" in found["Cause"]


def test_a_batch_in_preparation_can_be_deleted_and_a_submitted_one_cannot(api: Caller, bench: Bench) -> None:
    made = uploaded(api, "a.jpg")
    assert api("DELETE", made["path"]).status_code == 204
    assert bench.keys("image-files") == []
    assert api("DELETE", made["path"]).status_code == 404
    made = uploaded(api, "a.jpg")
    assert submit(api, made).ok
    assert api("DELETE", made["path"]).status_code == 409
    assert bench.keys("image-files")


def test_a_batch_that_does_not_exist_is_not_found(api: Caller) -> None:
    for path in ("", "/report", "/results"):
        assert problem(api.get(f"/batches/2026-11-20/none{path}")) == (404, "NoSuchBatch")
    answer = api("PUT", "/batches/2026-11-20/none/request", json={"Id": "x", "Prompt": "x"})
    assert problem(answer) == (404, "NoSuchBatch")


def test_errors_of_the_framework_are_problems_too(api: Caller) -> None:
    assert problem(api.get("/nowhere")) == (404, "NOT_FOUND")
    assert problem(api("DELETE", "/batches")) == (405, "METHOD_NOT_ALLOWED")
    answer = api("POST", "/batches", data="{", headers={"Content-Type": "application/json"})
    assert problem(answer) == (422, "InvalidRequest")
    assert problem(api.get("/batches/2026-13-40/x")) == (422, "InvalidRequest")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/batches", "GET, POST"),
        ("/batches/2026-11-20/none", "DELETE, GET"),
        ("/batches/2026-11-20/none/request", "PUT"),
        ("/image-bg-removal", "GET, POST"),
    ],
)
def test_a_wrong_method_is_told_all_the_right_ones(api: Caller, path: str, allowed: str) -> None:
    answer = api("PATCH", path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_a_request_that_is_too_large_is_refused_before_it_is_read(api: Caller) -> None:
    made = prepared(api)
    answer = api("PUT", f"{made['path']}/request", data=b" " * 20_000_001)
    assert problem(answer) == (413, "TooLarge")


def test_who_asks_too_often_is_told_when_to_come_again(bench: Bench) -> None:
    with served(bench.settings(api_requests_per_minute=3), bench.store) as api:
        answers = [api.get("/batches/2026-11-20/none") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [404, 404, 404, 429]
    assert problem(answers[-1]) == (429, "TooManyRequests")
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60


def test_a_fault_of_storage_is_no_fault_of_the_callers(bench: Bench) -> None:
    with served(bench.settings(), Store(bench.store.client, "no-such-bucket-anywhere")) as api:
        answer = api.get("/batches/2026-11-20/x")
    assert problem(answer) == (502, "StorageError")
    assert "Traceback" not in answer.text


def test_a_report_as_a_page_is_no_part_of_this_site(api: Caller, bench: Bench) -> None:
    batch = bench.submit(1)
    bench.run()
    key = f"{batch.status_prefix}/status_report_id-{batch.name}.html"
    bench.store.write(key, b"<!doctype html>", media_type="text/html")
    answer = api.get(f"/batches/{batch.date}/{batch.name}/report?format=html")
    assert answer.headers["content-security-policy"] == "sandbox allow-scripts; frame-ancestors 'none'"
    assert answer.text == "<!doctype html>"


def test_the_rest_of_a_batch_runs_once_its_sample_is_approved(
    api: Caller, bench: Bench, control: ControlClient
) -> None:
    made = uploaded(api, "red.jpg", "blue.jpg")
    assert submit(api, made, Sample=1).json()["PaidPictures"] == 1
    bench.run(date_of(made["Batch"]))
    stands = api.get(made["path"]).json()
    assert (stands["Counts"], stands["WaitForApproval"]) == ({"Succeeded": 1, "Skipped": 1}, 1)
    for _ in range(2):
        assert api("PUT", f"{made['path']}/approval").status_code == 204
    bench.run(date_of(made["Batch"]))
    stands = api.get(made["path"]).json()
    assert (stands["Counts"], stands["WaitForApproval"]) == ({"Succeeded": 2}, 0)
    assert len(control.paid(operation="InvokeModel")) == 2


def test_an_approval_of_a_request_that_was_replaced_since_it_was_seen_is_refused(
    api: Caller, bench: Bench, control: ControlClient
) -> None:
    made = uploaded(api, "red.jpg", "blue.jpg")
    submit(api, made, Sample=1)
    today = date_of(made["Batch"])
    bench.run(today)
    seen = api.get(made["path"]).json()["RequestETag"]
    other = {"Id": made["Id"], "Prompt": "a dark forest", "Sample": 1}
    bench.store.write_json(f"{made['Prefix']}/request.json", other)

    def approve(**headers: str) -> requests.Response:
        return api("PUT", f"{made['path']}/approval", headers=headers)

    assert problem(approve(**{"If-Match": f'"{seen}"'})) == (412, "RequestReplaced")
    assert problem(approve()) == (409, "RequestReplaced"), "its own sample was not made yet"
    bench.run(today)
    assert problem(approve(**{"If-Match": seen})) == (412, "RequestReplaced")
    assert len(control.paid(operation="InvokeModel")) == 2, "one of each sample"
    now = api.get(made["path"]).json()["RequestETag"]
    assert approve(**{"If-Match": f'"{now}"'}).status_code == 204
    assert approve(**{"If-Match": "*"}).status_code == 204
    bench.run(today)
    assert api.get(made["path"]).json()["Counts"] == {"Succeeded": 2}


def test_a_retry_is_refused_while_nothing_is_left_of_the_cap(api: Caller, bench: Bench) -> None:
    made = uploaded(api, "red.jpg", "blue.jpg")
    bench.put(f"{made['Prefix']}/red.jpg", b"no photo")
    submit(api, made, MaxCostUSD=1.0)
    batch = Batch(date_of(made["Batch"]), made["path"].rpartition("/")[2])
    bench.run(batch.date)
    bench.store.write_json(batch.spend_key, {"SettledMicroUsd": 1_000_000, "ClaimedMicroUsd": {}})
    refused = api.post(f"{made['path']}/retry", None)
    assert problem(refused) == (409, "CapReached")
    assert "higher MaxCostUSD" in refused.json()["detail"]


def test_what_may_have_been_billed_is_told_beside_what_was_billed(api: Caller, bench: Bench) -> None:
    batch = bench.submit(1)
    bench.run()
    found = api.get(f"/batches/{batch.date}/{batch.name}").json()
    assert found["CostUSD"] > 0
    assert found["MaybeBilledUSD"] == 0


def test_what_asked_for_no_sample_cannot_be_approved(api: Caller) -> None:
    made = uploaded(api, "red.jpg")
    submit(api, made)
    assert problem(api("PUT", f"{made['path']}/approval")) == (409, "NoSample")
    assert problem(api("PUT", "/batches/2026-11-21/none/approval")) == (404, "NoSuchBatch")


def test_what_failed_is_asked_for_again_once_for_one_idempotency_key(
    api: Caller, bench: Bench, control: ControlClient
) -> None:
    made = uploaded(api, "red.jpg", "blue.jpg")
    bench.put(f"{made['Prefix']}/red.jpg", b"no photo")
    submit(api, made)
    assert problem(api.post(f"{made['path']}/retry", None)) == (409, "NoReport")
    bench.run(date_of(made["Batch"]))
    bench.put(f"{made['Prefix']}/red.jpg", photo(7))
    answers = [api.post(f"{made['path']}/retry", None, headers={"Idempotency-Key": "once"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    first, second = (answer.json() for answer in answers)
    assert first == second
    other = api.post(f"{made['path']}/retry", None, headers={"Idempotency-Key": "other"})
    assert other.json() == first, "whoever asks before that batch has a report gets it"
    assert (first["Images"], first["PaidPictures"]) == (1, 1)
    bench.run(date_of(first["Batch"]))
    assert api.get(answers[0].headers["location"]).json()["Counts"] == {"Succeeded": 1}
    assert len(control.paid(operation="InvokeModel")) == 2
    for key in ("once", "other"):
        late = api.post(f"{made['path']}/retry", None, headers={"Idempotency-Key": key})
        assert late.json() == first, "the answer is that of the first call, whatever there is left to retry"
    nothing = api.post(f"{answers[0].headers['location']}/retry", None)
    assert problem(nothing) == (409, "NothingToRetry")


# A batch that was submitted is closed


def batch_of(made: dict[str, Any]) -> Batch:
    return Batch(date_of(made["Batch"]), made["path"].rpartition("/")[2])


def test_a_form_that_is_used_after_the_submission_gets_nothing_paid(
    api: Caller, bench: Bench, control: ControlClient
) -> None:
    """Replacing a photo and adding one: both are in the report with the reason, and cost nothing."""
    made = prepared(api, "red.jpg", "blue.jpg", "late.jpg")
    red, blue, late = made["Uploads"]
    assert send(red, photo(0)).ok
    assert send(blue, photo(1)).ok
    assert submit(api, made).status_code == 202
    assert send(red, photo(7)).ok
    assert send(late, photo(8)).ok
    batch = batch_of(made)
    assert bench.run(batch.date).counts == {"Succeeded": 1, "Failed": 2}
    rows = bench.rows(batch, made["Id"])
    for name, what in (("red.jpg", "was replaced"), ("late.jpg", "was uploaded")):
        assert (rows[name].Error, rows[name].CostUSD) == ("ChangedAfterSubmission", 0)
        assert what in rows[name].Cause
        assert "submit it as a new batch" in rows[name].Cause
    assert any("2 objects were uploaded or replaced after" in note for note in bench.notes)
    assert len(control.paid(operation="InvokeModel")) == 1
    assert len(control.paid(operation="DetectLabels")) == 1

    # What was refused is not asked for again, until the photo is the submitted one again.
    assert bench.run(batch.date).due == 0
    assert send(red, photo(0)).ok
    assert bench.run(batch.date).counts == {"Succeeded": 2, "Failed": 1}
    assert len(control.paid(operation="InvokeModel")) == 2


def test_what_was_made_before_a_form_replaces_the_photo_stays(
    api: Caller, bench: Bench, control: ControlClient
) -> None:
    made = uploaded(api, "red.jpg")
    submit(api, made)
    batch = batch_of(made)
    bench.run(batch.date)
    paid = control.paid()
    assert send(made["Uploads"][0], photo(7)).ok
    bench.notes.clear()
    assert bench.run(batch.date).counts == {"Succeeded": 1}
    assert any("red.jpg" in note for note in bench.notes)
    assert bench.run(batch.date, again=("pictures",)).counts == {"Succeeded": 1}
    assert "ChangedAfterSubmission" not in bench.rows(batch, made["Id"])["red.jpg"].Error
    assert control.paid() == paid


def test_submitting_again_does_not_take_in_what_arrived_late(
    api: Caller, bench: Bench, control: ControlClient
) -> None:
    made = uploaded(api, "red.jpg", "blue.jpg")
    assert submit(api, made).status_code == 202
    assert send(made["Uploads"][0], photo(7)).ok
    assert submit(api, made).status_code == 202
    assert bench.run(batch_of(made).date).counts == {"Succeeded": 1, "Failed": 1}
    assert len(control.paid(operation="InvokeModel")) == 1


def test_a_mask_that_a_form_replaces_after_the_submission_is_not_used(
    api: Caller, bench: Bench, control: ControlClient
) -> None:
    made = prepared(api, "red.jpg", "mask.png")
    assert send(made["Uploads"][0], photo(0)).ok
    assert send(made["Uploads"][1], photo(1, format="PNG")).ok
    mask = made["Uploads"][1]["Key"]
    submit(api, made, Images=[{"ImageName": "red.jpg", "MaskKey": mask, "Subject": "MASK"}])
    assert send(made["Uploads"][1], photo(2, format="PNG")).ok
    batch = batch_of(made)
    assert bench.run(batch.date).counts == {"Failed": 1}
    assert "mask.png' was replaced" in bench.rows(batch, made["Id"])["red.jpg"].Cause
    assert control.paid() == []


def test_a_retry_takes_what_is_there_when_it_is_asked_for_and_nothing_later(
    api: Caller, bench: Bench, control: ControlClient
) -> None:
    made = prepared(api, "red.jpg", "blue.jpg")
    for upload in made["Uploads"]:
        assert send(upload, b"no photo").ok
    submit(api, made)
    bench.run(date_of(made["Batch"]))
    for number, upload in enumerate(made["Uploads"]):
        assert send(upload, photo(number)).ok
    retried = api.post(f"{made['path']}/retry", None)
    assert send(made["Uploads"][0], photo(7)).ok
    bench.run(date_of(retried.json()["Batch"]))
    assert api.get(retried.headers["location"]).json()["Counts"] == {"Succeeded": 1, "Failed": 1}
    assert len(control.paid(operation="InvokeModel")) == 1


def test_a_photo_that_a_form_replaces_while_the_batch_is_run_is_not_paid(
    api: Caller, bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the run has listed the folder: what is read is compared too."""
    made = uploaded(api, "red.jpg")
    submit(api, made)
    read = source_image.read_source

    def replaced_before(store: Store, key: str) -> Any:
        send(made["Uploads"][0], photo(7))
        return read(store, key)

    monkeypatch.setattr(source_image, "read_source", replaced_before)
    batch = batch_of(made)
    assert bench.run(batch.date).counts == {"Failed": 1}
    assert bench.rows(batch, made["Id"])["red.jpg"].Error == "ChangedAfterSubmission"
    assert control.paid() == []


def test_a_batch_that_was_uploaded_with_s3_itself_stays_open(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit({"a.jpg": photo(0)})
    bench.run()
    bench.put(batch.upload_key("a.jpg"), photo(1))
    bench.put(batch.upload_key("b.jpg"), photo(2))
    assert bench.run().counts == {"Succeeded": 2}
    assert len(control.paid(operation="InvokeModel")) == 3


def test_whoever_replaces_the_request_of_a_batch_opens_it_again(
    api: Caller, bench: Bench, control: ControlClient
) -> None:
    made = uploaded(api, "red.jpg")
    submit(api, made)
    batch = batch_of(made)
    bench.run(batch.date)
    bench.put(batch.upload_key("red.jpg"), photo(7))
    bench.store.write_json(batch.request_key, {"Id": made["Id"], "Prompt": "a sunny beach", "Seed": 7})
    assert bench.run(batch.date).counts == {"Succeeded": 1}
    assert len(control.paid(operation="InvokeModel")) == 2
