"""Manifests: the tables that spreadsheets write are read, and what is wrong is named by line and column."""

import csv
import io
import json
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from bg_pipeline.domain.requests import BatchRequest, image_settings
from bg_pipeline.domain.rows import Output, Row, Status, complete_row
from bg_pipeline.errors import RequestError, UsageError
from bg_pipeline.reports.manifest import mirror, mirror_stored
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import ObjectInfo, Store
from bg_pipeline.uploads.manifest import Manifest, read
from bg_pipeline.uploads.sources import (
    DraftSources,
    LocalSources,
    ResolvedManifest,
    S3Sources,
    Sources,
    resolve_manifest,
)
from bg_pipeline.uploads.submitting import new_batch, submit
from bg_pipeline_tests.pictures import photo


def problems(text: str | bytes) -> list[tuple[str, str]]:
    with pytest.raises(RequestError) as caught:
        read(text.encode() if isinstance(text, str) else text)
    return list(caught.value.problems)


def said(manifest: Manifest) -> list[dict[str, str]]:
    return [dict(line.values) for line in manifest.lines]


ROWS = [{"source": "bus.png", "prompt": "a city, at night", "labels": "Bus, Person"}]


@pytest.mark.parametrize(
    "data",
    [
        b'source,prompt,labels\nbus.png,"a city, at night","Bus, Person"\n',
        b'\xef\xbb\xbfsource,prompt,labels\r\nbus.png,"a city, at night","Bus, Person"\r\n',
        b'source;prompt;labels\nbus.png;a city, at night;"Bus, Person"\n',
        b"sep=;\r\nsource;prompt;labels\r\nbus.png;a city, at night;Bus, Person\r\n",
        "source\tprompt\tlabels\nbus.png\ta city, at night\tBus, Person\n".encode("utf-16"),
        b'\nSource, Prompt ,LABELS\nbus.png,"a city, at night","Bus, Person"\n,,\n\n',
    ],
    ids=["plain", "BOM and CRLF", "semicolons", "sep=", "UTF-16 with tabs", "capitals and empty rows"],
)
def test_a_table_is_read_however_a_spreadsheet_wrote_it(data: bytes) -> None:
    assert said(read(data)) == ROWS


def test_columns_may_be_spelt_as_in_the_request() -> None:
    manifest = read(b"source,NegativePrompt,Cfg Scale,ImageName,MaskKey\na.jpg,blur,7.5,b.jpg,m.png\n")
    assert said(manifest) == [
        {"source": "a.jpg", "negative_prompt": "blur", "cfg_scale": "7.5", "name": "b.jpg", "mask": "m.png"}
    ]


def test_a_column_that_means_nothing_is_kept_and_told() -> None:
    manifest = read(b"source,price,colour\na.jpg,9.90,red\n")
    assert manifest.unused == ("price", "colour")
    assert manifest.lines[0].cells == ("a.jpg", "9.90", "red")


def test_a_misspelt_column_is_no_column_that_means_nothing() -> None:
    assert problems("source,promt\na.jpg,beach\n") == [
        ("line 1, column promt", "is not a column; did you mean 'prompt'? Otherwise rename it")
    ]


def test_lines_are_those_of_the_file_although_cells_hold_line_breaks() -> None:
    text = 'source,prompts\na.jpg,"a beach\na street"\n\n,\n"",x\nb.jpg,y,z\n'
    assert problems(text) == [
        ("line 6, column source", "is empty: name the photo, as a file or an s3:// address"),
        ("line 7", "has 3 cells and the header has 2: a text that contains a comma must be in double quotes"),
    ]


