"""Cutting out on this machine: what is certain, what is left to others, and the user's own model."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image, ImageDraw

from bg_pipeline.errors import SettingsError
from bg_pipeline.masks import plain_background
from bg_pipeline.masks.local_cutout import cut_plain_background, cut_with_onnx, has_opencv
from bg_pipeline_tests.masks.scenes import Backdrop, Shape, outline, overlap, scene


@pytest.mark.parametrize("backdrop", ["white", "grey", "cloudy", "blue", "black"])
@pytest.mark.parametrize("shape", ["bottle", "shoe", "two"])
def test_a_studio_shot_is_cut_out_well(shape: Shape, backdrop: Backdrop) -> None:
    shot = scene(shape, backdrop)
    cut = cut_plain_background(shot.photo)
    assert cut is not None
    assert cut.source == "studio"
    assert cut.confidence is not None
    assert cut.confidence >= plain_background.SURE
    assert overlap(cut.picture, shot.mask) >= 0.97


def test_a_person_cut_off_by_the_frame_is_cut_out() -> None:
    shot = scene("bust", "grey", shadow=False)
    cut = cut_plain_background(shot.photo)
    assert cut is not None
    assert overlap(cut.picture, shot.mask) >= 0.97


def test_the_backdrop_seen_through_a_handle_is_no_subject() -> None:
    shot = scene("mug", "blue")
    cut = cut_plain_background(shot.photo)
    assert cut is not None
    assert overlap(cut.picture, shot.mask) >= 0.97


def test_a_white_label_on_a_white_backdrop_is_left_to_others() -> None:
    photo = scene("bottle", "white").photo
    ImageDraw.Draw(photo).rectangle((350, 330, 450, 420), fill=(250, 250, 250))
    assert cut_plain_background(photo) is None


@pytest.mark.parametrize("shape", ["bottle", "mug", "shoe", "hair"])
def test_a_busy_background_is_left_to_others(shape: Shape) -> None:
    assert cut_plain_background(scene(shape, "busy").photo) is None


@pytest.mark.parametrize(
    ("backdrop", "colour"), [("white", (226, 226, 224)), ("grey", (172, 172, 174)), ("black", (24, 24, 24))]
)
def test_a_subject_in_the_backdrops_colour_is_left_to_others_or_right(
    backdrop: Backdrop, colour: tuple[int, int, int]
) -> None:
    shot = scene("shoe", backdrop, colour=colour)
    cut = cut_plain_background(shot.photo)
    assert cut is None or overlap(cut.picture, shot.mask) >= 0.97


@pytest.mark.parametrize("backdrop", ["white", "grey", "black"])
def test_fine_hair_is_left_to_others(backdrop: Backdrop) -> None:
    assert cut_plain_background(scene("hair", backdrop).photo) is None


@pytest.mark.parametrize("colour", ["white", "grey", "black"])
def test_an_empty_studio_has_no_subject(colour: str) -> None:
    assert cut_plain_background(Image.new("RGB", (640, 480), colour)) is None


def test_a_thumbnail_is_too_small_to_be_sure() -> None:
    assert cut_plain_background(scene("shoe", "white").photo.resize((60, 45))) is None


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(48, 200), st.integers(48, 200)),
    backdrop=st.integers(0, 255),
    patches=st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.integers(0, 255)), max_size=5
    ),
    noise=st.sampled_from([0, 2, 40]),
)
def test_any_picture_is_cut_or_left(
    size: tuple[int, int], backdrop: int, patches: list[tuple[float, float, float, int]], noise: int
) -> None:
    photo = Image.new("RGB", size, (backdrop, backdrop, backdrop))
    for x, y, reach, grey in patches:
        corner = int(x * size[0]), int(y * size[1])
        end = corner[0] + int(reach * size[0]), corner[1] + int(reach * size[1])
        ImageDraw.Draw(photo).ellipse((*corner, *end), fill=(grey, backdrop, 255 - grey))
    grain = np.random.default_rng(0).normal(0, noise, (size[1], size[0], 1))
    cut = cut_plain_background(Image.fromarray(np.clip(np.asarray(photo) + grain, 0, 255).astype(np.uint8)))
    assert cut is None or cut.picture.size == size


def test_the_same_photo_gives_the_same_mask() -> None:
    photo = scene("shoe", "cloudy").photo
    first, second = cut_plain_background(photo), cut_plain_background(photo)
    assert first is not None
    assert second is not None
    assert first.picture.tobytes() == second.picture.tobytes()
    assert first.confidence == second.confidence


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_opencv()
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(SettingsError, match=r"extra `masks`.*BG_MASK_SOURCES"):
        cut_plain_background(scene("shoe", "white").photo)


# Models of three operations: the subject is what is redder than one half.


def model(path: Path, *, size: int | str = 64, channels_last: bool = False, output: str = "unit") -> Path:
    """An ONNX file whose alpha is the (normalised) red channel, in one of the usual forms."""
    shape = [1, size, size, 3] if channels_last else [1, 3, size, size]
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)
    channel = 3 if channels_last else 1
    weights = {"starts": [0], "ends": [1], "axes": [channel]}
    constants = [helper.make_tensor(name, TensorProto.INT64, [1], values) for name, values in weights.items()]
    constants.append(
        helper.make_tensor(
            "scale", TensorProto.FLOAT, [], [{"logits": 20.0, "bytes": 255.0}.get(output, 1.0)]
        )
    )
    constants.append(
        helper.make_tensor("shift", TensorProto.FLOAT, [], [-10.0 if output == "logits" else 0.0])
    )
    nodes = [
        helper.make_node("Slice", ["picture", "starts", "ends", "axes"], ["red"]),
        helper.make_node("Mul", ["red", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["alpha"]),
    ]
    name = "picture" if output == "three channels" else "alpha"
    if name == "picture":
        nodes.append(helper.make_node("Identity", ["picture"], ["same"]))
        name = "same"
    alpha = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "red", [picture], [alpha], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(made, path)
    return path


def trained_on_plain_colours(path: Path, **more: object) -> Path:
    path.with_name(path.name + ".json").write_text(json.dumps({"mean": [0, 0, 0], "std": [1, 1, 1], **more}))
    return path


@pytest.fixture(name="shot", scope="module")
def _shot() -> Image.Image:
    """A red shoe on blue."""
    photo = Image.new("RGB", (400, 300), (0, 0, 255))
    photo.paste((255, 0, 0), mask=outline("shoe", photo.size))
    return photo


@pytest.mark.parametrize("output", ["unit", "bytes", "logits"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_model_of_ones_own_cuts_out(
    tmp_path: Path, shot: Image.Image, output: str, channels_last: bool
) -> None:
    path = trained_on_plain_colours(model(tmp_path / "m.onnx", channels_last=channels_last, output=output))
    cut = cut_with_onnx(shot, path)
    assert cut.source == "onnx"
    assert cut.confidence is not None
    assert cut.confidence > 0.8
    assert cut.picture.size == shot.size
    assert overlap(cut.picture, outline("shoe", shot.size)) > 0.97


def test_imagenet_normalisation_is_the_default(tmp_path: Path) -> None:
    cut = cut_with_onnx(Image.new("RGB", (64, 64), (124, 0, 0)), model(tmp_path / "m.onnx"))
    # (124/255 - 0.485) / 0.229 is about 0.005
    assert set(cut.picture.tobytes()) == {1}


@pytest.mark.parametrize("size", [(200, 100), (37, 411)])
def test_a_model_of_any_size_gets_sides_it_can_halve(tmp_path: Path, size: tuple[int, int]) -> None:
    path = trained_on_plain_colours(model(tmp_path / "m.onnx", size="side"))
    assert cut_with_onnx(Image.new("RGB", size, "red"), path).picture.size == size


def test_a_size_may_be_set_for_a_model_of_any(tmp_path: Path, shot: Image.Image) -> None:
    path = trained_on_plain_colours(model(tmp_path / "m.onnx", size="side"), size=[96, 96])
    assert overlap(cut_with_onnx(shot, path).picture, outline("shoe", shot.size)) > 0.97


def test_threads_share_one_model(tmp_path: Path, shot: Image.Image) -> None:
    path = trained_on_plain_colours(model(tmp_path / "m.onnx"))
    with ThreadPoolExecutor(4) as pool:
        cuts = {cut.picture.tobytes() for cut in pool.map(lambda _: cut_with_onnx(shot, path), range(8))}
    assert len(cuts) == 1


def test_what_is_wrong_with_a_model_is_said_with_its_path(tmp_path: Path, shot: Image.Image) -> None:
    missing = tmp_path / "missing.onnx"
    with pytest.raises(SettingsError, match=r"missing\.onnx cannot be loaded"):
        cut_with_onnx(shot, missing)
    nonsense = tmp_path / "nonsense.onnx"
    nonsense.write_bytes(b"nonsense")
    with pytest.raises(SettingsError, match=r"nonsense\.onnx cannot be loaded"):
        cut_with_onnx(shot, nonsense)
    with pytest.raises(SettingsError, match=r"three\.onnx answers with shape \[1, 3, 64, 64\]"):
        cut_with_onnx(shot, model(tmp_path / "three.onnx", output="three channels"))


def test_a_model_that_takes_no_picture_is_refused(tmp_path: Path, shot: Image.Image) -> None:
    numbers = helper.make_tensor_value_info("numbers", TensorProto.FLOAT, [1, 10])
    same = helper.make_tensor_value_info("same", TensorProto.FLOAT, [1, 10])
    graph = helper.make_graph([helper.make_node("Identity", ["numbers"], ["same"])], "g", [numbers], [same])
    path = tmp_path / "numbers.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    with pytest.raises(SettingsError, match="not one RGB picture"):
        cut_with_onnx(shot, path)


@pytest.mark.parametrize("text", ['{"mean": [0, 0]}', '{"std": [1, 1, 0]}', '{"meen": 1}', "nonsense"])
def test_a_wrong_file_beside_the_model_is_named(tmp_path: Path, shot: Image.Image, text: str) -> None:
    path = model(tmp_path / "m.onnx")
    (tmp_path / "m.onnx.json").write_text(text)
    with pytest.raises(SettingsError, match=r"m\.onnx\.json"):
        cut_with_onnx(shot, path)


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    path = trained_on_plain_colours(model(tmp_path / "m.onnx"), mean=[float(np.finfo(np.float64).max), 0, 0])
    with np.errstate(over="ignore"), pytest.raises(SettingsError, match="no numbers"):
        cut_with_onnx(Image.new("RGB", (64, 64), "red"), path)


def test_without_onnxruntime_the_extra_is_named(
    tmp_path: Path, shot: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SettingsError, match=r"extra `masks`.*BG_ONNX_MODEL"):
        cut_with_onnx(shot, tmp_path / "m.onnx")
