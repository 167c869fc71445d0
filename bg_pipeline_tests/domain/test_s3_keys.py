import datetime
import uuid
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch, Upload, find_batch, parse_upload
from bg_pipeline.domain.file_names import (
    ResultNames,
    archive_path,
    file_name,
    file_name_problem,
    local_path,
    result_name,
)
from bg_pipeline.domain.upload_kinds import Kind, is_misspelt_request, live_photo_videos
from bg_pipeline.errors import ImageError

DAY = datetime.date(2026, 11, 21)
BATCH = Batch(DAY, "101530")

HARD_NAMES = [
    "bus.png",
    "two words.jpg",
    "a+b.jpg",
    "100%.jpg",
    "%2F.jpg",
    'it\'s "quoted".jpg',
    "k=v.jpg",
    "😀👨‍👩‍👧.jpg",
    "my..cat.jpg",
    "a/.b/..c/d.jpg",
    "a/../b.jpg",
    "../../etc/passwd.jpg",
    "/absolute.jpg",
    "C:\\windows.jpg",
    "x.jpg",
    "x.jpg/y.jpg",
    "no extension",
    "line\nbreak.jpg",
    "e\u0301.jpg",
    "\u00e9.jpg",
]

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
dates = st.dates(min_value=datetime.date(1, 1, 1))
segments = text.filter(lambda name: "/" not in name)


@pytest.mark.parametrize("name", HARD_NAMES)
def test_a_hard_image_name_comes_back_from_its_key(name: str) -> None:
    upload = parse_upload(BATCH.upload_key(name))
    assert upload == Upload(BATCH, name, Kind.IMAGE)


@given(dates, segments, text)
def test_any_upload_comes_back_from_its_key(date: datetime.date, segment: str, name: str) -> None:
    batch = Batch(date, segment)
    upload = parse_upload(batch.upload_key(name))
    assert upload is not None
    assert (upload.batch, upload.name) == (batch, name)
    assert find_batch(batch.labels_key(name)) == batch


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("request.json", Kind.REQUEST),
        ("draft.json", Kind.DRAFT),
        ("sub/request.json", Kind.OTHER_JSON),
        ("bus.png.json", Kind.OTHER_JSON),
        ("NOTES.JSON", Kind.OTHER_JSON),
        (".DS_Store", Kind.DOT_FILE),
        ("sub/._bus.png", Kind.DOT_FILE),
        (".sub/bus.png", Kind.IMAGE),
        ("IMG_1.AAE", Kind.SIDECAR),
        ("sub/IMG_1.jpg.xmp", Kind.SIDECAR),
        ("sub/Thumbs.db", Kind.SIDECAR),
        ("Desktop.ini", Kind.SIDECAR),
        ("__MACOSX/bus.png", Kind.SIDECAR),
        ("shoot/@eaDir/bus.png/SYNOPHOTO_THUMB_XL.jpg", Kind.SIDECAR),
        ("__MACOSX/._bus.png", Kind.DOT_FILE),
        ("IMG_1.MOV", Kind.IMAGE),
        ("xmp", Kind.IMAGE),
        ("Thumbs.db.jpg", Kind.IMAGE),
        ("Request.json", Kind.OTHER_JSON),
        ("sub/", Kind.FOLDER),
        ("", Kind.FOLDER),
    ],
)
def test_what_is_not_an_image_is_told_apart(name: str, kind: Kind) -> None:
    upload = parse_upload(f"image-files/2026/11/21/101530/{name}")
    assert upload == Upload(BATCH, name, kind)


@pytest.mark.parametrize(
    "key",
    [
        "image-files/bus.png",
        "image-files/2026/11/21/bus.png",
        "image-files/2026/11/21/",
        "image-files/2026/11/21//bus.png",
        "image-files/2026/02/30/b/bus.png",
        "image-files/0000/01/01/b/bus.png",
        "image-files/2026/1/2/b/bus.png",
        "image-files/٢٠٢٦/11/21/b/bus.png",
        "generated-image-files/2026/11/21/b/bus.png",
        "image-files",
        "",
        f"image-files/2026/11/21/{'b' * 900}/bus.png",
    ],
)
def test_a_stray_object_belongs_to_no_batch(key: str) -> None:
    assert parse_upload(key) is None


@pytest.mark.parametrize("name", ["10:15:30", "101530-ab12", "summer sale 😀", "..", "%2e%2e", "a=b"])
def test_any_path_segment_is_a_batch(name: str) -> None:
    batch = Batch(DAY, name)
    assert find_batch(f"{batch.input_prefix}/") == batch
    assert find_batch(batch.path) == batch
    assert find_batch(s3_keys.report_key(batch.status_prefix, "x")) == batch


