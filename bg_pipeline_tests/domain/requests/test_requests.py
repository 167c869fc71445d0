import copy
import datetime
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bg_pipeline.domain import requests
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.requests import ImageEntry, ImageFields, OutputSpec, image_settings
from bg_pipeline.errors import ImageError, RequestError

BATCH = Batch(datetime.date(2026, 11, 21), "101530")

EXAMPLE: dict[str, Any] = {
    "Id": "621fa85a-38bb-4d98-a656-93bbbcf5477f",
    "S3Bucket": "photos",
    "InputS3Prefix": "image-files/2026/11/21/101530",
    "OutputS3Prefix": "generated-image-files/2026/11/21/101530",
    "StatusS3Prefix": "status-report-files/2026/11/21/101530",
    "Prompt": "london city background",
    "NegativePrompt": "low quality, low resolution",
    "Mode": "PRECISE",
    "Images": [{"ImageName": "bus.png", "Labels": "Bus, Person"}, {"ImageName": "dog.png", "Labels": "Dog"}],
}
SHORT: dict[str, Any] = {"Id": "a", "Prompt": "london"}

PRESETS = {
    "white": requests.read_image_fields({"Backdrop": "#FFFFFF"}),
    "transparent": requests.read_image_fields({"Task": "REMOVE"}),
    "booth": requests.read_image_fields({"Subject": "FACES", "Prompts": ["sky", "city", "forest"]}),
    "salient": requests.read_image_fields({"Subject": "SALIENT"}),
}


def read(document: dict[str, Any] | bytes, **options: Any) -> requests.BatchRequest:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return requests.read(data, bucket="photos", batch=BATCH, presets=PRESETS, **options)


def problems(document: dict[str, Any] | bytes) -> dict[str, str]:
    with pytest.raises(RequestError) as caught:
        read(document)
    assert len({field for field, _ in caught.value.problems}) == len(caught.value.problems)
    return dict(caught.value.problems)


def settings(document: dict[str, Any], image: str = "a.jpg") -> requests.ImageSettings:
    return image_settings(read(document), image, PRESETS)


# What is valid


def test_the_example_of_the_contract_is_valid() -> None:
    request = read(EXAMPLE)
    assert [entry.ImageName for entry in request.Images or ()] == ["bus.png", "dog.png"]
    bus = image_settings(request, "bus.png")
    assert bus.labels == ("Bus", "Person")
    assert bus.prompts == ("london city background",)
    assert bus.negative_prompt == "low quality, low resolution"


def test_bucket_and_prefixes_derive_from_where_the_request_lies() -> None:
    request = read(SHORT)
    assert request.S3Bucket == "photos"
    assert request.InputS3Prefix == BATCH.input_prefix
    assert request.OutputS3Prefix == BATCH.output_prefix
    assert request.StatusS3Prefix == BATCH.status_prefix
    assert request.Images is None


def test_everything_has_the_default_of_the_contract() -> None:
    assert settings(SHORT) == requests.ImageSettings(
        image="a.jpg",
        labels=(),
        task="REPLACE",
        prompts=("london",),
        variants=1,
        negative_prompt="",
        mode="PRECISE",
        subject="LABELS",
        mask_key=None,
        backdrop=None,
        shadow="none",
        seed=None,
        quality="premium",
        cfg_scale=8.0,
        ref="",
        renditions=(),
    )


EVERYTHING: dict[str, Any] = {
    "Task": "REPLACE",
    "Prompt": "one",
    "Prompts": ["two", "three"],
    "NegativePrompt": "",
    "Mode": "DEFAULT",
    "Variants": 5,
    "Subject": "MASK",
    "MaskKey": "assets/mask.png",
    "Backdrop": "image-files/2026/11/21/101530/beach.jpg",
    "Shadow": "soft",
    "Feather": 3,
    "Seed": 0,
    "Quality": "standard",
    "CfgScale": 7,
    "Ref": "SKU 7/ä",
    "Renditions": [
        {
            "Preset": "white",
            "Format": "JPG",
            "Width": 1000,
            "Height": 1000,
            "Margin": 0.05,
            "MaxBytes": 500000,
            "FileName": "{ref}_{n}_{preset}_{name}.jpg",
        }
    ],
}


