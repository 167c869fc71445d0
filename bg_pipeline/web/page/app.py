"""The page as Streamlit runs it: which screens there are, and what a visitor reads when something does not work.

Its one argument, if any, is the address of Dagster's UI.
"""

import sys
from collections.abc import Callable

import streamlit as st
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.aws.clients import make_aws
from bg_pipeline.domain.batches import Batch
from bg_pipeline.errors import BgPipelineError, RequestError
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import open_bucket
from bg_pipeline.web.page import progress, results, search, submit, user
from bg_pipeline.web.page.markdown import escape_markdown
from bg_pipeline.web.page.service import PageService, user_error


@st.cache_resource(show_spinner=False)
def _desk() -> PageService:
    configured = settings()
    aws = make_aws(configured)
    return PageService(configured, aws, open_bucket(configured, aws))


def _shown(screen: Callable[[PageService], None]) -> Callable[[], None]:
    """A screen whose expected errors are sentences on it."""

    def show() -> None:
        try:
            screen(_desk())
        except RequestError as error:
            for sentence in user_error(error):
                st.error(escape_markdown(sentence))
        except BgPipelineError as error:
            st.error(escape_markdown(str(error)))
        except (ClientError, BotoCoreError) as error:
            st.error(
                f"AWS does not do what it is asked: {escape_markdown(str(error))}. "
                "`bg-pipeline doctor` says what works."
            )

    show.__name__ = screen.__name__
    return show


def _submit(desk: PageService) -> None:
    submit.show(desk)


def _progress(desk: PageService) -> None:
    def go_on(draft: Batch) -> None:
        submit.go_on(desk, draft)
        st.switch_page(_new)

    progress.show(desk, sys.argv[1] if len(sys.argv) > 1 else "", go_on)


def _results(desk: PageService) -> None:
    results.show(desk)


def _search(desk: PageService) -> None:
    search.show(desk)


st.set_page_config(page_title="New backgrounds", page_icon=":material/photo_library:", layout="wide")
st.html("<style>.stMainBlockContainer { padding-top: 3.5rem; }</style>")
user.let_in(settings())
_new = st.Page(
    _shown(_submit), title="New batch", icon=":material/add_photo_alternate:", url_path="new", default=True
)
st.navigation(
    [
        _new,
        st.Page(_shown(_progress), title="Batches", icon=":material/list:", url_path="batches"),
        st.Page(_shown(_results), title="Review", icon=":material/rate_review:", url_path="review"),
        st.Page(_shown(_search), title="Search", icon=":material/search:", url_path="search"),
    ],
    position="top",
).run()
user.sign_out(settings())
