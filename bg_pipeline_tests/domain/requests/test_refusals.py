"""What a request asks for and nobody could deliver is refused by field, before anything is paid."""

import datetime
import io
import json
from typing import Any

import pytest
from PIL import Image

from bg_pipeline.domain import formats, requests
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.presets import PRESET_REQUESTS
from bg_pipeline.errors import ImageError, RequestError, SettingsError
from bg_pipeline.imaging import encode
from bg_pipeline.run.renditions import refuse_impossible
from bg_pipeline.settings import settings

BATCH = Batch(datetime.date(2026, 11, 21), "101530")
SHORT: dict[str, Any] = {"Id": "a", "Prompt": "london"}


def read(**change: Any) -> requests.BatchRequest:
    data = json.dumps({**SHORT, **change}).encode()
    return requests.read(data, bucket="photos", batch=BATCH, presets=PRESET_REQUESTS)


def problems(**change: Any) -> dict[str, str]:
    with pytest.raises(RequestError) as caught:
        read(**change)
    return dict(caught.value.problems)


# Placeholders


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("{nme} on a beach", "unknown placeholder {nme}; did you mean {name}?"),
        ("{Name} on a beach", "unknown placeholder {Name}; did you mean {name}?"),
        ("{ name } on a beach", "unknown placeholder { name }; did you mean {name}?"),
        ("{{nme}} on a beach", "unknown placeholder {nme}; did you mean {name}?"),
        ("a {label} on a beach", "did you mean {labels}?"),
        ("{caption} and {sku}", "unknown placeholder {sku}; valid are {caption}, {labels}, {name}, {ref}"),
        ("{0} on a beach", "unknown placeholder {0}"),
        ("{product_name} on a beach", "unknown placeholder {product_name}"),
        ("<your prompt here>", "a placeholder was left in: <your prompt here>"),
    ],
)
def test_a_word_in_braces_that_is_no_placeholder_is_refused(prompt: str, words: str) -> None:
    assert words in problems(Prompt=prompt)["Prompt"]
    assert words in problems(Prompts=["a beach", prompt])["Prompts[1]"]
    assert words in problems(Images=[{"ImageName": "a", "Prompt": prompt}])["Images[0].Prompt"]


@pytest.mark.parametrize(
    "prompt",
    [
        "{caption}, {labels}, {name}, {ref}",
        "a wall with {} painted on it",
        'a screen that shows {"a": 1, "b": [2]}',
        "a set {x, y}",
        "a sign with { and }",
        "{ two words } in light",
        "a face :-} and {...}",
        "a beach <3",
    ],
)
def test_other_braces_are_text(prompt: str) -> None:
    assert read(Prompt=prompt).Prompt == prompt


def test_a_negative_prompt_is_never_filled_in_and_so_has_no_placeholders() -> None:
    assert "only in Prompt and Prompts" in problems(NegativePrompt="no {name}")["NegativePrompt"]
    assert "unknown placeholder {nme}" in problems(NegativePrompt="{nme}")["NegativePrompt"]


def test_an_unknown_placeholder_of_a_file_name_is_told_with_the_one_that_was_meant() -> None:
    told = problems(Renditions=[{"FileName": "{nme}_{n}"}])["Renditions[0].FileName"]
    assert told.startswith("unknown placeholder {nme}; did you mean {name}?")


