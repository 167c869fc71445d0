"""Files of every type that people upload, in one batch: each becomes a correct result or the right error row."""

import io
import posixpath

import numpy as np
import pytest
from PIL import Image, ImageFilter

from bg_pipeline.domain.rows import Status
from bg_pipeline.imaging import open_photo
from bg_pipeline.masks.conventions import STORED
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench
from bg_pipeline_tests.corpus import COMPLAINTS, corpus

pytestmark = pytest.mark.filterwarnings(COMPLAINTS)


def test_each_is_a_correct_result_or_the_right_row(s3, bucket, control: ControlClient) -> None:
    control.switch(canned=True)
    bench = Bench(Store(s3, bucket))
    cases = {case.name: case for case in corpus()}
    assert len(cases) >= 60
    batch = bench.submit({name: case.data for name, case in cases.items()}, Subject="SALIENT")
    bench.run(max_failed_share=1.0)
    rows = bench.rows(batch)
    assert rows.keys() == cases.keys()
    for name, case in cases.items():
        row = rows[name]
        if case.outcome != "opens":
            assert (row.Status, row.Error) == (Status.FAILED, case.outcome), name
            assert row.Cause
            continue
        assert row.Status in (Status.SUCCEEDED, Status.NEEDS_REVIEW), (name, row.Cause)
        if not row.Results:
            continue  # a person is asked, with the reason, before anything is paid
        made = open_photo(bench.store.read(row.Results[0]).data)
        source = open_photo(case.data)
        assert made.size == source.size, name
        stem = posixpath.splitext(name)[0]
        assert posixpath.basename(row.Results[0]).startswith(posixpath.basename(stem)), name
        mask = bench.store.read(batch.mask_key(name))
        if mask is not None and row.Status == Status.SUCCEEDED:
            assert_subject_kept(source.flattened(), made.flattened(), STORED.read_png(mask.data), name)


def assert_subject_kept(source: Image.Image, made: Image.Image, mask: Image.Image, name: str) -> None:
    """The subject's interior is the source's, except for the loss of the format."""
    if mask.size != made.size:
        # A large photo's mask is stored smaller; well inside of it there is no doubt.
        mask = mask.resize(made.size, Image.Resampling.NEAREST).filter(ImageFilter.MinFilter(9))
    inside = np.asarray(mask) == 255
    if source.mode == "RGB" and inside.any():
        before, after = np.asarray(source, np.int16), np.asarray(made, np.int16)
        assert np.abs(before - after)[inside].mean() < 4, name


def test_a_result_holds_nothing_private_and_says_that_ai_edited_it(
    s3, bucket, control: ControlClient
) -> None:
    control.switch(canned=True)
    bench = Bench(Store(s3, bucket))
    from bg_pipeline_tests.corpus import exif, saved
    from bg_pipeline_tests.pictures import photo_and_mask

    data = saved(photo_and_mask(2)[0], "JPEG", exif=exif(6, gps=True))
    batch = bench.submit({"gps.jpg": data})
    bench.run()
    (key,) = bench.rows(batch)["gps.jpg"].Results
    made = bench.store.read(key).data
    assert b"Exif" not in made
    assert b"GPS" not in made
    assert b"compositeWithTrainedAlgorithmicMedia" in made
    assert Image.open(io.BytesIO(made)).size == (180, 240)