def test_every_optional_field_is_taken_at_the_top_and_in_an_entry() -> None:
    request = read(
        {
            "Id": "a",
            **EVERYTHING,
            "MaxCostUSD": 3,
            "Sample": 2,
            "RetryOf": "b",
            "Images": [{"ImageName": "a.jpg", "Labels": "Dog", **EVERYTHING}],
        }
    )
    top, entry = image_settings(request, "b.jpg", PRESETS), image_settings(request, "a.jpg", PRESETS)
    assert (top.prompts, top.variants, top.mode, top.mask_key) == (
        ("two", "three"),
        5,
        "DEFAULT",
        "assets/mask.png",
    )
    assert (top.cfg_scale, top.seed, top.quality, top.ref) == (7.0, 0, "standard", "SKU 7/ä")
    assert top.renditions[0].Format == "jpeg"
    assert top.renditions == entry.renditions


def test_a_null_is_the_same_as_nothing() -> None:
    assert read(
        {**SHORT, **dict.fromkeys([*EVERYTHING, "Images", "S3Bucket", "OutputS3Prefix"]), "Prompt": "london"}
    ) == (read(SHORT))


def test_a_byte_order_mark_is_no_obstacle() -> None:
    assert read(b"\xef\xbb\xbf" + json.dumps(SHORT).encode()) == read(SHORT)


HARD_NAMES = [
    "two words.jpg",
    "a+b%.jpg",
    'it\'s "k=v".jpg',
    "😀.jpg",
    "a/../b.jpg",
    ".a/..b.jpg",
    "x.jpg/y.jpg",
    "a\u200db.jpg",
]


def test_hard_image_names_are_taken_as_they_are() -> None:
    request = read({**SHORT, "Images": [{"ImageName": name} for name in HARD_NAMES]})
    assert list(request.entries) == HARD_NAMES


@pytest.mark.parametrize(
    "images",
    [
        [{"ImageName": f"a{number}.jpg", "Promptt": "x" * 30} for number in range(200_000)],
        [5] * 200_000,
        [{"ImageName": "a.jpg"}] * 200_000,
        [{"ImageName": f"a{number}.jpg", "Subject": "MASK"} for number in range(200_000)],
        [{"ImageName": "a.jpg", "Renditions": [5] * 1_000_000}],
        [{"ImageName": "a.jpg", "Prompts": [5] * 1_000_000}],
        [{"ImageName": "a.jpg", **{f"x{number}": 1 for number in range(200_000)}}],
    ],
    ids=["fields", "no objects", "doubles", "without masks", "renditions", "prompts", "one object"],
)
def test_a_large_request_that_is_all_wrong_is_refused_without_being_gone_through(images: list[Any]) -> None:
    data = json.dumps({**SHORT, "Images": images}).encode()
    begun = time.process_time()
    with pytest.raises(RequestError) as caught:
        read(data)
    spent = time.process_time() - begun
    assert 1 <= len(caught.value.problems) <= 101
    # A bare look at the JSON is the measure of how fast this machine is at the time.
    begun = time.process_time()
    json.loads(data)
    assert spent < 3 + 5 * (time.process_time() - begun)


def test_where_the_count_ends_is_said_with_the_problems() -> None:
    with pytest.raises(RequestError) as caught:
        read({**SHORT, "Images": [5] * 20_000})
    assert caught.value.problems[-1] == ("", "and 9900 more problems in the first 10,000 images")
    with pytest.raises(RequestError) as caught:
        read({**SHORT, "Images": [*({"ImageName": f"{number}"} for number in range(19_999)), 5]})
    assert list(caught.value.problems) == [("Images[19999]", "must be an object")]


def test_an_upload_that_no_request_may_name_is_left_out_of_the_retry() -> None:
    request = read(SHORT)
    again = requests.retry_request(request, ["a\nb.jpg", "c.jpg"])
    assert list(again.entries) == ["c.jpg"]
    assert requests.retry_request(request, ["a\nb.jpg"]) is None


def test_a_prefix_of_ones_own_choice_may_lie_under_its_top_level_prefix() -> None:
    request = read(
        {
            **SHORT,
            "InputS3Prefix": "image-files/2026/11/20/090000/",
            "OutputS3Prefix": "generated-image-files/for shop/",
            "StatusS3Prefix": f"{BATCH.status_prefix}/second",
        }
    )
    assert request.InputS3Prefix == "image-files/2026/11/20/090000"
    assert request.OutputS3Prefix == "generated-image-files/for shop"