@pytest.mark.parametrize("value", ["{nme} on a beach", "a\x07b", "x" * 10_001])
def test_a_default_prompt_is_held_to_the_same(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BG_DEFAULT_PROMPT", value)
    with pytest.raises(SettingsError, match="BG_DEFAULT_PROMPT"):
        settings()


@pytest.mark.parametrize("text", ["#NAME?", " #N/A ", "caf\ufffd"])
def test_what_another_program_damaged_is_no_prompt_and_no_reference(text: str) -> None:
    assert set(problems(Prompt=text, Ref=text)) == {"Prompt", "Ref"}


@pytest.mark.parametrize(
    "text", ["nan", "NaN", " None ", "null", "NULL", "undefined", "[object Object]", "<NA>", "Loading..."]
)
def test_what_a_program_writes_for_no_value_is_no_prompt(text: str) -> None:
    told = problems(Prompt=text)
    assert set(told) == {"Prompt"}
    assert "no value" in told["Prompt"]
    assert read(Prompt="a beach", Ref=text).Ref == text


@pytest.mark.parametrize("text", ["Nan Madol at dusk", "null island", "None of the above", "Nan", "n"])
def test_such_a_word_inside_a_text_is_text(text: str) -> None:
    assert read(Prompt=text).Prompt == text


@pytest.mark.parametrize(
    "text", ["café in Köln", "дом на берегу", "£5", "“nice” beach", "🌊 wave", "海辺", "naïve"]
)
def test_utf_8_that_was_read_as_windows_1252_is_told_with_what_was_meant(text: str) -> None:
    data = text.encode()
    changed = "".join(
        bytes([byte]).decode("latin-1" if byte in b"\x81\x8d\x8f\x90\x9d" else "cp1252") for byte in data
    )
    told = problems(NegativePrompt=changed)
    control = any(0x7F < ord(char) < 0xA0 for char in changed)
    assert set(told) == {"NegativePrompt"}
    assert control or text in told["NegativePrompt"]


@pytest.mark.parametrize(
    "text", ["SÃO PAULO", "Ã", "¿Qué?", "naïve £5", "“quote”", "ÇA C’EST BON", "Àéîõü", "5 °C — ½ €", "ŠKODA"]
)
def test_accents_that_only_look_like_that_are_text(text: str) -> None:
    assert read(Prompt=text).Prompt == text


@pytest.mark.parametrize("text", ["\u200b", "\u2060 \ufeff", "\u00ad"])
def test_characters_that_nobody_sees_are_no_prompt(text: str) -> None:
    assert "cannot be seen" in problems(Prompt=text)["Prompt"]


LEFT_IN = ["<year>", "{YYYY}", "YYYY", "yyyy", "%Y", "${YEAR}", "$(date)", "[year]", "<your batch>"]


@pytest.mark.parametrize("word", LEFT_IN)
@pytest.mark.parametrize(
    ("field", "top"),
    [
        ("InputS3Prefix", "image-files"),
        ("OutputS3Prefix", "generated-image-files"),
        ("StatusS3Prefix", "status-report-files"),
    ],
)
def test_a_placeholder_that_was_left_in_a_prefix_is_named(field: str, top: str, word: str) -> None:
    (told,) = problems(**{field: f"{top}/{word}/11/21/101530"}).values()
    assert "a placeholder was left in" in told


def test_so_is_one_in_a_bucket_or_in_a_key() -> None:
    assert "left in: <your bucket>" in problems(S3Bucket="<your bucket>")["S3Bucket"]
    key = "image-files/<year>/<month>/<day>/x/mask.png"
    assert "left in: <year>" in problems(MaskKey=key)["MaskKey"]
    assert "left in: {name}" in problems(Backdrop="assets/{name}.png")["Backdrop"]
    images = [{"ImageName": "a", "MaskKey": "assets/<name>.png"}]
    assert "left in: <name>" in problems(Images=images)["Images[0].MaskKey"]


def test_a_batch_that_is_really_called_so_may_name_its_own_places() -> None:
    odd = Batch(BATCH.date, "<shoot> {2}")
    document = {**SHORT, "InputS3Prefix": odd.input_prefix, "MaskKey": f"{odd.input_prefix}/.mask.png"}
    request = requests.read(json.dumps(document).encode(), bucket="b", batch=odd, presets=PRESET_REQUESTS)
    assert request.InputS3Prefix == odd.input_prefix


@pytest.mark.parametrize("prefix", ["for shop", "Mayyyyday", "100%", "a[1]", "MM", "50%d0"])
def test_ordinary_names_are_no_placeholders(prefix: str) -> None:
    request = read(OutputS3Prefix=f"generated-image-files/{prefix}")
    assert request.OutputS3Prefix == f"generated-image-files/{prefix}"


# Renditions


@pytest.mark.parametrize(
    ("rendition", "field", "words"),
    [
        ({"Width": 11000, "Height": 10000}, "Width", "11,000 x 10,000 pixels are larger than can be made"),
        ({"Preset": "square-social", "Width": 16000}, "Width", "larger than can be made"),
        ({"Preset": "square-social", "Height": 16000}, "Height", "larger than can be made"),
        (
            {"Width": 4000, "Height": 4000, "Format": "jpeg", "MaxBytes": 20_000},
            "MaxBytes",
            "no jpeg of 4,000 x 4,000",
        ),
        (
            {"Width": 1000, "Height": 1000, "Format": "bmp", "MaxBytes": 2_999_999},
            "MaxBytes",
            "3,000,054 bytes",
        ),
        ({"Preset": "marketplace-white", "MaxBytes": 5_000}, "MaxBytes", "no jpeg of 1,600 x 1,600 pixels"),
        (
            {"Width": 9000, "Height": 9000, "MaxBytes": 1_000},
            "MaxBytes",
            "no picture of 9,000 x 9,000 pixels",
        ),
    ],
)
def test_a_file_that_cannot_be_made_is_refused(rendition: dict[str, Any], field: str, words: str) -> None:
    asked = {"Task": "REMOVE"} if rendition.get("Preset") == "marketplace-white" else {}
    assert words in problems(Renditions=[rendition], **asked)[f"Renditions[0].{field}"]
    found = problems(
        Images=[{"ImageName": "a", "Renditions": [{"Format": "png"}, rendition], "Task": "REPLACE"}]
    )
    assert words in found[f"Images[0].Renditions[1].{field}"]


def test_what_is_said_for_all_is_told_once_however_many_images_there_are() -> None:
    images = [{"ImageName": f"{number}.jpg", "Seed": number} for number in range(50)]
    assert list(problems(Renditions=[{"Width": 11000, "Height": 10000}], Images=images)) == [
        "Renditions[0].Width"
    ]


@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "avif", "tiff", "bmp"])
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (333, 77), (900, 700)])
def test_no_picture_of_one_colour_is_smaller_than_the_least_number_of_bytes(
    format: str, size: tuple[int, int]
) -> None:
    least = formats.least_bytes(*size, format)
    for mode in ("RGB", "RGBA"):
        with pytest.raises(ImageError, match="more than the"):
            encode(Image.new(mode, size), format, max_bytes=least - 1)
    assert least > 10


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_the_request_and_the_encoder_have_the_same_limits(format: str) -> None:
    longest = formats.LONGEST_SIDE[format]
    assert formats.size_problem(longest, 1, format) is None
    problem = formats.size_problem(longest + 1, 1, format)
    with pytest.raises(ImageError) as caught:
        encode(Image.new("RGB", (longest + 1, 1)), format)
    assert (caught.value.code, str(caught.value)) == ("TooLarge", problem)
    assert Image.open(io.BytesIO(encode(Image.new("RGB", (longest, 1)), format))).size == (longest, 1)


