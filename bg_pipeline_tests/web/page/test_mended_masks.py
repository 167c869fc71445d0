"""A mask that a person mends on the page: made anew from the paid picture, or for the price on the button, once."""

import base64
import io
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageDraw, ImageStat

from bg_pipeline import review
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch, find_batch, mending_key
from bg_pipeline.domain.people import Via, local_person
from bg_pipeline.domain.rows import Status
from bg_pipeline.masks import Mask
from bg_pipeline.masks.conventions import STORED
from bg_pipeline.review import State
from bg_pipeline.run import subject_mask
from bg_pipeline.run.batch_work import open_batch
from bg_pipeline.state.audit import AuditLog
from bg_pipeline.storage.object_store import Store
from bg_pipeline.web.page import review_service
from bg_pipeline.web.page.batches import BatchService
from bg_pipeline.web.page.review_server import ReviewSessions
from bg_pipeline.web.page.review_service import ReviewService
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench, aws
from bg_pipeline_tests.pictures import photo, photo_and_mask
from bg_pipeline_tests.web.page.test_review_service import Reviewer, requests_of
from bg_pipeline_tests.web.serving import Caller

SIZE = (240, 180)
CORNER = (2, 2, 40, 40)


@pytest.fixture
def bench(s3, bucket: str, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket), {"review_share": 1.0})


@pytest.fixture
def ann(bench: Bench, server: Caller, sessions: ReviewSessions) -> Reviewer:
    service = ReviewService(bench.settings(), aws(), BatchService(bench.settings(), bench.store))
    return Reviewer(server, sessions.open(service, local_person("ann", Via.PAGE)))


TODAY = datetime.now(UTC).date


def made(bench: Bench, photos: int = 1, **request: Any) -> Batch:
    batch = bench.submit(photos, day=TODAY(), **request)
    bench.run(batch.date)
    return batch


def mended(*, keep: tuple[int, ...] = (), drop: tuple[int, ...] = (), number: int = 0) -> str:
    """The right mask of a test photo, with a box more or less, as the browser sends it."""
    _, mask = photo_and_mask(number, size=SIZE)
    if keep:
        ImageDraw.Draw(mask).rectangle(keep, fill=255)
    if drop:
        ImageDraw.Draw(mask).rectangle(drop, fill=0)
    return base64.b64encode(STORED.write_png(mask)).decode()


def paid(control: ControlClient) -> int:
    return len(control.paid(operation="InvokeModel"))


def batches_of_today(bench: Bench) -> list[Batch]:
    found = (find_batch(key.rpartition("/")[0]) for key in requests_of(bench))
    return [batch for batch in found if batch]


def test_what_is_kept_besides_comes_from_the_photo_and_no_model_is_called(
    bench: Bench, ann: Reviewer, control: ControlClient
) -> None:
    batch = made(bench)
    (row,) = ann.rows(batch)
    mask = mended(keep=CORNER)
    quote = ann.post("quote-mended", items=[row], mask=mask).json()
    assert (quote["pictures"], quote["usd"], quote["results"], quote["why"]) == (0, 0.0, 1, "")
    before = paid(control)
    answer = ann.post("mend", items=[row], mask=mask, pictures=0)
    assert answer.json()["rows"][0]["remaking"]
    bench.run(batch.date)
    assert paid(control) == before
    (again,) = ann.rows(batch)
    assert (again["place"], again["state"], again["file"]) == (row["place"], "waiting", row["file"])
    assert again["batch"] != row["batch"]
    old, new = (ann.get("picture", **each, size="file").content for each in (row, again))
    with Image.open(io.BytesIO(photo(0, size=SIZE))) as source, Image.open(io.BytesIO(new)) as result:
        inside = (6, 6, 34, 34)
        difference = ImageChops.difference(
            source.convert("RGB").crop(inside), result.convert("RGB").crop(inside)
        )
        assert max(ImageStat.Stat(difference).mean) < 6
    with Image.open(io.BytesIO(old)) as earlier, Image.open(io.BytesIO(new)) as result:
        outside = (60, 2, 238, 30)
        same = ImageChops.difference(
            earlier.convert("RGB").crop(outside), result.convert("RGB").crop(outside)
        )
        assert max(ImageStat.Stat(same).mean) < 6, "the background is the one that was paid for"
    rows = bench.rows(Batch(batch.date, again["batch"].rpartition("/")[2]), _id_of(bench, again["batch"]))
    (report,) = rows.values()
    assert (report.Status, report.CostUSD, report.MaybeBilledUSD) == (Status.SUCCEEDED, 0.0, 0.0)
    provenance = bench.store.read_json(f"{report.Results[0]}.json")
    assert provenance is not None
    assert provenance["Mask"] == "given"


