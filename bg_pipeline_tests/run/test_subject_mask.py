"""Which source makes the mask, what the network contradicts, and what stays paid for when the default changes."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.rows import Row, Status
from bg_pipeline.errors import CallError, ImageError, NeedsReview
from bg_pipeline.imaging import open_photo
from bg_pipeline.imaging.parcels import StoredPhoto
from bg_pipeline.imaging.thumbnail import marked_thumbnail
from bg_pipeline.imaging.workers import InProcess
from bg_pipeline.masks import Mask
from bg_pipeline.masks.boxes import Box
from bg_pipeline.masks.conventions import STORED
from bg_pipeline.masks.local_cutout import cut_with_network, examine
from bg_pipeline.masks.second_opinion import DOUBTFUL
from bg_pipeline.run import subject_mask
from bg_pipeline.run.subject_mask import SubjectHints, find_subject
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench
from bg_pipeline_tests.masks.scenes import Scene, outline, overlap, scene
from bg_pipeline_tests.rendered import as_png, rendered
from bg_pipeline_tests.run.test_refused_and_left_out import asked

BEFORE = "alpha,studio,onnx,persons,cut-out"
"""The default of BG_MASK_SOURCES before there was a network."""
DEFAULT = Settings()


def hints(picture: Image.Image, **more: Any) -> SubjectHints:
    opened = StoredPhoto(open_photo(as_png(picture)))

    def nothing(*_: object) -> Any:
        raise CallError("NotStored", "nothing is there")

    found: dict[str, Any] = {
        "photo": lambda: opened,
        "labels": lambda: {"Labels": []},
        "caption": nothing,
        "faces": list,
        "sam": None,
        "cut_out": nothing,
        "stored_cut_out": nothing,
        "given": nothing,
        "workers": InProcess(),
        **more,
    }
    return SubjectHints(**found)


def labels(**boxes: tuple[float, float, float, float]) -> Mapping[str, Any]:
    return {
        "Labels": [
            {
                "Name": name,
                "Instances": [
                    {
                        "BoundingBox": {
                            "Left": left,
                            "Top": top,
                            "Width": right - left,
                            "Height": bottom - top,
                        }
                    }
                ],
            }
            for name, (left, top, right, bottom) in boxes.items()
        ]
    }


def found(wish: Any, seen: SubjectHints, settings: Settings = DEFAULT, **more: Any) -> Mask:
    mask = find_subject(wish, seen, settings, takes_words=False, **more).mask
    assert mask is not None
    return mask


@pytest.fixture(name="busy", scope="module")
def _busy() -> Scene:
    return scene("shoe", "busy")


@pytest.fixture(name="two", scope="module")
def _two() -> Scene:
    return scene("two", "busy")


# The order


def test_the_network_comes_after_a_plain_background_and_before_anything_paid(busy: Scene) -> None:
    mask = found(asked(), hints(busy.photo))
    assert (mask.source, mask.doubt) == ("network", "")
    assert overlap(mask.picture, busy.mask) > 0.97
    assert found(asked(), hints(scene("shoe", "white").photo)).source == "studio"


def test_the_network_comes_before_words(busy: Scene) -> None:
    seen = hints(busy.photo, labels=lambda: labels(Shoe=(0.15, 0.3, 0.85, 0.8)))
    subject = find_subject(asked("LABELS"), seen, DEFAULT, takes_words=True)
    assert (subject.words, subject.mask and subject.mask.source) == ("", "labels")
    off = Settings(mask_sources=("alpha", "studio", "cut-out"))
    assert find_subject(asked("LABELS"), seen, off, takes_words=True).words == "Shoe"


@pytest.mark.parametrize("name", ["Disc", "Triangle"])
def test_labels_keep_the_parts_of_the_networks_mask_in_their_boxes(two: Scene, name: str) -> None:
    boxes = {"Disc": (0.1, 0.25, 0.45, 0.75), "Triangle": (0.57, 0.15, 0.9, 0.8)}
    wish = replace(asked("LABELS"), labels=(name,))
    mask = found(wish, hints(two.photo, labels=lambda: labels(**boxes)))
    half = two.mask.copy()
    half.paste(0, (400, 0, 800, 600) if name == "Disc" else (0, 0, 400, 600))
    assert overlap(mask.picture, half) > 0.95
    assert mask.computed_from != cut_with_network(two.photo).computed_from


def test_where_the_network_is_not_sure_the_next_source_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    shot = scene("hair", "busy")
    unsure = Mask(shot.mask, "network", 0.7)
    monkeypatch.setattr(subject_mask, "cut_with_network", lambda image: unsure)
    cut = Mask(shot.mask, "cut-out")
    assert found(asked(), hints(shot.photo, cut_out=lambda: cut)).picture is cut.picture
    with pytest.raises(NeedsReview, match=r"network: its confidence is 0\.70, and 0\.85 is needed"):
        found(asked(), hints(shot.photo), Settings(mask_sources=("network",)))


def test_a_paid_cut_out_that_is_stored_comes_before_the_network(busy: Scene) -> None:
    cut = Mask(busy.mask, "cut-out")
    assert found(asked(), hints(busy.photo, stored_cut_out=lambda: cut)).source == "cut-out"


def test_a_network_that_cannot_be_used_is_noted_and_the_next_source_is_tried(
    busy: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    settings = Settings(onnx_model=tmp_path / "gone.onnx")
    assert found(asked(), hints(busy.photo, note=notes.append), settings).source == "network"
    (note,) = notes
    assert note.startswith("the mask source `onnx` is left out: BG_ONNX_MODEL")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    cut = Mask(busy.mask, "cut-out")
    assert found(asked(), hints(busy.photo, note=notes.append, cut_out=lambda: cut)).source == "cut-out"
    assert "the mask source `network` is left out" in notes[1]
    assert "extra `masks`" in notes[1]


def test_a_person_whom_the_network_loses_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    one = outline("bust", (640, 480))
    monkeypatch.setattr(subject_mask, "cut_with_network", lambda image: Mask(one, "network", 0.95))
    monkeypatch.setattr(subject_mask, "cut_persons", lambda image, faces: None)
    face, other = Box(0.42, 0.15, 0.58, 0.5, "face"), Box(0.05, 0.1, 0.15, 0.3, "face")
    picture = Image.new("RGB", one.size, "grey")
    seen = hints(picture, faces=lambda: [face])
    assert found(asked("FACES"), seen).picture.tobytes() == one.tobytes()
    both = found(asked("FACES"), replace(seen, faces=lambda: [face, other]))
    assert both.picture.getpixel((64, 96)) == 255


# The second opinion


def wrong_studio(mask: Image.Image) -> Callable[[Image.Image], Mask]:
    half = mask.copy()
    half.paste(0, (0, 0, mask.width // 2, mask.height))
    return lambda image: Mask(half.resize(image.size), "studio", 0.9)


@pytest.mark.parametrize("settings", [DEFAULT, Settings(mask_sources=("studio",))], ids=["default", "off"])
def test_the_network_contradicts_a_wrong_mask_unless_it_is_switched_off(
    busy: Scene, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject_mask, "cut_plain_background", wrong_studio(busy.mask))
    doubt = found(asked(), hints(busy.photo), settings).doubt
    if settings is DEFAULT:
        assert "overlap by only" in doubt
        assert "MaskKey" in doubt
    else:
        assert doubt == ""


@pytest.mark.parametrize("shape", ["bottle", "shoe", "two", "bust"])
def test_the_network_agrees_with_right_masks(shape: Any) -> None:
    shot = scene(shape, "grey")
    mask = found(asked(), hints(shot.photo))
    assert (mask.source, mask.doubt) == ("studio", "")


# The whole pipeline


@pytest.fixture
def bench(s3, bucket, control: ControlClient) -> Bench:
    # With the network, which `Bench` leaves out.
    sources = Settings().mask_sources
    return Bench(Store(s3, bucket), {"image_models": "stability", "mask_sources": sources})


def only_row(bench: Bench, batch: Batch) -> Row:
    (row,) = bench.rows(batch).values()
    return row


def mask_of(bench: Bench, row: Row) -> Any:
    return (bench.store.read_json(f"{row.Results[0]}.json") or {})["Mask"]


def test_a_subject_before_any_background_is_cut_out_free(
    bench: Bench, control: ControlClient, busy: Scene
) -> None:
    batch = bench.submit({"shoe.png": as_png(busy.photo)}, Task="REMOVE", Prompt=None, Subject="SALIENT")
    bench.run()
    row = only_row(bench, batch)
    assert row.Status == Status.SUCCEEDED, row.Cause
    assert mask_of(bench, row) == "network"
    assert control.paid(operation="InvokeModel") == []
    kept = bench.store.read(batch.mask_key("shoe.png"))
    assert kept is not None
    assert overlap(STORED.read_png(kept.data), busy.mask) > 0.97


def test_a_network_that_no_worker_can_load_is_noted_once_a_run(
    bench: Bench, busy: Scene, tmp_path: Path
) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(b"this is no network")
    pictures = {f"{number}.png": as_png(busy.photo.rotate(number, fillcolor="grey")) for number in range(4)}
    batch = bench.submit(pictures, Task="REMOVE", Prompt=None, Subject="SALIENT")
    bench.run(onnx_model=path, max_decoded_images=2)
    assert {mask_of(bench, row) for row in bench.rows(batch).values()} == {"network"}
    (note,) = (note for note in bench.notes if "`onnx`" in note)
    assert note.startswith(f"the mask source `onnx` is left out: BG_ONNX_MODEL {path} cannot be loaded")


def test_a_network_looks_at_a_photo_once_however_many_prompts_it_has(
    busy: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def counted(image: Image.Image) -> Mask:
        looks.append(image.size)
        return Mask(busy.mask, "network", 0.95, computed_from="counted")

    monkeypatch.setattr(subject_mask, "cut_with_network", counted)
    seen = hints(busy.photo)
    masks = [
        found(asked(), each) for each in (seen, replace(seen, cut_out=lambda: Mask(busy.mask, "cut-out")))
    ]
    assert len(looks) == 1
    assert masks[0].picture.tobytes() == masks[1].picture.tobytes()
    assert overlap(masks[0].picture, busy.mask) > 0.98
    assert {(mask.source, mask.computed_from) for mask in masks} == {("network", "counted")}


def test_nothing_is_paid_around_a_mask_that_the_network_contradicts(
    bench: Bench, control: ControlClient, busy: Scene, monkeypatch: pytest.MonkeyPatch, in_process: None
) -> None:
    monkeypatch.setattr(subject_mask, "cut_plain_background", wrong_studio(busy.mask))
    batch = bench.submit({"shoe.png": as_png(busy.photo)}, Subject="SALIENT")
    bench.run()
    row = only_row(bench, batch)
    assert (row.Status, row.Error, row.Results) == (Status.NEEDS_REVIEW, "MaskDoubtful", ())
    assert "overlap by only" in row.Cause
    assert control.paid(operation="InvokeModel") == []


def test_a_free_result_with_a_doubtful_mask_is_kept_for_review(
    bench: Bench, busy: Scene, monkeypatch: pytest.MonkeyPatch, in_process: None
) -> None:
    monkeypatch.setattr(subject_mask, "cut_plain_background", wrong_studio(busy.mask))
    batch = bench.submit({"shoe.png": as_png(busy.photo)}, Task="REMOVE", Prompt=None, Subject="SALIENT")
    bench.run()
    row = only_row(bench, batch)
    assert (row.Status, len(row.Results)) == (Status.NEEDS_REVIEW, 1)
    assert "overlap by only" in row.Cause
    assert row.Confidence is not None
    assert row.Confidence < DOUBTFUL
    provenance = bench.store.read_json(f"{row.Results[0]}.json")
    assert provenance is not None
    assert provenance["Confidence"] == row.Confidence


def test_doubtful_places_are_red_in_a_thumbnail() -> None:
    photo, where = Image.new("RGB", (800, 600), "navy"), Image.new("L", (80, 60))
    where.paste(255, (0, 0, 40, 60))
    with Image.open(BytesIO(marked_thumbnail(photo, where))) as file:
        small = file.convert("RGB")
    red, blue = (np.asarray(small, int)[70, x] for x in (40, 150))
    assert red[0] > red[2] + 80
    assert blue[2] > blue[0]


@pytest.mark.parametrize("given", ["mask", "alpha"])
def test_a_persons_own_mask_in_pieces_is_used_and_the_row_says_what_is_odd(bench: Bench, given: str) -> None:
    size = (640, 480)
    confetti = Image.new("L", size)
    for x in range(20, 600, 60):
        for y in range(20, 440, 60):
            ImageDraw.Draw(confetti).rectangle((x, y, x + 20, y + 20), fill=255)
    picture = Image.new("RGB", size, "#8090a0")
    picture.paste("#402010", mask=confetti)
    request: dict[str, Any] = {"Subject": "SALIENT"}
    if given == "mask":
        bench.put("assets/mask.png", as_png(STORED.write(confetti)))
        request = {"MaskKey": "assets/mask.png"}
    else:
        picture.putalpha(confetti)
    batch = bench.submit({"confetti.png": as_png(picture)}, Task="REMOVE", Prompt=None, **request)
    bench.run()
    row = only_row(bench, batch)
    assert row.Status == Status.SUCCEEDED, row.Cause
    assert "is used as it is, though the mask is in pieces" in row.Cause
    kept = bench.store.read(batch.mask_key("confetti.png"))
    assert kept is not None
    assert overlap(STORED.read_png(kept.data), confetti) == 1


def test_spokes_that_touch_are_one_piece_however_thin(bench: Bench) -> None:
    size = (2400, 1600)
    wheel = Image.new("L", size)
    draw = ImageDraw.Draw(wheel)
    draw.ellipse((600, 200, 1800, 1400), outline=255, width=12)
    for turn in np.linspace(0, np.pi, 40)[:-1]:
        x, y = 590 * np.cos(turn), 590 * np.sin(turn)
        draw.line((1200 - x, 800 - y, 1200 + x, 800 + y), fill=255, width=2)
    picture = Image.new("RGB", size, "#c0c8d0")
    picture.paste("#201008", mask=wheel)
    bench.put("assets/mask.png", as_png(STORED.write(wheel)))
    batch = bench.submit(
        {"wheel.png": as_png(picture)}, Task="REMOVE", Prompt=None, MaskKey="assets/mask.png"
    )
    bench.run()
    row = only_row(bench, batch)
    assert (row.Status, row.Cause) == (Status.SUCCEEDED, "")


class _Limited(InProcess):
    """Workers in which no mask can be examined."""

    def run(self, limit: Any, work: Any, /, *args: Any, **kwargs: Any) -> Any:
        if work is examine:
            raise ImageError("DamagedImage", "the image took longer than 20 s")
        return super().run(limit, work, *args, **kwargs)


def test_a_mask_that_cannot_be_examined_is_used_as_it_is(busy: Scene) -> None:
    notes: list[str] = []
    paid = Mask(busy.mask, "cut-out")
    seen = hints(busy.photo, stored_cut_out=lambda: paid, workers=_Limited(), note=notes.append)
    mask = found(asked(), seen)
    assert (mask.picture.tobytes(), mask.confidence) == (busy.mask.tobytes(), None)
    assert len(notes) == 1
    assert notes[0].startswith("no second opinion on a mask (cut-out)")


def test_a_redrawn_edge_and_an_opinion_change_no_identity(busy: Scene) -> None:
    """What was paid for around a mask is found again by the mask's identity."""
    wide = Mask(busy.mask.filter(ImageFilter.MaxFilter(7)), "cut-out")
    mask = found(asked(), hints(busy.photo, stored_cut_out=lambda: wide))
    assert overlap(mask.picture, busy.mask) > overlap(wide.picture, busy.mask)
    assert mask.confidence is not None
    assert mask.digest() == wide.digest()


