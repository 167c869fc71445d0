"""Finished photos are moved to the archive: none is lost, all are still reported, and nothing is done again."""

import hashlib
import threading
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError

from bg_pipeline.domain.batches import Batch, find_batch
from bg_pipeline.domain.rows import Status
from bg_pipeline.run.archive import Archive
from bg_pipeline.run.batch_work import open_batch
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.listing import batches
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import DATE, Bench
from bg_pipeline_tests.pictures import photo


@pytest.fixture
def bench(s3, bucket, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket), {"archive_to": "archive"})


def photos(bench: Bench) -> list[str]:
    return [key for key in bench.keys("image-files/") if not key.endswith(".json")]


def paid(control: ControlClient) -> int:
    return len(control.paid())


def archived(bench: Bench) -> dict[str, bytes]:
    return {key: bench.store.read(key).data for key in bench.keys("archive/")}


def test_a_photo_is_moved_once_all_its_results_succeeded(bench: Bench) -> None:
    photo_data = {"a.jpg": photo(1), "folder/ü b+c.png": photo(2, format="PNG")}
    batch = bench.submit(photo_data)
    assert bench.run().counts == {Status.SUCCEEDED: 2}
    assert photos(bench) == []
    assert archived(bench) == {f"archive/{batch.path}/{name}": data for name, data in photo_data.items()}
    assert bench.store.head(batch.request_key) is not None
    assert bench.rows(batch)["a.jpg"].Status == Status.SUCCEEDED


def test_without_the_setting_photos_stay(bench: Bench) -> None:
    bench.submit(1)
    bench.run(archive_to="")
    assert len(photos(bench)) == 1
    assert bench.keys("archive/") == []


def test_photos_with_failed_or_blocked_results_stay(bench: Bench) -> None:
    bench.submit({"good.jpg": photo(1), "bad.jpg": b"<html>"})
    bench.submit({"blocked.jpg": photo(2)}, batch="blocked", Prompt="blockme")
    bench.run()
    assert [key.rpartition("/")[2] for key in photos(bench)] == ["bad.jpg", "blocked.jpg"]


def test_masks_and_backdrops_of_a_request_stay(bench: Bench) -> None:
    batch = Batch(DATE, "101530")
    bench.submit(
        {"a.jpg": photo(1), "beach.jpg": photo(3)}, Backdrop=batch.upload_key("beach.jpg"), Subject="SALIENT"
    )
    bench.run()
    assert photos(bench) == [batch.upload_key("beach.jpg")]


