"""What people say of results: which wait for a person, who approved or rejected what, and what is delivered.

What passed every check is approved by itself, but for a share chosen by the keys; what was flagged waits for a
person. A decision lies beside its result and is about exactly the bytes that the person saw: once a result is
made anew, it is as if nobody had decided. Of a whole batch they say that its sample is good, or that what failed is
to be asked for again. Functions over a store and a batch as `open_work` gives it; who is
asking, and whether they may, is for the caller to know.
"""

from bg_pipeline.review.decisions import LONGEST_REASON, Decision, Reviews, State, decide, this_user
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
from bg_pipeline.review.publishing import PublishResult, publish
from bg_pipeline.review.redoing import redo, redo_request
from bg_pipeline.review.tables import COLUMNS, as_csv, read_csv

__all__ = [
    "COLUMNS",
    "LONGEST_REASON",
    "Decision",
    "Item",
    "PublishResult",
    "RequestReplaced",
    "Results",
    "Retry",
    "Reviews",
    "State",
    "Summary",
    "approve_sample",
    "as_csv",
    "decide",
    "find_items",
    "is_sampled",
    "items",
    "prepare_retry",
    "publish",
    "read_csv",
    "redo",
    "redo_request",
    "review_queue",
    "this_user",
]
