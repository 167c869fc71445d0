"""Results asked for again, as a batch of their own."""

import secrets
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pydantic import ValidationError

from bg_pipeline.batch import MAX_SEED, BatchRequest, ImageEntry, write
from bg_pipeline.errors import RequestError, UsageError
from bg_pipeline.flow.work import Work
from bg_pipeline.layout import Batch
from bg_pipeline.review.deciding import decide
from bg_pipeline.review.decisions import State
from bg_pipeline.review.items import Item
from bg_pipeline.settings import Settings
from bg_pipeline.store import Store
from bg_pipeline.uploads.submitting import check_request, new_batch, submit

MOST_VARIANTS: Final = 5


def redo_request(
    work: Work, found: Sequence[Item], *, prompt: str = "", seed: int | None = None
) -> BatchRequest:
    """The request that asks for the pictures of ``found`` again, with a new seed, and with ``prompt`` if it is said.

    It reads the same uploads and writes to the folders of the batch it becomes, with ``RetryOf``; labels, captions
    and masks are there already and cost nothing. Without ``seed`` one is chosen at random. Raises `UsageError`
    for a picture that no model paints, which would become the same, and `RequestError` for a prompt or a seed that
    no request may hold.
    """
    if work.request is None:
        raise UsageError(f"the request of batch {work.place.batch.path} cannot be read: {work.problem}")
    if not found:
        raise UsageError("name what is to be done again")
    numbers: dict[str, set[int]] = {}
    for item in found:
        numbers.setdefault(item.image, set()).add(item.number)
    seed = secrets.randbelow(MAX_SEED - MOST_VARIANTS) if seed is None else seed
    entries = []
    for image, some in numbers.items():
        asked = work.asked(image)
        if not asked.needs_prompt:
            raise UsageError(f"no model paints the background of {image}, so it would become the same again")
        files = len(asked.renditions) or 1
        outputs = {wanted.position: wanted.template for wanted in asked.outputs}
        positions = {(number - 1) // files + 1 for number in some}
        templates = Counter(outputs[position] for position in positions & outputs.keys())
        if not templates:
            raise UsageError(f"the request asks for no such picture of {image} any more; run the batch first")
        entry = work.request.entries.get(image) or ImageEntry(ImageName=image)
        prompts = (prompt,) if prompt else tuple(templates)
        try:
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
    work: Work,
    found: Sequence[Item],
    *,
    by: str,
    prompt: str = "",
    seed: int | None = None,
) -> Batch:
    """Asks for pictures again as a new batch of today, which the next run makes, and rejects what there is of them.

    Arguments and errors are those of `redo_request`; a `RequestError` by field if the prompt or seed does not do.
    """
    data = write(redo_request(work, found, prompt=prompt, seed=seed))
    batch = new_batch()
    check_request(settings, batch, data)
    submit(store, batch, [], data)
    made = [item for item in found if item.key]
    decide(
        work.place.data,
        made,
        State.REJECTED,
        by=by,
        reason=f"asked for again as {batch.path}",
        redone_as=batch.path,
    )
    return batch