# After an update


def astronaut() -> bytes:
    return (resources.files("bg_pipeline") / "demo_photos" / "astronaut.jpg").read_bytes()


@pytest.mark.parametrize("subject", ["SALIENT", "LABELS", "FACES"])
def test_the_new_default_pays_for_no_picture_again(
    bench: Bench, control: ControlClient, subject: str
) -> None:
    control.switch(canned=False, note=False)
    source = astronaut() if subject == "FACES" else as_png(rendered("vase", "leaves", (640, 480), 2).photo)
    batch = bench.submit({"photo.png": source}, Subject=subject)
    bench.run(mask_sources=BEFORE)
    before = only_row(bench, batch)
    assert before.Status == Status.SUCCEEDED, before.Cause
    used = mask_of(bench, before)
    assert used != "network"
    control.mark()
    day = bench.run()
    assert (day.due, control.paid()) == (1, []), "it is made anew, from the stored answers"
    after = only_row(bench, batch)
    assert (after.Status, after.Results) == (Status.SUCCEEDED, before.Results), after.Cause
    assert mask_of(bench, after) == used
    assert bench.run().due == 0


def test_a_cut_out_that_was_paid_for_stays_in_use(bench: Bench, control: ControlClient, busy: Scene) -> None:
    control.switch(canned=False, note=False)
    batch = bench.submit({"shoe.png": as_png(busy.photo)}, Task="REMOVE", Prompt=None, Subject="SALIENT")
    bench.run(mask_sources=BEFORE)
    assert len(control.paid(operation="InvokeModel")) == 1
    before = only_row(bench, batch)
    control.mark()
    bench.run()
    row = only_row(bench, batch)
    assert (row.Status, row.Results, control.paid()) == (before.Status, before.Results, [])
    assert mask_of(bench, row) == "cut-out"