@pytest.mark.parametrize(
    ("data", "place", "words"),
    [
        (b"", "line 1", "no column 'source'"),
        (b"source\n", "", "no row"),
        (b"image,prompt\na.jpg,x\n", "line 1", "no column 'source'"),
        (b"source,prompt,Prompt\na.jpg,x,y\n", "line 1, column Prompt", "is there twice"),
        (b"source\ncaf\xe9.jpg\n", "line 2", "CSV UTF-8"),
        (b'source,prompt\na.jpg,x\nb.jpg,"never closed\n', "line 3", "cannot be read as CSV"),
    ],
)
def test_what_is_no_manifest_is_told_by_line(data: bytes, place: str, words: str) -> None:
    ((found, sentence),) = problems(data)
    assert found == place
    assert words in sentence


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PK\x03\x04\x14\0\6\0\x08\0\0\0!\0" + bytes(90), "a workbook (Excel"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(90), "a workbook of an old Excel"),
        (b'\xef\xbb\xbf <TABLE border="1"><tr><td>source</td></tr></TABLE>', "a web page"),
        (b'<?xml version="1.0"?><Workbook/>', "XML"),
        (b'[\n {"source": "a.jpg", "prompt": "x"}]', "JSON"),
        (b'{"source": "a.jpg"}\n{"source": "b.jpg"}\n', "JSON"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\x1f\x8b\x08\0" + bytes(30), "gzip"),
    ],
)
def test_a_file_of_another_kind_is_told_as_that(data: bytes, words: str) -> None:
    ((_, sentence),) = problems(data)
    assert words in sentence
    assert "CSV" in sentence


@pytest.mark.parametrize("first", ["SEP=;", '"sep=;"', "sep=;;;", "Sep=;"])
def test_the_line_that_names_the_separator_may_be_spelt_otherwise(first: str) -> None:
    assert said(read(f"{first}\r\nsource;prompt\r\na.jpg;x, y\r\n".encode())) == [
        {"source": "a.jpg", "prompt": "x, y"}
    ]


@pytest.mark.parametrize(
    ("ref", "words"), [("4006.0", "ends with '.0'"), ("4006,0", "',0'"), ("'00123", "apostrophe")]
)
def test_a_reference_that_another_program_may_have_changed_is_asked_about(ref: str, words: str) -> None:
    data = f"source;ref\na.jpg;{ref}\nb.jpg;2.5\nc.jpg;A-1.0\n".encode()
    ((_, place, sentence),) = read(data).warnings
    assert place == "line 2, column ref"
    assert words in sentence


# What it asks for


