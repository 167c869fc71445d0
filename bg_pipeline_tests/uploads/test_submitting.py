"""Submitting: which files a person means, what they are called, and that a batch is whole or not there."""

import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import pytest

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.requests import image_settings
from bg_pipeline.errors import RequestError, UsageError
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.listing import batches, remarks
from bg_pipeline.uploads.submitting import (
    LocalFile,
    compose_request,
    find_photos,
    new_batch,
    paid_pictures,
    submit,
)
from bg_pipeline_tests.pictures import photo

ODD_NAMES = (
    "with space.jpg",
    "a+b.jpg",
    "100%.jpg",
    "quote'\".jpg",
    "x=1&y.jpg",
    "😀.jpg",
    "a..b.jpg",
    "sub/folder/photo.jpg",
    "[bold]x[/].jpg",
)


def files(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(number))
    return folder


def names(photos: Sequence[LocalFile]) -> list[str]:
    return [each.name for each in photos]


def test_a_file_is_named_after_itself_and_a_folders_files_by_their_path_in_it(tmp_path: Path) -> None:
    files(tmp_path, "one.jpg", "shoot/two.jpg", "shoot/day/three.jpg")
    assert names(find_photos([tmp_path / "one.jpg", tmp_path / "shoot"])) == [
        "day/three.jpg",
        "one.jpg",
        "two.jpg",
    ]


def test_several_folders_keep_their_names_so_that_equal_files_do_not_collide(tmp_path: Path) -> None:
    files(tmp_path, "summer/1.jpg", "winter/1.jpg")
    assert names(find_photos([tmp_path / "summer", tmp_path / "winter"])) == ["summer/1.jpg", "winter/1.jpg"]


def test_equal_names_that_remain_are_refused_by_both_paths(tmp_path: Path) -> None:
    files(tmp_path, "summer/1.jpg", "winter/1.jpg")
    with pytest.raises(UsageError, match=r"summer/1\.jpg.*winter/1\.jpg.*'1\.jpg'"):
        find_photos([tmp_path / "summer/1.jpg", tmp_path / "winter/1.jpg"])


def test_a_file_that_is_named_twice_is_submitted_once(tmp_path: Path) -> None:
    files(tmp_path, "shoot/1.jpg")
    assert names(find_photos([tmp_path / "shoot/1.jpg", tmp_path / "shoot" / ".." / "shoot" / "1.jpg"])) == [
        "1.jpg"
    ]


def test_dot_files_and_json_in_a_folder_are_no_photos_but_anything_else_is_taken(tmp_path: Path) -> None:
    files(tmp_path, ".hidden.jpg", ".git/x.jpg", "request.json", "notes.txt", "a.jpg")
    found = find_photos([tmp_path])
    assert names(found) == ["a.jpg", "notes.txt"]
    assert [each.looks_like_a_picture for each in found] == [True, False]


@pytest.mark.parametrize("name", [".hidden.jpg", "request.json", "x.JSON"])
def test_a_name_that_means_something_else_in_a_batch_is_refused(tmp_path: Path, name: str) -> None:
    files(tmp_path, name)
    with pytest.raises(UsageError, match="rename it"):
        find_photos([tmp_path / name])


@pytest.mark.parametrize("wrong", ["missing.jpg", "empty"])
def test_what_is_missing_or_empty_is_refused_by_name(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=wrong):
        find_photos([tmp_path / wrong])


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UsageError, match=r"pipe\.jpg"):
        find_photos([tmp_path / "pipe.jpg"])