@pytest.mark.parametrize(
    ("rendition", "size", "fails"),
    [
        ({"Format": "webp"}, (20_000, 300), True),
        ({"Format": "webp"}, (16_000, 300), False),
        ({"Format": "jpeg", "Width": 16_000}, (300, 3_000), True),
        ({"Width": 9_000}, (300, 3_000), True),
        ({"Format": "webp", "Margin": 0.1}, (20_000, 300), False),
    ],
)
def test_what_only_the_photo_tells_is_known_before_it_is_paid(
    rendition: dict[str, Any], size: tuple[int, int], fails: bool
) -> None:
    asked = requests.image_settings(read(Renditions=[rendition]), "a.jpg", PRESET_REQUESTS)
    if fails:
        with pytest.raises(ImageError) as caught:
            refuse_impossible(asked, size)
        assert caught.value.code == "TooLarge"
    else:
        refuse_impossible(asked, size)


def test_two_renditions_of_one_name_are_refused() -> None:
    found = problems(Renditions=[{"FileName": "{name}"}, {"FileName": "{name}", "Width": 100}])
    assert "the same name as Renditions[0]" in found["Renditions[1].FileName"]
    presets = [{"Preset": "square-social", "FileName": "x/{ref}"}, {"Format": "jpeg", "FileName": "x//{ref}"}]
    assert list(problems(Ref="a", Renditions=presets)) == ["Renditions[1].FileName"]
    images = [{"ImageName": "a.jpg", "Renditions": [{"FileName": "x.jpg"}, {"FileName": "x.jpg"}]}]
    assert list(problems(Images=images)) == ["Images[0].Renditions[1].FileName"]


def test_so_is_one_name_for_several_pictures_of_an_image() -> None:
    asked = {"Renditions": [{"FileName": "{name}"}]}
    assert "2 pictures the same name" in problems(Variants=2, **asked)["Renditions[0].FileName"]
    assert "3 pictures" in problems(Prompts=["a", "b", "c"], **asked)["Renditions[0].FileName"]
    entry = [{"ImageName": "a.jpg", "Variants": 2}, {"ImageName": "b.jpg"}]
    assert list(problems(Images=entry, **asked)) == ["Renditions[0].FileName"]


def test_names_that_differ_in_number_preset_or_ending_are_different() -> None:
    presets = [{"Preset": name, "FileName": "{name}-{preset}"} for name in ("square-social", "transparent")]
    for document in (
        {"Variants": 3, "Renditions": [{"FileName": "{name}_{n}"}, {"FileName": "{name}_{n}"}]},
        {"Renditions": [{"Format": ending, "FileName": "{name}"} for ending in ("png", "jpeg")]},
        {"Task": "REPLACE", "Renditions": presets},
    ):
        assert len(read(**document).Renditions) == 2