def test_another_bucket_is_taken_where_it_is_allowed() -> None:
    assert read({**SHORT, "S3Bucket": "other"}, allowed_buckets=["other"]).S3Bucket == "other"
    assert set(problems({**SHORT, "S3Bucket": "other"})) == {"S3Bucket"}


# What is refused


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"Id": None}, "Id", "must be a string"),
        ({"Id": "a b"}, "Id", "characters"),
        ({"Id": "a" * 129}, "Id", "1 to 128"),
        ({"Id": "abc\n"}, "Id", "characters"),
        ({"Prompt": 3}, "Prompt", "must be a string"),
        ({"Prompt": " "}, "Prompt", "is required"),
        ({"Prompt": "a\x07b"}, "Prompt", "control character"),
        ({"Prompt": "x" * 10_001}, "Prompt", "longer than 10,000 characters"),
        ({"Prompt": "\ud800"}, "Prompt", "half a character"),
        ({"Prompts": []}, "Prompts", "empty list"),
        ({"Prompts": ["a", " "]}, "Prompts[1]", "is empty"),
        ({"Prompts": "a"}, "Prompts", "must be a list"),
        ({"Mode": "precise"}, "Mode", "must be 'PRECISE' or 'DEFAULT', not \"precise\""),
        ({"Task": "PAINT"}, "Task", "'REPLACE' or 'REMOVE'"),
        ({"Variants": 0}, "Variants", "at least 1"),
        ({"Variants": 6}, "Variants", "at most 5"),
        ({"Variants": "2"}, "Variants", "whole number"),
        ({"Variants": 2.0}, "Variants", "whole number"),
        ({"Seed": True}, "Seed", "whole number"),
        ({"Seed": -1}, "Seed", "at least 0"),
        ({"CfgScale": 11}, "CfgScale", "at most 10"),
        ({"CfgScale": False}, "CfgScale", "a number"),
        ({"MaxCostUSD": 0}, "MaxCostUSD", "more than 0"),
        ({"Sample": 0}, "Sample", "at least 1"),
        ({"Images": []}, "Images", "empty list"),
        ({"Images": {}}, "Images", "must be a list"),
        ({"Images": [0] * 200_001}, "Images", "200,001 members and may have 200,000"),
        ({"Images": ["bus.png"]}, "Images[0]", "must be an object"),
        ({"Images": [{}]}, "Images[0].ImageName", "is required"),
        ({"Images": [{"ImageName": ""}]}, "Images[0].ImageName", "cannot be the name of an image"),
        ({"Images": [{"ImageName": "a/"}]}, "Images[0].ImageName", "cannot be the name of an image"),
        ({"Images": [{"ImageName": "a.json"}]}, "Images[0].ImageName", "cannot be the name of an image"),
        (
            {"Images": [{"ImageName": "a"}, {"ImageName": "a"}]},
            "Images[1].ImageName",
            "already listed as Images[0]",
        ),
        ({"Images": [{"ImageName": "a", "Sample": 1}]}, "Images[0].Sample", "but of the request"),
        ({"MaskKey": "pipeline-state/x"}, "MaskKey", "under image-files/ or assets/"),
        ({"MaskKey": "assets/"}, "MaskKey", "under image-files/ or assets/"),
        ({"MaskKey": "assets/../pipeline-state/x"}, "MaskKey", "'..'"),
        ({"MaskKey": "assets/m.png", "Subject": "FACES"}, "MaskKey", "only with Subject MASK"),
        ({"Subject": "MASK"}, "MaskKey", "is required with Subject MASK"),
        ({"Backdrop": "#fff"}, "Backdrop", "a colour such as #ffffff"),
        ({"Backdrop": "s3://photos/x.jpg"}, "Backdrop", "under image-files/ or assets/"),
        ({"Backdrop": "#ffffff", "Task": "REMOVE"}, "Backdrop", "Task REMOVE"),
        ({"Ref": "a\nb"}, "Ref", "control character"),
        ({"Images": [{"ImageName": "a\nACTION NEEDED.jpg"}]}, "Images[0].ImageName", "control character"),
        ({"Images": [{"ImageName": "a\0.jpg"}]}, "Images[0].ImageName", "control character"),
        ({"OutputS3Prefix": "generated-image-files/a\n\nACTION"}, "OutputS3Prefix", "control character"),
        ({"StatusS3Prefix": "status-report-files/a\x1b[2J"}, "StatusS3Prefix", "control character"),
        ({"InputS3Prefix": "image-files/a\u2028b"}, "InputS3Prefix", "line break"),
        ({"Renditions": [{"FileName": "../{name}"}]}, "Renditions[0].FileName", "'..'"),
        ({"Renditions": [{"FileName": "C:\\{name}"}]}, "Renditions[0].FileName", "backslash"),
        ({"Ref": "..", "Renditions": [{"FileName": "{ref}/{name}"}]}, "Ref", "'..'"),
        ({"Ref": "x/../../y", "Renditions": [{"FileName": "{ref}.jpg"}]}, "Ref", "'..'"),
        ({"Renditions": []}, "Renditions", "empty list"),
        ({"Renditions": [{"Format": "PSD"}]}, "Renditions[0].Format", "'avif', not \"PSD\""),
        ({"Renditions": [{"Width": 0}]}, "Renditions[0].Width", "at least 1"),
        ({"Renditions": [{"Margin": 0.5}]}, "Renditions[0].Margin", "less than 0.5"),
        ({"Renditions": [{"FileName": "{size}"}]}, "Renditions[0].FileName", "no other braces"),
        ({"Renditions": [{"FileName": "{ref}"}]}, "Ref", "a FileName uses {ref}"),
        ({"Renditions": [{"FileName": "{preset}"}]}, "Renditions[0].FileName", "has no Preset"),
        ({"Renditions": [{"Preset": "whit"}]}, "Renditions[0].Preset", "there are: white, transparent"),
        ({"Renditions": [{"Preset": "booth"}, {"Preset": "salient"}]}, "Renditions", "differ in Subject"),
        ({"InputS3Prefix": "archive/x"}, "InputS3Prefix", "must be under image-files/"),
        ({"InputS3Prefix": "image-files"}, "InputS3Prefix", "must be under image-files/"),
        ({"InputS3Prefix": "/"}, "InputS3Prefix", "must be under image-files/"),
        ({"OutputS3Prefix": "image-files/x"}, "OutputS3Prefix", "must be under generated-image-files/"),
        ({"OutputS3Prefix": "generated-image-files/../image-files/x"}, "OutputS3Prefix", "'..' segment"),
        ({"OutputS3Prefix": "generated-image-files//x"}, "OutputS3Prefix", "empty"),
        ({"OutputS3Prefix": "generated-image-files/2026/11/21/b"}, "OutputS3Prefix", "another batch"),
        ({"OutputS3Prefix": "generated-image-files/2026/11/21"}, "OutputS3Prefix", "another batch"),
        ({"OutputS3Prefix": f"{BATCH.output_prefix}0"}, "OutputS3Prefix", "another batch"),
        ({"StatusS3Prefix": "status-report-files/2026/11/21/b"}, "StatusS3Prefix", "another batch"),
        ({"StatusS3Prefix": "status-report-files/" + "x" * 800}, "StatusS3Prefix", "800 bytes"),
    ],
)
def test_a_wrong_field_is_refused_by_name(change: dict[str, Any], field: str, words: str) -> None:
    found = problems({**SHORT, **change})
    assert list(found) == [field]
    assert words in found[field]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Imges", "Images"),
        ("prompt", "Prompt"),
        ("NegativPrompt", "NegativePrompt"),
        ("S3bucket", "S3Bucket"),
    ],
)
def test_an_unknown_name_is_refused_with_the_one_that_was_meant(name: str, meant: str) -> None:
    assert problems({**SHORT, name: "x"})[name].endswith(f"did you mean '{meant}'?")


