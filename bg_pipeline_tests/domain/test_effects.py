"""What settings and request fields affect is declared with them; what depends on it follows from that."""

from dataclasses import fields, replace
from typing import Any

import pytest

from bg_pipeline.domain.effects import Affects, declared_effects, identity_of_call
from bg_pipeline.domain.requests import (
    BatchRequest,
    ImageEntry,
    ImageSettings,
    Rendition,
    image_settings,
    paid_picture_fields,
)
from bg_pipeline.domain.requests.resolved import _affecting
from bg_pipeline.domain.stages import CAPTIONS, LABELS, PICTURES
from bg_pipeline.run.fingerprints import fingerprints
from bg_pipeline.settings import Settings, settings
from bg_pipeline.state.answers import identity
from bg_pipeline.uploads.changes import settings_digest

ARN = "arn:aws:rekognition:us-east-1:123456789012:project/shoes/version/shoes.1/1700000000000"


def asked(**said: Any) -> ImageSettings:
    request = {"Id": "a", "Prompt": "a beach", **said}
    return image_settings(BatchRequest(**request), "bus.png")


def prints(asked: ImageSettings | None = None, **chosen: Any) -> dict[str, str]:
    asked = asked or image_settings(BatchRequest(Id="a", Prompt="a beach"), "bus.png")
    return fingerprints(settings(**chosen), asked, "etag", {})


def due_again(asked: ImageSettings | None = None, **chosen: Any) -> set[str]:
    before, after = prints(asked), prints(asked, **chosen)
    return {stage for stage in before if before[stage] != after[stage]}


@pytest.mark.parametrize("kind", [Settings, BatchRequest, ImageEntry, Rendition])
def test_every_setting_and_every_field_declares_what_it_affects(kind: type) -> None:
    silent = [name for name, effects in declared_effects(kind).items() if not effects]
    assert silent == [], f"say what they affect, in their annotation: {silent}"


def test_what_affects_nothing_affects_nothing_else() -> None:
    for kind in (Settings, BatchRequest, ImageEntry, Rendition):
        for name, effects in declared_effects(kind).items():
            if Affects.NOTHING in {effect.affects for effect in effects}:
                assert len(effects) == 1, name


def test_the_settings_that_an_effect_hangs_on_exist() -> None:
    for name, effects in declared_effects(Settings).items():
        for effect in effects:
            for other in filter(None, (effect.needs, effect.unless)):
                assert other in Settings.model_fields, name


def test_every_field_of_an_image_is_one_that_a_request_declares() -> None:
    everything = {name for name, _ in _affecting(frozenset(Affects))}
    assert everything == {field.name for field in fields(ImageSettings)}


# The sensor


@pytest.mark.parametrize(
    "chosen",
    [
        {"page_address": "https://photos.example.com"},
        {"page_cookie_secret": "secret"},
        {"key_prefix": "photos"},
        {"max_regenerations": 3},
        {"html_report_images": 10},
        {"custom_labels_confidence": 10},
        {"sam_form": "{}"},
        {"auto_approve": False},
    ],
    ids=str,
)
def test_the_sensor_runs_no_date_again_for_what_changes_no_result(chosen: dict[str, Any]) -> None:
    assert settings_digest(settings(**chosen)) == settings_digest(settings())


@pytest.mark.parametrize(
    "chosen",
    [
        {"max_cost_usd": 30},
        {"caption_models": "amazon.nova-lite-v1:0"},
        {"regions": "us-west-2"},
        {"default_prompt": "a beach"},
        {"feather": 2},
        {"alt_text_length": 80},
        {"onnx_model": "matting.onnx"},
        {"custom_labels_arn": ARN},
        {"sam_endpoint": "sam"},
    ],
    ids=str,
)
def test_the_sensor_runs_the_dates_again_for_what_changes_results(chosen: dict[str, Any]) -> None:
    assert settings_digest(settings(**chosen)) != settings_digest(settings())


# Stages


@pytest.mark.parametrize(
    ("chosen", "stages"),
    [
        ({"feather": 2}, {PICTURES}),
        ({"mask_sources": "cut-out"}, {PICTURES}),
        ({"onnx_model": "matting.onnx"}, {PICTURES}),
        ({"label_confidence": 60}, {LABELS, PICTURES}),
        ({"custom_labels_arn": ARN}, {LABELS, PICTURES}),
        ({"custom_labels_confidence": 60}, set()),
        ({"caption_prompt": "What is it?"}, {CAPTIONS}),
        ({"alt_text_length": 80}, {CAPTIONS}),
        ({"image_models": "stability", "max_cost_usd": 1, "attempts": 5, "html_report_images": 1}, set()),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, set) else str(value),
)
def test_a_setting_makes_due_again_what_it_affects(chosen: dict[str, Any], stages: set[str]) -> None:
    assert due_again(**chosen) == stages


def test_the_form_of_a_sam_endpoint_makes_faces_due_again_and_nothing_else() -> None:
    faces = asked(Subject="FACES")
    used, other = (dict[str, Any](sam_endpoint="sam", sam_form=form) for form in ("", '{"masks": "other"}'))
    assert prints(faces, **used)[PICTURES] != prints(faces, **other)[PICTURES]
    assert prints(**used) == prints(**other)
    assert due_again(faces, sam_form='{"masks": "other"}') == set()


