"""Every model, subject, task and mode through whole runs: requests to services and the outcome of refusals."""

import base64
import io
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bg_pipeline import pipeline
from bg_pipeline.captioners.nova import Caption
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.rows import Row, Status
from bg_pipeline.errors import Blocked
from bg_pipeline.generators import Ask, Invoke, Made
from bg_pipeline.masks import Mask
from bg_pipeline.masks.conventions import STORED
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import DATE, Bench
from bg_pipeline_tests.generators.own_generator import Sepia
from bg_pipeline_tests.pictures import photo, photo_and_mask

TITAN_V1, TITAN_V2 = "amazon.titan-image-generator-v1", "amazon.titan-image-generator-v2:0"
NOVA_CANVAS = "amazon.nova-canvas-v1:0"
INPAINT = "stability.stable-image-inpaint-v1:0"
CUT_OUT = "stability.stable-image-remove-background-v1:0"

MODELS = ("titan-v1", "titan-v2", "nova-canvas", "stability")
PAINTS = {"titan-v1": TITAN_V1, "titan-v2": TITAN_V2, "nova-canvas": NOVA_CANVAS, "stability": INPAINT}
# Titan v1 cannot cut subjects out; the next model in the list does it.
LISTED = {model: model for model in MODELS} | {"titan-v1": "titan-v1,titan-v2"}
NO_MASK = "Unable to auto-generate mask image with given input image and mask prompt."


@pytest.fixture
def bench(s3, bucket, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket), {"keep_payloads": True})


@pytest.fixture
def only_paid(bench: Bench) -> Bench:
    """No mask is made on this machine."""
    bench.overrides["mask_sources"] = "cut-out"
    return bench


def asked(
    bench: Bench, batch: Batch, image: str = "photo-0.jpg", operation: str = ""
) -> list[dict[str, Any]]:
    """The request bodies that were sent to image models for an image."""
    prefix = batch.payload_key(image, operation).removesuffix(".json")
    keys = [key for key in bench.keys(prefix) if key.endswith("-request.json") and "/caption-" not in key]
    return [bench.store.read_json(key) or {} for key in keys]


def painting(bench: Bench, batch: Batch, image: str = "photo-0.jpg") -> dict[str, Any]:
    """The one request body for a new background: Titan's parameters, or Stability's whole body."""
    found = [body.get("outPaintingParams", body) for body in asked(bench, batch, image)]
    (body,) = [body for body in found if "text" in body or "prompt" in body]
    return body


