"""Refusals and features that are switched off, through whole runs: nothing is paid for them, and all are reported."""

import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import Image, ImageDraw

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.requests import ImageSettings
from bg_pipeline.domain.rows import Status
from bg_pipeline.errors import (
    Blocked,
    CallError,
    NeedsReview,
    NotTried,
    SubjectNotFound,
    Throttled,
)
from bg_pipeline.imaging import open_photo
from bg_pipeline.imaging.parcels import StoredPhoto
from bg_pipeline.masks import Mask
from bg_pipeline.planning import choose_models
from bg_pipeline.reports.overview import load_status
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.subject_mask import SubjectHints, find_subject
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import DATE, Bench, aws
from bg_pipeline_tests.pictures import photo

CORPUS = Path(__file__).parent.parent / "corpus_files"
MALFORMED = {"code": "ValidationException", "message": "Malformed input request, please reformat your input."}


@pytest.fixture
def bench(s3, bucket: str, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket), {"mask_sources": "cut-out"})


def only_row(bench: Bench, batch: Batch) -> Any:
    (row,) = bench.rows(batch).values()
    return row


# Captions switched off


def test_without_caption_models_no_caption_is_requested_and_nothing_fails(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(2)
    day = bench.run(caption_models=())
    assert day.counts == {Status.SUCCEEDED: 2}
    assert control.calls(operation="Converse") == []
    assert [row.Caption for row in bench.rows(batch).values()] == ["", ""]
    assert bench.keys("image-captions/") == []
    control.mark()
    assert bench.run(caption_models=()).due == 0
    assert control.calls() == []


def test_captions_that_are_switched_on_again_are_made_and_no_pictures(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(1)
    bench.run(caption_models=())
    control.mark()
    bench.run()
    assert [call["operation"] for call in control.paid()] == ["Converse"]
    assert only_row(bench, batch).Caption


def test_a_prompt_that_needs_a_caption_is_skipped_unpaid_without_one(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(1, Prompt="{caption} on a beach")
    bench.run(caption_models=())
    row = only_row(bench, batch)
    assert (row.Status, row.Error) == (Status.SKIPPED, "CaptionsOff")
    assert "captions are switched off (BG_CAPTION_MODELS is empty)" in row.Cause
    assert control.paid(operation="InvokeModel") == control.paid(operation="Converse") == []
    bench.run()
    assert only_row(bench, batch).Status == Status.SUCCEEDED


def test_without_captions_a_subject_without_labels_is_cut_out(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit(1)
    bench.run(caption_models=(), label_confidence=99)
    assert only_row(bench, batch).Status == Status.SUCCEEDED
    assert [call["task"] for call in control.paid(operation="InvokeModel")] == [
        "BACKGROUND_REMOVAL",
        "OUTPAINTING",
    ]


def test_a_plan_without_captions_shows_none(bench: Bench) -> None:
    context = _context(bench, caption_models=())
    try:
        models, reasons = choose_models(context)
    finally:
        context.close()
    assert models.captioner is None
    assert reasons == []


def _context(bench: Bench, **overrides: Any) -> RunContext:
    return RunContext(bench.settings(**overrides), aws("us-east-1"), bench.store, stop=threading.Event())


@pytest.mark.parametrize(
    "fault",
    [
        {
            "code": "ResourceNotFoundException",
            "message": "This model version has reached the end of its life.",
            "status": 404,
        },
        {"code": "ValidationException", "message": "no"},
        {"code": "ServiceUnavailableException"},
    ],
    ids=["retired", "refused", "down"],
)
def test_a_failed_caption_does_not_stop_a_picture_that_does_not_use_it(
    bench: Bench, control: ControlClient, fault: dict[str, Any]
) -> None:
    control.fault(operation="Converse", times=0, **fault)
    batch = bench.submit(1)
    bench.run(label_confidence=99, attempts=1)
    row = only_row(bench, batch)
    assert row.Status == Status.SUCCEEDED, row.Cause


def test_a_retired_caption_model_fails_only_images_that_need_a_caption(
    bench: Bench, control: ControlClient
) -> None:
    control.model("amazon.nova-pro-v1:0", lifecycle="RETIRED", end_of_life="2026-06-30")
    plain = bench.submit(1)
    told = bench.submit({"b.jpg": photo(5)}, batch="second", Prompt="{caption} at sea")
    bench.run(caption_models="amazon.nova-pro-v1:0")
    row = only_row(bench, plain)
    assert row.Status == Status.SUCCEEDED
    assert "the caption failed and was not needed: none of the configured models can be used" in row.Cause
    row = only_row(bench, told)
    assert (row.Status, row.Error) == (Status.FAILED, "NothingUsable")
    control.model("amazon.nova-pro-v1:0", lifecycle="ACTIVE")
    bench.run(caption_models="amazon.nova-pro-v1:0")
    assert only_row(bench, told).Status == Status.SUCCEEDED


def test_a_stored_caption_has_the_prompt_that_was_sent(bench: Bench, control: ControlClient) -> None:
    bench.submit(1)
    bench.run(stages=("captions",))
    (key,) = [
        key for key in bench.keys("pipeline-state/answers/captions/") if "." not in key.rpartition("/")[2]
    ]
    content = bench.store.read(key)
    assert content is not None
    document = json.loads(content.data)
    assert document["Prompt"].endswith("Generate a detailed description of the image.")
    assert "Alt text:" in document["Prompt"]


# Refused and failed cut-outs


@pytest.mark.parametrize("wishes", [{"Task": "REMOVE"}, {"Subject": "SALIENT"}], ids=["removed", "replaced"])
def test_a_cut_out_refused_by_content_policy_is_blocked(
    bench: Bench, control: ControlClient, wishes: dict[str, Any]
) -> None:
    control.fault(operation="InvokeModel", action="block", where="image", times=0)
    batch = bench.submit(1, **wishes)
    bench.run()
    row = only_row(bench, batch)
    assert row.Status == Status.BLOCKED, row.Cause
    assert "no usable mask" not in row.Cause


@pytest.mark.parametrize("wishes", [{"Task": "REMOVE"}, {"Subject": "SALIENT"}], ids=["removed", "replaced"])
def test_a_failed_cut_out_reports_the_services_message(
    bench: Bench, control: ControlClient, wishes: dict[str, Any]
) -> None:
    control.fault(operation="InvokeModel", times=0, **MALFORMED)
    batch = bench.submit(1, **wishes)
    bench.run()
    row = only_row(bench, batch)
    assert (row.Status, row.Error) == (Status.FAILED, "ValidationException")
    assert "Malformed input request" in row.Cause


def asked(subject: Literal["SALIENT", "LABELS", "FACES"] = "SALIENT") -> ImageSettings:
    return ImageSettings(
        image="a.jpg",
        labels=(),
        task="REMOVE",
        prompts=(),
        variants=1,
        negative_prompt="",
        mode="PRECISE",
        subject=subject,
        mask_key=None,
        backdrop=None,
        shadow="none",
        seed=None,
        quality="premium",
        cfg_scale=8.0,
        ref="",
        renditions=(),
    )


def eyes(cut_out: Callable[[], Mask], caption: Callable[[], str] = lambda: "a dog") -> SubjectHints:
    opened = StoredPhoto(open_photo(photo(1)))
    return SubjectHints(
        photo=lambda: opened,
        labels=lambda: {"Labels": []},
        caption=caption,
        faces=list,
        sam=None,
        cut_out=cut_out,
        stored_cut_out=cut_out,
        given=lambda key: b"",
    )


def raising(error: Exception) -> Callable[[], Any]:
    def call() -> Any:
        raise error

    return call


ONLY_PAID = Settings(mask_sources=("cut-out",))


@pytest.mark.parametrize(
    "error", [Blocked("ContentFiltered", "no"), CallError("ValidationException", "no"), Throttled("x", "y")]
)
def test_only_a_missing_subject_needs_review(error: CallError) -> None:
    with pytest.raises(type(error)):
        find_subject(asked(), eyes(raising(error)), ONLY_PAID, takes_words=False)
    not_found = raising(SubjectNotFound("NoSubject", "nothing to see"))
    with pytest.raises(NeedsReview, match="nothing to see"):
        find_subject(asked(), eyes(not_found), ONLY_PAID, takes_words=False)


@pytest.mark.parametrize("level", [0, 255], ids=["nothing", "everything"])
def test_a_cut_out_that_keeps_nothing_or_everything_needs_review(level: int) -> None:
    mask = Mask(Image.new("L", (300, 200), level), "cut-out")
    with pytest.raises(NeedsReview, match="cut-out:"):
        find_subject(asked(), eyes(lambda: mask), ONLY_PAID, takes_words=False)


def test_a_cut_out_without_transparency_needs_review(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    opaque = io.BytesIO()
    Image.new("RGB", (320, 240), "red").save(opaque, "PNG")
    monkeypatch.setattr("bg_pipeline.generators.titan.TitanV2.remove", lambda *_: opaque.getvalue())
    batch = bench.submit(1, Task="REMOVE")
    bench.run()
    row = only_row(bench, batch)
    assert (row.Status, row.Error) == (Status.NEEDS_REVIEW, "NoSubject")
    assert "cut nothing out" in row.Cause


@pytest.mark.parametrize("error", [NotTried("CaptionsOff", "no"), Blocked("x", "y"), CallError("x", "y")])
def test_a_failed_caption_leads_to_the_next_way_to_find_a_subject(error: Exception) -> None:
    mask = Mask(Image.open(io.BytesIO(_spot())), "cut-out")
    seen = eyes(lambda: mask, caption=raising(error))
    assert find_subject(asked("LABELS"), seen, ONLY_PAID, takes_words=True).mask is mask


def _spot() -> bytes:
    picture, file = Image.new("L", (300, 200)), io.BytesIO()
    ImageDraw.Draw(picture).ellipse((100, 50, 200, 150), fill=255)
    picture.save(file, "PNG")
    return file.getvalue()


# Labels


def test_with_an_empty_label_list_the_salient_subject_is_kept(bench: Bench, control: ControlClient) -> None:
    images = [{"ImageName": "photo-0.jpg", "Labels": ""}, {"ImageName": "photo-1.jpg", "Labels": "Dog"}]
    bench.overrides["keep_payloads"] = True
    batch = bench.submit(2, Images=images)
    bench.run()
    assert {row.Status for row in bench.rows(batch).values()} <= {Status.SUCCEEDED, Status.NEEDS_REVIEW}
    sent = {
        name: [
            document["outPaintingParams"].get("maskPrompt")
            for key in bench.keys(batch.payload_key(name, "").removesuffix(".json"))
            if key.endswith("-request.json")
            and "outPaintingParams" in (document := bench.store.read_json(key) or {})
        ]
        for name in ("photo-0.jpg", "photo-1.jpg")
    }
    assert set(sent["photo-0.jpg"]) == {None}
    assert set(sent["photo-1.jpg"]) == {"Dog"}


# Requests that cannot be read, and what is no photo


def test_a_request_in_windows_1252_is_a_row_and_its_report_is_reachable(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(1, requested=False)
    bench.put(batch.request_key, (CORPUS / "request_cp1252.json").read_bytes())
    bench.run()
    standing = load_status(bench.store, bench.settings(), batch)
    report = standing.report()
    assert report is not None
    ((row,),) = [report.rows]
    assert (row.ImageName, row.Status) == ("request.json", Status.FAILED)
    assert control.paid() == []
    assert standing.problem is not None
    assert "not UTF-8" in str(standing.problem)


def test_files_that_accompany_photos_are_noted_once_and_have_no_row(
    bench: Bench, control: ControlClient
) -> None:
    beside = (
        "IMG_1.AAE",
        "IMG_1.MOV",
        "IMG_1.xmp",
        "Thumbs.db",
        "desktop.ini",
        ".DS_Store",
        "__MACOSX/._IMG_1.JPG",
    )
    batch = bench.submit({"IMG_1.JPG": photo(1), **dict.fromkeys(beside, b"no photo")})
    day = bench.run()
    assert day.counts == {Status.SUCCEEDED: 1}
    assert list(bench.rows(batch)) == ["IMG_1.JPG"]
    told = [note for note in bench.notes if "IMG_1.AAE" in note]
    assert told == [
        f"batch {batch.path}: sidecar files of photos are ignored (5: IMG_1.AAE, IMG_1.MOV, IMG_1.xmp, …)"
    ]


def test_a_video_without_a_photo_is_reported_as_not_an_image(bench: Bench) -> None:
    batch = bench.submit({"clip.MOV": b"no film either", "a.jpg": photo(1)})
    bench.run()
    assert bench.rows(batch)["clip.MOV"].Status == Status.FAILED


def test_a_request_with_capitals_in_its_name_is_noted(bench: Bench) -> None:
    batch = bench.submit(1, requested=False)
    bench.put(batch.upload_key("Request.json"), b'{"Id": "a", "Prompt": "x"}')
    bench.run()
    assert [note for note in bench.notes if "Request.json" in note] == [
        f"batch {batch.path}: 'Request.json' is ignored; if it is the request, rename it to request.json"
    ]


def test_a_run_pays_no_labels_and_no_caption_for_an_order_of_the_single_photo_api(
    bench: Bench, control: ControlClient
) -> None:
    wishes: dict[str, Any] = {"Task": "REMOVE", "Subject": "SALIENT", "Id": "order"}
    order = bench.submit(1, batch="api-101530-0123456789abcdef", **wishes)
    other = bench.submit({"b.jpg": photo(8)}, batch="api-own-name")
    bench.run(DATE)
    paid = [(call["operation"], call.get("task")) for call in control.paid()]
    assert bench.rows(order, "order")["photo-0.jpg"].Status == Status.SUCCEEDED
    assert bench.keys(f"image-labels/{order.path}") == bench.keys(f"image-captions/{order.path}") == []
    assert len([1 for operation, _ in paid if operation in ("DetectLabels", "Converse")]) == 2
    assert len(bench.keys(f"image-captions/{other.path}")) == 1