def test_a_moved_photo_is_still_reported_and_nothing_is_done_or_paid_again(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(2)
    bench.run()
    control.mark()
    before = {found.key: found.etag for found in bench.store.list("") if "spend" not in found.key}
    day = bench.run()
    assert (day.due, day.counts) == (0, {Status.SUCCEEDED: 2})
    assert control.calls() == []
    assert {found.key: found.etag for found in bench.store.list("") if "spend" not in found.key} == before
    bench.run(archive_to="")  # what was moved stays known when no more is moved
    assert control.calls() == []
    assert len(bench.rows(batch)) == 2


def test_a_folder_without_a_request_is_still_a_batch_when_all_its_photos_were_moved(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(2, requested=False)
    bench.run(default_prompt="a beach")
    assert bench.keys("image-files/") == []
    assert list(batches(bench.store, DATE)) == []
    control.mark()
    day = bench.run(default_prompt="a beach")
    assert day.counts == {Status.SUCCEEDED: 2}
    assert control.calls() == []
    assert len(open_batch(bench.store, bench.settings(), batch).images) == 2
    bench.submit({"late.jpg": photo(9)}, requested=False)
    assert bench.run(default_prompt="a beach").counts == {Status.SUCCEEDED: 3}


def test_a_folder_whose_photos_a_person_removed_is_no_batch(bench: Bench) -> None:
    batch = bench.submit(1, requested=False)
    bench.run(default_prompt="a beach", archive_to="")
    bench.store.delete(batch.upload_key("photo-0.jpg"))
    assert bench.run(default_prompt="a beach").images == 0


def test_a_changed_request_uses_the_archived_photo(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit(1)
    bench.run()
    control.mark()
    bench.submit({}, Prompt="snow")
    assert bench.run().counts == {Status.SUCCEEDED: 1}
    assert [call["operation"] for call in control.paid()] == ["InvokeModel"]
    provenance = bench.store.read_json(f"{bench.rows(batch)['photo-0.jpg'].Results[0]}.json")
    assert provenance["Prompt"] == "snow"
    assert provenance["Source"] == batch.upload_key("photo-0.jpg")
    control.mark()
    bench.run()
    assert control.calls() == []


def test_a_lost_result_is_made_again_from_the_archived_photo_and_its_stored_answer(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(1)
    bench.run()
    (result,) = bench.rows(batch)["photo-0.jpg"].Results
    bench.store.delete(result)
    control.mark()
    assert bench.run().counts == {Status.SUCCEEDED: 1}
    assert bench.store.head(result) is not None
    assert paid(control) == 0


def test_another_batch_that_names_the_moved_photos_finds_them(bench: Bench) -> None:
    first = bench.submit(2)
    bench.run()
    second = bench.submit({}, batch="second", InputS3Prefix=first.input_prefix, Prompt="snow")
    third = bench.submit(
        {},
        batch="third",
        InputS3Prefix=first.input_prefix,
        Images=[{"ImageName": "photo-1.jpg"}, {"ImageName": "no.jpg"}],
    )
    bench.run()
    assert {row.Status for row in bench.rows(second).values()} == {Status.SUCCEEDED}
    assert {name: row.Status for name, row in bench.rows(third).items()} == {
        "photo-1.jpg": Status.SUCCEEDED,
        "no.jpg": Status.FAILED,
    }


def test_photos_of_another_prefix_or_bucket_are_not_moved_by_a_batch_that_uses_them(bench: Bench) -> None:
    first = bench.submit(1)
    bench.run(archive_to="")
    bench.submit({}, batch="second", InputS3Prefix=first.input_prefix)
    bench.store.delete(first.request_key)
    bench.run(archive_to="archive", settle_seconds=3600)
    assert photos(bench) == [first.upload_key("photo-0.jpg")]


def test_another_bucket_can_be_the_archive(bench: Bench, s3, control: ControlClient) -> None:
    other = f"archive-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=other)
    batch = bench.submit(1)
    day = bench.run(archive_to=other)
    assert photos(bench) == []
    assert bench.keys("archive/") == []
    elsewhere = Store(s3, other)
    moved = batch.archive_key("photo-0.jpg")
    assert [found.key for found in elsewhere.list("")] == [moved, f"{moved}.json"]
    assert elsewhere.read_json(f"{moved}.json") == bench.store.read_json(batch.labels_key("photo-0.jpg"))
    assert day.previews == []
    bench.submit({}, Prompt="snow")
    assert bench.run(archive_to=other).counts == {Status.SUCCEEDED: 1}


def test_an_archive_that_does_not_exist_is_noted_and_the_photos_stay(bench: Bench) -> None:
    batch = bench.submit(1)
    assert bench.run(archive_to="no-such-bucket-anywhere").counts == {Status.SUCCEEDED: 1}
    assert any("BG_ARCHIVE_TO" in note for note in bench.notes)
    assert photos(bench) == [batch.upload_key("photo-0.jpg")]
    bench.run()
    assert photos(bench) == []


def test_photos_that_were_finished_before_are_moved_by_the_next_run(
    bench: Bench, control: ControlClient
) -> None:
    bench.submit(2)
    bench.run(archive_to="")
    control.mark()
    bench.run()
    assert photos(bench) == []
    assert control.calls() == []


def test_labels_alone_move_nothing(bench: Bench) -> None:
    bench.submit(1)
    bench.run(archive_to="")
    bench.run(stages=("labels",))
    assert len(photos(bench)) == 1


def test_a_later_photo_of_the_same_name_is_archived_under_another_name(bench: Bench) -> None:
    batch = bench.submit({"a.jpg": photo(1)})
    bench.run()
    bench.submit({"a.jpg": photo(2)})
    bench.run()
    digest = hashlib.sha256(photo(2)).hexdigest()[:12]
    assert archived(bench) == {
        batch.archive_key("a.jpg"): photo(1),
        batch.archive_key(f"a~{digest}.jpg"): photo(2),
    }
    assert photos(bench) == []
    bench.submit({}, Prompt="snow")
    bench.run()
    provenance = bench.store.read_json(f"{bench.rows(batch)['a.jpg'].Results[0]}.json")
    assert provenance["SourceSHA256"] == hashlib.sha256(photo(2)).hexdigest()


def test_the_same_photo_uploaded_again_is_moved_again_and_nothing_is_paid(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit({"a.jpg": photo(1)})
    bench.run()
    bench.submit({"a.jpg": photo(1)})
    control.mark()
    assert bench.run().counts == {Status.SUCCEEDED: 1}
    assert control.calls() == []
    assert photos(bench) == []
    assert archived(bench) == {batch.archive_key("a.jpg"): photo(1)}


class Dying(Store):
    """A store that fails from its ``last``-th write, copy or deletion on."""

    def __init__(self, store: Store, last: int) -> None:
        super().__init__(store.client, store.bucket)
        self._left = last
        self._lock = threading.Lock()

    def _step(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left < 0:
                raise ClientError({"Error": {"Code": "Killed", "Message": "as if killed"}}, "PutObject")

    def write(self, key: str, data: bytes, **more: Any) -> str:
        self._step()
        return super().write(key, data, **more)

    def copy(self, source: str, target: str, **more: Any) -> str:
        self._step()
        return super().copy(source, target, **more)

    def delete(self, key: str, **more: Any) -> None:
        self._step()
        super().delete(key, **more)


@pytest.mark.parametrize("last", range(6))
def test_a_run_that_dies_at_any_step_of_the_move_loses_no_photo(
    bench: Bench, control: ControlClient, last: int
) -> None:
    photo_data = {"a.jpg": photo(1), "b.jpg": photo(2)}
    batch = bench.submit(photo_data)
    bench.run(archive_to="")
    dying = Dying(bench.store, last)
    work = open_batch(dying, bench.settings(), batch)
    Archive(dying, "archive", bench.notes.append).move(work)
    for name, data in photo_data.items():
        stored = [bench.store.read(key) for key in (batch.upload_key(name), batch.archive_key(name))]
        assert data in [content.data for content in stored if content], name
    control.mark()
    day = bench.run()
    assert day.counts == {Status.SUCCEEDED: 2}
    assert control.calls() == []
    assert photos(bench) == []
    assert sorted(archived(bench).values()) == sorted(photo_data.values())


def test_an_upload_stays_if_its_copy_differs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = bench.submit(1)

    def torn(self: Store, source: str, target: str, **more: Any) -> str:
        return self.write(target, b"half of it", media_type="image/jpeg")

    monkeypatch.setattr(Store, "copy", torn)
    bench.run()
    assert photos(bench) == [batch.upload_key("photo-0.jpg")]
    assert any("stays" in note for note in bench.notes)


def test_a_photo_that_was_replaced_while_it_was_moved_is_not_removed(bench: Bench) -> None:
    batch = bench.submit({"a.jpg": photo(1)})
    bench.run(archive_to="")
    work = open_batch(bench.store, bench.settings(), batch)
    bench.put(batch.upload_key("a.jpg"), photo(2))
    Archive(bench.store, "archive", bench.notes.append).move(work)
    assert bench.store.read(batch.upload_key("a.jpg")).data == photo(2)
    bench.run()
    assert photo(2) in archived(bench).values()


def test_the_links_of_a_report_lead_to_the_archived_photo(bench: Bench) -> None:
    batch = bench.submit(1)
    bench.run()
    work = open_batch(bench.store, bench.settings(), batch)
    data, key = work.locations.resolve(batch.upload_key("photo-0.jpg"))
    assert (data.bucket, key) == (bench.store.bucket, batch.archive_key("photo-0.jpg"))
    assert find_batch(key) == batch