def put(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(photo(number))
    return folder


def asked(text: str, sources: Sources, settings: Settings | None = None, **wishes: Any) -> ResolvedManifest:
    data = text.encode()
    return resolve_manifest(settings or Settings(bucket="b"), new_batch(), read(data), data, sources, wishes)


def wrong(text: str, sources: Sources, **wishes: Any) -> list[tuple[str, str]]:
    with pytest.raises(RequestError) as caught:
        asked(text, sources, **wishes)
    return list(caught.value.problems)


class Nowhere:
    def find(self, cell: str) -> Any:
        raise AssertionError(f"{cell} was looked for in a bucket")


@pytest.fixture
def here(tmp_path: Path) -> Sources:
    put(tmp_path, "a.jpg", "b.jpg", "summer/1.jpg", "winter/1.jpg", "m.png", ".hidden.jpg", "x.json")
    return LocalSources(tmp_path, Nowhere())


def entries(found: ResolvedManifest) -> list[dict[str, Any]]:
    document = json.loads(found.data)["Images"]
    assert isinstance(document, list)
    return document


def test_each_row_becomes_an_entry_and_what_it_leaves_out_is_said_for_all(here: Sources) -> None:
    found = asked(
        "source,ref,prompt,negative_prompt,labels,preset,variants,seed,mode,task,subject,shadow,quality,cfg_scale\n"
        'a.jpg,SKU-1,a beach,blur,"Dog, Cat","transparent, square-social",'
        "2,7,precise,replace,labels,Soft,standard,7.5\n"
        "b.jpg,,,,,,,,,,,,,\n",
        here,
        Prompt="a street",
        Labels="Bus",
    )
    assert entries(found) == [
        {
            "ImageName": "a.jpg",
            "Labels": "Dog, Cat",
            "Ref": "SKU-1",
            "Prompt": "a beach",
            "NegativePrompt": "blur",
            "Renditions": [{"Preset": "transparent"}, {"Preset": "square-social"}],
            "Variants": 2,
            "Seed": 7,
            "Mode": "PRECISE",
            "Task": "REPLACE",
            "Subject": "LABELS",
            "Shadow": "soft",
            "Quality": "standard",
            "CfgScale": 7.5,
        },
        {"ImageName": "b.jpg", "Labels": "Bus"},
    ]
    assert json.loads(found.data)["Prompt"] == "a street"


def test_several_prompts_stand_on_lines_of_one_cell(here: Sources) -> None:
    found = asked('source,prompts\na.jpg,"a beach\n\na street"\n', here)
    assert entries(found)[0]["Prompts"] == ["a beach", "a street"]


def test_a_decimal_comma_is_a_point_where_semicolons_part_the_cells(here: Sources) -> None:
    assert entries(asked("source;prompt;cfg_scale\na.jpg;x;7,5\n", here))[0]["CfgScale"] == 7.5


def test_files_of_one_name_keep_as_many_folders_as_tell_them_apart(here: Sources) -> None:
    found = asked("source,prompt\nsummer/1.jpg,x\nwinter/1.jpg,x\na.jpg,x\n", here)
    assert [each.name for each in found.photos] == ["summer/1.jpg", "winter/1.jpg", "a.jpg"]


def test_a_name_of_ones_own_wins_and_the_others_make_way_for_it(here: Sources) -> None:
    found = asked("source,name,prompt\nsummer/1.jpg,,x\nwinter/1.jpg,1.jpg,x\n", here)
    assert [each.name for each in found.photos] == ["summer/1.jpg", "1.jpg"]


def test_a_mask_or_backdrop_is_sent_once_however_many_rows_name_it(here: Sources) -> None:
    found = asked(
        "source,mask,backdrop\na.jpg,m.png,#FFFFFF\nb.jpg,./m.png,m.png\nsummer/1.jpg,m.png,\n",
        here,
        Prompt="m.png",
    )
    first, second, third = entries(found)
    assert first["MaskKey"] == second["MaskKey"] == third["MaskKey"]
    assert first["Backdrop"] == "#FFFFFF"
    assert second["Backdrop"] != second["MaskKey"]
    assert set(found.others) == {
        first["MaskKey"],
        second["Backdrop"],
        first["MaskKey"].rpartition("/")[0] + "/.manifest.csv",
    }
    assert {each.name for each in found.photos}.isdisjoint({each.name for each in found.others.values()})


def test_everything_that_is_wrong_is_told_at_once_by_line_and_column(here: Sources) -> None:
    text = (
        "source,name,prompt,preset,seed,variants,cfg_scale,mode,backdrop\n"
        "a.jpg,,x,no-such,1.5,9,much,ODD,red\n"
        "gone.jpg,,,,,,,,\n"
        "summer/1.jpg,x.json,,,-1,,,,\n"
    )
    assert [place for place, _ in wrong(text, here)] == [
        "line 2, column backdrop",
        "line 2, column seed",
        "line 2, column cfg_scale",
        "line 2, column mode",
        "line 2, column variants",
        "line 2, column preset",
        "line 3, column source",
        "line 4, column name",
        "line 4, column seed",
    ]


def test_every_row_without_a_prompt_is_named(here: Sources) -> None:
    found = wrong(
        "source,prompt,task,backdrop\na.jpg,,,\nb.jpg,,remove,\nm.png,,,#ffffff\nsummer/1.jpg,,,\n", here
    )
    assert [place for place, _ in found] == ["line 2, column prompt", "line 5, column prompt"]


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("missing.jpg", "there is no file"),
        ("summer", "is a folder"),
        ("https://example.com/a.jpg", "neither a file nor an s3:// address"),
        ("a" * 5000, "there is no file"),
        ("x.json", "cannot be the name of an image"),
    ],
)
def test_a_source_that_is_none_is_named(here: Sources, cell: str, words: str) -> None:
    ((place, sentence),) = wrong(f"source\na.jpg\n{cell}\n", here, Prompt="x")
    assert place == "line 3, column source"
    assert words in sentence or "cannot be the name of a file" in sentence


def test_two_rows_of_one_photo_or_of_one_name_are_refused(here: Sources) -> None:
    found = wrong(
        "source,name\na.jpg,\n./a.jpg,\nb.jpg,c.jpg\nm.png,c.jpg\nsummer/1.jpg,.manifest.csv\n",
        here,
        Prompt="x",
    )
    assert found == [
        ("line 3, column source", "'a.jpg' is already the image of line 2; write another in column name"),
        ("line 5, column name", "'c.jpg' is already the image of line 4; write another in column name"),
        (
            "line 6, column name",
            "'.manifest.csv' cannot be the name of an image; write another in column name",
        ),
    ]


def test_of_thousands_of_problems_the_first_are_told_and_the_rest_counted(here: Sources) -> None:
    found = wrong("source\n" + "\n".join(f"missing-{number}.jpg" for number in range(3000)), here, Prompt="x")
    assert len(found) == 101
    assert found[0][0] == "line 2, column source"
    assert "2900 more" in found[-1][1]


