"""Calls each model of the settings once with a small picture: some faults only show in a billed call."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from io import BytesIO
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from PIL import Image, ImageDraw

from bg_pipeline.aws.clients import Aws
from bg_pipeline.budget.image_budget import ImageBudget
from bg_pipeline.captioners import nova
from bg_pipeline.doctor.account import Finding, Level
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.errors import BgPipelineError
from bg_pipeline.generators import Ask, Generator, Operation, generator
from bg_pipeline.imaging import fit, fit_mask, open_photo
from bg_pipeline.labelers import faces, rekognition
from bg_pipeline.masks.conventions import FOR_MODELS
from bg_pipeline.models import selection as models
from bg_pipeline.models.geography import runs_outside_region
from bg_pipeline.run.context import RunContext
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import open_bucket


@dataclass(frozen=True)
class ModelTrial:
    """One call of a model with a small picture; ``call`` makes it and returns a sentence about the answer.

    ``worst_usd`` is its highest cost, None if the price is unknown.
    """

    subject: str
    worst_usd: float | None
    call: Callable[[], str]


def trials(context: RunContext) -> list[ModelTrial]:
    """One call for each operation of each usable model; they respect the rate limits and the caps."""
    aws, settings = context.aws, context.settings
    calls = [
        _rekognition_trial(
            context,
            rekognition.OPERATION,
            lambda client: client.detect_labels(**rekognition.request(_picture())),
        ),
        _rekognition_trial(
            context, faces.OPERATION, lambda client: client.detect_faces(**faces.request(_picture()))
        ),
    ]

    def usable_regions(operation: Operation, required: Sequence[str] = ()) -> list[str]:
        regions = [
            region
            for region in required or aws.regions
            if models.check_availability(aws, operation, region).usable
        ]
        elsewhere = () if regions or required else runs_outside_region(aws, (operation,))
        return (
            regions
            or [region for region in elsewhere if models.check_availability(aws, operation, region).usable][
                :1
            ]
        )

    for name in nova.models(settings, aws):
        if regions := usable_regions(nova.operation(name), nova.regions(settings, aws)):
            calls.append(_caption_trial(context, nova.operation(name), regions))
    for each in map(generator, settings.image_models):
        if each.replaces and (regions := usable_regions(each.replaces)):
            calls.append(_replace_trial(context, each, each.replaces, regions))
        if each.removes and (regions := usable_regions(each.removes)):
            calls.append(_remove_trial(context, each, each.removes, regions))
    return calls


def live(trial: ModelTrial) -> Finding:
    """Makes the call and returns its result as a finding."""
    try:
        return Finding(Level.OK, f"live {trial.subject}", trial.call())
    except (BgPipelineError, ClientError, BotoCoreError) as error:
        advice = "see the findings about it above; remove the model from the settings if you do not use it"
        return Finding(Level.FAILED, f"live {trial.subject}", str(error), advice)


SIDE = 512
_PROMPT = "a sandy beach"


@cache
def _picture() -> bytes:
    """A red ball on grey as a small JPEG."""
    image = Image.new("RGB", (SIDE, SIDE), (205, 205, 205))
    ImageDraw.Draw(image).ellipse(_BALL, fill=(190, 30, 30))
    out = BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


_BALL = (SIDE // 4, SIDE // 4, 3 * SIDE // 4, 3 * SIDE // 4)


def _mask() -> Image.Image:
    mask = Image.new("L", (SIDE, SIDE), 0)
    ImageDraw.Draw(mask).ellipse(_BALL, fill=255)
    return mask


def _budget(context: RunContext) -> ImageBudget:
    return ImageBudget(context.run_budget, Batch(datetime.now(UTC).date(), "doctor"), "doctor.jpg")


def _rekognition_trial(context: RunContext, operation: Operation, send: Callable[[Any], Any]) -> ModelTrial:
    price = facts_of(operation.name).cost(images=1)

    def call() -> str:
        with _budget(context).pay(operation.name, price) as paid:
            result = context.calls.make(
                operation, lambda client, _: send(client), regions=context.aws.regions
            )
            paid.settle(price)
        return f"answered from {result.region}"

    return ModelTrial(operation.name, price, call)


def _caption_trial(context: RunContext, operation: Operation, regions: Sequence[str]) -> ModelTrial:
    prompt, alt_text = context.settings.caption_prompt, context.settings.alt_text_length
    tier = context.settings.caption_tier
    tokens_in, tokens_out = nova.tokens_at_most(operation.invoke_id, prompt, alt_text)
    worst = nova.cost(operation.invoke_id, (tokens_in, tokens_out), tier)

    def call() -> str:
        body = nova.request(operation.invoke_id, _picture(), prompt, alt_text, tier)
        with _budget(context).pay(operation.name, worst) as paid:
            result = context.calls.make(
                operation,
                lambda client, _: client.converse(**body),
                regions=regions,
                tokens=tokens_in + tokens_out,
            )
            tokens = nova.tokens_used(result.answer)
            paid.settle(nova.cost(operation.invoke_id, tokens, nova.tier_used(result.answer)))
            caption = nova.read(result.answer, alt_text)
        return f"answered from {result.region}: {caption.text[:60]}"

    return ModelTrial(f"{operation.name} {operation.invoke_id}", worst, call)


def _replace_trial(
    context: RunContext, model: Generator, operation: Operation, regions: Sequence[str]
) -> ModelTrial:
    price = facts_of(operation.name, operation.model_id).cost(images=1)

    def call() -> str:
        fitted = model.sizes.canvas((SIDE, SIDE))
        ask = Ask(
            picture=fit(open_photo(_picture()), fitted, media="jpeg", max_bytes=model.max_picture_bytes),
            size=fitted.canvas,
            prompt=_PROMPT,
            seed=model.seeds[1],
            mask=FOR_MODELS.write_png(fit_mask(_mask(), fitted)),
        )
        budget = _budget(context)
        with budget.pay(operation.name, price) as paid:
            result = model.replace(ask, context.invoke(regions, budget, paid))
            paid.settle(price)
        return f"painted {len(result.images)} picture in {paid.region}"

    return ModelTrial(f"{model.name} new background", price, call)


def _remove_trial(
    context: RunContext, model: Generator, operation: Operation, regions: Sequence[str]
) -> ModelTrial:
    price = facts_of(operation.name, operation.model_id).cost(images=1)

    def call() -> str:
        fitted = model.sizes.canvas((SIDE, SIDE))
        picture = fit(open_photo(_picture()), fitted, media="jpeg", max_bytes=model.max_picture_bytes)
        budget = _budget(context)
        with budget.pay(operation.name, price) as paid:
            model.remove(picture, fitted.canvas, context.invoke(regions, budget, paid))
            paid.settle(price)
        return f"cut a subject out in {paid.region}"

    return ModelTrial(f"{model.name} cut-out", price, call)


def open_context(settings: Settings, aws: Aws, note: Callable[[str], None]) -> RunContext:
    """The context for `trials`; close it afterwards. ``note`` gets a sentence about each long wait."""
    return RunContext(settings, aws, open_bucket(settings, aws), stop=threading.Event(), note=note)
