"""Text of people who are not trusted stays text: in mail, in Dagster's Markdown and on the page."""

from datetime import UTC, datetime, timedelta

import pytest
from markdown_it import MarkdownIt

from bg_pipeline.defs.assets.metadata import _code
from bg_pipeline.domain.rows import Output, Row, Status, complete_row
from bg_pipeline.domain.text import printable
from bg_pipeline.notifications.messages import StoredReport, batch_finished
from bg_pipeline.reports.overview import ShareLink
from bg_pipeline.reports.report import Report
from bg_pipeline.web.page.widgets import escape_markdown

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOSTILE = [
    "a\n\nACTION NEEDED: pay at http://evil.example",
    "a\r\nBcc: all@example.com",
    "a\u2028ACTION NEEDED",
    "a\x1b]0;owned\x07",
    "`x` ![y](http://evil.example/z)",
    "``` \n# heading",
    "a\u202egpj.exe",
    "a\0b",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_notice_has_no_line_of_the_writers_own(text: str) -> None:
    prefix = f"generated-image-files/{text}"
    rows = [
        complete_row(Row(Id="id", ImageName=text, Status=Status.FAILED, Error="E", Cause=text)),
        complete_row(
            Row(
                Id="id",
                ImageName=text,
                Status=Status.SUCCEEDED,
                Outputs=(Output(f"{prefix}/a.jpg", Status.SUCCEEDED),),
            )
        ),
    ]
    link = ShareLink("https://bucket.example/r.html", NOW + timedelta(days=1), True)
    plainly = StoredReport("2026/11/20/b", "photos", "status-report-files/r.json", Report(tuple(rows)), link)
    hostile = StoredReport(
        f"2026/11/20/{text}", "photos", f"status-report-files/{text}/r.json", plainly.report, link
    )
    notice, other = batch_finished(hostile, NOW), batch_finished(plainly, NOW)
    assert len(notice.text.splitlines()) == len(other.text.splitlines())
    assert notice.subject.isprintable()
    assert all(line.isprintable() for line in notice.text.splitlines())


@pytest.mark.parametrize("text", HOSTILE)
def test_a_key_in_dagsters_markdown_is_code_and_nothing_else(text: str) -> None:
    tokens = MarkdownIt().parse(f"- {_code(text)}")
    inline = [token for token in tokens if token.type == "inline"]
    assert [child.type for token in inline for child in token.children or ()] == ["code_inline"]
    assert inline[0].children[0].content == printable(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_on_the_page_is_one_paragraph_of_text(text: str) -> None:
    tokens = MarkdownIt().parse(escape_markdown(text))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert {child.type for child in tokens[1].children or ()} <= {"text", "text_special"}


def test_letters_of_all_scripts_and_emoji_are_shown_as_they_are() -> None:
    for text in ("Größe 7", "写真.jpg", "😀👨\u200d👩\u200d👧.jpg", "e\u0301", "فارسی\u200cنوشته"):
        assert printable(text) == text