# Presets and what goes behind them


@pytest.mark.parametrize("preset", ["marketplace-white", "transparent"])
@pytest.mark.parametrize("task", [{}, {"Task": "REPLACE"}])
def test_a_backdrop_that_no_rendition_shows_is_refused(preset: str, task: dict[str, str]) -> None:
    assert set(problems(Renditions=[{"Preset": preset}], Backdrop="#f0f0f0", **task)) == {"Backdrop"}


def test_so_is_a_painted_background_that_no_rendition_shows() -> None:
    assert "would not be seen" in problems(Task="REPLACE", Renditions=[{"Preset": "transparent"}])["Task"]


def test_what_one_of_several_renditions_shows_is_asked_for_in_earnest() -> None:
    both = [{"Preset": "marketplace-white"}, {"Preset": "square-social"}]
    assert read(Task="REPLACE", Renditions=both).Task == "REPLACE"
    assert read(Task="REPLACE", Backdrop="#f0f0f0", Renditions=both).Backdrop == "#f0f0f0"
    format_too = [{"Preset": "marketplace-white"}, {"Format": "png"}]
    assert read(Task="REPLACE", Backdrop="#f0f0f0", Renditions=format_too).Backdrop == "#f0f0f0"


def test_white_behind_the_white_preset_contradicts_nothing() -> None:
    read(Task="REPLACE", Backdrop="#FFFFFF", Renditions=[{"Preset": "marketplace-white"}])
    assert problems(Task="REPLACE", Backdrop="#FFFFFF", Renditions=[{"Preset": "transparent"}])


# Labels


@pytest.mark.parametrize("labels", ["", " ", ",", " , ,"])
def test_empty_labels_mean_everything_that_stands_out(labels: str) -> None:
    request = read(
        Images=[{"ImageName": "a", "Labels": labels}, {"ImageName": "b"}, {"ImageName": "c", "Labels": "Dog"}]
    )
    asked = {name: requests.image_settings(request, name, PRESET_REQUESTS) for name in "abc"}
    assert (asked["a"].subject, asked["a"].labels) == ("SALIENT", ())
    assert (asked["b"].subject, asked["b"].labels) == ("LABELS", ())
    assert (asked["c"].subject, asked["c"].labels) == ("LABELS", ("Dog",))


@pytest.mark.parametrize("subject", ["FACES", "SALIENT"])
def test_empty_labels_change_no_subject_that_needs_none(subject: str) -> None:
    request = read(Subject=subject, Images=[{"ImageName": "a", "Labels": ""}])
    assert requests.image_settings(request, "a", PRESET_REQUESTS).subject == subject


def test_empty_labels_are_still_empty_in_a_request_that_is_written_again() -> None:
    request = read(Images=[{"ImageName": "a", "Labels": ""}])
    retry = requests.retry_request(request, ["a"], PRESET_REQUESTS)
    assert retry is not None
    again = requests.read(requests.write(retry), bucket="photos", batch=BATCH, presets=PRESET_REQUESTS)
    assert requests.image_settings(again, "a", PRESET_REQUESTS).subject == "SALIENT"


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"Scene": "a table for {name}"}, "Scene", "{name}"),
        ({"Scene": "  "}, "Scene", "empty"),
        ({"Scene": 7}, "Scene", "string"),
        ({"Scene": "a table", "Task": "REMOVE"}, "Scene", "cannot be used with Task REMOVE"),
        ({"Scene": "a table", "Backdrop": "#00ff00"}, "Scene", "and Backdrop cannot be used"),
        (
            {"Scene": "a table", "Task": "REPLACE", "Renditions": [{"Preset": "marketplace-white"}]},
            "Scene",
            "would not be seen",
        ),
        ({"Shadow": "soft direction=400"}, "Shadow", "direction=0…360"),
        ({"Shadow": {"Direction": 3}}, "Shadow", "string"),
        ({"Feather": -1}, "Feather", "at least 0"),
        ({"Feather": 51}, "Feather", "at most 50"),
        ({"Backdrop": "blurry"}, "Backdrop", "under image-files/ or assets/"),
        ({"MaskKey": "elsewhere/"}, "MaskKey", "under image-files/ or assets/"),
        ({"MaskKey": "image-files/2026/11/21/101530/"}, "MaskKey", "holds the photos themselves"),
        ({"MaskKey": "image-files/"}, "MaskKey", ""),
    ],
)
def test_a_background_that_cannot_be_is_refused_by_field(
    fields: dict[str, Any], field: str, words: str
) -> None:
    assert words in problems(**fields)[field]