@pytest.mark.parametrize("name", ["", "a/b", "é" * 401])
def test_what_is_not_one_segment_is_no_batch(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a batch"):
        Batch(DAY, name)


def test_the_keys_are_those_of_the_contract() -> None:
    result = s3_keys.result_key(BATCH.output_prefix, "cat.jpg")
    assert [
        BATCH.request_key,
        BATCH.labels_key("cat.jpg"),
        BATCH.caption_key("cat.jpg"),
        BATCH.mask_key("cat.jpg"),
        result,
        s3_keys.provenance_key(result),
        s3_keys.report_key(BATCH.status_prefix, "621f"),
        s3_keys.report_key(BATCH.status_prefix, "621f", "csv"),
        s3_keys.retry_key(BATCH.status_prefix, "621f"),
    ] == [
        "image-files/2026/11/21/101530/request.json",
        "image-labels/2026/11/21/101530/cat.jpg.json",
        "image-captions/2026/11/21/101530/cat.jpg.json",
        "image-masks/2026/11/21/101530/cat.jpg.png",
        "generated-image-files/2026/11/21/101530/cat.jpg",
        "generated-image-files/2026/11/21/101530/cat.jpg.json",
        "status-report-files/2026/11/21/101530/status_report_621f.json",
        "status-report-files/2026/11/21/101530/status_report_621f.csv",
        "status-report-files/2026/11/21/101530/retry_621f.json",
    ]


def test_no_two_documents_of_hard_names_share_a_key() -> None:
    keys = [
        make(name)
        for name in HARD_NAMES
        for make in (
            BATCH.upload_key,
            BATCH.labels_key,
            BATCH.caption_key,
            BATCH.mask_key,
            BATCH.archive_key,
            lambda name: BATCH.payload_key(name, "1-request"),
            lambda name: s3_keys.result_key(BATCH.output_prefix, name),
            lambda name: s3_keys.provenance_key(s3_keys.result_key(BATCH.output_prefix, name)),
            lambda name: s3_keys.review_key(s3_keys.result_key(BATCH.output_prefix, name)),
            lambda name: s3_keys.published_key(s3_keys.result_key(BATCH.output_prefix, name)),
        )
    ]
    assert len(keys) == len(set(keys))


def test_a_derived_id_is_a_uuid_that_depends_on_bucket_and_prefix_alone() -> None:
    first = BATCH.derived_id("photos")
    assert uuid.UUID(first).version == 5
    assert first == Batch(DAY, "101530").derived_id("photos")
    assert len({first, BATCH.derived_id("other"), Batch(DAY, "101531").derived_id("photos")}) == 3


def test_a_key_longer_than_s3_takes_is_refused_with_its_excess() -> None:
    longest = "é" * ((1024 - len(BATCH.input_prefix) - 1) // 2)
    BATCH.upload_key(longest)
    with pytest.raises(ImageError, match="10 bytes longer than the 1024 that S3 allows") as caught:
        s3_keys.result_key(BATCH.output_prefix, longest)
    assert caught.value.code == "KeyTooLong"


# Names of results


@pytest.mark.parametrize(
    ("image", "number", "of", "format", "expected"),
    [
        ("cat.jpg", 1, 1, "jpeg", "cat.jpg"),
        ("cat.jpg", 2, 3, "jpeg", "cat_2.jpg"),
        ("cat.jpg", 1, 1, "png", "cat.jpg.png"),
        ("cat.jpg", 2, 2, "png", "cat_2.jpg.png"),
        ("shoe.v1.JPG", 1, 2, "jpeg", "shoe.v1_1.JPG"),
        ("a.b/cat", 2, 2, "jpeg", "a.b/cat_2"),
    ],
)
def test_a_result_is_named_after_its_image(
    image: str, number: int, of: int, format: str, expected: str
) -> None:
    assert result_name(image, number=number, of=of, format=format, source_format="jpeg") == expected


def test_a_heic_photo_becomes_a_jpeg_with_both_extensions() -> None:
    name = result_name("a.heic", number=1, of=1, format="jpeg", source_format="heif")
    assert name == "a.heic.jpg"


def assigned(names: ResultNames, image: str, number: int, of: int, format: str = "jpeg") -> str:
    candidate = result_name(image, number=number, of=of, format=format, source_format="jpeg")
    return names.assign(image, number, candidate, format)


def test_a_result_never_takes_the_name_of_another_input() -> None:
    names = ResultNames(["cat.jpg", "cat_1.jpg"], {})
    assert [assigned(names, "cat.jpg", n, 2) for n in (1, 2)] == ["cat.jpg~1.jpg", "cat_2.jpg"]
    assert [assigned(names, "cat_1.jpg", n, 2) for n in (1, 2)] == ["cat_1_1.jpg", "cat_1_2.jpg"]


def test_a_result_never_takes_the_name_of_another_result() -> None:
    names = ResultNames(["a.jpg", "a_1.jpg"], {})
    assert assigned(names, "a.jpg", 1, 2, "png") == "a_1.jpg.png"
    assert assigned(names, "a_1.jpg", 1, 1, "png") == "a_1.jpg~1.png"


def test_an_image_without_extension_gets_one_in_its_way_out() -> None:
    names = ResultNames(["cat", "cat_2"], {})
    assert assigned(names, "cat", 2, 2) == "cat~2.jpg"


def test_the_way_out_avoids_inputs_that_look_like_it() -> None:
    names = ResultNames(["cat.jpg", "cat_1.jpg", "cat.jpg~1.jpg"], {})
    assert assigned(names, "cat.jpg", 1, 2) == "cat.jpg~2.jpg"
    assert assigned(names, "cat.jpg", 2, 2) == "cat_2.jpg"


def test_an_assigned_name_is_kept_when_an_input_of_that_name_comes_later() -> None:
    names = ResultNames(["cat.jpg", "cat_1.jpg"], {("cat.jpg", 1): "cat_1.jpg"})
    assert assigned(names, "cat.jpg", 1, 2) == "cat_1.jpg"
    assert assigned(names, "cat_1.jpg", 1, 1) == "cat_1.jpg~1.jpg"


def test_a_kept_way_out_is_kept_when_its_reason_is_gone() -> None:
    names = ResultNames(["cat.jpg"], {("cat.jpg", 1): "cat.jpg~1.jpg"})
    assert assigned(names, "cat.jpg", 1, 2) == "cat.jpg~1.jpg"


def test_a_name_follows_when_the_settings_ask_for_another() -> None:
    kept = {("cat.jpg", 1): "cat.jpg"}
    assert assigned(ResultNames(["cat.jpg"], kept), "cat.jpg", 1, 2) == "cat_1.jpg"
    assert assigned(ResultNames(["cat.jpg"], kept), "cat.jpg", 1, 1, "png") == "cat.jpg.png"


def test_two_kept_names_that_are_alike_are_told_apart() -> None:
    names = ResultNames(["a.jpg", "b.jpg"], {("a.jpg", 1): "b.jpg", ("b.jpg", 1): "b.jpg"})
    found = {assigned(names, "a.jpg", 1, 1), assigned(names, "b.jpg", 1, 1)}
    assert len(found) == 2


stems = st.sampled_from(["a", "a_1", "a_2", "a_1_1", "b", "a.jpg", "a.jpg.png", "a~1", "a.jpg~1"])
endings = st.sampled_from(["", ".jpg", ".png", "~1.jpg", "/a.jpg"])
images = st.lists(st.builds(str.__add__, stems, endings), min_size=1, max_size=8, unique=True)


@st.composite
def jobs(draw: st.DrawFn) -> tuple[list[str], list[tuple[str, int, int, str, str]]]:
    """Inputs, and for each of them some results as (image, number, of, format, source format)."""
    inputs = draw(images)
    asked = []
    for image in inputs:
        of = draw(st.integers(1, 3))
        format, source_format = (draw(st.sampled_from(["jpeg", "png"])) for _ in range(2))
        asked += [(image, number, of, format, source_format) for number in range(1, of + 1)]
    return inputs, asked


def run(names: ResultNames, asked: list[tuple[str, int, int, str, str]]) -> dict[tuple[str, int], str]:
    return {
        (image, number): names.assign(
            image,
            number,
            result_name(image, number=number, of=of, format=format, source_format=source_format),
            format,
        )
        for image, number, of, format, source_format in asked
    }


@given(jobs(), st.randoms(use_true_random=False))
def test_names_are_unique_no_other_inputs_and_stable_in_any_order(
    job: tuple[list[str], list[tuple[str, int, int, str, str]]], random: Random
) -> None:
    inputs, asked = job
    first = run(ResultNames(inputs, {}), asked)
    assert len(set(first.values())) == len(first)
    assert all(name == image or name not in inputs for (image, _), name in first.items())

    again = list(asked)
    random.shuffle(again)
    assert run(ResultNames(inputs, first), again) == first

    part = dict(random.sample(sorted(first.items()), random.randint(0, len(first))))
    resumed = run(ResultNames([*inputs, "a_3.jpg"], part), again)
    assert resumed | part == resumed
    assert len(set(resumed.values())) == len(resumed)


@pytest.mark.parametrize(
    ("template", "format", "expected"),
    [
        ("{ref}_{n}.jpg", "jpeg", "SKU 7_2.jpg"),
        ("{ref}_{n}.JPEG", "jpeg", "SKU 7_2.JPEG"),
        ("{preset}/{name}", "png", "transparent/in/cat.png"),
        ("{name}.v2", "jpeg", "in/cat.v2.jpg"),
        ("/{preset}//x.json", "webp", "transparent/x.json.webp"),
    ],
)
def test_a_file_name_is_filled_and_ends_in_its_format(template: str, format: str, expected: str) -> None:
    assert file_name_problem(template) is None
    filled = file_name(
        template, image="in/cat.jpg", number=2, ref="SKU 7", preset="transparent", format=format
    )
    assert filled == expected


@pytest.mark.parametrize(
    "template",
    [
        *("", " / ", "{size}.jpg", "{name", "a}b", "{{name}}", "a\nb.jpg"),
        *(
            "../{name}",
            "a/../../{name}.jpg",
            "a/./{n}",
            "/..",
            "{name}/.. ",
            "..",
            "C:/{name}",
            "c:{name}",
            "/d:/x",
        ),
        *(
            "a\\{name}",
            "\\\\host\\share\\{n}",
            "con",
            "a/NUL.jpg",
            "com1.{n}.jpg",
            "lpt9/{name}",
            "a\0.jpg",
            "\x1b[2J",
        ),
    ],
)
def test_a_file_name_that_cannot_be_filled_is_refused(template: str) -> None:
    assert file_name_problem(template)


# Names on this machine


@pytest.mark.parametrize(
    "name", [*HARD_NAMES, "..", ".", "/", ".hidden", "CON", "nul.jpg", "end.", "end ", "x" * 999]
)
def test_a_local_file_lies_directly_in_its_folder_and_can_be_written(name: str, tmp_path: Path) -> None:
    path = local_path(tmp_path, name)
    path.write_bytes(b"x")
    assert list(tmp_path.iterdir()) == [path]
    assert path.resolve().parent == tmp_path.resolve()


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("bus.png", "bus.png"),
        ("shoes/red one.jpg", "shoes/red one.jpg"),
        ("../../tmp/slip", "%2E%2E/%2E%2E/tmp/slip"),
        ("/etc/cron.d/evil.png", "%/etc/cron.d/evil.png"),
        ("C:\\windows.jpg", "C%3A%5Cwindows.jpg"),
        ("a\n\x1bb.jpg", "a%0A%1Bb.jpg"),
        ("nul.jpg", "%6Eul.jpg"),
    ],
)
def test_a_name_in_an_archive_keeps_its_folders_and_leaves_none(name: str, packed: str) -> None:
    assert archive_path(name) == packed


