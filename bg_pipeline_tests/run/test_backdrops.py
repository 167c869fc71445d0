"""Backdrops, shadows, edges and masks that a request names, through the whole pipeline."""

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from bg_pipeline.domain.rows import Status
from bg_pipeline.domain.shadows import Shadow
from bg_pipeline.imaging import Photo, composite, restore_subject
from bg_pipeline.imaging.ground import blurred_ground
from bg_pipeline.imaging.shadow import ground_shadow
from bg_pipeline.run.batch_work import open_batch
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench
from bg_pipeline_tests.pictures import photo, photo_and_mask


@pytest.fixture
def bench(s3, bucket, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket))


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def mask(number: int) -> bytes:
    """The exact mask of `photo`, black where the subject is."""
    return png(ImageOps.invert(photo_and_mask(number)[1]))


def result(bench: Bench, key: str) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(bench.store.read(key).data)) as opened:
        return np.asarray(opened.convert("RGB"), np.int16)


# The photo's own ground


def striped(size: tuple[int, int] = (400, 300)) -> tuple[Image.Image, Image.Image]:
    """A bright red disc before a striped grey ground, and its mask."""
    ground = Image.new("RGB", size, (120, 120, 120))
    draw = ImageDraw.Draw(ground)
    for x in range(0, size[0], 8):
        draw.rectangle((x, 0, x + 3, size[1]), fill=(90, 90, 90))
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).ellipse((140, 90, 260, 210), fill=255)
    ground.paste((250, 10, 10), mask=mask)
    return ground, mask.filter(ImageFilter.BoxBlur(1))


@pytest.mark.parametrize("off", [-2, 0, 2])
def test_a_blurred_ground_has_no_fringe_of_the_subject(off: int) -> None:
    picture, matte = striped()
    filter = ImageFilter.MaxFilter(2 * off + 1) if off > 0 else ImageFilter.MinFilter(1 - 2 * off)
    ground = np.asarray(blurred_ground(picture, matte.filter(filter) if off else matte), np.int16)
    redness = ground[..., 0] - ground[..., 1]
    assert redness.max() <= (8 if off >= 0 else 40)
    stripes = ground[30, 10:130, 0].astype(float)
    assert stripes.std() < 4, "the stripes are out of focus"
    assert abs(float(ground[..., 1].mean()) - 104) < 6


def test_a_ground_that_is_all_subject_or_none_is_no_special_case() -> None:
    picture, _ = striped()
    assert blurred_ground(picture, Image.new("L", picture.size, 255)).getpixel((5, 5)) is not None
    whole = np.asarray(blurred_ground(picture, Image.new("L", picture.size)), np.int16)
    assert whole[150, 200, 0] > 150, "nothing is taken out without a mask"
    assert blurred_ground(picture.resize((3, 2)), Image.new("L", (3, 2))).size == (3, 2)


def test_the_subject_stays_and_its_ground_is_blurred(bench: Bench, control: ControlClient) -> None:
    picture, matte = striped()
    bench.put("assets/disc.png", png(ImageOps.invert(matte)))
    batch = bench.submit(
        {"disc.png": png(picture)}, Backdrop="Blur", Prompt=None, MaskKey="assets/disc.png", Shadow="none"
    )
    bench.run()
    row = bench.rows(batch)["disc.png"]
    assert row.Status == Status.SUCCEEDED, row.Cause
    made = result(bench, row.Results[0])
    before = np.asarray(picture, np.int16)
    inside = np.asarray(matte.filter(ImageFilter.MinFilter(15))) == 255
    assert (made[inside] == before[inside]).all()
    assert made[20, 20:120, 0].astype(float).std() < before[20, 20:120, 0].astype(float).std() / 3
    assert not [call for call in control.paid() if "invoke" in str(call).lower()]
    provenance = bench.store.read_json(f"{row.Results[0]}.json")
    assert provenance["Backdrop"] == "blur"


# Shadows