def _id_of(bench: Bench, path: str) -> str:
    batch = find_batch(path)
    assert batch is not None
    return str((bench.store.read_json(batch.request_key) or {})["Id"])


def test_the_mask_is_a_persons_own_in_the_request_and_the_act_is_recorded(
    bench: Bench, ann: Reviewer
) -> None:
    batch = made(bench)
    (row,) = ann.rows(batch)
    mask = mended(keep=CORNER)
    ann.post("mend", items=[row], mask=mask, pictures=0)
    (new,) = (each for each in batches_of_today(bench) if each != batch)
    request = bench.store.read_json(new.request_key)
    assert request is not None
    (entry,) = request["Images"]
    assert (entry["Subject"], request["RetryOf"]) == ("MASK", "id-101530")
    stored = bench.store.read(entry["MaskKey"])
    assert stored is not None
    assert stored.data == base64.b64decode(mask)
    (line,) = [line for line in AuditLog(bench.store).records(TODAY(), TODAY()) if line.act == "Mend"]
    assert (line.name, line.outcome, line.result["NewBatch"]) == ("ann", "Done", new.path)
    assert line.details["PaidPictures"] == 0


def test_where_less_is_kept_the_price_is_told_and_the_picture_is_painted_once(
    bench: Bench, ann: Reviewer, control: ControlClient
) -> None:
    batch = made(bench)
    (row,) = ann.rows(batch)
    mask = mended(drop=(100, 60, 130, 90))
    quote = ann.post("quote-mended", items=[row], mask=mask).json()
    assert quote["pictures"] == 1
    assert quote["usd"] > 0
    assert "old background" in quote["why"]
    before = paid(control)
    with ThreadPoolExecutor(2) as pool:  # a double click
        press = {"press": "the only press", "items": [row], "mask": mask, "pictures": 1}
        list(pool.map(lambda _: ann.post("mend", **press), range(2)))
    late = ann.post("mend", items=[row], mask=mask, pictures=1)
    assert "conflict" in late.json()["rows"][0]
    bench.run(batch.date)
    bench.run(batch.date)
    assert paid(control) == before + 1
    assert len(requests_of(bench)) == 2


def test_nobody_pays_more_than_the_button_said(bench: Bench, ann: Reviewer, control: ControlClient) -> None:
    batch = made(bench)
    (row,) = ann.rows(batch)
    answer = ann.post("mend", items=[row], mask=mended(drop=(100, 60, 130, 90)), pictures=0)
    assert (answer.status_code, "the price" in answer.text) == (422, True)
    assert len(requests_of(bench)) == 1
    # The painted picture goes away after it was said that it serves: nothing is paid for another one.
    ann.post("mend", items=[row], mask=mended(keep=CORNER), pictures=0)
    for key in bench.keys("pipeline-state/answers/picture/"):
        bench.store.delete(key)
    before = paid(control)
    bench.run(batch.date)
    assert paid(control) == before
    (again,) = ann.rows(batch)
    assert "not stored any more" in again["failed"]


def test_without_its_record_a_mended_mask_is_paid_for_by_nobody(
    bench: Bench, ann: Reviewer, control: ControlClient
) -> None:
    batch = made(bench)
    ann.post("mend", items=ann.rows(batch), mask=mended(keep=CORNER), pictures=0)
    (new,) = (each for each in batches_of_today(bench) if each != batch)
    (entry,) = (bench.store.read_json(new.request_key) or {})["Images"]
    bench.store.delete(mending_key(entry["MaskKey"]) or "")
    before = paid(control)
    bench.run(batch.date)
    assert paid(control) == before
    (row,) = bench.rows(new, _id_of(bench, new.path)).values()
    assert (row.Status, row.Error) == (Status.FAILED, "MendingUnknown")


def test_another_wish_with_the_same_mask_is_painted_anew(
    bench: Bench, ann: Reviewer, control: ControlClient
) -> None:
    batch = made(bench)
    ann.post("mend", items=ann.rows(batch), mask=mended(keep=CORNER), pictures=0)
    bench.run(batch.date)
    before = paid(control)
    ann.post("redo", items=ann.rows(batch), prompt="a dark forest")
    bench.run(batch.date)
    assert paid(control) == before + 1
    (row,) = ann.rows(batch)
    assert (row["prompt"], len(row["earlier"])) == ("a dark forest", 2)