def test_a_caption_that_a_prompt_uses_makes_pictures_due_with_its_call_and_not_with_its_length() -> None:
    used = asked(Prompt="a place for {caption}")
    assert due_again(used, caption_prompt="What is it?") == {CAPTIONS, PICTURES}
    assert due_again(used, alt_text_length=0) == {CAPTIONS, PICTURES}
    assert due_again(used, alt_text_length=80) == {CAPTIONS}


@pytest.mark.parametrize(
    "said",
    [
        {"Backdrop": "#ffffff"},
        {"CfgScale": 4.0},
        {"MaskKey": "assets/mask.png"},
        {"Mode": "DEFAULT"},
        {"NegativePrompt": "people"},
        {"Prompt": "a street"},
        {"Prompts": ["a street", "a beach"]},
        {"Quality": "standard"},
        {"Ref": "SKU 7"},
        {"Renditions": [Rendition(Format="png")]},
        {"Seed": 7},
        {"Shadow": "soft"},
        {"Subject": "SALIENT"},
        {"Task": "REMOVE"},
        {"Variants": 2},
    ],
    ids=lambda said: next(iter(said)),
)
def test_a_field_of_the_request_makes_pictures_due_again(said: dict[str, Any]) -> None:
    assert prints(asked(**said))[PICTURES] != prints(asked())[PICTURES]


def test_an_entry_that_says_what_the_whole_batch_says_makes_nothing_due_again() -> None:
    entry = asked(Images=(ImageEntry(ImageName="bus.png"),))
    assert prints(entry) == prints(image_settings(BatchRequest(Id="a", Prompt="a beach"), ""))


@pytest.mark.parametrize(
    ("chosen", "labels", "captions"),
    [
        ({}, "6cc5093b83c2caa14fd0", "47fd48f4b4a029c20b78"),
        (
            {"custom_labels_arn": ARN, "caption_prompt": "What?", "alt_text_length": 80},
            "fdaf148d501f97b6620e",
            "558af12edc1e0e3f625d",
        ),
    ],
    ids=["plain", "custom labels"],
)
def test_labels_and_captions_that_are_stored_are_not_due_again(
    chosen: dict[str, Any], labels: str, captions: str
) -> None:
    """For labels that are due a Custom Labels model is started, which costs, whatever is stored."""
    found = prints(**chosen)
    assert (found[LABELS], found[CAPTIONS]) == (labels, captions)


# Identities of paid calls: those of answers that are stored in buckets may never change


@pytest.mark.parametrize(
    ("said", "known"),
    [
        ({}, "8e3a771c717dfd230dfe0abed9333f6b9826a7780c2304c227530d11d76d09b4"),
        (
            {"Images": (ImageEntry(ImageName="bus.png", Labels="Bus, Person"),), "CfgScale": 4.0},
            "0be0c0e2b675ad6b230d7a3d72d3b4a4c16c4bb9e7fd1e6490ce347fd8b722de",
        ),
        (
            {
                "Subject": "MASK",
                "MaskKey": "assets/mask.png",
                "Mode": "DEFAULT",
                "Quality": "standard",
                "NegativePrompt": "people",
                "Images": (ImageEntry(ImageName="bus.png", Labels="Bus"),),
                "Seed": 7,
            },
            "202c119149118e0d3f1bb7bff37ff780a94257f035c8c89ba9618e175ec91722",
        ),
        (
            {"Task": "REMOVE", "Subject": "FACES", "Variants": 3, "Ref": "SKU 7"},
            "193e20325d2f866a7530bb1616ab845eb5b9f92ce2467846d3a889202ba9c422",
        ),
    ],
    ids=["plain", "labels", "mask", "remove"],
)
def test_the_identity_of_a_paid_picture_is_that_of_stored_answers(said: dict[str, Any], known: str) -> None:
    whole = {**paid_picture_fields(asked(**said)), "mask": "abc", "prompt": "a beach", "seed": 42}
    assert identity("picture", "0" * 64, whole) == known


@pytest.mark.parametrize(
    ("chosen", "affects", "known"),
    [
        ({}, Affects.LABELS_CALL, {"min_confidence": 55.0}),
        (
            {"custom_labels_arn": ARN, "label_confidence": 9},
            Affects.LABELS_CALL,
            {"model": ARN, "min_confidence": 70.0},
        ),
        ({"caption_prompt": "What?"}, Affects.CAPTION_CALL, {"prompt": "What?", "alt_text": True}),
        ({"caption_prompt": "What?", "alt_text_length": 0}, Affects.CAPTION_CALL, {"prompt": "What?"}),
        ({"sam_endpoint": "sam"}, Affects.SAM_CALL, {"endpoint": "sam", "form": ""}),
    ],
    ids=str,
)
def test_the_identity_of_other_paid_calls_is_that_of_stored_answers(
    chosen: dict[str, Any], affects: Affects, known: dict[str, Any]
) -> None:
    assert identity_of_call(settings(**chosen), affects) == known


def test_what_is_only_made_of_a_paid_picture_is_not_in_its_identity() -> None:
    plain = paid_picture_fields(asked())
    made = asked(
        Renditions=[Rendition(Format="png")], Shadow="soft", Ref="SKU", Backdrop="#ffffff", Variants=2
    )
    assert paid_picture_fields(made) == plain
    assert paid_picture_fields(replace(asked(), image="dog.png", labels=())) == plain
