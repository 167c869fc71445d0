"""Scenes: one picture for a prompt and an aspect, painted and paid for once, and used for every photo of a batch.

The price is a payment of the photo for which the scene was first needed; the others use it as an answer that another
image paid for. A scene that could not be painted is not asked for again in the same run: every photo that needs it
ends with the same cause.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.budget.image_budget import ImageBudget
from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.domain.requests import ImageSettings, OutputSpec, fill
from bg_pipeline.errors import (
    Blocked,
    CallError,
    ClaimLost,
    ImageError,
    ModelUnavailable,
    NothingUsable,
    OutcomeUnknown,
    StorageFailed,
    Transient,
)
from bg_pipeline.generators import seed_within
from bg_pipeline.generators.scenes import SceneAsk, ScenePainter, aspect_of
from bg_pipeline.imaging.parcels import Blob
from bg_pipeline.imaging.workers import header_of
from bg_pipeline.models.selection import ModelSelector, SelectedModel
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.generation import derived_seed
from bg_pipeline.run.source_image import Size
from bg_pipeline.state.answers import Answer, identity
from bg_pipeline.state.claims import Claim

KIND = "scene"
"""The kind of the stored answers."""

KEPT = 12
"""How many scenes of a run are kept in files."""


@dataclass(frozen=True)
class Scene:
    """A painted scene; ``answer`` is the model's, without its data, which is in ``picture``."""

    answer: Answer
    picture: Blob
    prompt: str
    aspect: str


class SceneStudio:
    """The scenes of one run. Threads that need the same scene wait for the one that has it painted."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._locks: dict[tuple[str, str, str], threading.Lock] = {}
        self._scenes: OrderedDict[tuple[str, str, str], Scene] = OrderedDict()
        self._failures: dict[tuple[str, str, str], CallError | StorageFailed] = {}

    def scene(
        self,
        image_settings: ImageSettings,
        output: OutputSpec,
        size: Size,
        budget: ImageBudget,
        *,
        occasion: str = "",
    ) -> Scene:
        """The scene for an output of a photo of this size; painted and paid by ``budget`` if it does not exist yet.

        ``occasion`` is the refresh for which it has to have been painted, or empty. Raises `ImageError` for words
        that are too long for the model, `CallError` if the scene cannot be painted (each call for the same scene
        raises the same one in this run), and `RunStopped`.
        """
        seed = scene_seed(image_settings, output)
        ask = SceneAsk(output.template, aspect_of(size), seed, image_settings.negative_prompt)
        name = scene_identity(ask)
        key = name, occasion, budget.retry
        with self._lock_for(key):
            if (failure := self._failures.get(key)) is not None:
                raise failure
            known = self._scenes.get(key)
            if known is None:
                try:
                    known = self._painted(name, ask, budget, occasion)
                except ClaimLost:
                    raise
                except CallError as error:
                    self._failures[key] = _same_for_all(error)
                    raise _explained(error) from error
                except (ClientError, BotoCoreError) as error:
                    # It may be paid for and not stored: the threads that wait here must not pay again.
                    stopped = StorageFailed(f"S3 refused to read or write a scene's answer: {error}")
                    self._failures[key] = stopped
                    raise stopped from error
                self._keep(key, known)
        budget.charge(name, known.answer, self._context.answers)
        return known

    def _lock_for(self, key: tuple[str, str, str]) -> threading.Lock:
        with self._lock:
            return self._locks.setdefault(key, threading.Lock())

    def _keep(self, key: tuple[str, str, str], scene: Scene) -> None:
        with self._lock:
            self._scenes[key] = scene
            if len(self._scenes) > KEPT:
                self._scenes.popitem(last=False)

    def _painted(self, name: str, ask: SceneAsk, budget: ImageBudget, occasion: str) -> Scene:
        context = self._context
        answer = context.answers.once(
            KIND,
            name,
            context.answer_policy(budget, occasion=occasion),
            lambda claim: self._call(ask, claim, budget),
            media_type="image/png",
            price=budget.price(*_price(context.scene_models)),
        )
        picture = context.workers.blob(answer.data)
        try:
            header_of(context.workers, picture)
        except ImageError as error:
            # It is paid for and stored: the budget has to know of it even so.
            budget.charge(name, answer, context.answers)
            raise CallError(
                "BadAnswer", f"{answer.model} answered with a damaged picture ({error})"
            ) from error
        return Scene(replace(answer, data=b""), picture, ask.prompt, ask.aspect)

    def _call(self, ask: SceneAsk, claim: Claim, budget: ImageBudget) -> Answer:
        models = self._context.scene_models
        while True:
            try:
                model = models.current()
            except NothingUsable as error:
                # Not a `RunStopped`: pictures without a scene go on.
                raise ModelUnavailable("NothingUsable", str(error), passing=error.passing) from error
            fill(ask.prompt, {}, model.candidate.client.prompt_limit, "Scene")
            try:
                return self._call_model(model, ask, claim, budget)
            except ModelUnavailable as error:
                models.drop(model, error.region, error)

    def _call_model(
        self, model: SelectedModel[ScenePainter], ask: SceneAsk, claim: Claim, budget: ImageBudget
    ) -> Answer:
        context, painter = self._context, model.candidate.client
        (operation,) = model.candidate.operations
        price = facts_of(operation.name, operation.model_id).cost(images=1)
        within = replace(ask, seed=seed_within(ask.seed, painter.seeds))
        with budget.pay(operation.name, price, claim) as call:
            data, seed = painter.paint(within, context.invoke(model.regions, budget, call, claim))
            call.settle(price)
        return Answer(
            data,
            painter.name,
            call.region,
            seed,
            price,
            budget.made_for,
            call=call.id,
            paid_usd=price,
        )


def scene_seed(image_settings: ImageSettings, output: OutputSpec) -> int:
    """The seed of a scene: the requested one, else one that depends on its words only, so that photos share it."""
    if image_settings.seed is not None:
        return image_settings.seed + output.variant - 1
    return derived_seed(hashlib.sha256(f"scene {output.template}".encode()).hexdigest(), output.variant)


def scene_identity(ask: SceneAsk) -> str:
    """The identity of a scene's answer: what is asked for, without the model and without any photo."""
    asked = {
        "prompt": ask.prompt,
        "negative_prompt": ask.negative_prompt,
        "aspect": ask.aspect,
        "seed": ask.seed,
    }
    return identity(KIND, "", asked)


def _price(models: ModelSelector[ScenePainter]) -> tuple[str, float | None]:
    """Operation and price of a call of the selected model; the model that is called in the end replaces it."""
    try:
        (operation,) = models.current().candidate.operations
    except NothingUsable:
        return "", 0.0  # no call can be made: only a stored answer can be used
    return operation.name, facts_of(operation.name, operation.model_id).cost(images=1)


_SENTENCE = "the batch's scene could not be painted"


def _explained(error: CallError) -> CallError:
    """The error with a sentence that says that it is about the scene and not about this photo."""
    text = f"{_SENTENCE}: {error}"
    if isinstance(error, ModelUnavailable):
        return ModelUnavailable(error.code, text, retired=error.retired, passing=error.passing)
    kinds: Sequence[type[CallError]] = (Blocked, OutcomeUnknown, Transient)
    return next((kind for kind in kinds if isinstance(error, kind)), CallError)(error.code, text)


def _same_for_all(error: CallError) -> CallError:
    """The error for the other photos: with the same words, and no failed call of their own."""
    other = _explained(error)
    other.repeated = True
    return other