def test_an_unknown_name_that_resembles_nothing_is_refused_plainly() -> None:
    assert problems({**SHORT, "Zzzzzz": None}) == {"Zzzzzz": "is not a field of a request"}


def test_all_problems_are_told_in_one_go() -> None:
    found = problems(
        {
            "Imges": 1,
            "Mode": "x",
            "S3Bucket": "other",
            "OutputS3Prefix": "x",
            "Images": [{"ImageName": "a.jpg", "Variants": 9}, {"ImageName": "a.jpg", "Label": "Dog"}],
        }
    )
    assert set(found) == {
        "Id",
        "Prompt",
        "Imges",
        "Mode",
        "S3Bucket",
        "OutputS3Prefix",
        "Images[0].Variants",
        "Images[1].Label",
        "Images[1].ImageName",
    }


def test_a_wrong_prompt_is_not_called_missing_as_well() -> None:
    assert set(problems({"Id": "a", "Prompts": "london"})) == {"Prompts"}


def test_thousands_of_problems_are_cut_to_a_readable_number() -> None:
    document = {**SHORT, "Images": [{"ImageName": f"{n}.json"} for n in range(5_000)]}
    with pytest.raises(RequestError, match="and 4900 more problems") as caught:
        read(document)
    assert len(caught.value.problems) == 101


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"{", "line 1, column 2"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b'{"Id": "a", "CfgScale": NaN}', "invalid JSON number"),
        (b'{"Id": "a", "CfgScale": -Infinity}', "invalid JSON number"),
        (b'{"Seed": ' + b"9" * 5000 + b"}", "invalid JSON number"),
        ('{"Id": "é"}'.encode("latin-1"), "not UTF-8 text (byte 9)"),
        (json.dumps(SHORT).encode("utf-16"), "not UTF-8 text"),
        (b"[" * 100_000, "nested too deeply"),
        (b" " * 20_000_001, "20,000,001 bytes and may have 20,000,000"),
        (b'{"Id": "a", "Id": "b"}', "Id: is given twice"),
        (b'{"Images": [{"ImageName": "a", "ImageName": "b"}]}', "ImageName: is given twice"),
    ],
)
def test_what_is_no_request_at_all_is_refused_in_a_sentence(data: bytes, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(data)
    assert words in str(caught.value)


def test_a_number_too_large_for_a_float_is_refused() -> None:
    assert problems(b'{"Id": "a", "Prompt": "b", "CfgScale": 1e999}') == {
        "CfgScale": "must be a finite number"
    }


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(list(EXAMPLE.values())),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*EXAMPLE, *EVERYTHING, "ImageName", "x"]), inner, max_size=5)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*EXAMPLE, *EVERYTHING, "MaxCostUSD", "x"]), json_values, max_size=6))
def test_whatever_the_json_holds_it_is_a_request_or_a_clear_refusal(change: dict[str, Any]) -> None:
    try:
        request = read({**copy.deepcopy(EXAMPLE), **change})
    except RequestError:
        return
    assert requests.read(requests.write(request), bucket="photos", batch=BATCH, presets=PRESETS) == request