def standing() -> Image.Image:
    """A mask with two feet: the left one 30 pixels higher than the right one."""
    matte = Image.new("L", (400, 400))
    draw = ImageDraw.Draw(matte)
    draw.rectangle((150, 80, 250, 200), fill=255)
    draw.rectangle((150, 200, 170, 290), fill=255)
    draw.rectangle((230, 200, 250, 320), fill=255)
    return matte


def darkness(shadow: Shadow) -> np.ndarray[Any, Any]:
    return np.asarray(ground_shadow(standing(), shadow), np.int16)


def test_the_shadow_follows_the_lower_edge() -> None:
    dark = darkness(Shadow())
    assert dark[322:326, 235:245].mean() > 120, "under the lower foot"
    assert 20 < dark[292:296, 155:165].mean() < dark[322:326, 235:245].mean(), "fainter under the higher one"
    assert dark[340:, 195:205].max() < dark[322:326, 235:245].mean() / 2
    assert dark[:180].max() <= 2, "and nowhere above"


@pytest.mark.parametrize(("direction", "side"), [(90, "right"), (270, "left"), (60, "right"), (300, "left")])
def test_the_shadow_falls_where_it_is_told_to(direction: float, side: str) -> None:
    dark = darkness(Shadow(direction=direction))
    left, right = dark[230:340, 20:140].sum(), dark[230:340, 260:380].sum()
    assert (right > 4 * left) if side == "right" else (left > 4 * right)


def test_it_falls_behind_or_to_the_front() -> None:
    behind, front = darkness(Shadow(direction=0)), darkness(Shadow(direction=180))
    assert behind[240:300, 180:225].sum() > 2 * front[240:300, 180:225].sum()
    assert front[340:380].sum() > 3 * behind[340:380].sum()


def test_strength_and_softness_do_what_they_say() -> None:
    assert darkness(Shadow(strength=0)).max() == 0
    sums = [int(darkness(Shadow(strength=strength)).sum()) for strength in (0.2, 0.5, 0.9)]
    assert sums == sorted(sums)
    assert sums[0] < sums[2] / 2
    hard, soft = darkness(Shadow(direction=90, softness=0)), darkness(Shadow(direction=90, softness=1))
    assert np.abs(np.diff(hard, axis=1)).max() > 1.5 * np.abs(np.diff(soft, axis=1)).max()


@pytest.mark.parametrize("bottom", [399, 400])
def test_a_subject_that_the_frame_cuts_off_throws_none(bottom: int) -> None:
    matte = Image.new("L", (400, 400))
    matte.paste(255, (100, 100, 300, bottom))
    assert ground_shadow(matte, Shadow(direction=90)).getextrema() == (0, 0)
    assert ground_shadow(Image.new("L", (400, 400)), Shadow()).getextrema() == (0, 0)


@pytest.mark.parametrize("size", [(1, 60), (2, 9), (60, 4), (3, 900), (900, 3)])
@pytest.mark.parametrize("direction", [None, 0, 90, 180])
def test_a_tiny_or_narrow_picture_is_no_special_case(size: tuple[int, int], direction: float | None) -> None:
    matte = Image.new("L", size)
    matte.paste(255, (0, 0, size[0], size[1] - 2))
    assert ground_shadow(matte, Shadow(direction=direction)).size == size
    picture = Photo(Image.new("RGB", size, "red"), "png")
    text = "soft strength=1" if direction is None else f"soft direction={direction}"
    scene = Image.new("RGB", (30, 20), "white")
    assert composite(picture, matte, scene, shadow=text).size == size
    assert blurred_ground(picture.image, matte).size == size


def test_a_plain_soft_shadow_is_the_one_of_earlier_versions() -> None:
    matte = standing()
    picture = Photo(Image.new("RGB", matte.size, "white"), "png")
    plain, own = (
        np.asarray(composite(picture, matte, "#ffffff", shadow=text))
        for text in ("soft", "soft softness=0.5")
    )
    # From the version before directions: the row below the foot at three places.
    assert plain[325, (160, 200, 240), 0].tolist() == PLAIN
    assert (plain != own).any()


