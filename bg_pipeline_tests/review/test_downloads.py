"""Downloads: only what is missing, whole files, never outside the folder, and nobody's own files replaced."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from bg_pipeline import review
from bg_pipeline.acts import Acts
from bg_pipeline.domain.people import local_person
from bg_pipeline.domain.rows import Status
from bg_pipeline.errors import UsageError
from bg_pipeline.review import FileState, Place, State, downloads
from bg_pipeline.review.downloads import RECORD
from bg_pipeline.run.batch_work import BatchWork, open_batch
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench


@pytest.fixture
def work(s3, bucket: str) -> BatchWork:
    """A batch of which nothing was run; its results are what a test stores."""
    bench = Bench(Store(s3, bucket))
    batch = bench.submit(1)
    return open_batch(bench.store, bench.settings(), batch)


def item(work: BatchWork, name: str, data: bytes = b"picture") -> review.Item:
    """A stored result with this name below the batch's output prefix."""
    key = f"{work.locations.output_prefix}/{name}"
    etag = work.locations.data.write(key, data, media_type="image/png")
    return review.Item(
        image=name,
        ref="",
        number=1,
        key=key,
        etag=etag,
        status=Status.SUCCEEDED,
        cause="",
        labels="",
        caption="",
        alt_text="",
        cost_usd=0.01,
        state=review.State.APPROVED,
        why="",
    )


def fetch(
    work: BatchWork, items: Sequence[review.Item], folder: Path, **options: Any
) -> list[review.DownloadedFile]:
    return review.download(work, [Place(work, each) for each in items], folder, **options)


def states(files: list[review.DownloadedFile]) -> list[FileState]:
    return [file.state for file in files]


def test_results_are_downloaded_once_and_again_only_when_they_were_made_again(
    work: BatchWork, tmp_path: Path
) -> None:
    items = [item(work, "a.png"), item(work, "shoes/b.png")]
    assert states(fetch(work, items, tmp_path)) == [FileState.DOWNLOADED] * 2
    assert (tmp_path / "shoes" / "b.png").read_bytes() == b"picture"
    assert states(fetch(work, items, tmp_path)) == [FileState.KEPT] * 2
    items[0] = item(work, "a.png", b"another picture")
    assert states(fetch(work, items, tmp_path)) == [FileState.DOWNLOADED, FileState.KEPT]
    assert (tmp_path / "a.png").read_bytes() == b"another picture"


def test_a_file_that_was_deleted_is_downloaded_again(work: BatchWork, tmp_path: Path) -> None:
    items = [item(work, "a.png")]
    fetch(work, items, tmp_path)
    (tmp_path / "a.png").unlink()
    assert states(fetch(work, items, tmp_path)) == [FileState.DOWNLOADED]