@given(st.binary(max_size=60))
def test_whatever_the_bytes_are_they_are_a_request_or_a_clear_refusal(data: bytes) -> None:
    with pytest.raises(RequestError):
        read(data)


# Prompts are required


@pytest.mark.parametrize(
    "document",
    [
        {"Id": "a", "Prompts": ["x"]},
        {"Id": "a", "Task": "REMOVE"},
        {"Id": "a", "Backdrop": "#00ff00"},
        {"Id": "a", "Images": [{"ImageName": "a", "Prompt": "x"}, {"ImageName": "b", "Prompts": ["y"]}]},
        {"Id": "a", "Images": [{"ImageName": "a", "Task": "REMOVE"}]},
        {"Id": "a", "Renditions": [{"Preset": "white"}]},
        {"Id": "a", "Renditions": [{"Preset": "booth"}]},
    ],
)
def test_a_prompt_is_not_required_where_none_is_needed(document: dict[str, Any]) -> None:
    assert read(document).Id == "a"


def test_an_image_without_any_prompt_is_named() -> None:
    images = [{"ImageName": "a", "Prompt": "x"}, {"ImageName": "b", "Mode": "DEFAULT"}]
    assert "Images[1] has none" in problems({"Id": "a", "Images": images})["Prompt"]
    assert "the request has none" in problems({"Id": "a", "Images": [{"ImageName": "a"}]})["Prompt"]


# What it comes to for one image


