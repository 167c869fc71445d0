"""Downloads: only what is missing, whole files, never outside the folder, and nobody's own files replaced."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from bg_pipeline import review
from bg_pipeline.domain.rows import Status
from bg_pipeline.errors import UsageError
from bg_pipeline.review import FileState, downloads
from bg_pipeline.review.downloads import RECORD
from bg_pipeline.run.batch_work import BatchWork, open_batch
from bg_pipeline.storage.object_store import Store
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


def states(files: list[review.DownloadedFile]) -> list[FileState]:
    return [file.state for file in files]


def test_results_are_downloaded_once_and_again_only_when_they_were_made_again(
    work: BatchWork, tmp_path: Path
) -> None:
    items = [item(work, "a.png"), item(work, "shoes/b.png")]
    assert states(review.download(work, items, tmp_path)) == [FileState.DOWNLOADED] * 2
    assert (tmp_path / "shoes" / "b.png").read_bytes() == b"picture"
    assert states(review.download(work, items, tmp_path)) == [FileState.KEPT] * 2
    items[0] = item(work, "a.png", b"another picture")
    assert states(review.download(work, items, tmp_path)) == [FileState.DOWNLOADED, FileState.KEPT]
    assert (tmp_path / "a.png").read_bytes() == b"another picture"


def test_a_file_that_was_deleted_is_downloaded_again(work: BatchWork, tmp_path: Path) -> None:
    items = [item(work, "a.png")]
    review.download(work, items, tmp_path)
    (tmp_path / "a.png").unlink()
    assert states(review.download(work, items, tmp_path)) == [FileState.DOWNLOADED]


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
    (file,) = review.download(work, [named], folder)
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
    files = review.download(work, items, tmp_path)
    assert states(files) == [FileState.DOWNLOADED] * len(names)
    assert [file.path.read_bytes().decode() for file in files] == names
    folded = [str(file.path.relative_to(tmp_path)).casefold() for file in files]
    assert len(set(folded)) == len(names)
    assert states(review.download(work, items, tmp_path)) == [FileState.KEPT] * len(names)


def test_a_link_that_leads_out_of_the_folder_is_refused(work: BatchWork, tmp_path: Path) -> None:
    folder, outside = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    outside.mkdir()
    (folder / "shoes").symlink_to(outside)
    with pytest.raises(UsageError, match="leads out of"):
        review.download(work, [item(work, "shoes/b.png")], folder)
    assert list(outside.iterdir()) == []


def test_a_link_in_a_files_place_is_not_written_through(work: BatchWork, tmp_path: Path) -> None:
    folder, outside = tmp_path / "in", tmp_path / "precious.png"
    folder.mkdir()
    outside.write_bytes(b"mine")
    (folder / "a.png").symlink_to(outside)
    items = [item(work, "a.png")]
    assert states(review.download(work, items, folder)) == [FileState.TAKEN]
    assert states(review.download(work, items, folder, overwrite=True)) == [FileState.DOWNLOADED]
    assert outside.read_bytes() == b"mine"
    assert not (folder / "a.png").is_symlink()


def test_a_file_of_somebody_else_or_a_retouched_one_is_kept_unless_it_may_be_replaced(
    work: BatchWork, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(b"my own")
    items = [item(work, "a.png"), item(work, "b.png")]
    assert states(review.download(work, items, tmp_path)) == [FileState.TAKEN, FileState.DOWNLOADED]
    (tmp_path / "b.png").write_bytes(b"retouched")
    items[1] = item(work, "b.png", b"made again")
    assert states(review.download(work, items, tmp_path)) == [FileState.TAKEN] * 2
    assert [(tmp_path / name).read_bytes() for name in ("a.png", "b.png")] == [b"my own", b"retouched"]
    assert states(review.download(work, items, tmp_path, overwrite=True)) == [FileState.DOWNLOADED] * 2
    assert (tmp_path / "b.png").read_bytes() == b"made again"


def test_what_a_killed_download_left_is_continued(work: BatchWork, tmp_path: Path) -> None:
    items = [item(work, "a.png"), item(work, "b.png")]
    review.download(work, items, tmp_path)
    # Killed after the file was in its place and before its line, and in the middle of another one.
    record = tmp_path / RECORD
    record.write_bytes(record.read_bytes().splitlines(keepends=True)[0][:25])
    (tmp_path / f"{downloads._PART}0").write_bytes(b"pict")
    (tmp_path / "b.png").unlink()
    assert states(review.download(work, items, tmp_path)) == [FileState.DOWNLOADED] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([RECORD, "a.png", "b.png"])
    assert states(review.download(work, items, tmp_path)) == [FileState.KEPT] * 2


def test_a_result_that_was_replaced_or_deleted_meanwhile_is_told_and_the_others_come(
    work: BatchWork, tmp_path: Path
) -> None:
    items = [item(work, "a.png"), item(work, "b.png"), item(work, "c.png")]
    item(work, "a.png", b"somebody else's")
    work.locations.data.delete(items[1].key)
    files = review.download(work, items, tmp_path)
    assert states(files) == [FileState.CHANGED, FileState.GONE, FileState.DOWNLOADED]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([RECORD, "c.png"])


def test_a_second_download_into_the_folder_is_refused_while_one_runs(work: BatchWork, tmp_path: Path) -> None:
    items = [item(work, "a.png")]

    def again(file: review.DownloadedFile) -> None:
        with pytest.raises(UsageError, match="another download"):
            review.download(work, items, tmp_path)

    review.download(work, items, tmp_path, done=again)


def test_a_disk_that_is_full_leaves_no_half_file(
    work: BatchWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [item(work, "a.png")]

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device", "a.png")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        review.download(work, items, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [RECORD]