def draft_sources(*names: str) -> DraftSources:
    """Photos that are found and never read."""
    stored = {
        name: ObjectInfo(f"image-files/2026/01/01/b/{name}", 1, "tag", datetime.now(UTC)) for name in names
    }
    return DraftSources(cast("Store", None), stored, Nowhere())


def test_photos_of_a_draft_are_found_by_their_names_and_keep_them() -> None:
    sources = draft_sources("summer/1.jpg", "winter/1.jpg", "a.jpg")
    found = asked("source\nsummer/1.jpg\nC:\\photos\\a.jpg\n", sources, Prompt="x")
    assert [each.name for each in found.photos] == ["summer/1.jpg", "a.jpg"]
    ((_, words),) = wrong("source\n1.jpg\n", sources, Prompt="x")
    assert "name one of them in full" in words
    ((_, words),) = wrong("source\n/etc/passwd\n", sources, Prompt="x")
    assert "no photo named '/etc/passwd' was uploaded" in words


# In a bucket


def test_photos_in_buckets_are_copied_into_the_batch(s3, bucket: str, tmp_path: Path) -> None:
    store, other = Store(s3, bucket), f"{bucket}-other"
    s3.create_bucket(Bucket=other)
    s3.put_object(Bucket=other, Key="catalogue/a+b ü.jpg", Body=photo(1))
    store.write("assets/sky.png", photo(2, format="PNG"), media_type="image/png")
    put(tmp_path, "here.jpg")
    settings = Settings(bucket=bucket, allowed_buckets=(other,))
    text = (
        f"source,prompt,backdrop\ns3://{other}/catalogue/a+b ü.jpg,x,\nhere.jpg,,assets/sky.png\n"
        f"s3://{bucket}/assets/sky.png,x,\n"
    )
    batch = new_batch()
    sources = LocalSources(tmp_path, S3Sources(settings, store))
    found = resolve_manifest(settings, batch, read(text.encode()), text.encode(), sources, {})
    submit(store, batch, found.photos, found.data, others=found.others)
    content = store.read(batch.upload_key("a+b ü.jpg"))
    assert content is not None
    assert content.data == photo(1)
    assert entries(found)[1]["Backdrop"] == "assets/sky.png"
    assert set(found.request.entries) == {"a+b ü.jpg", "here.jpg", "sky.png"}


def test_what_may_not_be_read_or_is_not_there_is_named_and_nothing_is_uploaded(s3, bucket: str) -> None:
    store = Store(s3, bucket)
    store.write("pipeline-state/x.jpg", b"x", media_type="image/jpeg")
    sources = S3Sources(Settings(bucket=bucket), store)
    text = (
        f"source\ns3://elsewhere/a.jpg\ns3://{bucket}/none.jpg\ns3://{bucket}/pipeline-state/x.jpg\n"
        f"s3://{bucket}/image-files/\n"
    )
    found = wrong(text, sources, Prompt="x")
    assert [(place, words.split(" ")[0:3]) for place, words in found] == [
        ("line 2, column source", ["bucket", "'elsewhere'", "is"]),
        ("line 3, column source", ["there", "is", "no"]),
        ("line 4, column source", [f"'s3://{bucket}/pipeline-state/x.jpg'", "is", "one"]),
        ("line 5, column source", [f"'s3://{bucket}/image-files/'", "names", "a"]),
    ]
    assert [each.key for each in store.list("")] == ["pipeline-state/x.jpg"]


# What became of it


def row(image: str, **more: Any) -> Any:
    return complete_row(Row(Id="id", ImageName=image, **{"Status": Status.SUCCEEDED, **more}))


def table(data: bytes, delimiter: str = ",") -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), delimiter=delimiter))


def test_the_result_has_the_manifests_rows_in_their_order_and_form_with_what_became_of_them() -> None:
    manifest = read('\ufeffsource;price;Status\nb.jpg;9,90;old\n\na.jpg;"=1+1";\n'.encode())
    outputs = [Output("out/b_1.jpg", Status.SUCCEEDED), Output("out/b_2.jpg", Status.SUCCEEDED)]
    rows = {
        "a.jpg": row("a.jpg", Status=Status.FAILED, Cause="@odd cause", CostUSD=None),
        "b.jpg": row("b.jpg", Outputs=tuple(outputs), CostUSD=0.06),
    }
    data = mirror(manifest, ["b.jpg", "a.jpg"], rows.get)
    assert data.startswith(b"\xef\xbb\xbf")
    assert table(data, ";") == [
        ["source", "price", "Status", "result_status", "files", "cost_usd", "cause", "image"],
        ["b.jpg", "9,90", "old", "Succeeded", "out/b_1.jpg\nout/b_2.jpg", "0.06", "", "b.jpg"],
        ["a.jpg", "'=1+1", "", "Failed", "", "unknown", "'@odd cause", "a.jpg"],
    ]