def test_an_entry_overrides_the_top_for_its_image_alone() -> None:
    document = {
        **SHORT,
        "Variants": 2,
        "Quality": "standard",
        "Images": [
            {"ImageName": "a.jpg", "Prompt": "paris", "Variants": 1, "Seed": 7},
            {"ImageName": "b.jpg"},
        ],
    }
    first, second = settings(document), settings(document, "b.jpg")
    assert (first.prompts, first.variants, first.seed, first.quality) == (("paris",), 1, 7, "standard")
    assert (second.prompts, second.variants, second.seed) == (("london",), 2, None)


def test_prompts_stand_in_the_place_of_a_prompt_at_their_level() -> None:
    assert settings({**SHORT, "Prompts": ["a", "b"]}).prompts == ("a", "b")
    entry = {"ImageName": "a.jpg", "Prompt": "mine"}
    assert settings({"Id": "a", "Prompts": ["a", "b"], "Images": [entry]}).prompts == ("mine",)


def test_outputs_are_prompt_major_and_numbered_from_one() -> None:
    assert settings({"Id": "a", "Prompts": ["x", "y"], "Variants": 2}).outputs == (
        OutputSpec(1, 1, 1, "x"),
        OutputSpec(2, 1, 2, "x"),
        OutputSpec(3, 2, 1, "y"),
        OutputSpec(4, 2, 2, "y"),
    )


def test_without_a_painted_background_there_is_one_output_whatever_the_prompts() -> None:
    for change in ({"Task": "REMOVE"}, {"Backdrop": "#000000"}):
        assert settings({**SHORT, "Prompts": ["x", "y"], "Variants": 3, **change}).outputs == (
            OutputSpec(1, 1, 1, ""),
        )


def test_a_given_mask_is_used_without_saying_so_twice() -> None:
    assert settings({**SHORT, "MaskKey": "assets/m.png"}).subject == "MASK"
    document = {**SHORT, "MaskKey": "assets/m.png", "Images": [{"ImageName": "a.jpg", "Subject": "FACES"}]}
    assert (settings(document).subject, settings(document).mask_key) == ("FACES", None)


def test_an_entry_that_removes_the_background_needs_not_the_others_backdrop() -> None:
    document = {
        "Id": "a",
        "Backdrop": "#FFFFFF",
        "Images": [{"ImageName": "a.jpg", "Task": "REMOVE"}, {"ImageName": "b.jpg"}],
    }
    assert settings(document).backdrop is None
    assert settings(document, "b.jpg").backdrop == "#ffffff"


def test_a_preset_says_what_the_request_leaves_open() -> None:
    preset = {"Renditions": [{"Preset": "booth"}]}
    booth = settings({"Id": "a", **preset})
    assert (booth.subject, booth.prompts) == ("FACES", ("sky", "city", "forest"))
    own = settings({**SHORT, "Subject": "SALIENT", **preset})
    assert (own.subject, own.prompts) == ("SALIENT", ("london",))


def test_an_entrys_renditions_bring_their_own_presets() -> None:
    document = {
        **SHORT,
        "Renditions": [{"Preset": "transparent"}],
        "Images": [{"ImageName": "a.jpg", "Renditions": [{"Format": "png"}]}, {"ImageName": "b.jpg"}],
    }
    assert settings(document).task == "REPLACE"
    assert settings(document, "b.jpg").task == "REMOVE"


def test_masks_and_backdrops_are_known_by_their_keys() -> None:
    document = {
        **SHORT,
        "Backdrop": "assets/beach.jpg",
        "Images": [{"ImageName": "a.jpg", "MaskKey": f"{BATCH.input_prefix}/m.png", "Backdrop": "#ffffff"}],
    }
    assert read(document).named_keys == {"assets/beach.jpg", f"{BATCH.input_prefix}/m.png"}
    document["Images"].append({"ImageName": "m.png"})
    assert "mask or backdrop" in problems(document)["Images[1].ImageName"]


def test_labels_are_a_list_without_blanks_and_repeats() -> None:
    entry = {"ImageName": "a.jpg", "Labels": " Dog,, Red Ball ,Dog,"}
    assert settings({**SHORT, "Images": [entry]}).labels == ("Dog", "Red Ball")
    assert settings({**SHORT, "Images": [{"ImageName": "a.jpg", "Labels": " "}]}).labels == ()


