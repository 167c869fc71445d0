"""Makes pictures again, as a new batch, with another seed or prompt."""

import secrets
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Sequence
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
"""Number of tries to record the new batch while others record theirs for the same batch."""
MOST_VARIANTS: Final = 5


def redo_request(
    work: BatchWork, items: Sequence[Item], *, prompt: str = "", seed: int | None = None
) -> BatchRequest:
    """The request that makes the pictures of ``items`` again with another seed, and with ``prompt`` if it is given.

    It has ``RetryOf``, reads the same uploads and writes to the folders of its new batch; existing labels, captions
    and masks are used again and cost nothing. Without ``seed`` a random one is used. Raises `UsageError` for a
    picture that no model paints, because it would not change, and `RequestError` for an invalid prompt or seed.
    """
    if work.request is None:
        raise UsageError(f"the request of batch {work.locations.batch.path} cannot be read: {work.problem}")
    if not items:
        raise UsageError("name the results to make again")
    numbers: dict[str, set[int]] = {}
    for item in items:
        numbers.setdefault(item.image, set()).add(item.number)
    seed = secrets.randbelow(MAX_SEED - MOST_VARIANTS) if seed is None else seed
    entries = []
    for image, image_numbers in numbers.items():
        asked = work.settings_of(image)
        if not asked.needs_prompt and asked.scene is None:
            raise UsageError(f"no model paints the background of {image}, so the result would be the same")
        files = len(asked.renditions) or 1
        outputs = {wanted.position: wanted.template for wanted in asked.outputs}
        positions = {(number - 1) // files + 1 for number in image_numbers}
        templates = Counter(outputs[position] for position in positions & outputs.keys())
        if not templates:
            raise UsageError(
                f"the request does not ask for this picture of {image} any more; run the batch first"
            )
        prompts = (prompt,) if prompt else tuple(templates)
        try:
            entry = work.request.entries.get(image) or ImageEntry(ImageName=image)
            if asked.scene is not None:
                scene = replace(entry, Scene=prompts[0], Variants=max(templates.values()), Seed=seed)
                entries.append(scene)
                continue
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
    items: Sequence[Item],
    *,
    by: str,
    prompt: str = "",
    seed: int | None = None,
) -> Batch:
    """Submits a new batch of today that makes pictures again, and rejects their present results; returns the batch.

    If the same pictures are requested again before that batch has its report, the same batch is returned, so that
    asking twice pays only once. The new batch may spend what is left of the cap of the original batch
    (`bg_pipeline.budget.remaining`).

    Arguments and errors are those of `redo_request`. Also raises `CapUsedUp` if nothing is left of the cap, and
    `UsageError` if ``by`` is empty or if one of the pictures is already being made again with another prompt or seed
    or together with other pictures; then nothing is done.
    """
    require_decider(by)
    wanted = redo_request(work, items, prompt=prompt, seed=seed)

    def ask(batch: Batch) -> bytes:
        return write(replace(wanted, MaxCostUSD=_cap_left(store, settings, work)))

    def covers(request: BatchRequest, batch: Batch) -> bool:
        return _covers(request, wanted, seed)

    batch = submit_once(store, settings, work, items, ask, covers)
    replace_by(work, items, batch, by=by, reason=f"asked for again as {batch.path}")
    return batch


def replace_by(work: BatchWork, items: Sequence[Item], batch: Batch, *, by: str, reason: str) -> None:
    """Rejects the results of ``items``, in whose places those of ``batch`` will stand."""
    to_reject = [item for item in items if item.key and not _is_redone_as(item, batch)]
    decide(
        work.locations.data,
        to_reject,
        State.REJECTED,
        by=by,
        reason=reason,
        redone_as=batch.path,
    )


def _is_redone_as(item: Item, batch: Batch) -> bool:
    return item.decision is not None and item.decision.redone_as == batch.path


def submit_once(
    store: Store,
    settings: Settings,
    work: BatchWork,
    items: Sequence[Item],
    ask: Callable[[Batch], bytes],
    covers: Callable[[BatchRequest, Batch], bool],
    prepare: Callable[[Batch], None] = lambda batch: None,
) -> Batch:
    """A batch that makes ``items`` again: a new one, or an unfinished one that asks for the same already.

    ``ask`` returns the request of a batch, and ``covers`` says whether a request asks for everything that is wanted.
    ``prepare`` stores what a batch needs before its request.
    """
    of = work.locations.batch
    pictures = tuple(f"{item.number} {item.image}" for item in items)
    for _ in range(ATTEMPTS):
        earlier = FollowUps.read(store, REDOES(of))
        batches, batch = dict(earlier.batches), new_batch()
        for other in [other for other, some in batches.items() if set(some) & set(pictures)]:
            sent = store.read(other.request_key)
            if sent is None:
                # The process that recorded it has not written its request; if it still does, the first request stays.
                batch = other
            elif is_over(store, settings, other):
                batches[other] = ()
            elif covers(check_request(settings, other, sent.data), other) and (
                set(pictures) <= set(batches[other])
            ):
                return other
            else:
                raise UsageError(
                    f"{_first_of(items, batches[other])} is being asked for again already, as batch {other.path}, "
                    "with other pictures, or with another prompt, seed or mask; wait for its report "
                    f"(`{run_command(other)}` makes it), then ask again"
                )
        data = ask(batch)
        check_request(settings, batch, data)
        batches.pop(batch, None)
        if not earlier.write(store, {**batches, batch: pictures}):
            continue
        remember_origin(store, batch, of)
        prepare(batch)
        if hand_over(store, batch, data, closed_with=_submitted_etags(work)):
            return batch
        # Another process has written the batch's request meanwhile; use it if it asks for the same.
        sent = store.read(batch.request_key)
        if sent is not None and covers(check_request(settings, batch, sent.data), batch):
            return batch
    raise UsageError(f"others are asking for pictures of batch {of.path} again at the moment; try again")


def _submitted_etags(work: BatchWork) -> dict[str, str] | None:
    """The ETags that the person saw pictures of, by name; None if the batch of the photos is open."""
    if work.submission.etags is None:
        return None
    prefix = f"{work.locations.input_prefix}/"
    return {key.removeprefix(prefix): etag for key, etag in work.submission.etags.items()}


def _covers(request: BatchRequest, wanted: BatchRequest, seed: int | None) -> bool:
    """Whether ``request`` asks for everything in ``wanted``; without a given ``seed`` any seed is accepted."""
    for image, entry in wanted.entries.items():
        other = request.entries.get(image)
        if other is None or entry != (other if seed is not None else replace(other, Seed=entry.Seed)):
            return False
    return True


def _first_of(items: Sequence[Item], pictures: Collection[str]) -> str:
    """The first image that is in ``pictures``."""
    return next(item.image for item in items if f"{item.number} {item.image}" in pictures)


def _cap_left(store: Store, settings: Settings, work: BatchWork) -> float | None:
    """What is left of the batch's cap; the request is read again because its cap may have been raised."""
    asked = load_status(store, settings, work.locations.batch).request or work.request
    return check_cap(store, work.locations.batch, asked) if asked else None
