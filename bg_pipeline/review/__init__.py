"""Review by people: which results wait, who approved or rejected them, publishing, retries and redone pictures.

Results that passed every check are approved automatically, except for a share that is selected by their keys;
flagged results wait for a person. A decision is about exactly the bytes that the person saw: a result that is made
again has no decision. For a whole batch a person can approve its sample or retry its failed images. The functions
take a store and a batch from `open_work`; the caller authenticates and authorizes the person.
"""

from bg_pipeline.review.decisions import (
    LONGEST_REASON,
    Decision,
    Reviews,
    State,
    check_decision,
    decide,
    decide_as_seen,
    history,
    take_back,
    this_user,
)
from bg_pipeline.review.downloads import DownloadedFile, FileState, download
from bg_pipeline.review.follow_up import RequestReplaced, Retry, approve_sample, prepare_retry
from bg_pipeline.review.items import (
    Item,
    Results,
    Summary,
    find_items,
    is_sampled,
    items,
    review_queue,
)
from bg_pipeline.review.mending import MendedMask, check_photo, mask_file, mend, prepare_mending
from bg_pipeline.review.places import Place, places, to_publish
from bg_pipeline.review.publishing import PublishResult, publish
from bg_pipeline.review.redoing import redo, redo_request
from bg_pipeline.review.tables import COLUMNS, as_csv, read_csv, record

__all__ = [
    "COLUMNS",
    "LONGEST_REASON",
    "Decision",
    "DownloadedFile",
    "FileState",
    "Item",
    "MendedMask",
    "Place",
    "PublishResult",
    "RequestReplaced",
    "Results",
    "Retry",
    "Reviews",
    "State",
    "Summary",
    "approve_sample",
    "as_csv",
    "check_decision",
    "check_photo",
    "decide",
    "decide_as_seen",
    "download",
    "find_items",
    "history",
    "is_sampled",
    "items",
    "mask_file",
    "mend",
    "places",
    "prepare_mending",
    "prepare_retry",
    "publish",
    "read_csv",
    "record",
    "redo",
    "redo_request",
    "review_queue",
    "take_back",
    "this_user",
    "to_publish",
]