def test_what_a_preset_says_is_checked_too() -> None:
    with pytest.raises(RequestError, match="Subjects: is not a field"):
        requests.read_image_fields({"Subjects": "FACES"})


# Prompts


def test_values_take_the_place_of_their_names_and_nothing_else_is_special() -> None:
    values = {"caption": "a {labels} dog", "labels": "Dog", "name": "rex", "ref": "7"}
    assert requests.fill("{name}/{ref}: {caption} {labels}", values, 100) == "rex/7: a {labels} dog Dog"
    for template in ("{", "}{", "{Caption}", "{size}", "{}", "50% {{x}} $name \\1 \\g<0>"):
        assert requests.fill(template, values, 100) == template


def test_values_are_cut_at_a_word_and_the_users_words_are_not() -> None:
    values = {"caption": "a brown dog, running on the beach", "labels": "Dog"}
    assert requests.fill("photo of {caption} at night", values, 33) == "photo of a brown dog at night"
    assert requests.fill("{labels}: {caption}", values, 17) == "Dog: a brown dog"
    assert requests.fill("night {caption}", {"caption": "Donaudampfschifffahrt"}, 20) == "night "


def test_the_users_own_words_that_are_too_long_are_refused() -> None:
    with pytest.raises(
        ImageError, match=r"Prompts\[1\] has 12 characters .* takes 10; shorten it by 2"
    ) as caught:
        requests.fill("twelve chars{caption}", {"caption": "x"}, 10, "Prompts[1]")
    assert caught.value.code == "PromptTooLong"


def test_a_prompt_that_comes_to_nothing_is_refused() -> None:
    with pytest.raises(ImageError, match="empty once its values are filled in"):
        requests.fill(" {caption} ", {"caption": ""}, 10)


def test_line_breaks_in_values_become_spaces() -> None:
    assert requests.fill("{caption}.", {"caption": " one\n two\t"}, 100) == "one two."


def test_a_prompt_tells_which_values_it_wants() -> None:
    assert requests.placeholders("{caption} {x} {ref} {caption}") == {"caption", "ref"}


def test_an_images_name_in_a_prompt_has_no_folder_and_no_extension() -> None:
    values = requests.placeholder_values(
        settings({**SHORT, "Ref": "7"}, "in/red shoe.v2.jpg"), caption="c", labels="l"
    )
    assert values == {"caption": "c", "labels": "l", "name": "red shoe.v2", "ref": "7"}


words = st.text(st.sampled_from("ab ,{}\n"), max_size=60)


@given(
    st.lists(st.sampled_from(["{caption}", "{labels}", "{name}", "own", " ", "{x}"]), max_size=8),
    words,
    words,
)
def test_a_filled_prompt_fits_and_keeps_every_word_of_its_writer(
    parts: list[str], caption: str, labels: str
) -> None:
    template = "".join(["own", *parts])
    values = {"caption": caption, "labels": labels}
    own = requests.fill(template, dict.fromkeys(values, ""), 1000)
    for limit in range(len(own), len(own) + 80, 7):
        filled = requests.fill(template, values, limit)
        assert len(filled) <= limit
        assert filled.count("own") == template.count("own")
    with pytest.raises(ImageError):
        requests.fill(template, values, len(own) - 1)


# Writing


def test_a_written_request_is_read_back_the_same() -> None:
    request = read({**EXAMPLE, **EVERYTHING})
    assert read(requests.write(request)) == request
    assert requests.write(read(EXAMPLE)) == requests.write(read(requests.write(read(EXAMPLE))))


def test_a_request_of_few_words_is_written_in_few_words() -> None:
    request = requests.BatchRequest(Id="a", Prompt="x", Images=(ImageEntry(ImageName="é.jpg"),))
    assert json.loads(requests.write(request)) == {
        "Id": "a",
        "Prompt": "x",
        "Images": [{"ImageName": "é.jpg"}],
    }


def test_a_folder_without_a_request_has_the_derived_id_and_the_default_prompt() -> None:
    request = requests.default_request(BATCH, "photos", "beach")
    assert request.Id == BATCH.derived_id("photos")
    assert read(requests.write(request)) == request
    assert image_settings(requests.default_request(BATCH, "photos"), "a.jpg").prompts == ()


