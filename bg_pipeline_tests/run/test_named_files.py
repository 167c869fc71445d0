"""A mask or backdrop that cannot be used is named in the row, so that nobody looks for the fault in the photo."""

from typing import Any

import pytest

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
