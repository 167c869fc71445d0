"""The product stays unchanged: subjects whose mattes are known exactly, before and after the whole pipeline."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bg_pipeline.domain.rows import Status
from bg_pipeline.generators import generator
from bg_pipeline.imaging import encode, open_photo, unfit
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_local_aws.image_files import canned_image
from bg_pipeline_tests.batches import Bench
from bg_pipeline_tests.rendered import Rendered, as_mask, as_png, inner, old_ground, psnr, rendered

SIZE = (640, 480)
SHOTS = {
    "vase.png": rendered("vase", "room", SIZE, 1),
    "fur.png": rendered("fur", "dark", SIZE, 2),
    "glass.png": rendered("glass", "cloudy", SIZE, 3),
    "chair.png": rendered("chair", "leaves", SIZE, 4),
    "shoes.png": rendered("shoes", "studio", (900, 300), 5),
}
LOSSLESS = ("png", "tiff", "bmp")
DECIBELS = 45
RIM = 0.1
"""A halo up to this is invisible; a fringe that is visible at a glance has more than twice as much."""


@pytest.fixture
def bench(s3, bucket, control: ControlClient) -> Bench:
    # The canned picture knows nothing of the subject: what is behind the subject in the result is known exactly.
    control.switch(canned=True)
    return Bench(Store(s3, bucket))


def made(bench: Bench, shots: dict[str, Rendered], **request: Any) -> dict[str, dict[str, Image.Image]]:
    """The results of each scene by format, made with its own matte as the mask."""
    for name, shot in shots.items():
        bench.put(f"assets/{name}", as_mask(shot))
    formats = [{"Format": format} for format in (*LOSSLESS, "jpeg")]
    batch = bench.submit(
        {name: as_png(shot.photo) for name, shot in shots.items()},
        Images=[{"ImageName": name, "MaskKey": f"assets/{name}"} for name in shots],
        Renditions=formats,
        **request,
    )
    bench.run()
    rows = bench.rows(batch)
    for row in rows.values():
        assert row.Status == Status.SUCCEEDED, (row.ImageName, row.Cause)
    return {
        name: {
            format: opened(bench, key)
            for format, key in zip((*LOSSLESS, "jpeg"), rows[name].Results, strict=True)
        }
        for name in shots
    }


def opened(bench: Bench, key: str) -> Image.Image:
    content = bench.store.read(key)
    assert content is not None
    return open_photo(content.data).image


def painted(model: str, size: tuple[int, int]) -> Image.Image:
    """The model's picture at the photo's size."""
    fitted = generator(model).sizes.canvas(size)
    with Image.open(io.BytesIO(base64.b64decode(canned_image("picture", *fitted.canvas)))) as picture:
        return unfit(picture.convert("RGB"), fitted, size)


def assert_unchanged(name: str, results: dict[str, Image.Image]) -> None:
    shot = SHOTS[name]
    where = inner(shot.matte)
    assert where.any(), name
    for format, result in results.items():
        assert result.size == shot.photo.size
        found = psnr(shot.photo, result, where)
        assert found > DECIBELS if format == "jpeg" else found == float("inf"), (name, format, found)


@pytest.mark.parametrize("model", ["titan-v2", "nova-canvas", "stability"])
def test_in_precise_every_bit_of_the_subject_is_its_own_and_no_old_background_shows(
    bench: Bench, model: str
) -> None:
    bench.overrides["image_models"] = model
    for name, results in made(bench, SHOTS, Mode="PRECISE").items():
        assert_unchanged(name, results)
        shot = SHOTS[name]
        assert old_ground(shot, results["png"], painted(model, shot.photo.size)) < RIM, name


def test_in_default_the_edge_may_blend_and_the_interior_stays(bench: Bench) -> None:
    for name, results in made(bench, SHOTS, Mode="DEFAULT").items():
        assert_unchanged(name, results)


def test_a_given_backdrop_leaves_the_subject_as_it_is_and_shows_through_glass(bench: Bench) -> None:
    scene = Image.new("RGB", SIZE, "#2f7fbf")
    for name, results in made(bench, SHOTS, Backdrop="#2f7fbf", Prompt=None).items():
        assert_unchanged(name, results)
        assert old_ground(SHOTS[name], results["png"], scene.resize(SHOTS[name].photo.size)) < RIM, name


def test_a_cut_out_can_be_laid_on_anything(bench: Bench) -> None:
    for name, results in made(bench, SHOTS, Task="REMOVE", Prompt=None).items():
        shot = SHOTS[name]
        for colour in ("#00a040", "#ffffff", "#000000"):
            scene = Image.new("RGB", shot.photo.size, colour)
            laid = Image.alpha_composite(scene.convert("RGBA"), results["png"])
            assert psnr(shot.photo, laid, inner(shot.matte)) == float("inf")
            assert old_ground(shot, laid, scene) < RIM, (name, colour)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_large_photo_keeps_its_own_pixels_though_the_model_saw_fewer(bench: Bench, format: str) -> None:
    shot = rendered("vase", "studio", (1600, 1200), 6)
    file = io.BytesIO()
    shot.photo.save(file, format, quality=92)
    bench.put("assets/mask.png", as_mask(shot))
    batch = bench.submit({f"large.{format.lower()}": file.getvalue()}, MaskKey="assets/mask.png")
    bench.run(image_models="titan-v2")
    (row,) = bench.rows(batch).values()
    assert row.Status == Status.SUCCEEDED, row.Cause
    found = psnr(open_photo(file.getvalue()).image, opened(bench, row.Results[0]), inner(shot.matte))
    assert found > DECIBELS if format == "JPEG" else found == float("inf")


@pytest.mark.parametrize("deviation", [1, 3, 8, 25])
def test_jpeg_keeps_grain_of_any_strength(deviation: float) -> None:
    random = np.random.default_rng(0)
    grain = random.normal(0, deviation, (300, 400, 1)) + np.array((128, 128, 128))
    image = Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8))
    assert psnr(image, open_photo(encode(image, "jpeg")).image, np.ones((300, 400), bool)) > DECIBELS