def test_all_results_of_the_photo_are_made_anew_each_in_its_place(
    bench: Bench, ann: Reviewer, control: ControlClient
) -> None:
    control.switch(canned=False)
    batch = made(bench, 2, Prompt=None, Prompts=["a beach", "a forest"], Variants=2)
    rows = ann.rows(batch)
    ours = [row for row in rows if row["image"] == "photo-0.jpg"]
    before = paid(control)
    ann.post("mend", items=ours, mask=mended(keep=CORNER), pictures=0)
    bench.run(batch.date)
    assert paid(control) == before
    again = ann.rows(batch)
    assert [row["place"] for row in again] == [row["place"] for row in rows]
    assert [row["prompt"] for row in again] == [row["prompt"] for row in rows]
    assert [len(row["earlier"]) for row in again] == [1, 1, 1, 1, 0, 0, 0, 0]
    for old, new in zip(ours, again, strict=False):
        first, second = (ann.get("picture", **each, size="file").content for each in (old, new))
        with Image.open(io.BytesIO(first)) as one, Image.open(io.BytesIO(second)) as other:
            difference = ImageChops.difference(one.convert("RGB"), other.convert("RGB")).crop(
                (60, 2, 238, 30)
            )
            assert max(ImageStat.Stat(difference).mean) < 6, (
                "each keeps the background that was painted for it"
            )


def test_a_part_of_a_photos_results_is_not_made_anew(bench: Bench, ann: Reviewer) -> None:
    batch = made(bench, Variants=2)
    answer = ann.post("mend", items=ann.rows(batch)[:1], mask=mended(keep=CORNER), pictures=0)
    assert (answer.status_code, "reload" in answer.text) == (422, True)
    assert len(requests_of(bench)) == 1


@pytest.mark.parametrize(
    "request_fields",
    [
        {"Task": "REMOVE", "Prompt": None},
        {"Backdrop": "#3060a0", "Prompt": None},
        {"Scene": "a table", "Prompt": None},
    ],
)
def test_what_is_put_together_here_costs_nothing_whatever_the_mask_keeps(
    bench: Bench, ann: Reviewer, control: ControlClient, request_fields: dict[str, Any]
) -> None:
    # The models that paint scenes are there only.
    bench.overrides |= {"regions": "us-west-2", "quota_stable_image_ultra_rpm": 60_000}
    batch = made(bench, **request_fields)
    (row,) = ann.rows(batch)
    mask = mended(drop=(100, 60, 130, 90))
    assert ann.post("quote-mended", items=[row], mask=mask).json()["usd"] == 0.0
    before = paid(control)
    ann.post("mend", items=[row], mask=mask, pictures=0)
    bench.run(batch.date)
    assert paid(control) == before
    (again,) = ann.rows(batch)
    assert (again["state"], len(again["earlier"])) == ("waiting", 1)


def test_a_mended_mask_is_mended_again(bench: Bench, ann: Reviewer, control: ControlClient) -> None:
    batch = made(bench)
    before = paid(control)
    for corner in (CORNER, (2, 2, 60, 60)):
        ann.post("mend", items=ann.rows(batch), mask=mended(keep=corner), pictures=0)
        bench.run(batch.date)
    (row,) = ann.rows(batch)
    assert (len(row["earlier"]), row["state"]) == (2, "waiting")
    assert paid(control) == before


def test_a_cap_that_is_used_up_does_not_stop_what_costs_nothing(bench: Bench, ann: Reviewer) -> None:
    batch = made(bench, MaxCostUSD=0.05)
    document = bench.store.read_json(batch.request_key) or {}
    spent = sum(row.CostUSD or 0 for row in bench.rows(batch).values())
    bench.store.write_json(batch.request_key, {**document, "MaxCostUSD": spent})
    bench.run(batch.date)
    (row,) = ann.rows(batch)
    assert ann.post("mend", items=[row], mask=mended(drop=(100, 60, 130, 90)), pictures=1).status_code == 422
    assert ann.post("mend", items=[row], mask=mended(keep=CORNER), pictures=0).status_code == 200
    bench.run(batch.date)
    (again,) = ann.rows(batch)
    assert (again["state"], len(again["earlier"])) == ("waiting", 1)


def test_a_photo_that_was_replaced_meanwhile_is_not_put_on_its_old_picture(
    bench: Bench, ann: Reviewer
) -> None:
    batch = made(bench)
    (row,) = ann.rows(batch)
    assert ann.get("picture", **row, kind="edit").status_code == 200
    for change in (lambda key: bench.put(key, photo(5, size=SIZE)), bench.store.delete):
        change(batch.upload_key("photo-0.jpg"))
        told_before = ann.get("picture", **row, kind="edit")
        answer = ann.post("mend", items=[row], mask=mended(keep=CORNER), pictures=0)
        for each in (told_before, answer):
            assert (each.status_code, "replaced or deleted" in each.text) == (422, True)
    assert len(requests_of(bench)) == 1