def test_a_result_can_be_submitted_as_a_manifest_again() -> None:
    manifest = read(b'source,ref\na.jpg,"-7"\n')
    again = read(mirror(manifest, ["a.jpg"], row))
    assert said(again) == said(manifest)
    assert again.unused == ("status", "files", "cost_usd", "cause", "image")


def test_a_request_that_was_replaced_since_has_no_manifest_any_more(s3, bucket: str, tmp_path: Path) -> None:
    store, batch = Store(s3, bucket), new_batch()
    store.write(batch.manifest_key, b"source\na.jpg\nb.jpg\n", media_type="text/csv")
    (other,) = (BatchRequest(Id="x", Prompt="x", Images=({"ImageName": "a.jpg"},)),)  # type: ignore[arg-type]
    assert mirror_stored(store, batch, other, row) is None


# What spreadsheets do

CORPUS = Path(__file__).parent.parent / "corpus_files"
ERRORS = [
    "#NAME?",
    "#N/A",
    "#REF!",
    "#VALUE!",
    "#DIV/0!",
    "#NUM!",
    "#NULL!",
    "#SPILL!",
    "#ERROR!",
    "Err:502",
    "########",
]
GERMAN = ["#BEZUG!", "#WERT!", "#NV", "#ZAHL!", "#ÜBERLAUF!"]
OTHERS = [
    "#NOM?",
    "#VALEUR!",
    "#NOMBRE!",
    "#¿NOMBRE?",
    "#¡VALOR!",
    "#N/D",
    "#RIF!",
    "#NAAM?",
    "#DZIEL/0!",
    "#SKÄRNING!",
]


@pytest.mark.parametrize("error", [*ERRORS, *GERMAN, *OTHERS])
def test_a_spreadsheets_error_is_told_by_line_and_column(error: str) -> None:
    text = (
        f'source,ref,prompt,prompts,labels\na.jpg,{error},x,,\nb.jpg,1,{error},"a\n{error}","Dog, {error}"\n'
    )
    told = problems(text)
    assert [place for place, _ in told] == [
        "line 2, column ref",
        "line 3, column prompt",
        "line 3, column prompts",
        "line 3, column labels",
    ]
    assert all(error in words for _, words in told)


@pytest.mark.parametrize(
    ("ref", "words"), [("nan", "no value"), ("None", "no value"), ("K\u00c3\u00b6ln", "'Köln' was meant")]
)
def test_a_reference_that_a_program_put_there_or_misread_is_told_by_line_and_column(
    ref: str, words: str
) -> None:
    ((place, sentence),) = problems(f"source,ref,prompt\na.jpg,1,x\nb.jpg,{ref},x\n")
    assert place == "line 3, column ref"
    assert words in sentence


@pytest.mark.parametrize(
    "text", ["#1 in sales", "#ffffff", "is it #NAME?", "# a title", "#summer!", "Wow!", "#A1"]
)
def test_a_text_with_such_marks_is_text(text: str) -> None:
    assert read(f'source,prompt,ref\na.jpg,"{text}","{text}"\n'.encode()).lines[0].values["prompt"] == text


@pytest.mark.parametrize(
    ("delimiter", "number"),
    [(",", "4.00639E+12"), (";", "4,00639E+12"), (";", "4.00639e+12"), ("\t", "1E+05")],
)
@pytest.mark.parametrize("column", ["ref", "name"])
def test_a_number_cut_short_is_no_reference(delimiter: str, number: str, column: str) -> None:
    text = "\n".join(
        delimiter.join(cells) for cells in (("source", column), ("a.jpg", "17"), ("b.jpg", number))
    )
    ((place, words),) = problems(text)
    assert place == f"line 3, column {column}"
    assert f"'{number}' is a long number that the spreadsheet has shortened" in words