def test_a_retry_is_a_valid_request_for_the_same_uploads_wherever_it_is_put() -> None:
    request = read({**EXAMPLE, "Sample": 1, "OutputS3Prefix": "generated-image-files/mine"})
    retry = requests.retry_request(request, ["dog.png"])
    assert retry is not None
    elsewhere = Batch(datetime.date(2026, 11, 22), "again")
    again = requests.read(requests.write(retry), bucket="photos", batch=elsewhere)
    assert again.RetryOf == request.Id != again.Id
    assert again.InputS3Prefix == request.InputS3Prefix
    assert again.OutputS3Prefix == elsewhere.output_prefix
    assert [(entry.ImageName, entry.Labels) for entry in again.Images or ()] == [("dog.png", "Dog")]
    assert requests.retry_request(request, ["dog.png"]) == retry
    assert requests.retry_request(request, ["bus.png"]) != retry


def test_a_retry_inherits_the_sample_until_it_was_approved() -> None:
    request = read({**EXAMPLE, "Sample": 1})
    retry, approved = (requests.retry_request(request, ["dog.png"], approved=way) for way in (False, True))
    assert retry is not None
    assert approved is not None
    assert (retry.Sample, approved.Sample) == (1, None)


def test_a_retry_has_what_is_left_of_the_cap_and_there_is_none_with_nothing_left() -> None:
    request = read({**EXAMPLE, "MaxCostUSD": 2.0})
    retry = requests.retry_request(request, ["dog.png"], cap_usd=0.25)
    assert retry is not None
    assert retry.MaxCostUSD == 0.25
    assert requests.retry_request(request, ["dog.png"], cap_usd=0.0) is None


def test_a_retry_of_a_whole_folder_names_its_images() -> None:
    retry = requests.retry_request(read(SHORT), ["x/ä.jpg"])
    assert retry is not None
    assert read(requests.write(retry)).Images == (ImageEntry(ImageName="x/ä.jpg"),)


def test_there_is_no_retry_of_nothing_and_none_without_a_prompt() -> None:
    assert requests.retry_request(read(SHORT), []) is None
    assert requests.retry_request(requests.default_request(BATCH, "photos"), ["a.jpg"]) is None


def test_a_request_made_in_python_is_checked_as_well() -> None:
    assert ImageFields(Prompts=("a",)).Prompts == ("a",)
    with pytest.raises(ValueError, match="Variants"):
        ImageFields(Variants=9)


def test_a_scene_is_overridden_by_an_images_own_background_and_the_other_way_round() -> None:
    request = read(
        {
            "Id": "a",
            "Scene": "a table",
            "Prompt": "london",
            "Images": [
                {"ImageName": "all.jpg"},
                {"ImageName": "own.jpg", "Scene": "a wall", "Shadow": "none"},
                {"ImageName": "prompt.jpg", "Prompt": "paris"},
                {"ImageName": "colour.jpg", "Backdrop": "#00ff00"},
                {"ImageName": "cut.jpg", "Task": "REMOVE"},
            ],
        }
    )
    found = {name: image_settings(request, name) for name in request.entries}
    assert {name: each.scene for name, each in found.items()} == {
        "all.jpg": "a table",
        "own.jpg": "a wall",
        "prompt.jpg": None,
        "colour.jpg": None,
        "cut.jpg": None,
    }
    assert [found[name].shadow for name in ("all.jpg", "own.jpg", "prompt.jpg")] == ["soft", "none", "none"]
    assert found["prompt.jpg"].needs_prompt
    assert not found["all.jpg"].needs_prompt
    backdrop = read({"Id": "a", "Backdrop": "#fff000", "Images": [{"ImageName": "a.jpg", "Scene": "a wall"}]})
    asked = image_settings(backdrop, "a.jpg")
    assert (asked.scene, asked.backdrop) == ("a wall", None)


def test_what_a_request_without_the_new_fields_is_made_from_has_not_changed() -> None:
    asked = settings(SHORT)
    assert not {"scene", "feather"} & requests.picture_fields(asked).keys()
    assert not {"scene", "feather", "shadow"} & requests.paid_picture_fields(asked).keys()
    with_scene = settings({**SHORT, "Scene": "a table"})
    assert requests.picture_fields(with_scene)["scene"] == "a table"
    assert requests.paid_picture_fields(with_scene) == requests.paid_picture_fields(asked)