@pytest.mark.parametrize("mask", ["", "%%%", base64.b64encode(b"no picture").decode(), None])
def test_what_is_no_mask_is_a_sentence_and_stores_nothing(
    bench: Bench, ann: Reviewer, mask: str | None
) -> None:
    batch = made(bench)
    (row,) = ann.rows(batch)
    keys = bench.keys("")
    for path in ("quote-mended", "mend"):
        answer = ann.post(path, items=[row], mask=mask, pictures=0)
        assert (answer.status_code, "Traceback" in answer.text) == (422, False)
    assert bench.keys("") == keys


def test_a_mask_is_sent_to_be_edited_with_exactly_its_share(bench: Bench, ann: Reviewer) -> None:
    batch = made(bench)
    (row,) = ann.rows(batch)
    answer = ann.get("picture", **row, kind="edit", size="full")
    with Image.open(io.BytesIO(answer.content)) as layer:
        assert layer.size == SIZE
        alpha = layer.getchannel("A")
    _, mask = photo_and_mask(0, size=SIZE)
    assert ImageStat.Stat(ImageChops.difference(ImageChops.invert(alpha), mask)).mean[0] < 4


# Doubts


def test_a_doubtful_mask_is_shown_with_its_doubts_and_can_be_mended(
    bench: Bench, ann: Reviewer, control: ControlClient, doubtful: Batch
) -> None:
    (row,) = ann.rows(doubtful)
    assert (row["etag"], row["flagged"]) == ("", True)
    layer = ann.get("picture", **row, kind="doubt")
    assert (layer.status_code, layer.headers["content-type"]) == (200, "image/png")
    assert ann.get("picture", **row, kind="edit").status_code == 200, "the mask for which nothing was paid"
    before = paid(control)
    mask = mended()
    quote = ann.post("quote-mended", items=[row], mask=mask).json()
    assert (quote["pictures"], quote["results"]) == (1, 1)
    assert ann.post("mend", items=[row], mask=mask, pictures=1).json()["rows"][0]["remaking"]
    bench.run(doubtful.date)
    assert paid(control) == before + 1
    (again,) = ann.rows(doubtful)
    assert (bool(again["etag"]), again["state"], again["place"]) == (True, "waiting", row["place"])
    assert ann.get("picture", **again, kind="doubt").status_code == 404