def test_a_name_that_is_not_utf_8_becomes_one_that_is(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg"))
    odd.write_bytes(photo())
    assert names(find_photos([odd])) == ["caf\ufffd.jpg"]


def test_odd_names_arrive_unchanged_and_the_request_comes_last(s3, bucket: str, tmp_path: Path) -> None:
    store = Store(s3, bucket)
    files(tmp_path, *ODD_NAMES)
    batch = new_batch()
    found = find_photos([tmp_path])
    data, _ = compose_request(Settings(bucket=bucket), batch, names(found), {"Prompt": "beach"})
    told: list[str] = []
    submit(store, batch, found, data, done=told.append)
    (uploaded,) = batches(store, batch.date)
    assert set(uploaded.images) == set(ODD_NAMES) == set(told)
    assert not uploaded.draft
    assert uploaded.request is not None
    assert uploaded.request.modified >= max(each.modified for each in uploaded.images.values())
    first = store.read(batch.upload_key("with space.jpg"))
    assert first is not None
    assert first.data == (tmp_path / "with space.jpg").read_bytes()
    assert first.media_type == "image/jpeg"


class Vanished:
    name = "b.jpg"

    def open(self) -> AbstractContextManager[BinaryIO]:
        raise FileNotFoundError(2, "No such file or directory", "b.jpg")


def test_a_batch_whose_upload_broke_off_is_never_complete(s3, bucket: str, tmp_path: Path) -> None:
    store, batch = Store(s3, bucket), new_batch()
    files(tmp_path, "a.jpg")
    with pytest.raises(FileNotFoundError):
        submit(store, batch, [*find_photos([tmp_path]), Vanished()], b"{}")
    (uploaded,) = batches(store, batch.date)
    assert uploaded.draft
    assert not uploaded.complete(0, datetime.now(UTC))


def test_what_is_kept_is_said_for_every_image(tmp_path: Path) -> None:
    data, request = compose_request(
        Settings(bucket="b"), new_batch(), ["a.jpg", "b.jpg"], {"Prompt": "x", "Labels": "Dog, Cat"}
    )
    assert [entry.Labels for entry in request.Images or ()] == ["Dog, Cat", "Dog, Cat"]
    assert json.loads(data)["Images"][1] == {"ImageName": "b.jpg", "Labels": "Dog, Cat"}


def test_wishes_that_break_the_contract_are_refused_by_field() -> None:
    with pytest.raises(RequestError, match=r"Mode: must be.*Variants: must be at most 5"):
        compose_request(
            Settings(bucket="b"), new_batch(), ["a.jpg"], {"Prompt": "x", "Variants": 6, "Mode": "?"}
        )


@pytest.mark.parametrize(
    ("wishes", "pictures"),
    [
        ({"Prompt": "x"}, 3),
        ({"Prompts": ["x", "y"], "Variants": 2}, 12),
        ({"Prompt": "x", "Sample": 2}, 2),
        ({"Prompt": "x", "Labels": "Dog", "Sample": 2, "Variants": 5}, 10),
        ({"Task": "REMOVE"}, 0),
        ({"Backdrop": "#ffffff"}, 0),
    ],
)
def test_the_pictures_that_models_will_paint_are_counted(wishes: dict[str, object], pictures: int) -> None:
    images = ["a.jpg", "b.jpg", "c.jpg"]
    _, request = compose_request(Settings(bucket="b"), new_batch(), images, wishes)
    assert paid_pictures(request, images) == pictures


def test_two_new_batches_are_never_the_same() -> None:
    made = {new_batch() for _ in range(100)}
    assert len(made) == 100
    assert all(isinstance(each, Batch) for each in made)


SIDECARS = ("IMG_1.AAE", "IMG_1.MOV", "sub/IMG_2.jpg.xmp", "Thumbs.db", "sub/desktop.ini", "__MACOSX/x.jpg")


def test_what_lies_beside_photos_is_left_out_and_told(tmp_path: Path) -> None:
    files(tmp_path, "IMG_1.HEIC", "sub/IMG_2.jpg", ".DS_Store", "lonely.MOV", *SIDECARS)
    left_out: list[str] = []
    assert names(find_photos([tmp_path], left_out)) == ["IMG_1.HEIC", "lonely.MOV", "sub/IMG_2.jpg"]
    assert sorted(left_out) == sorted(SIDECARS)


def test_so_is_one_that_is_named_itself_as_by_a_star_of_the_shell(tmp_path: Path) -> None:
    files(tmp_path, "IMG_1.jpg", "IMG_1.AAE", "Thumbs.db")
    assert names(find_photos(sorted(tmp_path.iterdir()))) == ["IMG_1.jpg"]
    with pytest.raises(UsageError, match="there are no photos"):
        find_photos([tmp_path / "Thumbs.db"])


def test_a_listing_tells_of_what_it_leaves_out(s3, bucket: str) -> None:
    store, batch = Store(s3, bucket), Batch(datetime(2026, 11, 20, tzinfo=UTC).date(), "101530")
    for name in ("IMG_1.HEIC", "IMG_1.MOV", "IMG_1.AAE", "Request.json"):
        store.write(batch.upload_key(name), b"x", media_type="")
    (uploaded,) = batches(store, batch.date)
    assert list(uploaded.images) == ["IMG_1.HEIC"]
    misspelt, beside = remarks(uploaded)
    assert "'Request.json' is ignored; if it is the request, rename it to request.json" in misspelt
    assert "(2: IMG_1.AAE, IMG_1.MOV)" in beside
    store.write(batch.request_key, b"{}", media_type="")
    (uploaded,) = batches(store, batch.date)
    assert len(list(remarks(uploaded))) == 1


def test_a_caption_that_will_not_be_there_is_refused_by_field() -> None:
    off = Settings(bucket="b", caption_models=())
    with pytest.raises(RequestError) as caught:
        compose_request(off, new_batch(), ["a.jpg"], {"Prompts": ["a beach", "{caption} at sea"]})
    ((field, words),) = caught.value.problems
    assert field == "Prompts"
    assert "captions are switched off" in words
    compose_request(off, new_batch(), ["a.jpg"], {"Prompts": ["a beach", "{labels} at sea"]})


def test_empty_labels_for_all_are_said_of_each() -> None:
    _, request = compose_request(Settings(bucket="b"), new_batch(), ["a.jpg"], {"Prompt": "x", "Labels": ""})
    assert image_settings(request, "a.jpg").subject == "SALIENT"
