"""ONNX files of every form: the network that is part of the package, and networks of the user's."""

import hashlib
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from bg_pipeline.errors import SettingsError
from bg_pipeline.masks import local_cutout
from bg_pipeline.masks.local_cutout import NETWORK, check_network, cut_with_network, cut_with_onnx
from bg_pipeline.masks.validation import SURE_NETWORK
from bg_pipeline_tests.masks.scenes import Backdrop, Shape, outline, overlap, scene
from bg_pipeline_tests.rendered import rendered

# The network of the package


def test_the_package_has_the_network_as_it_was_published() -> None:
    data = NETWORK.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    assert digest == "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"
    assert hashlib.md5(data, usedforsecurity=False).hexdigest() == "8e83ca70e441ab06c318d82300c84806"
    assert digest in NETWORK.with_name("ORIGIN.md").read_text()
    assert "Apache License" in NETWORK.with_name("LICENSE").read_text()


@pytest.mark.parametrize(
    ("shape", "backdrop"),
    [
        ("bottle", "busy"),
        ("mug", "white"),
        ("shoe", "busy"),
        ("two", "busy"),
        ("bust", "busy"),
        ("hair", "grey"),
    ],
)
def test_the_network_finds_what_a_plain_background_does_not(shape: Shape, backdrop: Backdrop) -> None:
    shot = scene(shape, backdrop)
    cut = cut_with_network(shot.photo)
    assert cut.source == "network"
    assert cut.confidence is not None
    assert cut.confidence >= SURE_NETWORK
    assert overlap(cut.picture, shot.mask) > 0.96


def test_the_network_is_not_sure_where_it_is_wrong() -> None:
    shot = rendered("chair", "studio", (800, 600), 3)
    cut = cut_with_network(shot.photo)
    assert cut.confidence is not None
    assert overlap(cut.picture, shot.matte) > 0.95 or cut.confidence < SURE_NETWORK


def test_one_session_with_one_thread_serves_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_cutout, "_models", {})
    session, made = onnxruntime.InferenceSession, []

    def counted(path: Path, options: onnxruntime.SessionOptions, **more: object) -> object:
        made.append(options)
        return session(path, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", counted)
    photo = scene("shoe", "busy").photo
    before = threading.active_count()
    with ThreadPoolExecutor(4) as pool:
        cuts = {cut.picture.tobytes() for cut in pool.map(lambda _: cut_with_network(photo), range(4))}
    assert len(cuts) == 1
    assert [(options.intra_op_num_threads, options.inter_op_num_threads) for options in made] == [(1, 1)]
    assert threading.active_count() == before


def test_the_same_photo_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = scene("shoe", "busy", seed=7).photo
    first = cut_with_network(photo)
    monkeypatch.setattr(local_cutout._models[NETWORK], "_run", None)
    assert cut_with_network(photo.copy()).picture.tobytes() == first.picture.tobytes()


# Networks of three operations: the subject is what is redder than one half.


def model(
    path: Path,
    *,
    size: int | str = 64,
    batch: int | str = 1,
    channels_last: bool = False,
    output: str = "probability",
    outputs: int = 1,
    opset: int = 13,
) -> Path:
    """An ONNX file whose answer is a function of the (normalised) red channel, in one of the usual forms."""
    shape = [batch, size, size, 3] if channels_last else [batch, 3, size, size]
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)
    channel = 3 if channels_last else 1
    weights = {"starts": [0], "ends": [1], "axes": [channel]}
    constants = [helper.make_tensor(name, TensorProto.INT64, [1], values) for name, values in weights.items()]
    scale = {"logit": 20.0, "sigmoid": 10.0, "byte": 255.0, "range": 37.0}.get(output, 1.0)
    shift = {"logit": -10.0, "range": 2.0}.get(output, 0.0)
    constants.append(helper.make_tensor("scale", TensorProto.FLOAT, [], [scale]))
    constants.append(helper.make_tensor("shift", TensorProto.FLOAT, [], [shift]))
    nodes = [
        helper.make_node("Slice", ["picture", "starts", "ends", "axes"], ["red"]),
        helper.make_node("Mul", ["red", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["shifted"]),
        helper.make_node("Sigmoid" if output == "sigmoid" else "Identity", ["shifted"], ["alpha"]),
    ]
    names = ["alpha"]
    if output == "three channels":
        nodes.append(helper.make_node("Identity", ["picture"], ["same"]))
        names = ["same"]
    for number in range(1, outputs):
        # The coarser outputs of U²-Net and IS-Net, which are not looked at.
        nodes.append(helper.make_node("Neg", ["alpha"], [f"side{number}"]))
        names.append(f"side{number}")
    graph = helper.make_graph(
        nodes,
        "red",
        [picture],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
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


@pytest.mark.parametrize("output", ["probability", "byte", "logit", "range"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_form_of_the_output_is_detected(
    tmp_path: Path, shot: Image.Image, output: str, channels_last: bool
) -> None:
    path = trained_on_plain_colours(model(tmp_path / "m.onnx", channels_last=channels_last, output=output))
    cut = cut_with_onnx(shot, path)
    assert cut.source == "onnx"
    assert cut.confidence is not None
    assert cut.confidence > 0.8
    assert cut.picture.size == shot.size
    assert overlap(cut.picture, outline("shoe", shot.size)) > 0.97


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("u2net.onnx", {"size": 320, "output": "sigmoid", "outputs": 7}),
        ("isnet-general-use.onnx", {"size": 1024, "output": "sigmoid", "outputs": 6}),
        ("BiRefNet-general.onnx", {"size": 1024, "output": "logit", "batch": "batch"}),
        ("modnet.onnx", {"size": "side", "batch": "batch", "output": "sigmoid"}),
    ],
)
def test_every_known_network_cuts_out_without_a_setting(
    tmp_path: Path, shot: Image.Image, name: str, form: dict[str, Any]
) -> None:
    cut = cut_with_onnx(shot, model(tmp_path / name, **form))
    assert overlap(cut.picture, outline("shoe", shot.size)) > 0.97


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("u2net.onnx", 0.485, 0.229),
        ("BiRefNet-general.onnx", 0.485, 0.229),
        ("isnet-general-use.onnx", 0.5, 1),
        ("modnet_photographic.onnx", 0.5, 0.5),
    ],
)
def test_mean_and_deviation_are_those_of_the_network(
    tmp_path: Path, name: str, mean: float, std: float
) -> None:
    cut = cut_with_onnx(Image.new("RGB", (64, 64), (140, 0, 0)), model(tmp_path / name, output="sigmoid"))
    expected = 255 / (1 + np.exp(-10 * (140 / 255 - mean) / std))
    assert set(cut.picture.tobytes()) == {round(expected)}