@pytest.mark.parametrize("date", ["10-Dec", "Oct-12", "10. Dez", "12-Okt", "1-mars"])
def test_a_date_made_of_a_size_is_no_reference(date: str) -> None:
    ((place, words),) = problems(f"source,ref\na.jpg,{date}\n")
    assert place == "line 2, column ref"
    assert "is a date that the spreadsheet has made" in words


@pytest.mark.parametrize(
    "ref", ["1E5", "SKU-4E12", "10-12", "E+12", "12-XL", "5E-3", "00123", "4006390000000"]
)
def test_ordinary_references_are_left_alone(ref: str) -> None:
    manifest = read(f"source,ref\na.jpg,{ref}\n".encode())
    assert (manifest.lines[0].values["ref"], manifest.warnings) == (ref, ())


@pytest.mark.parametrize("ref", ["10.12.2026", "10/12/2026", "2026-12-10 00:00:00", "4006381333931000"])
def test_what_may_have_been_changed_is_told_and_stops_nothing(ref: str) -> None:
    manifest = read(f"source,ref\na.jpg,1\nb.jpg,{ref}\n".encode())
    ((number, place, words),) = manifest.warnings
    assert (number, place) == (3, "line 3, column ref")
    assert ref in words


def test_a_text_that_is_written_as_a_formula_is_that_text() -> None:
    manifest = read(b'source,ref,prompt,name\na.jpg,"=""00123""","=""a """"big"""" hall""","=""1.jpg"""\n')
    assert said(manifest) == [{"source": "a.jpg", "ref": "00123", "prompt": 'a "big" hall', "name": "1.jpg"}]


def test_any_other_formula_is_not_what_it_comes_to() -> None:
    text = 'source,ref,prompt\na.jpg,=A1&"x","=CONCAT(A1, B1)"\n'
    assert [place for place, _ in problems(text)] == ["line 2, column ref", "line 2, column prompt"]


def test_a_formula_that_a_report_made_harmless_comes_back_as_its_text() -> None:
    assert read(b"source,ref\na.jpg,'=A1\n").lines[0].values["ref"] == "=A1"


@pytest.mark.parametrize("coding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_its_mark_is_named_in_one_sentence(coding: str) -> None:
    ((_, words),) = problems("source;prompt\na.jpg;beach\nb.jpg;street\n".encode(coding))
    assert "UTF-16" in words
    assert "CSV UTF-8" in words


def test_utf_16_that_is_cut_short_is_told() -> None:
    ((_, words),) = problems("source\ta\nx.jpg\tb\n".encode("utf-16")[:-1])
    assert "cut short" in words


def test_a_table_in_windows_1252_is_told_by_line() -> None:
    assert problems("source\na.jpg\ncafé.jpg\n".encode("cp1252"))[0][0] == "line 3"


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("excel_error.csv", ["line 2, column ref", "line 3, column ref", "line 3, column prompt"]),
        ("sci_sku.csv", ["line 2, column ref", "line 3, column ref"]),
    ],
)
def test_the_damaged_tables_of_the_corpus_are_refused(name: str, places: list[str]) -> None:
    assert [place for place, _ in problems((CORPUS / name).read_bytes())] == places


def test_the_quoted_number_of_the_corpus_keeps_its_zeros() -> None:
    assert read((CORPUS / "formula_sku.csv").read_bytes()).lines[0].values["ref"] == "00123"


# One name, two spellings


NFC, NFD = (unicodedata.normalize(form, "chaussure été.jpg") for form in ("NFC", "NFD"))


def test_the_table_of_the_corpus_finds_the_file_of_a_mac(tmp_path: Path) -> None:
    put(tmp_path, NFD)
    found = asked((CORPUS / "nfc_name.csv").read_text("utf-8"), LocalSources(tmp_path, Nowhere()))
    assert [each.name for each in found.photos] == [NFD]


@pytest.mark.parametrize(("written", "there"), [(NFC, NFD), (NFD, NFC)])
def test_a_file_is_found_by_the_other_spelling_of_its_folders_too(
    tmp_path: Path, written: str, there: str
) -> None:
    put(tmp_path, f"{there} photos/{there}")
    here = LocalSources(tmp_path, Nowhere())
    assert len(asked(f"source,prompt\n{written} photos/{written},x\n", here).photos) == 1