@pytest.mark.parametrize(
    "name",
    [
        "../../escape.png",
        "/etc/escape.png",
        "a/../../escape.png",
        "..",
        "a\\..\\..\\escape.png",
        "C:escape.png",
        "con.png",
        "a\n\x1b[31m.png",
        f"{'ü' * 200}.png",
        RECORD,
        "~/escape.png",
        "a/./b.png",
    ],
)
def test_no_name_of_a_result_leads_out_of_the_folder(work: BatchWork, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "deep" / "er" / "down"
    # Not every one of these is a key that S3 servers take.
    good = replace(item(work, "stored.png"), image=name)
    named = replace(good, key=f"{work.locations.output_prefix}/{name}")
    (path,) = downloads._paths([name])
    (file,) = fetch(work, [named], folder)
    assert file.path == folder / path
    assert file.path.resolve().is_relative_to(folder.resolve())
    assert file.state in (FileState.GONE, FileState.DOWNLOADED, FileState.UNREADABLE, FileState.CHANGED)
    inside = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert all(path.is_relative_to(folder) for path in inside)


def test_names_that_a_file_system_takes_for_one_and_a_name_that_is_a_folder_get_files_of_their_own(
    work: BatchWork, tmp_path: Path
) -> None:
    names = ["A.png", "a.png", "e\u0301.png", "\u00e9.png", "x.png", "x.png/y.png", "\u1e9e.png", "ss.png"]
    items = [item(work, name, name.encode()) for name in names]
    files = fetch(work, items, tmp_path)
    assert states(files) == [FileState.DOWNLOADED] * len(names)
    assert [file.path.read_bytes().decode() for file in files] == names
    folded = [str(file.path.relative_to(tmp_path)).casefold() for file in files]
    assert len(set(folded)) == len(names)
    assert states(fetch(work, items, tmp_path)) == [FileState.KEPT] * len(names)


def test_a_link_that_leads_out_of_the_folder_is_refused(work: BatchWork, tmp_path: Path) -> None:
    folder, outside = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    outside.mkdir()
    (folder / "shoes").symlink_to(outside)
    with pytest.raises(UsageError, match="leads out of"):
        fetch(work, [item(work, "shoes/b.png")], folder)
    assert list(outside.iterdir()) == []


def test_a_link_in_a_files_place_is_not_written_through(work: BatchWork, tmp_path: Path) -> None:
    folder, outside = tmp_path / "in", tmp_path / "precious.png"
    folder.mkdir()
    outside.write_bytes(b"mine")
    (folder / "a.png").symlink_to(outside)
    items = [item(work, "a.png")]
    assert states(fetch(work, items, folder)) == [FileState.TAKEN]
    assert states(fetch(work, items, folder, overwrite=True)) == [FileState.DOWNLOADED]
    assert outside.read_bytes() == b"mine"
    assert not (folder / "a.png").is_symlink()


def test_a_file_of_somebody_else_or_a_retouched_one_is_kept_unless_it_may_be_replaced(
    work: BatchWork, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(b"my own")
    items = [item(work, "a.png"), item(work, "b.png")]
    assert states(fetch(work, items, tmp_path)) == [FileState.TAKEN, FileState.DOWNLOADED]
    (tmp_path / "b.png").write_bytes(b"retouched")
    items[1] = item(work, "b.png", b"made again")
    assert states(fetch(work, items, tmp_path)) == [FileState.TAKEN] * 2
    assert [(tmp_path / name).read_bytes() for name in ("a.png", "b.png")] == [b"my own", b"retouched"]
    assert states(fetch(work, items, tmp_path, overwrite=True)) == [FileState.DOWNLOADED] * 2
    assert (tmp_path / "b.png").read_bytes() == b"made again"


def test_what_a_killed_download_left_is_continued(work: BatchWork, tmp_path: Path) -> None:
    items = [item(work, "a.png"), item(work, "b.png")]
    fetch(work, items, tmp_path)
    # Killed after the file was in its place and before its line, and in the middle of another one.
    record = tmp_path / RECORD
    record.write_bytes(record.read_bytes().splitlines(keepends=True)[0][:25])
    (tmp_path / f"{downloads._PART}0").write_bytes(b"pict")
    (tmp_path / "b.png").unlink()
    assert states(fetch(work, items, tmp_path)) == [FileState.DOWNLOADED] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([RECORD, "a.png", "b.png"])
    assert states(fetch(work, items, tmp_path)) == [FileState.KEPT] * 2


def test_a_result_that_was_replaced_or_deleted_meanwhile_is_told_and_the_others_come(
    work: BatchWork, tmp_path: Path
) -> None:
    items = [item(work, "a.png"), item(work, "b.png"), item(work, "c.png")]
    item(work, "a.png", b"somebody else's")
    work.locations.data.delete(items[1].key)
    files = fetch(work, items, tmp_path)
    assert states(files) == [FileState.CHANGED, FileState.GONE, FileState.DOWNLOADED]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([RECORD, "c.png"])


def test_a_second_download_into_the_folder_is_refused_while_one_runs(work: BatchWork, tmp_path: Path) -> None:
    items = [item(work, "a.png")]

    def again(file: review.DownloadedFile) -> None:
        with pytest.raises(UsageError, match="another download"):
            fetch(work, items, tmp_path)

    fetch(work, items, tmp_path, done=again)


def test_a_disk_that_is_full_leaves_no_half_file(
    work: BatchWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [item(work, "a.png")]

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device", "a.png")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(work, items, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [RECORD]


# Approved results, and pictures that were made again


def again(work: BatchWork, first: review.Item, data: bytes = b"made again", **fields: Any) -> review.Item:
    """A stored result of another batch in the place of ``first``."""
    key = f"{work.locations.output_prefix}-redo/{first.image}"
    etag = work.locations.data.write(key, data, media_type="image/png")
    return replace(first, key=key, etag=etag, place=first.place or first.key, **fields)


def test_a_picture_that_was_made_again_arrives_in_its_originals_place_and_only_it_is_fetched(
    work: BatchWork, tmp_path: Path
) -> None:
    items = [item(work, "shoes/a.png"), item(work, "b.png")]
    fetch(work, items, tmp_path, approved=True)
    items[0] = again(work, items[0])
    assert states(fetch(work, items, tmp_path, approved=True)) == [FileState.DOWNLOADED, FileState.KEPT]
    assert (tmp_path / "shoes" / "a.png").read_bytes() == b"made again"
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == ["a.png", "b.png"]
    assert states(fetch(work, items, tmp_path, approved=True)) == [FileState.KEPT] * 2
    # Made again once more, and then the last redo is taken back.
    twice = again(work, replace(items[0], image="second-redo.png"), b"third")
    assert states(fetch(work, [twice, items[1]], tmp_path)) == [FileState.DOWNLOADED, FileState.KEPT]
    assert states(fetch(work, items, tmp_path)) == [FileState.DOWNLOADED, FileState.KEPT]
    assert (tmp_path / "shoes" / "a.png").read_bytes() == b"made again"


def test_a_retouched_original_is_not_replaced_by_the_picture_that_was_made_again(
    work: BatchWork, tmp_path: Path
) -> None:
    items = [item(work, "a.png")]
    fetch(work, items, tmp_path)
    (tmp_path / "a.png").write_bytes(b"retouched")
    assert states(fetch(work, [again(work, items[0])], tmp_path, approved=True)) == [FileState.TAKEN]
    assert (tmp_path / "a.png").read_bytes() == b"retouched"


@pytest.mark.parametrize("state", [State.REJECTED, State.WAITING])
def test_an_approval_that_was_taken_back_is_told_and_the_file_stays(
    work: BatchWork, tmp_path: Path, state: State
) -> None:
    items = [item(work, "a.png"), item(work, "b.png")]
    fetch(work, items, tmp_path, approved=True)
    items[0] = replace(items[0], state=state, why="rejected by ann: blurred")
    for _ in range(2):  # each time, not only once
        kept, told = fetch(work, items, tmp_path, approved=True)
        assert (kept.state, told.state, told.complete) == (FileState.KEPT, FileState.WITHDRAWN, False)
        assert (told.path, "rejected by ann: blurred" in told.cause) == (tmp_path / "a.png", True)
        assert (tmp_path / "a.png").read_bytes() == b"picture"
    # Approved again: as if nothing had happened. Deleted by its owner: nothing to tell.
    assert (
        states(fetch(work, [replace(items[0], state=State.APPROVED), items[1]], tmp_path, approved=True))
        == [FileState.KEPT] * 2
    )
    (tmp_path / "a.png").unlink()
    assert states(fetch(work, items, tmp_path, approved=True)) == [FileState.KEPT]


def test_it_is_told_also_when_nothing_is_approved_any_more(work: BatchWork, tmp_path: Path) -> None:
    items = [item(work, "a.png")]
    fetch(work, items, tmp_path, approved=True)
    rejected = [replace(items[0], state=State.REJECTED)]
    assert states(fetch(work, rejected, tmp_path, approved=True)) == [FileState.WITHDRAWN]
    assert states(fetch(work, [], tmp_path, approved=True)) == [FileState.WITHDRAWN]
    assert fetch(work, rejected, tmp_path / "new", approved=True) == []
    assert not (tmp_path / "new").exists()


def test_the_replaced_picture_is_told_while_its_replacement_is_not_approved(
    work: BatchWork, tmp_path: Path
) -> None:
    first = item(work, "a.png")
    fetch(work, [first], tmp_path, approved=True)
    waiting = again(work, first, state=State.WAITING, why="every result waits")
    (told,) = fetch(work, [waiting], tmp_path, approved=True)
    assert (told.state, "another picture is in its place" in told.cause) == (FileState.WITHDRAWN, True)
    assert (tmp_path / "a.png").read_bytes() == b"picture"
    making = review.download(
        work,
        [Place(work, replace(first, state=State.REJECTED), remaking=work.locations.batch)],
        tmp_path,
        approved=True,
    )
    assert [(each.state, "being made" in each.cause) for each in making] == [(FileState.WITHDRAWN, True)]


def test_the_files_of_another_batch_in_the_folder_are_neither_replaced_nor_told(
    work: BatchWork, tmp_path: Path
) -> None:
    bench = Bench(work.locations.store)
    other = open_batch(bench.store, bench.settings(), bench.submit(1, batch="120000"))
    fetch(other, [item(other, "a.png", b"the other batch's"), item(other, "b.png")], tmp_path, approved=True)
    assert states(fetch(work, [item(work, "a.png")], tmp_path, approved=True)) == [FileState.TAKEN]
    assert (tmp_path / "a.png").read_bytes() == b"the other batch's"


def test_a_record_of_an_earlier_version_still_counts(work: BatchWork, tmp_path: Path) -> None:
    items = [item(work, "a.png")]
    fetch(work, items, tmp_path)
    record = tmp_path / RECORD
    line = orjson.loads(record.read_bytes())
    del line["Batch"], line["Place"]
    record.write_bytes(orjson.dumps(line) + b"\n")
    assert states(fetch(work, items, tmp_path)) == [FileState.KEPT]
    assert states(fetch(work, [again(work, items[0])], tmp_path)) == [FileState.DOWNLOADED]


def test_names_stay_when_a_result_with_nearly_the_same_name_is_approved_later(
    work: BatchWork, tmp_path: Path
) -> None:
    items = [item(work, name, name.encode()) for name in ("A.png", "a.png")]
    later = [replace(items[0], state=State.WAITING), items[1]]
    (first,) = fetch(work, later, tmp_path, approved=True)
    assert [file.path == first.path for file in fetch(work, items, tmp_path, approved=True)] == [False, True]


def test_a_real_redo_comes_home_in_its_originals_place(
    s3, bucket: str, control: ControlClient, tmp_path: Path
) -> None:
    control.switch(canned=True)
    bench = Bench(Store(s3, bucket))
    batch = bench.submit(2)
    bench.run(batch.date)
    acts, ann = Acts(bench.settings(), bench.store), local_person("ann")

    def download() -> list[review.DownloadedFile]:
        work = open_batch(bench.store, bench.settings(), batch)
        return review.download(work, acts.places(ann, batch), tmp_path, approved=True)

    assert states(download()) == [FileState.DOWNLOADED] * 2
    work = open_batch(bench.store, bench.settings(), batch)
    redone = acts.redo(ann, work, review.items(work, bench.settings())[:1], seed=7)
    files = download()
    assert states(files) == [FileState.KEPT, FileState.WITHDRAWN]
    assert redone.path in files[1].cause
    bench.run(redone.date)
    assert states(download()) == [FileState.DOWNLOADED, FileState.KEPT]
    assert sorted(path.name for path in tmp_path.glob("*.jpg")) == ["photo-0.jpg", "photo-1.jpg"]
    lines = [orjson.loads(line) for line in (tmp_path / RECORD).read_bytes().splitlines()]
    assert (lines[-1]["File"], redone.name in lines[-1]["Result"]) == ("photo-0.jpg", True)
