"""The page as Streamlit runs it: its screens, and the sentences shown for expected errors.

Its only argument, which may be missing, is the address of Dagster's UI.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import streamlit as st
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.authorization import Authorization
from bg_pipeline.aws.clients import make_aws
from bg_pipeline.domain.batches import Batch
from bg_pipeline.errors import BgPipelineError, RequestError
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import open_bucket
from bg_pipeline.web.page import progress, results, search, submit, user
from bg_pipeline.web.page.batches import BatchService
from bg_pipeline.web.page.drafts import DraftService, user_error
from bg_pipeline.web.page.review_service import ReviewService
from bg_pipeline.web.page.widgets import escape_markdown


@st.cache_resource(show_spinner=False)
def _services() -> tuple[DraftService, BatchService, ReviewService]:
    configured = settings()
    aws = make_aws(configured)
    store = open_bucket(configured, aws)
    batches = BatchService(configured, store)
    drafts = DraftService(configured, aws, store, on_change=batches.refresh)
    return drafts, batches, ReviewService(configured, aws, batches)


def _authorization() -> Authorization:
    return _services()[1].acts.authorization


def _screen(show: Callable[[DraftService, BatchService, ReviewService], None]) -> Callable[[], None]:
    """A screen that shows expected errors as sentences."""

    def show_screen() -> None:
        try:
            show(*_services())
        except RequestError as error:
            for sentence in user_error(error):
                st.error(escape_markdown(sentence))
        except BgPipelineError as error:
            st.error(escape_markdown(str(error)))
        except (ClientError, BotoCoreError) as error:
            st.error(
                f"AWS answered with an error: {escape_markdown(str(error))}. "
                "`bg-pipeline doctor` checks what works and what to do."
            )

    show_screen.__name__ = show.__name__
    return show_screen


def _submit(drafts: DraftService, batches: BatchService, reviews: ReviewService) -> None:
    submit.show(drafts)


def _progress(drafts: DraftService, batches: BatchService, reviews: ReviewService) -> None:
    def resume(draft: Batch) -> None:
        submit.resume(drafts, draft)
        st.switch_page(_new_batch)

    progress.show(batches, drafts, sys.argv[1] if len(sys.argv) > 1 else "", resume)


def _results(drafts: DraftService, batches: BatchService, reviews: ReviewService) -> None:
    results.show(reviews)


def _search(drafts: DraftService, batches: BatchService, reviews: ReviewService) -> None:
    search.show(batches)


# The icon of the browser's tab is a file, because for ":material/…" the browser would fetch it from a foreign host.
st.set_page_config(
    page_title="New backgrounds", page_icon=str(Path(__file__).with_name("icon.png")), layout="wide"
)
st.html(
    "<style>.stMainBlockContainer { padding: 3.5rem max(1rem, 3vw) 1rem; } "
    ".stMainBlockContainer h1 { font-size: 1.6rem; padding: 0.5rem 0; } "
    ".stMainBlockContainer h3 { font-size: 1.2rem; padding: 0.25rem 0; } "
    # Streamlit writes in white on the light blue of the dark theme.
    "@media (prefers-color-scheme: dark) { [data-testid=stBaseButton-primary] { color: #0b1220; } }</style>"
)
user.require_sign_in(settings(), _authorization)
_new_batch = st.Page(
    _screen(_submit), title="New batch", icon=":material/add_photo_alternate:", url_path="new", default=True
)
st.navigation(
    [
        _new_batch,
        st.Page(_screen(_progress), title="Batches", icon=":material/list:", url_path="batches"),
        st.Page(_screen(_results), title="Review", icon=":material/rate_review:", url_path="review"),
        st.Page(_screen(_search), title="Search", icon=":material/search:", url_path="search"),
    ],
    position="top",
).run()
user.show_sign_out(settings(), _authorization)