def test_the_file_beside_the_network_wins_over_its_name(tmp_path: Path) -> None:
    path = trained_on_plain_colours(model(tmp_path / "modnet.onnx"), output="probability")
    assert set(cut_with_onnx(Image.new("RGB", (64, 64), (140, 0, 0)), path).picture.tobytes()) == {140}


def test_a_picture_without_a_subject_is_not_stretched(tmp_path: Path) -> None:
    path = trained_on_plain_colours(model(tmp_path / "m.onnx"))
    assert max(cut_with_onnx(Image.new("RGB", (64, 64), (3, 0, 90)), path).picture.tobytes()) == 3


@pytest.mark.parametrize("size", [(200, 100), (37, 411)])
def test_a_network_of_any_size_gets_sides_it_can_halve(tmp_path: Path, size: tuple[int, int]) -> None:
    path = trained_on_plain_colours(model(tmp_path / "m.onnx", size="side"))
    assert cut_with_onnx(Image.new("RGB", size, "red"), path).picture.size == size


def test_a_size_may_be_set_for_a_network_of_any(tmp_path: Path, shot: Image.Image) -> None:
    path = trained_on_plain_colours(model(tmp_path / "m.onnx", size="side"), size=[96, 96])
    assert overlap(cut_with_onnx(shot, path).picture, outline("shoe", shot.size)) > 0.97


# What is wrong with a file


def test_what_is_wrong_with_a_file_is_one_sentence_with_its_path(tmp_path: Path, shot: Image.Image) -> None:
    missing = tmp_path / "missing.onnx"
    nonsense = tmp_path / "nonsense.onnx"
    nonsense.write_bytes(b"nonsense")
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(NETWORK.read_bytes()[:100_000])
    newer = model(tmp_path / "newer.onnx", opset=999)
    for path in (missing, nonsense, torn, newer):
        for _ in range(2):
            with pytest.raises(SettingsError, match="cannot be loaded") as refused:
                cut_with_onnx(shot, path)
            words = str(refused.value)
            assert words.startswith(f"BG_ONNX_MODEL {path} cannot be loaded")
            assert "\n" not in words
            assert len(words) < 400
    with pytest.raises(SettingsError, match=r"three\.onnx answers with shape \[1, 3, 64, 64\]"):
        cut_with_onnx(shot, model(tmp_path / "three.onnx", output="three channels"))
    with pytest.raises(SettingsError, match="not one RGB picture"):
        cut_with_onnx(shot, model(tmp_path / "two.onnx", batch=2))


def test_a_network_that_takes_no_picture_is_refused(tmp_path: Path, shot: Image.Image) -> None:
    numbers = helper.make_tensor_value_info("numbers", TensorProto.FLOAT, [1, 10])
    same = helper.make_tensor_value_info("same", TensorProto.FLOAT, [1, 10])
    graph = helper.make_graph([helper.make_node("Identity", ["numbers"], ["same"])], "g", [numbers], [same])
    path = tmp_path / "numbers.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    with pytest.raises(SettingsError, match="not one RGB picture"):
        cut_with_onnx(shot, path)


@pytest.mark.parametrize(
    "text", ['{"mean": [0, 0]}', '{"std": [1, 1, 0]}', '{"meen": 1}', '{"output": "alpha"}', "nonsense"]
)
def test_a_wrong_file_beside_the_network_is_named(tmp_path: Path, shot: Image.Image, text: str) -> None:
    path = model(tmp_path / "m.onnx")
    (tmp_path / "m.onnx.json").write_text(text)
    with pytest.raises(SettingsError, match=r"m\.onnx\.json"):
        cut_with_onnx(shot, path)


def test_undefined_numbers_are_refused(tmp_path: Path) -> None:
    path = trained_on_plain_colours(model(tmp_path / "m.onnx"), mean=[float(np.finfo(np.float64).max), 0, 0])
    with np.errstate(over="ignore"), pytest.raises(SettingsError, match="undefined numbers"):
        cut_with_onnx(Image.new("RGB", (64, 64), "red"), path)


def test_without_onnxruntime_the_extra_and_the_setting_are_named(
    tmp_path: Path, shot: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SettingsError, match=r"extra `masks`.*BG_ONNX_MODEL"):
        cut_with_onnx(shot, tmp_path / "m.onnx")
    with pytest.raises(SettingsError, match=r"extra `masks`.*BG_MASK_SOURCES"):
        cut_with_network(shot)
    with pytest.raises(SettingsError, match="extra `masks`"):
        check_network()