def test_a_result_that_passed_stays_though_the_network_contradicts_its_mask(
    bench: Bench, control: ControlClient, busy: Scene
) -> None:
    control.switch(canned=True)
    batch = bench.submit({"shoe.png": as_png(busy.photo)}, Subject="SALIENT")
    bench.run(mask_sources=BEFORE)
    before = only_row(bench, batch)
    assert before.Status == Status.SUCCEEDED, before.Cause
    control.mark()
    bench.run()
    row = only_row(bench, batch)
    assert (row.Status, row.Results, control.paid()) == (Status.SUCCEEDED, before.Results, [])
    assert bench.run().due == 0


def test_a_processor_that_rounds_otherwise_pays_for_nothing_again(
    bench: Bench, control: ControlClient, busy: Scene, monkeypatch: pytest.MonkeyPatch, in_process: None
) -> None:
    control.switch(canned=True)
    batch = bench.submit({"shoe.png": as_png(busy.photo)}, Subject="SALIENT")
    bench.run()
    row = only_row(bench, batch)
    assert (row.Status, mask_of(bench, row)) == (Status.SUCCEEDED, "network"), row.Cause

    def otherwise(image: Image.Image) -> Mask:
        mask = cut_with_network(image)
        return replace(mask, picture=ImageChops.subtract(mask.picture, Image.new("L", image.size, 1)))

    monkeypatch.setattr(subject_mask, "cut_with_network", otherwise)
    control.mark()
    day = bench.run(feather=2)
    assert (day.due, control.paid()) == (1, [])
    assert only_row(bench, batch).Status == Status.SUCCEEDED