PLAIN = [247, 255, 85]


# Edges


def test_an_image_has_a_feather_of_its_own(bench: Bench) -> None:
    for number in (1, 2):
        bench.put(f"assets/{number}.png", mask(number))
    batch = bench.submit(
        {"a.jpg": photo(1), "b.jpg": photo(1)},
        Backdrop="#00ff00",
        Prompt=None,
        MaskKey="assets/1.png",
        Images=[{"ImageName": "a.jpg"}, {"ImageName": "b.jpg", "Feather": 12}],
        Renditions=[{"Format": "png"}],
    )
    bench.run()
    rows = bench.rows(batch)
    mixed = [
        int(((made[..., 1] > 150) & (made[..., 1] < 250)).sum())
        for made in (result(bench, rows[name].Results[0]) for name in ("a.jpg", "b.jpg"))
    ]
    assert mixed[1] > 2 * mixed[0]
    before = bench.store.read(rows["a.jpg"].Results[0]).etag
    bench.put(
        batch.request_key, json.dumps({**bench.store.read_json(batch.request_key), "Feather": 6}).encode()
    )
    bench.run()
    rows = bench.rows(batch)
    assert bench.store.read(rows["a.jpg"].Results[0]).etag != before, "another edge is another file"


# A folder of masks


def by_name(bench: Bench, **request: Any) -> Any:
    batch = bench.submit(
        {
            "one.jpg": photo(1),
            "shelf/two.jpg": photo(2),
            "masks/one.png": mask(1),
            "masks/shelf/two.png": mask(2),
        },
        requested=False,
    )
    document = {
        "Id": "id-101530",
        "Backdrop": "#00ff00",
        "MaskKey": f"{batch.input_prefix}/masks/",
        **request,
    }
    bench.put(batch.request_key, json.dumps(document).encode())
    return batch


def test_masks_are_found_by_name_and_are_no_images(bench: Bench) -> None:
    batch = by_name(bench)
    bench.run()
    rows = bench.rows(batch)
    assert sorted(rows) == ["one.jpg", "shelf/two.jpg"]
    for number, name in ((1, "one.jpg"), (2, "shelf/two.jpg")):
        assert rows[name].Status == Status.SUCCEEDED, rows[name].Cause
        inside = np.asarray(photo_and_mask(number)[1].filter(ImageFilter.MinFilter(9))) == 255
        outside = np.asarray(photo_and_mask(number)[1].filter(ImageFilter.MaxFilter(9))) == 0
        made = result(bench, rows[name].Results[0])
        assert made[outside][:, 1].min() > 200
        assert made[inside][:, 1].max() < 200


def test_a_replaced_mask_makes_its_image_due_and_no_other(bench: Bench) -> None:
    batch = by_name(bench)
    bench.run()
    bench.put(batch.upload_key("masks/one.png"), mask(5))
    work = open_batch(bench.store, bench.settings(), batch)
    assert not work.due, "`open_batch` alone does not look for what is due"
    day = bench.run()
    assert day.due == 1
    assert bench.run().due == 0


def test_a_photo_without_its_mask_fails_alone_and_says_which(bench: Bench) -> None:
    batch = by_name(bench)
    bench.put(batch.upload_key("three.jpg"), photo(3))
    bench.run()
    rows = bench.rows(batch)
    assert rows["three.jpg"].Status == Status.FAILED
    assert f"{batch.input_prefix}/masks/three.png" in rows["three.jpg"].Cause
    assert rows["one.jpg"].Status == Status.SUCCEEDED
    bench.put(batch.upload_key("masks/three.png"), mask(3))
    bench.run()
    assert bench.rows(batch)["three.jpg"].Status == Status.SUCCEEDED


def test_the_edge_that_restore_subject_uses_is_that_of_the_image() -> None:
    picture, matte = photo_and_mask(1)
    original = Photo(picture, "png")
    soft = restore_subject(original, Image.new("RGB", picture.size, "lime"), matte, feather=9)
    assert soft.size == picture.size