def test_two_files_that_look_the_same_are_told_and_none_is_chosen(tmp_path: Path) -> None:
    put(tmp_path, NFC, NFD)
    mixed = "chaussure e\u0301té.jpg"
    ((place, words),) = wrong(f"source,prompt\n{mixed},x\n", LocalSources(tmp_path, Nowhere()))
    assert place == "line 2, column source"
    assert "differ from it only in how accents are encoded" in words


def test_photos_that_were_sent_are_found_by_either_spelling() -> None:
    sent = draft_sources(f"shoot/{NFD}")
    assert sent.find(NFC).path == f"shoot/{NFD}"
    assert sent.find(f"shoot/{NFC}").path == f"shoot/{NFD}"


def test_objects_are_found_by_either_spelling(s3, bucket: str) -> None:
    store = Store(s3, bucket)
    store.write(f"assets/{NFD}", photo(), media_type="image/jpeg")
    buckets = S3Sources(Settings(bucket=bucket), store)
    assert buckets.find(f"s3://{bucket}/assets/{NFC}").key == f"assets/{NFD}"
    store.write("assets/é/é.jpg", photo(), media_type="image/jpeg")
    store.write("assets/e\u0301/e\u0301.jpg", photo(), media_type="image/jpeg")
    with pytest.raises(UsageError, match="differ from it only in how accents are encoded"):
        buckets.find(f"s3://{bucket}/assets/e\u0301/é.jpg")


# Labels


@pytest.mark.parametrize("cell", [",", '" , "'])
def test_a_cell_of_labels_without_any_means_everything_that_stands_out(here: Sources, cell: str) -> None:
    found = asked(f"source;labels\na.jpg;{cell}\nb.jpg;\n", here, Prompt="x", Labels="Dog")
    subjects = [image_settings(found.request, name).subject for name in ("a.jpg", "b.jpg")]
    assert subjects == ["SALIENT", "LABELS"]


def test_empty_labels_for_all_rows_mean_the_same(here: Sources) -> None:
    found = asked("source,labels\na.jpg,\nb.jpg,Dog\n", here, Prompt="x", Labels="")
    subjects = [image_settings(found.request, name).subject for name in ("a.jpg", "b.jpg")]
    assert subjects == ["SALIENT", "LABELS"]


def test_a_caption_that_will_not_be_there_is_told_by_line(here: Sources) -> None:
    off = Settings(bucket="b", caption_models=())
    with pytest.raises(RequestError) as caught:
        asked("source,prompt\na.jpg,a beach\nb.jpg,{caption} at sea\n", here, off)
    ((place, words),) = caught.value.problems
    assert place == "line 3, column prompt"
    assert "captions are switched off" in words


@pytest.mark.parametrize(
    ("cell", "meant"),
    [
        ("B.JPG", "b.jpg"),
        ("b.jpeg", "b.jpg"),
        ("summer\\1.jpg", "summer/1.jpg"),
        ("b\u200b.jpg", "b.jpg"),
        ("its here.jpg", "it’s here.jpg"),
        ("it's  here.jpg", "it’s here.jpg"),
        ("no\u00a0break.jpg", "no break.jpg"),
        ("2024-01.jpg", "2024–01.jpg"),
        ("cafe.jpg", "café.jpg"),
    ],
)
def test_a_name_that_looks_like_anothers_is_told_with_it(tmp_path: Path, cell: str, meant: str) -> None:
    there = put(tmp_path, "b.jpg", "summer/1.jpg", "it’s here.jpg", "no break.jpg", "2024–01.jpg", "café.jpg")
    ((place, sentence),) = wrong(f"source,prompt\n{cell},x\n", LocalSources(there, Nowhere()))
    assert place == "line 2, column source"
    assert f"did you mean '{meant}'?" in sentence


def test_no_name_is_proposed_where_two_are_as_good(tmp_path: Path) -> None:
    there = put(tmp_path, "b.jpg", "b.png", "B.JPG")
    for cell in ("b.jpeg", "b.JPG", "zebra.jpg"):
        ((_, sentence),) = wrong(f"source,prompt\n{cell},x\n", LocalSources(there, Nowhere()))
        assert "did you mean" not in sentence


def test_thousands_of_missing_files_are_told_soon(tmp_path: Path) -> None:
    there = put(tmp_path, *(f"{number}.jpg" for number in range(30)))
    rows = "".join(f"missing {number}.jpg,x\n" for number in range(3000))
    assert len(wrong(f"source,prompt\n{rows}", LocalSources(there, Nowhere()))) == 101
