import csv
import io
import itertools
import json
from typing import Any

import orjson
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bg_pipeline.domain.rows import (
    TO_DO_AGAIN,
    Output,
    Row,
    Status,
    complete_row,
    unreadable_request_row,
    worst,
)
from bg_pipeline.domain.text import spreadsheet_text, text_of_cell
from bg_pipeline.errors import BgPipelineError, RequestError
from bg_pipeline.reports import report
from bg_pipeline.reports.report import Report, names_in
from bg_pipeline_tests.reports.sample_rows import cat, dog

CAT = cat(CostUSD=0.0812345678, Seconds=12.34567)
DOG = dog(Status=Status.SKIPPED, Error="CostCap", Cause="the cap was reached")


def table(rows: Report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(rows.csv().decode(), newline="")))


# Rows


def test_a_row_has_the_names_of_the_contract_in_their_order() -> None:
    (row,) = json.loads(Report((CAT,)).json())
    names = (
        "Id, ImageName, Ref, Status, Error, Cause, Results, Outputs, Model, Region, Seed, Labels, Caption, "
        "CostUSD, MaybeBilledUSD, Seconds, Reused, Confidence"
    )
    assert ", ".join(row) == names
    assert ", ".join(row["Outputs"][0]) == "Key, Status, Cause, Model, Region, Seed, CostUSD"


def test_a_row_speaks_of_its_first_output_and_lists_the_results_that_exist() -> None:
    row = complete_row(
        Row(
            Id="621f",
            ImageName="cat.jpg",
            Status=Status.SUCCEEDED,
            Outputs=(Output("", Status.FAILED, "timed out", "titan-v2", "eu-west-1", 7), *CAT.Outputs),
        )
    )
    assert (row.Model, row.Region, row.Seed) == ("titan-v2", "eu-west-1", 7)
    assert row.Results == ("out/cat_1.jpg", "out/cat_2.jpg")
    assert (row.Status, row.Cause) == (Status.FAILED, "timed out")


def test_a_row_is_succeeded_only_if_all_its_outputs_are() -> None:
    for other in Status:
        outputs = (CAT.Outputs[0], Output("", other))
        assert (
            complete_row(Row(Id="a", ImageName="b", Status=Status.SUCCEEDED, Outputs=outputs)).Status == other
        )


def test_what_is_to_be_done_again_is_worse_than_what_is_left_alone() -> None:
    again = {status: status in TO_DO_AGAIN for status in Status}
    for first, second in itertools.permutations(Status, 2):
        assert again[worst([first, second])] == (again[first] or again[second])


def test_a_succeeded_row_may_say_what_was_missing() -> None:
    row = complete_row(
        Row(
            Id="a",
            ImageName="b",
            Status=Status.SUCCEEDED,
            Outputs=CAT.Outputs,
            Cause="no caption: the model timed out",
        )
    )
    assert (row.Status, row.Cause) == (Status.SUCCEEDED, "no caption: the model timed out")


def test_a_request_that_cannot_be_read_is_one_failed_row() -> None:
    row = unreadable_request_row("derived", RequestError([("Mode", "must be 'PRECISE'")]))
    assert (row.Id, row.ImageName, row.Status) == ("derived", "request.json", Status.FAILED)
    assert row.Cause == "Mode: must be 'PRECISE'"
    assert Report((row,)).to_do_again == ()


# The report


def test_a_report_is_read_back_as_it_was_written() -> None:
    written = Report((CAT, DOG))
    assert Report.read(written.json()) == written
    assert Report.read(Report(()).json()) == Report(())
    assert written.json() == Report.read(written.json()).json()


@pytest.mark.parametrize("data", [b"", b"[{", b"{}", b"[1]", b'[{"Id": "a"}]', b"\xff"])
def test_what_is_no_report_is_refused_in_a_sentence(data: bytes) -> None:
    with pytest.raises(BgPipelineError, match="this is not a status report"):
        Report.read(data)


def test_all_statuses_are_counted_and_the_cost_is_summed() -> None:
    done = Report((CAT, CAT))
    assert done.counts == {
        Status.SUCCEEDED: 2,
        Status.NEEDS_REVIEW: 0,
        Status.BLOCKED: 0,
        Status.SKIPPED: 0,
        Status.FAILED: 0,
    }
    assert done.cost_usd == pytest.approx(0.16247)
    assert Report((CAT, DOG)).cost_usd is None


def test_a_retry_asks_for_the_failed_and_the_skipped() -> None:
    rows = tuple(complete_row(Row(Id="a", ImageName=f"{status}.jpg", Status=status)) for status in Status)
    assert Report(rows).to_do_again == ("Skipped.jpg", "Failed.jpg")


@pytest.mark.parametrize("size", [1, 7, 100, 100_000])
def test_the_names_in_a_stored_report_are_read_without_the_rest_of_it(size: int) -> None:
    odd = ('"quoted".jpg', '    "ImageName": x.jpg', "ü\n.jpg")
    rows = (
        CAT,
        *(complete_row(Row(Id="a", ImageName=name, Status=Status.FAILED, Cause=name)) for name in odd),
    )
    stored = Report(rows).json()
    blocks = [stored[start : start + size] for start in range(0, len(stored), size)]
    assert list(names_in(blocks)) == ["cat.jpg", *odd]
    assert list(names_in([b"{}"])) == []


# The data frame