def doubted(image: Image.Image, mask: Mask, boxes: object = (), **_: Any) -> Mask:
    """In place of `examine`: doubts every mask but a person's own."""
    if mask.source == "given":
        return mask
    where = Image.new("L", (32, 24))
    where.paste(255, (0, 0, 8, 8))
    wrong = ImageChops.offset(mask.picture, mask.picture.width // 8, 0)
    doubt = "the mask is doubtful: it was made for a test"
    return replace(mask, picture=wrong, doubt=doubt, where=where, confidence=0.2)


WITH_NETWORK = "alpha,studio,network,cut-out"


@pytest.fixture
def doubtful(bench: Bench, monkeypatch: pytest.MonkeyPatch, in_process: None) -> Batch:
    """A batch with one photo whose mask was doubtful, so that nothing was paid."""
    monkeypatch.setattr(subject_mask, "examine", doubted)
    bench.overrides["mask_sources"] = WITH_NETWORK
    batch = bench.submit(1, day=TODAY(), Subject="SALIENT")
    bench.run(batch.date)
    return batch


def test_the_mask_of_a_result_that_stays_is_not_replaced_by_a_doubtful_one(
    bench: Bench, ann: Reviewer, monkeypatch: pytest.MonkeyPatch, in_process: None
) -> None:
    batch = made(bench, Subject="SALIENT")
    key = batch.mask_key("photo-0.jpg")
    before = bench.store.read(key)
    monkeypatch.setattr(subject_mask, "examine", doubted)
    bench.run(batch.date, again=("generated_images",), mask_sources=WITH_NETWORK)
    after = bench.store.read(key)
    assert before is not None
    assert after is not None
    assert before.data == after.data
    assert ann.rows(batch)[0]["etag"]


def test_states_of_the_replaced_results_say_what_happened(bench: Bench, ann: Reviewer) -> None:
    batch = made(bench)
    ann.post("mend", items=ann.rows(batch), mask=mended(keep=CORNER), pictures=0)
    work = open_batch(bench.store, bench.settings(), batch)
    (item,) = review.items(work, bench.settings())
    assert item.state is State.REJECTED
    assert "mended mask" in item.why
    assert s3_keys.provenance_key(item.key) in bench.keys("generated-image-files/")


# Photos in another bucket


@pytest.fixture
def other_bucket(s3, bench: Bench) -> Store:
    name = f"photos-of-others-{uuid.uuid4().hex[:12]}"
    s3.create_bucket(Bucket=name)
    bench.overrides["allowed_buckets"] = name
    return Store(s3, name)


def test_the_mask_of_a_photo_in_another_bucket_is_mended_and_stored_in_our_own(
    other_bucket: Store, bench: Bench, ann: Reviewer, control: ControlClient
) -> None:
    batch = Batch(TODAY(), "101530")
    other_bucket.write(batch.upload_key("photo-0.jpg"), photo(0, size=SIZE), media_type="image/jpeg")
    made(bench, photos=0, S3Bucket=other_bucket.bucket, Images=[{"ImageName": "photo-0.jpg"}])
    before = paid(control)
    for corner in (CORNER, (2, 2, 60, 60)):
        (row,) = ann.rows(batch)
        assert ann.get("picture", **row, kind="edit").status_code == 200
        mask = mended(keep=corner)
        assert ann.post("quote-mended", items=[row], mask=mask).json()["pictures"] == 0
        assert ann.post("mend", items=[row], mask=mask, pictures=0).json()["rows"][0]["remaking"]
        assert not any("/.mended-" in each.key for each in other_bucket.list("image-files/"))
        bench.run(batch.date)
    assert paid(control) == before
    (again,) = ann.rows(batch)
    assert (len(again["earlier"]), again["state"], again["failed"]) == (2, "waiting", "")
    assert ann.get("picture", **again, size="file").status_code == 200


# Regions of a click


def click_on(part: bytes, mask: Image.Image, **fields: Any) -> dict[str, Any]:
    files = {"part": part, "mask": STORED.write_png(mask)}
    encoded = {name: base64.b64encode(data).decode() for name, data in files.items()}
    return {**encoded, "x": 120, "y": 90, "reach": 100, "keep": True, **fields}


def test_a_click_finds_the_subject_and_stores_nothing(bench: Bench, ann: Reviewer) -> None:
    data, mask = photo(0, size=SIZE), photo_and_mask(0, size=SIZE)[1]
    ImageDraw.Draw(mask).rectangle((100, 0, 240, 180), fill=0)
    keys = bench.keys("")
    answer = ann.post("region", **click_on(data, mask))
    with Image.open(io.BytesIO(base64.b64decode(answer.json()["region"]))) as region:
        assert region.size == SIZE
        assert region.getpixel((120, 80)) == 255
        assert region.getpixel((230, 10)) == 0
    assert bench.keys("") == keys
    already = ann.post("region", **click_on(data, mask, keep=False))
    assert (already.status_code, already.json()) == (200, {"region": ""})


@pytest.mark.parametrize(
    "fields",
    [
        {"x": None},
        {"y": -1},
        {"reach": 1e9},
        {"reach": "100"},
        {"x": True},
        {"keep": 1},
        {"part": ""},
        {"part": "%%%"},
        {"part": "ä"},
        {"part": base64.b64encode(b"no picture").decode()},
        {"mask": base64.b64encode(STORED.write_png(Image.new("L", (20, 20)))).decode()},
    ],
)
def test_what_is_no_click_on_a_picture_is_a_sentence(ann: Reviewer, fields: dict[str, Any]) -> None:
    data, mask = photo(0, size=SIZE), photo_and_mask(0, size=SIZE)[1]
    answer = ann.post("region", **{**click_on(data, mask), **fields})
    assert (answer.status_code, "Traceback" in answer.text, bool(answer.text)) == (422, False, True)


def test_a_part_that_is_larger_than_a_screen_is_not_searched(ann: Reviewer) -> None:
    large = Image.new("L", (1025, 10))
    out = io.BytesIO()
    large.save(out, "PNG")
    answer = ann.post("region", **click_on(out.getvalue(), large, y=5))
    assert (answer.status_code, "reload" in answer.text) == (422, True)


def test_a_search_without_end_is_ended_and_told(ann: Reviewer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review_service, "region_at", sleep_for_ever)
    monkeypatch.setattr(review_service, "REGION_SECONDS", 0.5)
    data, mask = photo(0, size=SIZE), photo_and_mask(0, size=SIZE)[1]
    answer = ann.post("region", **click_on(data, mask))
    assert (answer.status_code, "longer than 0.5 s" in answer.text) == (422, True)


def sleep_for_ever(*_: Any, **__: Any) -> bytes:
    time.sleep(600)
    return b""