def picture(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def sent_mask(body: dict[str, Any]) -> Image.Image:
    return picture(body.get("maskImage") or body["mask"])


def only_row(bench: Bench, batch: Batch) -> Row:
    (row,) = bench.rows(batch).values()
    return row


def result(bench: Bench, key: str) -> Image.Image:
    content = bench.store.read(key)
    assert content is not None
    return Image.open(io.BytesIO(content.data))


def astronaut() -> bytes:
    return (resources.files("bg_pipeline") / "demo_photos" / "astronaut.jpg").read_bytes()


@pytest.fixture
def a_dog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every caption is about a dog."""
    caption = Caption("The image shows a brown dog on a sofa.", "")
    monkeypatch.setattr("bg_pipeline.captioners.nova.read", lambda *_: caption)


# What is asked of whom


@pytest.mark.parametrize("model", ["titan-v1", "titan-v2", "nova-canvas"])
@pytest.mark.parametrize(
    ("labels", "confidence", "words"),
    [("Bus, Person", 55, "Bus, Person"), (None, 55, "Object"), (None, 99, "dog")],
    ids=["the request's own", "those with a box", "the caption's noun"],
)
def test_a_model_that_accepts_words_is_sent_the_labels(
    only_paid: Bench,
    control: ControlClient,
    a_dog: None,
    model: str,
    labels: str | None,
    confidence: int,
    words: str,
) -> None:
    images = [{"ImageName": "photo-0.jpg", **({"Labels": labels} if labels else {})}]
    batch = only_paid.submit(1, Images=images)
    only_paid.run(image_models=LISTED[model], label_confidence=confidence)
    body = painting(only_paid, batch)
    assert body["maskPrompt"] == words
    assert "maskImage" not in body
    assert [call["model"] for call in control.paid(operation="InvokeModel")] == [PAINTS[model]]
    assert only_row(only_paid, batch).Status in (Status.SUCCEEDED, Status.NEEDS_REVIEW)


def test_the_mask_that_a_model_returns_for_words_is_used_and_stored(only_paid: Bench) -> None:
    batch = only_paid.submit(1)
    only_paid.run(image_models="titan-v2")
    row = only_row(only_paid, batch)
    assert row.Status == Status.SUCCEEDED, row.Cause
    assert (only_paid.store.read_json(f"{row.Results[0]}.json") or {})["Mask"] == "words"
    kept = only_paid.store.read(batch.mask_key("photo-0.jpg"))
    assert kept is not None
    mask = STORED.read_png(kept.data)
    assert (mask.getpixel((120, 90)), mask.getpixel((2, 2))) == (255, 0)


def test_words_are_not_used_if_the_models_mask_cannot_be_determined(
    only_paid: Bench, control: ControlClient
) -> None:
    batch = only_paid.submit(1, Mode="DEFAULT")
    only_paid.run(image_models="nova-canvas")
    assert "maskImage" in painting(only_paid, batch)
    assert [call["task"] for call in control.paid(operation="InvokeModel")] == [
        "BACKGROUND_REMOVAL",
        "OUTPAINTING",
    ]
    assert only_row(only_paid, batch).Status == Status.SUCCEEDED


@pytest.mark.parametrize("model", ["titan-v2", "nova-canvas"])
@pytest.mark.usefixtures("a_dog")
def test_words_without_a_subject_lead_to_the_captions_noun_and_then_to_a_cut_out(
    only_paid: Bench, control: ControlClient, model: str
) -> None:
    control.fault(
        operation="InvokeModel", task="OUTPAINTING", code="ValidationException", message=NO_MASK, times=2
    )
    batch = only_paid.submit(1, Images=[{"ImageName": "photo-0.jpg", "Labels": "Unicorn"}])
    only_paid.run(image_models=model)
    row = only_row(only_paid, batch)
    assert row.Status == Status.SUCCEEDED, row.Cause
    assert "maskImage" in painting(only_paid, batch)
    calls = [(call["task"], call["outcome"]) for call in control.calls(operation="InvokeModel")]
    refused = ("OUTPAINTING", "ValidationException")
    assert calls == [refused, refused, ("BACKGROUND_REMOVAL", "ok"), ("OUTPAINTING", "ok")]
    assert row.CostUSD == pytest.approx(sum(output.CostUSD for output in row.Outputs) * 2, abs=0.005)


@pytest.mark.usefixtures("a_dog")
def test_a_result_is_made_again_with_the_mask_that_was_sent(only_paid: Bench, control: ControlClient) -> None:
    control.fault(
        operation="InvokeModel", task="OUTPAINTING", code="ValidationException", message=NO_MASK, times=2
    )
    batch = only_paid.submit({"thing.png": photo(1, format="PNG")})
    only_paid.run(image_models="nova-canvas")
    (key,) = only_row(only_paid, batch).Results
    before = result(only_paid, key)
    only_paid.store.delete(key)
    control.mark()
    only_paid.run(image_models="nova-canvas")
    assert control.paid() == []
    difference = np.abs(np.asarray(result(only_paid, key), np.int16) - np.asarray(before, np.int16))
    assert difference.mean() < 1


def test_without_a_subject_the_image_needs_review_and_no_picture_is_paid(
    bench: Bench, control: ControlClient
) -> None:
    control.switch(canned=False)
    plain = io.BytesIO()
    Image.new("RGB", (200, 150), "#7090b0").save(plain, "PNG")
    batch = bench.submit({"wall.png": plain.getvalue()})
    bench.run(image_models="titan-v2")
    row = only_row(bench, batch)
    assert (row.Status, row.Error, row.Results) == (Status.NEEDS_REVIEW, "NoSubject", ())
    assert "cut-out" in row.Cause
    assert control.paid(operation="InvokeModel") == []


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("mode", ["PRECISE", "DEFAULT"])
def test_the_mask_is_sent_with_a_black_subject_on_white(
    only_paid: Bench, control: ControlClient, model: str, mode: str
) -> None:
    wide, mask = photo_and_mask(1, size=(480, 150))
    files = {}
    for name, image in (("wide.png", wide), ("mask.png", STORED.write(mask))):
        out = io.BytesIO()
        image.save(out, "PNG")
        files[name] = out.getvalue()
    only_paid.put("assets/mask.png", files.pop("mask.png"))
    batch = only_paid.submit(files, MaskKey="assets/mask.png", Mode=mode)
    only_paid.run(image_models=model)
    row = only_row(only_paid, batch)
    assert row.Status == Status.SUCCEEDED, row.Cause
    body = painting(only_paid, batch, "wide.png")
    image, sent = picture(body["image"]), sent_mask(body)
    assert sent.size == image.size
    assert sent.mode == "RGB"
    pixels = np.asarray(sent)[..., 0]
    assert set(np.unique(pixels)) == {0, 255}
    height, width = pixels.shape
    assert pixels[height // 2, round(width * (0.5 + 0.08 * np.sin(1)))] == 0
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):  # padding is background, too
        assert pixels[corner] == 255
    assert body.get("outPaintingMode", mode) == mode
    assert body.get("grow_mask", {"PRECISE": 0, "DEFAULT": 5}[mode]) == {"PRECISE": 0, "DEFAULT": 5}[mode]
    assert result(only_paid, row.Results[0]).size == (480, 150)


@pytest.mark.parametrize("model", ["titan-v2", "nova-canvas", "stability"])
def test_the_subject_itself_survives(bench: Bench, control: ControlClient, model: str) -> None:
    """The local AWS server replaces the right area: with an inverted mask the subject would be gone."""
    control.switch(canned=False, note=False)
    source, mask = photo_and_mask(3, size=(320, 240), background="#f4f4f4")
    out = io.BytesIO()
    source.save(out, "PNG")
    batch = bench.submit({"thing.png": out.getvalue()}, Subject="SALIENT", Prompt="night")
    bench.run(image_models=model, mask_sources="cut-out")
    row = only_row(bench, batch)
    assert row.Status == Status.SUCCEEDED, row.Cause
    answers = [
        bench.store.read_json(key) or {} for key in bench.keys(batch.payload_key("thing.png", "x")[:-6])
    ]
    made = [picture(answer["images"][0]) for answer in answers if "images" in answer]
    (painted,) = [image for image in made if image.mode == "RGB"]
    small = painted.resize(source.size)
    inside, outside = np.asarray(mask) == 255, np.asarray(mask) == 0
    moved = np.abs(np.asarray(small, np.int16) - np.asarray(source, np.int16)).mean(axis=2)
    assert moved[inside].mean() < 40 < moved[outside].mean() / 2


@pytest.mark.parametrize("model", MODELS)
def test_the_salient_subject_is_cut_out(only_paid: Bench, control: ControlClient, model: str) -> None:
    batch = only_paid.submit(1, Subject="SALIENT")
    only_paid.run(image_models=LISTED[model])
    assert only_row(only_paid, batch).Status == Status.SUCCEEDED
    sent = np.asarray(sent_mask(painting(only_paid, batch)))[..., 0]
    assert (sent[sent.shape[0] // 2, sent.shape[1] // 2], sent[0, 0]) == (0, 255)
    assert len(control.paid(operation="InvokeModel")) == 2
    assert control.paid(operation="DetectFaces") == []


@pytest.mark.parametrize("model", MODELS)
def test_a_cut_out_is_made_by_the_first_model_that_can(
    only_paid: Bench, control: ControlClient, model: str
) -> None:
    batch = only_paid.submit(1, Task="REMOVE", Prompt=None)
    only_paid.run(image_models=LISTED[model])
    row = only_row(only_paid, batch)
    assert row.Status == Status.SUCCEEDED, row.Cause
    made = result(only_paid, row.Results[0])
    assert (made.mode, made.size) == ("RGBA", (240, 180))
    cuts = {"titan-v1": TITAN_V2, "stability": CUT_OUT}.get(model, PAINTS[model])
    assert [call["model"] for call in control.paid(operation="InvokeModel")] == [cuts]


def test_without_a_cut_out_model_an_image_is_skipped_with_what_is_missing(
    only_paid: Bench, control: ControlClient
) -> None:
    batch = only_paid.submit(1, Subject="SALIENT")
    only_paid.run(image_models="titan-v1")
    row = only_row(only_paid, batch)
    assert (row.Status, row.Error) == (Status.SKIPPED, "NoCutOut")
    assert "BG_IMAGE_MODELS" in row.Cause
    assert control.paid(operation="InvokeModel") == []
    only_paid.run(image_models="titan-v1,titan-v2")
    assert only_row(only_paid, batch).Status == Status.SUCCEEDED


@pytest.mark.parametrize(
    ("sources", "used", "calls"),
    [
        ("alpha,studio,onnx,cut-out", "alpha", 0),
        ("studio,onnx,cut-out", "studio", 0),
        ("onnx,network,cut-out", "onnx", 0),
        ("network,cut-out", "network", 0),
        ("cut-out", "cut-out", 1),
    ],
)
def test_free_mask_sources_come_before_paid_ones_and_each_can_be_switched_off(
    bench: Bench,
    control: ControlClient,
    monkeypatch: pytest.MonkeyPatch,
    in_process: None,
    sources: str,
    used: str,
    calls: int,
) -> None:
    source, mask = photo_and_mask(1)
    model = Path("/somewhere/matting.onnx")

    def matted(image: Image.Image, path: Path) -> Mask:
        assert path == model
        return Mask(mask.resize(image.size), "onnx", 0.9)

    monkeypatch.setattr("bg_pipeline.run.subject_mask.cut_with_onnx", matted)
    source.putalpha(mask)
    out = io.BytesIO()
    source.save(out, "PNG")
    batch = bench.submit({"thing.png": out.getvalue()}, Subject="SALIENT", Task="REMOVE", Prompt=None)
    bench.run(mask_sources=sources, onnx_model=model)
    row = only_row(bench, batch)
    assert row.Status == Status.SUCCEEDED, row.Cause
    assert (bench.store.read_json(f"{row.Results[0]}.json") or {})["Mask"] == used
    assert len(control.paid(operation="InvokeModel")) == calls


# Faces


@pytest.mark.parametrize(("sources", "used"), [("persons", "persons"), ("alpha", "faces")])
def test_without_a_sam_endpoint_faces_become_local_person_masks_or_head_and_shoulders(
    bench: Bench, control: ControlClient, sources: str, used: str
) -> None:
    control.switch(canned=False, note=False)
    batch = bench.submit({"astronaut.jpg": astronaut()}, Subject="FACES")
    bench.run(image_models="stability", mask_sources=sources)
    row = only_row(bench, batch)
    assert row.Status == Status.SUCCEEDED, row.Cause
    kept = bench.store.read(batch.mask_key("astronaut.jpg"))
    assert kept is not None
    mask = STORED.read_png(kept.data)
    face, sky = mask.getpixel((225, 110)), mask.getpixel((30, 60))
    assert (face, sky) == (255, 0)
    assert (bench.store.read_json(f"{row.Results[0]}.json") or {})["Mask"] == used
    assert [call["model"] for call in control.paid(operation="InvokeModel")] == [INPAINT]
    assert len(control.paid(operation="DetectFaces")) == 1


def test_faces_go_to_the_sam_endpoint_if_there_is_one(bench: Bench, control: ControlClient) -> None:
    control.switch(canned=False, note=False)
    batch = bench.submit({"astronaut.jpg": astronaut()}, Subject="FACES", Prompts=["a beach", "a forest"])
    bench.run(image_models="stability", sam_endpoint="sam", sam_form=json.dumps({"unit": "ratio"}))
    row = only_row(bench, batch)
    assert row.Status == Status.SUCCEEDED, row.Cause
    assert len(control.paid(operation="InvokeEndpoint")) == 1
    assert len(control.paid(operation="InvokeModel")) == 2
    bodies = [body for body in asked(bench, batch, "astronaut.jpg") if "prompt" in body]
    first, second = (np.asarray(sent_mask(body)) for body in bodies)
    assert (first == second).all()
    assert first[110, 225, 0] == 0


def test_a_sam_endpoint_that_fails_leads_to_head_and_shoulders(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bg_pipeline.rate_limits.calls.BACK_OFF_SECONDS", (0.01, 0.02))
    control.switch(canned=False, note=False)
    control.fault(operation="InvokeEndpoint", code="ModelError", message="out of memory", status=424, times=0)
    batch = bench.submit({"astronaut.jpg": astronaut()}, Subject="FACES", Task="REMOVE", Prompt=None)
    bench.run(sam_endpoint="sam", quota_sam_rpm=60_000)
    assert only_row(bench, batch).Status == Status.SUCCEEDED


def test_a_photo_without_faces_needs_review(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit(1, Subject="FACES")
    bench.run()
    row = only_row(bench, batch)
    assert (row.Status, row.Error) == (Status.NEEDS_REVIEW, "NoSubject")
    assert "no face" in row.Cause
    assert control.paid(operation="InvokeModel") == []


# Given masks


@pytest.mark.parametrize(
    ("size", "mode", "status", "error"),
    [
        ((240, 180), "plain", Status.SUCCEEDED, ""),
        ((120, 90), "plain", Status.SUCCEEDED, ""),
        ((480, 360), "alpha", Status.SUCCEEDED, ""),
        ((240, 180), "soft", Status.SUCCEEDED, ""),
        ((240, 180), "glass", Status.SUCCEEDED, ""),
        ((180, 240), "plain", Status.FAILED, "MaskShapeDiffers"),
        ((240, 180), "grey", Status.FAILED, "MaskIsGrey"),
        ((240, 180), "white", Status.FAILED, "MaskKeepsNothing"),
    ],
)
def test_an_uploaded_mask_is_used_if_it_is_unambiguous_and_refused_if_not(
    bench: Bench, control: ControlClient, size: tuple[int, int], mode: str, status: Status, error: str
) -> None:
    source, exact = photo_and_mask(1)
    mask = exact.resize(size)
    given = STORED.write(mask)
    if mode in ("alpha", "glass"):
        given = Image.new("RGBA", size)
        given.putalpha(mask.point([level * 6 // 10 for level in range(256)]) if mode == "glass" else mask)
    elif mode == "soft":
        given = STORED.write(mask.resize((60, 45)).resize(size, Image.Resampling.BICUBIC))
    elif mode == "grey":
        given = given.point([90 + level // 4 for level in range(256)])
    elif mode == "white":
        given = Image.new("L", size, 255)
    out = io.BytesIO()
    given.save(out, "PNG")
    bench.put("assets/mask.png", out.getvalue())
    batch = bench.submit({"photo-0.jpg": photo(1)}, MaskKey="assets/mask.png")
    bench.run(image_models="titan-v2")
    row = only_row(bench, batch)
    assert (row.Status, row.Error) == (status, error), row.Cause
    if status == Status.SUCCEEDED:
        kept = bench.store.read(batch.mask_key("photo-0.jpg"))
        assert kept is not None
        used = np.asarray(STORED.read_png(kept.data), np.int16)
        true = np.asarray(exact, np.int16) // 10 * (6 if mode == "glass" else 10)
        assert np.abs(used - true).mean() < 4
    else:
        assert "assets/mask.png" in row.Cause
        assert control.paid(operation="InvokeModel") == []
    assert source.size == (240, 180)


# Stability: two calls a picture, one cut-out for all prompts


def test_a_cut_out_is_made_once_for_all_prompts_variants_and_later_requests(
    only_paid: Bench, control: ControlClient
) -> None:
    def calls() -> Counter[str]:
        return Counter(call["model"] for call in control.paid(operation="InvokeModel"))

    only_paid.submit(1)
    only_paid.run(image_models="stability")
    assert calls() == {CUT_OUT: 1, INPAINT: 1}
    only_paid.submit({}, Prompts=["a beach", "a forest"], Variants=2)
    only_paid.run(image_models="stability")
    assert calls() == {CUT_OUT: 1, INPAINT: 5}
    only_paid.submit({"shop.jpg": photo(0)}, batch="later", Task="REMOVE", Prompt=None)
    only_paid.run(image_models="stability")
    assert calls() == {CUT_OUT: 1, INPAINT: 5}


@pytest.mark.parametrize(("model", "calls"), [("titan-v2", 1), ("nova-canvas", 1), ("stability", 3)])
def test_variants_are_made_in_one_call_if_the_model_supports_it(
    bench: Bench, control: ControlClient, model: str, calls: int
) -> None:
    batch = bench.submit(1, Variants=3)
    bench.run(image_models=model)
    assert len(only_row(bench, batch).Results) == 3
    assert len(control.paid(operation="InvokeModel")) == calls


# Regions


def test_calls_spread_over_regions_in_proportion_to_their_quotas(
    bench: Bench, control: ControlClient
) -> None:
    bench.submit(33)
    bench.run(regions="us-east-1,us-east-2", quota_detect_labels_tps=None, stages=["labels"])
    spread = Counter(call["region"] for call in control.paid(operation="DetectLabels"))
    # 50 a second in the one, 5 in the other.
    assert spread["us-east-1"] >= 5 * spread["us-east-2"] > 0  # 10 on an idle machine


@pytest.mark.parametrize(
    "fault",
    [
        {"code": "ThrottlingException"},
        {"code": "ServiceUnavailableException", "message": "busy", "status": 503},
        {
            "code": "AccessDeniedException",
            "message": "not authorized to perform bedrock:InvokeModel",
            "status": 403,
        },
    ],
    ids=["throttles", "fails", "refuses"],
)
def test_calls_of_an_unusable_region_go_to_the_others(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any]
) -> None:
    monkeypatch.setattr("bg_pipeline.rate_limits.calls.BACK_OFF_SECONDS", (0.01, 0.02))
    control.fault(operation="InvokeModel", region="us-west-2", times=0, **fault)
    batch = bench.submit(12)
    day = bench.run(image_models="titan-v2", regions="us-east-1,us-west-2", attempts=6)
    assert day.counts == {Status.SUCCEEDED: 12}, day.failed_rows
    assert {row.Region for row in bench.rows(batch).values()} == {"us-east-1"}
    assert len(control.paid(operation="InvokeModel")) == 12


def test_two_regions_share_the_pictures(bench: Bench, control: ControlClient) -> None:
    bench.submit(12)
    bench.run(image_models="titan-v2", regions="us-east-1,us-west-2")
    spread = Counter(call["region"] for call in control.paid(operation="InvokeModel"))
    assert sum(spread.values()) == 12
    assert min(spread["us-east-1"], spread["us-west-2"]) >= 3


# Which model


def test_a_retired_model_is_noted_once_with_its_date_and_its_replacement(
    bench: Bench, control: ControlClient
) -> None:
    control.model(TITAN_V2, lifecycle="RETIRED", end_of_life="2026-06-30")
    control.model(NOVA_CANVAS, lifecycle="RETIRED", end_of_life="2026-09-30")
    bench.submit(2)
    assert bench.run().counts == {Status.SUCCEEDED: 2}
    (told,) = [note for note in bench.notes if "titan-v2" in note]
    assert told.startswith("using stability in us-east-1")
    assert "retired on 2026-06-30" in told
    assert "retired on 2026-09-30" in told
    assert {call["model"] for call in control.calls(operation="InvokeModel")} == {INPAINT}


def test_a_control_plane_that_denies_access_is_noted_once_and_the_run_continues(
    bench: Bench, control: ControlClient
) -> None:
    control.fault(
        operation="GetFoundationModel", code="AccessDeniedException", message="no", status=403, times=0
    )
    bench.submit(3, Subject="SALIENT")
    counts = bench.run(image_models="titan-v2", mask_sources="cut-out").counts
    assert counts == {Status.SUCCEEDED: 3}
    told = [note for note in bench.notes if "it is tried without knowing" in note]
    assert sum("titan-v2" in note for note in told) == 1
    assert len(told) == 2  # the other is the caption model


def test_access_refused_for_too_long_during_a_run_skips_the_remaining_images(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bg_pipeline.rate_limits.calls.ACCESS_SECONDS", 1.0)
    control.fault(
        operation="InvokeModel",
        model=INPAINT,
        code="AccessDeniedException",
        message="Model access is denied due to an AWS Marketplace subscription. Try again after 15 minutes.",
        status=403,
        times=0,
        skip=2,
    )
    batch = bench.submit(8)
    day = bench.run(image_models="stability", max_concurrency=1)
    assert day.counts == {Status.SUCCEEDED: 2, Status.SKIPPED: 6}
    assert "Marketplace" in day.stopped
    waiting = [row for row in bench.rows(batch).values() if row.Status == Status.SKIPPED]
    assert all("a later run continues" in row.Cause for row in waiting)
    control.reset()
    control.switch(canned=True)
    assert bench.run(image_models="stability").counts == {Status.SUCCEEDED: 8}


def test_a_temporary_marketplace_refusal_costs_only_time_also_after_a_first_picture(
    bench: Bench, control: ControlClient
) -> None:
    control.model(INPAINT, access="unsubscribed", seconds=1.5, first_call_passes=True)
    batch = bench.submit(3)
    day = bench.run(image_models="stability")
    assert day.counts == {Status.SUCCEEDED: 3}
    assert [row.CostUSD for row in bench.rows(batch).values()].count(0.0) == 0
    assert len(control.paid(model=INPAINT)) == 3
    (waited,) = [note for note in bench.notes if "cannot be called yet" in note]
    assert f"us.{INPAINT} in us-east-1" in waited
    assert any("can be called now" in note for note in bench.notes)


def test_a_pending_subscription_is_never_reported_as_nothing_usable(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bg_pipeline.rate_limits.calls.ACCESS_SECONDS", 0.5)
    control.model(TITAN_V2, lifecycle="RETIRED")
    control.model(NOVA_CANVAS, lifecycle="RETIRED")
    control.model(INPAINT, access="pending")
    bench.submit(2)
    day = bench.run()
    assert day.counts == {Status.SKIPPED: 2}
    assert "can be used yet" in day.stopped
    assert "a later run continues" in day.stopped
    assert control.paid(operation="InvokeModel") == []


def test_negative_availability_statuses_do_not_prevent_calls(bench: Bench, control: ControlClient) -> None:
    control.model(INPAINT, authorized=False)
    control.model("amazon.nova-pro-v1:0", authorized=False)
    bench.submit(2)
    assert bench.run(image_models="stability").counts == {Status.SUCCEEDED: 2}
    assert any("NOT_AUTHORIZED" in note for note in bench.notes)


@pytest.mark.parametrize(
    ("access", "what_to_do"),
    [
        ("payment", "add a valid payment method"),
        ("scp-denied", "denies bedrock:InvokeModel in us-east-2"),
        ("unverified", "open a case"),
        ("denied", "have access"),
        ("no-marketplace-rights", "grant aws-marketplace:Subscribe"),
    ],
)
def test_a_lasting_refusal_stops_the_model_and_reports_what_to_do(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch, access: str, what_to_do: str
) -> None:
    monkeypatch.setattr("bg_pipeline.rate_limits.calls.SUBSCRIPTION_SECONDS", 0.1)
    control.model(INPAINT, access=access)
    batch = bench.submit(2)
    day = bench.run(image_models="stability")
    assert day.counts == {Status.SKIPPED: 2}
    assert what_to_do in day.stopped
    assert control.paid(operation="InvokeModel") == []
    assert {row.Status for row in bench.rows(batch).values()} == {Status.SKIPPED}


def test_a_refused_model_is_replaced_by_the_next_with_one_note(bench: Bench, control: ControlClient) -> None:
    control.model(TITAN_V2, access="denied")
    bench.submit(2)
    assert bench.run().counts == {Status.SUCCEEDED: 2}
    told = [note for note in bench.notes if "You don't have access" in note]
    assert len(told) == 1
    assert told[0].startswith("using nova-canvas in us-east-1 (instead of titan-v2: ")


def test_a_retired_model_shortens_no_prompt(bench: Bench, control: ControlClient) -> None:
    control.model(TITAN_V2, lifecycle="RETIRED")
    control.model(NOVA_CANVAS, lifecycle="RETIRED")
    prompt = " ".join(["a sunny beach with palm trees"] * 40)
    batch = bench.submit(1, Prompt=prompt)
    assert bench.run().counts == {Status.SUCCEEDED: 1}
    assert painting(bench, batch)["prompt"] == prompt


# Where a model is called from


def test_captions_go_through_the_profile_of_their_region_and_cost_its_price(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(1)
    bench.run(image_models="nova-canvas", regions="eu-west-1")
    assert only_row(bench, batch).Status == Status.SUCCEEDED
    assert [call["region"] for call in control.paid(operation="Converse")] == ["eu-west-1"]
    assert any("using eu.amazon.nova-pro-v1:0 in eu-west-1" in note for note in bench.notes)


def test_captions_may_have_their_own_regions(bench: Bench, control: ControlClient) -> None:
    bench.submit(1)
    bench.run(image_models="stability", regions="us-west-2", caption_regions="ap-southeast-2")
    assert {call["region"] for call in control.paid(operation="Converse")} == {"ap-southeast-2"}
    assert {call["region"] for call in control.paid(operation="InvokeModel")} == {"us-west-2"}


def test_a_configured_caption_model_is_used_as_named_and_refused_where_it_does_not_exist(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(1)
    bench.run(image_models="nova-canvas", regions="eu-west-1", caption_models="us.amazon.nova-pro-v1:0")
    assert control.calls(operation="Converse") == []
    (row,) = bench.rows(batch).values()
    assert row.Status == Status.SUCCEEDED, "no picture waits for a caption that it does not use"
    assert "not offered in eu-west-1 through us.amazon.nova-pro-v1:0; it is in us-east-1" in row.Cause


def test_a_us_only_model_is_called_there_and_that_is_noted_once(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    bench.submit(2)
    chosen = bench.settings(image_models="stability")
    day = pipeline.run(chosen, [DATE], store=bench.store, note=bench.notes.append)[DATE]
    assert day.counts == {Status.SUCCEEDED: 2}
    assert {call["region"] for call in control.paid(operation="InvokeModel")} == {"us-east-1"}
    assert {call["region"] for call in control.paid(operation="Converse")} == {"eu-central-1"}
    assert sum("processed in the US" in note for note in bench.notes) == 1


def test_with_configured_regions_pictures_are_sent_nowhere_else(bench: Bench, control: ControlClient) -> None:
    bench.submit(1)
    day = bench.run(image_models="stability", regions="eu-central-1")
    assert control.calls(operation="InvokeModel") == []
    assert "not offered in eu-central-1" in day.stopped


def test_claude_makes_captions(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit(1)
    bench.run(image_models="titan-v2", caption_models="us.anthropic.claude-haiku-4-5-20251001-v1:0")
    assert only_row(bench, batch).Caption


def test_the_flex_tier_of_captions_is_requested_and_costs_less(bench: Bench, control: ControlClient) -> None:
    costs = []
    for tier in ("default", "flex"):
        batch = bench.submit({"a.jpg": photo(len(tier))}, batch=tier)
        bench.run(image_models="titan-v2", caption_tier=tier)
        costs.append(only_row(bench, batch).CostUSD)
        (key,) = [
            key
            for key in bench.keys("model-payloads/")
            if f"{tier}/a.jpg/caption" in key and "request" in key
        ]
        asked_tier = (bench.store.read_json(key) or {}).get("serviceTier")
        assert asked_tier == (None if tier == "default" else {"type": "flex"})
    assert costs[1] < costs[0]


# Refusals


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("word", ["blockme", "blockimage", "blockoutput"])
def test_every_form_of_content_policy_refusal_is_blocked(
    bench: Bench, control: ControlClient, model: str, word: str
) -> None:
    batch = bench.submit(1, Prompt=f"{word} in a garden")
    bench.run(image_models=model)
    row = only_row(bench, batch)
    assert row.Status == Status.BLOCKED, row.Cause
    assert "filter" in row.Cause.lower()
    assert row.Outputs[0].CostUSD == 0
    assert len(control.calls(operation="InvokeModel")) == 1
    control.mark()
    assert bench.run(image_models=model).due == 0
    assert control.calls() == []


@pytest.mark.parametrize("model", ["titan-v1", "titan-v2", "nova-canvas"])
def test_of_several_pictures_those_returned_are_stored_and_paid_and_the_others_blocked(
    bench: Bench, control: ControlClient, model: str
) -> None:
    batch = bench.submit({"cat.jpg": photo(1)}, Prompt="blocksome in a garden", Variants=3)
    bench.run(image_models=model)
    row = only_row(bench, batch)
    assert [output.Status for output in row.Outputs] == [Status.SUCCEEDED, Status.SUCCEEDED, Status.BLOCKED]
    assert row.Status == Status.BLOCKED
    assert [key.rpartition("/")[2] for key in row.Results] == ["cat_1.jpg", "cat_2.jpg"]
    assert "Some of the generated images" in row.Outputs[2].Cause
    assert [output.CostUSD > 0 for output in row.Outputs] == [True, True, False]


# A custom generator


class _Sepia(BaseHTTPRequestHandler):
    """A custom model behind the Bedrock runtime: it returns a grey gradient, or the picture that it was sent."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        made = picture(body["photo"])
        assert sent_mask({"mask": body["keep"]}).size == made.size
        if body["scene"] != "as it is":
            made = Image.linear_gradient("L").resize(made.size).convert("RGB")
        out = io.BytesIO()
        made.save(out, "PNG")
        answer = json.dumps({"result": base64.b64encode(out.getvalue()).decode()}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


OWN_STAGES = ("labels", "generated_images", "status_report")


@pytest.fixture
def sepia(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sepia)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    serving.join()
    server.server_close()


@pytest.fixture
def custom_bench(bench: Bench, sepia: None) -> Bench:
    """The bench with a custom generator."""
    bench.overrides |= {
        "image_models": "bg_pipeline_tests.generators.own_generator:Sepia",
        "max_cost_usd": 0,  # nobody knows its price
    }
    return bench


def test_a_custom_generator_works_in_a_whole_run(custom_bench: Bench) -> None:
    batch = custom_bench.submit(1)
    custom_bench.run(stages=OWN_STAGES)
    row = only_row(custom_bench, batch)
    assert (row.Status, row.Model) == (Status.SUCCEEDED, "sepia"), row.Cause
    assert result(custom_bench, row.Results[0]).size == (240, 180)


def test_a_custom_generator_with_a_price_runs_under_a_cap_and_at_its_quota(
    custom_bench: Bench, tmp_path: Path
) -> None:
    file = tmp_path / "models.toml"
    file.write_text("[SEPIA.price]\nimage = 0.05\n")
    batch = custom_bench.submit(2)
    custom_bench.run(stages=OWN_STAGES, max_cost_usd=0.055, model_facts=file, quota_sepia_rpm=6000)
    rows = custom_bench.rows(batch).values()
    assert sorted(row.Status for row in rows) == [Status.SKIPPED, Status.SUCCEEDED]
    assert sum(row.CostUSD or 0 for row in rows) == pytest.approx(0.05 + 2 * 0.001)


# Results that do not pass


def test_a_picture_that_fails_its_checks_is_made_again_with_another_seed_and_then_needs_review(
    custom_bench: Bench,
) -> None:
    batch = custom_bench.submit({"photo-0.jpg": photo(1)}, Prompt="as it is")
    custom_bench.run(stages=OWN_STAGES)
    row = only_row(custom_bench, batch)
    assert (row.Status, row.Error) == (Status.NEEDS_REVIEW, "Fidelity")
    assert "did not change" in row.Cause
    assert len(row.Results) == 1
    seeds = [body["seed"] for body in asked(custom_bench, batch)]
    assert len(set(seeds)) == 2
    assert custom_bench.run(stages=OWN_STAGES).due == 0


def test_if_it_cannot_be_made_again_the_existing_picture_needs_review(
    custom_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = custom_bench.submit({"photo-0.jpg": photo(1)}, Prompt="as it is")
    replace, calls = Sepia.replace, []

    def once(self: Sepia, ask: Ask, invoke: Invoke) -> Made:
        calls.append(ask)
        if len(calls) > 1:
            raise Blocked("Refused", "no more")
        return replace(self, ask, invoke)

    monkeypatch.setattr(Sepia, "replace", once)
    custom_bench.run(stages=OWN_STAGES)
    row = only_row(custom_bench, batch)
    assert (row.Status, len(row.Results), len(calls)) == (Status.NEEDS_REVIEW, 1, 2)
    assert "did not change" in row.Cause
