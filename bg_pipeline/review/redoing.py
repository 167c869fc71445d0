"""Results asked for again, as a batch of their own."""

import secrets
import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from pydantic import ValidationError

from bg_pipeline.budget.remaining import check_cap
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.requests import MAX_SEED, BatchRequest, ImageEntry, write
from bg_pipeline.domain.text import run_command
from bg_pipeline.errors import RequestError, UsageError
from bg_pipeline.reports.overview import load_status
from bg_pipeline.review.decisions import State, decide, require_decider
from bg_pipeline.review.follow_up import is_over
from bg_pipeline.review.items import Item
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.settings import Settings
from bg_pipeline.state.follow_ups import REDOES, FollowUps, remember_origin
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.submitting import check_request, hand_over, new_batch

ATTEMPTS: Final = 20
"""Times that others may ask for something of the same batch in between."""
MOST_VARIANTS: Final = 5


def redo_request(
    work: BatchWork, found: Sequence[Item], *, prompt: str = "", seed: int | None = None
) -> BatchRequest:
    """The request that asks for the pictures of ``found`` again, with a new seed, and with ``prompt`` if it is said.

    It reads the same uploads and writes to the folders of the batch it becomes, with ``RetryOf``; labels, captions
    and masks are there already and cost nothing. Without ``seed`` one is chosen at random. Raises `UsageError`
    for a picture that no model paints, which would become the same, and `RequestError` for a prompt or a seed that
    no request may hold.
    """
    if work.request is None:
        raise UsageError(f"the request of batch {work.locations.batch.path} cannot be read: {work.problem}")
    if not found:
        raise UsageError("name what is to be done again")
    numbers: dict[str, set[int]] = {}
    for item in found:
        numbers.setdefault(item.image, set()).add(item.number)
    seed = secrets.randbelow(MAX_SEED - MOST_VARIANTS) if seed is None else seed
    entries = []
    for image, some in numbers.items():
        asked = work.settings_of(image)
        if not asked.needs_prompt:
            raise UsageError(f"no model paints the background of {image}, so it would become the same again")
        files = len(asked.renditions) or 1
        outputs = {wanted.position: wanted.template for wanted in asked.outputs}
        positions = {(number - 1) // files + 1 for number in some}
        templates = Counter(outputs[position] for position in positions & outputs.keys())
        if not templates:
            raise UsageError(f"the request asks for no such picture of {image} any more; run the batch first")
        prompts = (prompt,) if prompt else tuple(templates)
        try:
            entry = work.request.entries.get(image) or ImageEntry(ImageName=image)
            entries.append(
                replace(entry, Prompt=None, Prompts=prompts, Variants=max(templates.values()), Seed=seed)
            )
        except ValidationError as error:
            raise RequestError(
                [(str(each["loc"][0]), each["msg"].removeprefix("Value error, ")) for each in error.errors()]
            ) from None
    return replace(
        work.request,
        Id=str(uuid.uuid4()),
        OutputS3Prefix="",
        StatusS3Prefix="",
        Sample=None,
        RetryOf=work.request.Id,
        Images=tuple(entries),
    )


def redo(
    store: Store,
    settings: Settings,
    work: BatchWork,
    found: Sequence[Item],
    *,
    by: str,
    prompt: str = "",
    seed: int | None = None,
) -> Batch:
    """Asks for pictures again as a new batch of today, which the next run makes, and rejects what there is of them.

    Whoever asks for the same again before that batch has its report is led to it, so that asking twice pays once;
    once it is reported, asking is a new occasion. It may spend what is left of the cap of the batch
    (`bg_pipeline.budget.remaining`).

    Arguments and errors are those of `redo_request`; a `RequestError` by field if the prompt or seed does not do,
    `CapUsedUp` if nothing is left of the cap. Raises `UsageError` if ``by`` is empty, or if one of the pictures is
    being asked for again with another prompt or seed, or together with others; nothing is done then.
    """
    require_decider(by)
    wanted = redo_request(work, found, prompt=prompt, seed=seed)
    batch = _submit_once(store, settings, work, found, wanted, seed)
    made = [item for item in found if item.key and not _is_redone_as(item, batch)]
    decide(
        work.locations.data,
        made,
        State.REJECTED,
        by=by,
        reason=f"asked for again as {batch.path}",
        redone_as=batch.path,
    )
    return batch


def _is_redone_as(item: Item, batch: Batch) -> bool:
    return item.decision is not None and item.decision.redone_as == batch.path


def _submit_once(
    store: Store,
    settings: Settings,
    work: BatchWork,
    found: Sequence[Item],
    wanted: BatchRequest,
    seed: int | None,
) -> Batch:
    """The batch that asks for what is ``wanted``: a new one, or one that does so already and is not over."""
    of = work.locations.batch
    pictures = tuple(f"{item.number} {item.image}" for item in found)
    for _ in range(ATTEMPTS):
        earlier = FollowUps.read(store, REDOES(of))
        batches, batch = dict(earlier.batches), new_batch()
        for other in [other for other, some in batches.items() if set(some) & set(pictures)]:
            sent = store.read(other.request_key)
            if sent is None:
                # Whoever named it did not come to write its request; if they still do, the first request stays.
                batch = other
            elif is_over(store, settings, other):
                batches[other] = ()
            elif _covers(check_request(settings, other, sent.data), wanted, seed) and (
                set(pictures) <= set(batches[other])
            ):
                return other
            else:
                raise UsageError(
                    f"{_first_of(found, batches[other])} is being asked for again already, as batch {other.path}, "
                    f"with other pictures or in other words; wait for its report (`{run_command(other)}` makes it), "
                    "then ask again"
                )
        data = write(replace(wanted, MaxCostUSD=_cap_left(store, settings, work)))
        check_request(settings, batch, data)
        batches.pop(batch, None)
        if not earlier.write(store, {**batches, batch: pictures}):
            continue
        remember_origin(store, batch, of)
        if hand_over(store, batch, data):
            return batch
        # Somebody took the batch over in between. What asks for the same is of this occasion, be it over by now.
        sent = store.read(batch.request_key)
        if sent is not None and _covers(check_request(settings, batch, sent.data), wanted, seed):
            return batch
    raise UsageError(f"others are asking for pictures of batch {of.path} again right now; do it again")


def _covers(request: BatchRequest, wanted: BatchRequest, seed: int | None) -> bool:
    """Whether a request has all that is wanted; without a ``seed`` of one's own any will do."""
    for image, entry in wanted.entries.items():
        other = request.entries.get(image)
        if other is None or entry != (other if seed is not None else replace(other, Seed=entry.Seed)):
            return False
    return True


def _first_of(found: Sequence[Item], pictures: Collection[str]) -> str:
    """The first image that is among the pictures."""
    return next(item.image for item in found if f"{item.number} {item.image}" in pictures)


def _cap_left(store: Store, settings: Settings, work: BatchWork) -> float | None:
    """What is left of the batch's cap, as its request has it now: it may have been raised since ``work`` was read."""
    asked = load_status(store, settings, work.locations.batch).request or work.request
    return check_cap(store, work.locations.batch, asked) if asked else None