def test_the_data_frame_has_numbers_and_missing_prices_where_none_is_known() -> None:
    rows = (CAT, complete_row(Row(Id="a", ImageName="dear.jpg", Status=Status.FAILED, CostUSD=None)))
    frame = Report(rows).frame()
    assert frame.loc["cat.jpg", "Seed"] == 42
    assert frame["CostUSD"].isna().tolist() == [False, True]
    assert frame.groupby("Status")["Seconds"].sum().to_dict() == {"Failed": 0.0, "Succeeded": 12.346}
    assert Report(()).frame().empty


# The CSV


def test_the_csv_has_a_line_for_each_image_and_numbers_are_numbers() -> None:
    frame = pd.read_csv(io.BytesIO(Report((CAT, Row(Id="a", ImageName="b", Status=Status.FAILED))).csv()))
    assert list(frame["ImageName"]) == ["cat.jpg", "b"]
    assert list(frame["CostUSD"]) == [0.081235, 0.0]
    assert list(frame["Seconds"]) == [12.346, 0.0]
    assert frame["Seed"][0] == 42
    assert frame["Results"][0] == "out/cat_1.jpg\nout/cat_2.jpg"
    assert "Outputs" not in frame.columns


def test_an_unknown_cost_is_called_unknown() -> None:
    cat, dog = table(Report((CAT, DOG)))
    assert (cat["CostUSD"], dog["CostUSD"]) == ("0.081235", "unknown")
    assert (cat["Seed"], dog["Seed"]) == ("42", "")


def test_an_empty_report_has_a_head_alone() -> None:
    assert Report(()).csv().count(b"\n") == 1


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_no_cell_is_taken_for_a_formula(start: str) -> None:
    evil = f'{start}HYPERLINK("http://x","y")'
    row = complete_row(
        Row(
            Id=evil,
            ImageName=evil,
            Status=Status.FAILED,
            Error=evil,
            Cause=evil,
            Ref=evil,
            Labels=evil,
            Caption=evil,
            Outputs=(Output(evil, Status.FAILED, evil, evil, evil),),
        )
    )
    (cells,) = table(Report((row,)))
    texts = [
        value
        for name, value in cells.items()
        if name not in {"Status", "Seed", "CostUSD", "MaybeBilledUSD", "Seconds", "Reused", "Confidence"}
    ]
    assert texts == [f"'{evil}"] * 10


tricky = st.text(st.sampled_from(list("=+-@＝a'\";,|\t\n\r ")), max_size=12)


@given(st.lists(tricky, min_size=1, max_size=3), st.sampled_from(",;\t"))
def test_no_separator_makes_a_formula_of_a_part_of_a_cell(said: list[str], written_with: str) -> None:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=written_with, lineterminator="\n").writerow(
        spreadsheet_text(text) for text in said
    )
    for separator in ",;\t|":
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
            lines = csv.reader(io.StringIO(out.getvalue(), newline=""), delimiter=separator, quoting=quoting)
            for cell in itertools.chain.from_iterable(lines):
                assert cell.lstrip("\t\r\n")[:1] not in tuple("=+-@＝"), (separator, cell)


@given(tricky)
def test_a_cell_that_was_made_harmless_is_read_back_as_it_was(text: str) -> None:
    assert text_of_cell(spreadsheet_text(text)) == text


def test_a_formula_after_a_semicolon_is_none_where_the_table_is_split_there() -> None:
    assert spreadsheet_text("a;=cmd|' /C calc'!A0") == "a;'=cmd|' /C calc'!A0"
    assert spreadsheet_text("a plain text; with - signs, and more") == "a plain text; with - signs, and more"


def test_a_negative_number_stays_a_number() -> None:
    (cells,) = table(Report((complete_row(Row(Id="a", ImageName="b", Status=Status.FAILED, CostUSD=-0.5)),)))
    assert cells["CostUSD"] == "-0.5"


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
outputs = st.builds(
    Output,
    texts,
    st.sampled_from(Status),
    texts,
    texts,
    texts,
    st.none() | st.integers(0, 2**31),
    st.none() | st.floats(0, 100),
)


@st.composite
def rows(draw: st.DrawFn) -> Any:
    return complete_row(
        Row(
            Id=draw(texts),
            ImageName=draw(texts),
            Status=draw(st.sampled_from(Status)),
            Cause=draw(texts),
            Ref=draw(texts),
            Outputs=tuple(draw(st.lists(outputs, max_size=3))),
            Caption=draw(texts),
            CostUSD=draw(st.none() | st.floats(0, 100)),
        )
    )


@given(st.lists(rows(), max_size=4))
def test_whatever_the_texts_hold_every_form_keeps_one_row_for_each_image(some: list[Any]) -> None:
    written = Report(tuple(some))
    assert Report.read(written.json()) == written
    indented = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    assert written.json() == orjson.dumps(written.rows, option=indented)
    assert [cells["ImageName"].removeprefix("'") for cells in table(written)] == [
        row.ImageName.removeprefix("'") for row in some
    ]
    assert len(written.table()) == len(some)


def test_a_name_cannot_steer_the_terminal() -> None:
    row = complete_row(Row(Id="a", ImageName="\x1b[2Jcat\n.jpg", Status=Status.FAILED, Cause="\x1b]0;x\x07"))
    ((name, *_, what),) = Report((row,)).table()
    assert name == "\\x1b[2Jcat\\x0a.jpg"
    assert what == "\\x1b]0;x\\x07"


def test_the_table_shows_results_and_cause() -> None:
    cat, dog = Report((CAT, DOG)).table()
    assert cat == ("cat.jpg", "Succeeded", "12.3", "0.08", "out/cat_1.jpg\nout/cat_2.jpg")
    assert dog == ("dog.jpg", "Skipped", "0.0", "unknown", "the cap was reached")
    assert len(report.TABLE_HEAD) == len(cat)
