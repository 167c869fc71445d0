"""A mask or backdrop that cannot be used is named in the row, so that nobody looks for the fault in the photo."""

import io
from typing import Any

import pytest
from PIL import Image

from bg_pipeline.domain.rows import Status
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench
from bg_pipeline_tests.pictures import photo

MASK, BACKDROP = "assets/subject.png", "assets/ground.jpg"


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (b"hello", "NotAnImage", "the file is text"),
        (b"", "EmptyFile", "empty"),
        (photo(3)[:2500], "DamagedImage", "damaged or cut short"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "DamagedImage", "damaged"),
        (b"%PDF-1.7\n" + bytes(100), "NotAnImage", "PDF"),
    ],
    ids=["text", "empty", "cut", "no pixels", "pdf"],
)
@pytest.mark.parametrize("key", [MASK, BACKDROP])
def test_a_file_that_is_no_picture_is_named(
    s3, bucket, control: ControlClient, key: str, data: bytes, code: str, words: str
) -> None:
    control.switch(canned=True)
    bench = Bench(Store(s3, bucket))
    bench.put(key, data)
    fields: dict[str, Any] = {"Backdrop": key} if key == BACKDROP else {"MaskKey": key}
    batch = bench.submit({"a.jpg": photo(1)}, **fields)
    bench.run(max_failed_share=1.0)
    row = bench.rows(batch)["a.jpg"]
    assert (row.Status, row.Error) == (Status.FAILED, code)
    assert row.Cause.startswith(f"{key}: ")
    assert words in row.Cause
    assert not control.paid(operation="InvokeModel")


@pytest.mark.parametrize("field", ["Backdrop", "MaskKey"])
def test_nothing_is_paid_for_a_missing_file_and_all_is_made_once_it_is_there(
    s3, bucket, control: ControlClient, field: str
) -> None:
    control.switch(canned=True)
    bench = Bench(Store(s3, bucket))
    fields: dict[str, Any] = {field: "assets/later.png"}
    batch = bench.submit({"a.jpg": photo(1), "b.jpg": photo(2)}, **fields)
    for _ in range(2):
        bench.run(max_failed_share=1.0)
        rows = bench.rows(batch).values()
        assert [(row.Status, row.Error) for row in rows] == [(Status.FAILED, "NotFound")] * 2
        assert all("assets/later.png" in row.Cause for row in rows)
        assert not control.paid()
    assert bench.run(max_failed_share=1.0).due == 0
    width, height = Image.open(io.BytesIO(photo(1))).size
    mask = Image.new("L", (width, height), 255)
    mask.paste(0, (width // 4, height // 4, width * 3 // 4, height * 3 // 4))
    out = io.BytesIO()
    mask.save(out, "PNG")
    bench.put("assets/later.png", out.getvalue())
    bench.run()
    rows = bench.rows(batch).values()
    assert {row.Status for row in rows} <= {Status.SUCCEEDED, Status.NEEDS_REVIEW}
    assert all(row.Labels and row.Caption for row in rows)


def test_an_image_without_a_mask_in_the_folder_costs_nothing_and_the_others_are_made(
    s3, bucket, control: ControlClient
) -> None:
    control.switch(canned=True)
    bench = Bench(Store(s3, bucket))
    width, height = Image.open(io.BytesIO(photo(1))).size
    mask = Image.new("L", (width, height), 255)
    mask.paste(0, (width // 4, height // 4, width * 3 // 4, height * 3 // 4))
    out = io.BytesIO()
    mask.save(out, "PNG")
    bench.put("assets/masks/a.png", out.getvalue())
    batch = bench.submit({"a.jpg": photo(1), "b.jpg": photo(2)}, MaskKey="assets/masks/")
    bench.run(max_failed_share=1.0)
    rows = bench.rows(batch)
    assert rows["a.jpg"].Status == Status.SUCCEEDED
    assert (rows["b.jpg"].Status, rows["b.jpg"].Error, rows["b.jpg"].CostUSD) == (
        Status.FAILED,
        "NotFound",
        0.0,
    )
    assert "assets/masks/b.png" in rows["b.jpg"].Cause


def test_what_was_delivered_stays_when_its_backdrop_is_deleted(s3, bucket, control: ControlClient) -> None:
    control.switch(canned=True)
    bench = Bench(Store(s3, bucket))
    bench.put(BACKDROP, photo(7))
    batch = bench.submit({"a.jpg": photo(1)}, Backdrop=BACKDROP)
    bench.run()
    before = bench.rows(batch)["a.jpg"]
    assert before.Results
    bench.store.delete(BACKDROP)
    control.mark()
    bench.run(max_failed_share=1.0)
    after = bench.rows(batch)["a.jpg"]
    assert after.Results == before.Results
    assert after.Labels == before.Labels
    assert not control.paid()