@given(st.text(st.sampled_from(list("./\\:a\n\0%*~ ")), max_size=12))
def test_no_path_in_an_archive_leads_out_of_its_folder(name: str) -> None:
    path = archive_path(name)
    assert not path.startswith("/")
    assert not {"", ".", ".."} & set(path.split("/"))
    assert not set(path) & set("\\:\n\0*")


def test_plain_names_stay_readable_on_this_machine() -> None:
    folder = Path("out")
    assert local_path(folder, "my cat's photo 😀.jpg") == folder / "my cat's photo 😀.jpg"
    assert local_path(folder, "a/b.jpg") == folder / "a%2Fb.jpg"
    long = local_path(folder, "é" * 500 + ".jpg").name
    assert len(long.encode()) <= 200
    assert long.endswith(".jpg")


wild = st.text(st.one_of(st.sampled_from("./\\%~:aA2Fé 😀\x00"), st.characters()), max_size=300)


@given(wild, wild)
def test_two_names_never_share_a_local_file(first: str, second: str) -> None:
    one, other = (local_path(Path("out"), name) for name in (first, second))
    assert (one == other) == (first == second)
    assert one.parent == Path("out")
    assert one.name not in {"", ".", ".."}
    assert len(one.name.encode()) <= 200


def test_escapes_in_a_name_are_not_taken_for_escapes() -> None:
    names = ["a/b", "a%2Fb", "a%252Fb", "%2E%2E", "..", ".%2E", "CON", "%43ON"]
    paths = {local_path(Path("out"), name) for name in names}
    assert len(paths) == len(names)


def test_a_film_goes_with_the_photo_of_its_name_and_folder() -> None:
    names = [
        "IMG_1.HEIC",
        "IMG_1.MOV",
        "img_2.jpg",
        "IMG_2.mov",
        "a/IMG_3.MOV",
        "IMG_3.JPG",
        "clip.mp4",
        "x.txt",
    ]
    assert live_photo_videos(names) == {"IMG_1.MOV", "IMG_2.mov"}


@pytest.mark.parametrize(
    "name", ["Request.json", "REQUEST.JSON", "request.json.json", "request.json.txt", " request.json"]
)
def test_a_request_that_is_misspelt_is_known_as_such(name: str) -> None:
    assert is_misspelt_request(name)


@pytest.mark.parametrize("name", ["request.json", "sub/Request.json", "my-request.json", "draft.json"])
def test_other_names_are_no_misspelt_request(name: str) -> None:
    assert not is_misspelt_request(name)
