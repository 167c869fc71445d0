"""Photos in a watched folder are submitted once: not half written, not again after renames, crashes and restarts."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bg_pipeline.domain.batches import Batch
from bg_pipeline.errors import UsageError
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads import submitting, watching
from bg_pipeline.uploads.listing import discard_draft
from bg_pipeline.uploads.watching import (
    JOURNAL,
    FolderWatch,
    Journal,
    PhotoChanged,
    SettledPhoto,
    settle_begun,
    submit_photos,
)
from bg_pipeline_tests.batches import DATE

SETTLE = 10.0
REQUEST = b'{"Id": "a", "Prompt": "x"}'


class Watched:
    """A folder, its journal, and a clock that the test moves; `restart` begins anew with what is on disk."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder, self.store = folder, store
        self.now, self.number = 0.0, 0
        self.notes: list[str] = []
        self.start()

    def start(self) -> None:
        self._opened = Journal.opened(self.folder / JOURNAL, self.store.bucket)
        self.journal = self._opened.__enter__()
        self.looking = FolderWatch(
            self.folder,
            self.journal,
            settle_seconds=SETTLE,
            clock=lambda: self.now,
            note=self.notes.append,
        )

    def end(self) -> None:
        self._opened.__exit__(None, None, None)

    def restart(self) -> None:
        self.end()
        self.start()
        settle_begun(self.store, self.journal, self.discard)

    def put(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def names(self, after: float = SETTLE + 1) -> list[str]:
        """What has settled after some time, with a look before and after it."""
        self.looking.look()
        self.now += after
        return [photo.name for photo in self.looking.look()]

    def submit(self) -> list[str]:
        """Submits what has settled and returns the names."""
        self.names()
        photos = self.looking.look()
        self.number += 1
        if photos:
            self.send(Batch(DATE, f"{self.number}"), photos)
        return [photo.name for photo in photos]

    def send(self, batch: Batch, photos: Sequence[SettledPhoto]) -> None:
        submit_photos(
            self.store,
            self.journal,
            batch,
            photos,
            REQUEST,
            hand_over=lambda: submitting.hand_over(self.store, batch, REQUEST),
            discard=self.discard,
        )

    def discard(self, batch: Batch) -> None:
        discard_draft(self.store, batch)

    def keys(self) -> list[str]:
        return [info.key for info in self.store.list("image-files/")]


@pytest.fixture
def watched(s3, bucket: str, tmp_path: Path) -> Iterator[Watched]:
    folder = tmp_path / "inbox"
    folder.mkdir()
    watched = Watched(folder, Store(s3, bucket))
    yield watched
    watched.end()


def test_a_photo_is_submitted_once_with_its_folder_and_then_never_again(watched: Watched) -> None:
    watched.put("a.jpg", b"one")
    watched.put("shoes/b.jpg", b"two")
    assert watched.submit() == ["a.jpg", "shoes/b.jpg"]
    prefix = Batch(DATE, "1").input_prefix
    assert watched.keys() == [f"{prefix}/a.jpg", f"{prefix}/request.json", f"{prefix}/shoes/b.jpg"]
    assert watched.submit() == []
    watched.restart()
    assert watched.submit() == []


def test_a_photo_that_is_still_written_waits_and_the_others_with_it(watched: Watched) -> None:
    watched.put("a.jpg", b"one")
    growing = watched.put("b.jpg", b"h")
    watched.looking.look()
    for size in range(2, 6):
        watched.now += SETTLE
        growing.write_bytes(b"h" * size)
        assert watched.looking.look() == []
    assert watched.names() == ["a.jpg", "b.jpg"]


def test_photos_that_keep_coming_do_not_hold_up_the_others_for_ever(watched: Watched) -> None:
    watched.put("a.jpg", b"one")
    taken: list[str] = []
    for number in range(50):
        watched.put("late.jpg", b"x" * (number + 1))
        watched.looking.look()
        watched.now += SETTLE * 0.9
        taken += [photo.name for photo in watched.looking.look()]
        if taken:
            break
    assert taken == ["a.jpg"]


@pytest.mark.parametrize("change", ["rename", "copy", "touch", "move"])
def test_what_was_submitted_is_known_by_its_content(watched: Watched, change: str) -> None:
    path = watched.put("a.jpg", b"one")
    watched.submit()
    match change:
        case "rename":
            path.rename(watched.folder / "b.jpg")
        case "copy":
            watched.put("copy.jpg", b"one")
        case "touch":
            os.utime(path, (1, 1))
        case "move":
            (watched.folder / "sub").mkdir()
            path.rename(watched.folder / "sub" / "a.jpg")
    watched.restart()
    assert watched.submit() == []
    assert any("was submitted already, in batch 2025/11/20/1" in note for note in watched.notes)


def test_another_photo_under_the_same_name_is_submitted(watched: Watched) -> None:
    watched.put("a.jpg", b"one")
    watched.submit()
    watched.put("a.jpg", b"two")
    assert watched.submit() == ["a.jpg"]


@pytest.mark.parametrize(
    "name",
    ["a.jpg.part", "a.jpg.crdownload", ".a.jpg", ".hidden/a.jpg", "notes.txt", "request.json", "a.AAE"],
)
def test_files_that_are_no_finished_photos_are_left_alone(watched: Watched, name: str) -> None:
    watched.put(name, b"data")
    watched.put("empty.jpg", b"")
    assert watched.names() == []


@pytest.mark.parametrize("how", ["changed", "deleted", "replaced"])
def test_a_photo_that_changes_while_it_is_submitted_stops_the_batch_and_is_found_again(
    watched: Watched, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = watched.put("a.jpg", b"one")
    watched.put("b.jpg", b"two")
    watched.names()
    photos = watched.looking.look()
    store_files = submitting.store_files

    def disturb(*args, **named) -> None:
        store_files(*args, **named)
        match how:
            case "changed":
                path.write_bytes(b"three")
            case "deleted":
                path.unlink()
            case "replaced":
                watched.put("new", b"four")
                os.replace(watched.folder / "new", path)

    monkeypatch.setattr(watching, "store_files", disturb)
    with pytest.raises(PhotoChanged, match=r"a\.jpg"):
        watched.send(Batch(DATE, "1"), photos)
    assert watched.keys() == []
    monkeypatch.undo()
    assert "b.jpg" in watched.submit()


@pytest.mark.parametrize("died", ["before the draft", "while uploading", "before the request"])
def test_after_a_crash_before_the_request_the_uploads_are_deleted_and_submitted_again(
    watched: Watched, died: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.put("a.jpg", b"one")
    watched.names()
    photos = watched.looking.look()

    class Died(Exception):
        pass

    def die(*args, **named) -> None:
        raise Died

    if died == "before the draft":
        monkeypatch.setattr(watched.store, "write", die)
    elif died == "while uploading":
        monkeypatch.setattr(watching, "store_files", die)
    else:
        monkeypatch.setattr(submitting, "hand_over", die)
    with pytest.raises(Died):
        watched.send(Batch(DATE, "1"), photos)
    monkeypatch.undo()
    assert bool(watched.keys()) == (died != "before the draft")
    watched.restart()
    assert watched.keys() == []
    assert watched.submit() == ["a.jpg"]


def test_after_a_crash_between_the_request_and_its_line_nothing_is_submitted_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.put("a.jpg", b"one")
    watched.submit()
    journal = watched.folder / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 2
    watched.end()
    journal.write_bytes(lines[0] + lines[1][:20])  # the process died while it wrote
    watched.start()
    settle_begun(watched.store, watched.journal, watched.discard)
    assert watched.submit() == []
    watched.restart()
    assert watched.submit() == []


def test_a_journal_of_another_bucket_counts_for_nothing(
    watched: Watched, s3, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.put("a.jpg", b"one")
    watched.submit()
    watched.end()
    s3.create_bucket(Bucket="another-bucket-of-the-watch")
    watched.store = Store(s3, "another-bucket-of-the-watch")
    watched.start()
    assert watched.submit() == ["a.jpg"]


def test_two_watches_of_a_folder_are_refused(watched: Watched) -> None:
    with (
        pytest.raises(UsageError, match="another `watch`"),
        Journal.opened(watched.folder / JOURNAL, watched.store.bucket),
    ):
        pass


def test_a_photo_that_cannot_be_read_is_told_once_and_does_not_stop_the_others(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.put("a.jpg", b"one")
    bad = watched.put("b.jpg", b"two")
    opened = Path.open

    def refuse(self: Path, *args, **named):
        if self == bad:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **named)

    monkeypatch.setattr(Path, "open", refuse)
    assert watched.names() == ["a.jpg"]
    watched.looking.look()
    assert [note for note in watched.notes if "cannot be read" in note] == [
        f"'{bad}' cannot be read: Permission denied; it is left out."
    ]
