"""Generates new backgrounds for one photo; each picture is paid for once.

A picture has an identity: a digest of the photo and of all parameters. The answer of a model call is stored under
this identity before it is used, and a stored answer is used instead of a call.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.budget.image_budget import ImageBudget
from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.domain.requests import MAX_SEED, ImageSettings, OutputSpec, paid_picture_fields
from bg_pipeline.errors import (
    BgPipelineError,
    Blocked,
    CallError,
    ClaimLost,
    ImageError,
    ModelUnavailable,
    NeedsReview,
    SubjectNotFound,
)
from bg_pipeline.generators import Ask, Generator, Made, by_words, images_at_once, seed_within
from bg_pipeline.imaging import Fitted, fit_mask
from bg_pipeline.masks import Mask
from bg_pipeline.masks.conventions import FOR_MODELS
from bg_pipeline.models.selection import SelectedModel
from bg_pipeline.run.answer_masks import mask_from_answer, mask_from_words
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.source_image import SourceImage
from bg_pipeline.run.subject_mask import Subject, SubjectHints, examined, find_subject
from bg_pipeline.settings import Settings
from bg_pipeline.state.answers import Answer, AnswerPolicy, AnswerStore, identity
from bg_pipeline.state.claims import Claim, Price

T = TypeVar("T")

_NONE_BEFORE: Mapping[int, str] = MappingProxyType({})


@dataclass(frozen=True)
class GeneratedPicture:
    """A picture from a model, the photo's position on it, and the mask of the photo's subject.

    ``mask`` is None if the model found the subject from words and the mask cannot be determined: then no pixel of the
    photo can be restored, and a person has to review the picture. ``name`` is the answer's identity.
    """

    answer: Answer
    fitted: Fitted
    mask: Mask | None
    name: str = ""


@dataclass(frozen=True)
class _ModelInput:
    """The input of a generator for a photo, the same for all prompts; ``picture`` and ``mask`` are encoded."""

    subject: Subject
    fitted: Fitted
    picture: bytes
    mask: bytes | None


_DEFAULT_SOURCES = Settings.model_fields["mask_sources"].default

MASK_DOUBTFUL = "MaskDoubtful"
"""The error code of an image for whose doubtful mask nothing was paid."""

_AnswerOrError = tuple[str, Answer] | CallError
"""A stored answer with its identity, or why there is no picture."""


def derived_seed(source_sha256: str, position: int) -> int:
    """The seed of an output without a requested one: always the same for the same photo and position."""
    digest = hashlib.sha256(f"{source_sha256} {position}".encode()).digest()
    return 1 + int.from_bytes(digest[:8]) % MAX_SEED


class BackgroundGenerator:
    """Generates the backgrounds of one photo. Several threads may generate pictures of different prompts at once.

    ``occasion`` is the refresh for which pictures have to have been made, or empty. ``expect_answers`` says that
    answers for the photo are likely to be stored. ``user_mask_sha256`` is the digest of the mask that the request
    names, or empty. ``painted_before`` are the identities of the answers to use, by the output's position, if a
    person's mask is put on pictures that were paid for with another mask: then no call is made.
    """

    def __init__(
        self,
        context: RunContext,
        photo: SourceImage,
        image_settings: ImageSettings,
        hints: SubjectHints,
        budget: ImageBudget,
        *,
        user_mask_sha256: str = "",
        occasion: str = "",
        expect_answers: bool = True,
        painted_before: Mapping[int, str] = _NONE_BEFORE,
    ) -> None:
        self._context = context
        self._photo = photo
        self._image_settings = image_settings
        self._hints = hints
        self._budget = budget
        self._user_mask_sha256 = user_mask_sha256
        self._occasion = occasion
        self._expect_answers = expect_answers
        # A refresh asks for new pictures.
        self._painted_before = {} if occasion else painted_before
        self._words_without_subject: list[str] = []
        self._inputs: dict[tuple[str, int], _ModelInput] = {}
        self._model_masks: dict[str, bytes] = {}
        """Encoded masks that belong to answers of this process, by the answer's identity."""
        self._sent_masks: dict[str, Mask] = {}
        """Masks that are part of an identity, by the identity."""

    @property
    def may_repaint(self) -> bool:
        """Whether a picture with faults may be made again with another seed."""
        return not self._painted_before

    @property
    def _settings(self) -> Settings:
        return self._context.settings

    def seed(self, output: OutputSpec, attempt: int) -> int:
        """The seed of an output's picture; ``attempt`` counts its regenerations from 0."""
        requested_seed = self._image_settings.seed
        if requested_seed is None:
            first = derived_seed(self._photo.sha256, output.position)
        else:
            first = requested_seed + output.variant - 1
        return (first + attempt * 1_000_003) % (MAX_SEED + 1)

    def identity_of(self, prompt: str, seed: int, mask: str = "") -> str:
        """The identity of the picture for this prompt and seed.

        ``mask`` is the digest of the mask that is sent; it is empty if the model finds the subject from words.
        """
        sent_mask = {"mask_sent": mask} if mask else {}
        return identity(
            "picture",
            self._photo.sha256,
            {
                **paid_picture_fields(self._image_settings),
                "mask": self._user_mask_sha256,
                "prompt": prompt,
                "seed": seed,
                **sent_mask,
            },
        )

    def generate(
        self, prompt: str, outputs: Sequence[OutputSpec], attempt: int = 0
    ) -> list[GeneratedPicture | CallError]:
        """A picture, or the error why there is none, for each of ``outputs``, which share the prompt.

        Stored answers of any model are used; the missing pictures are made in as few calls as the model allows.
        Raises errors that concern more than these pictures: `ImageError`, `RunStopped`.
        """
        if self._painted_before:
            return [self._painted_earlier(output.position) for output in outputs]
        seeds = [self.seed(output, attempt) for output in outputs]
        with self._context.answers.lock_for(self.identity_of(prompt, seeds[0])):
            outcomes = self._stored(prompt, seeds)
            while missing := [seed for seed in dict.fromkeys(seeds) if seed not in outcomes]:
                outcomes |= self._call(prompt, missing)
        return [
            outcome if isinstance(outcome, CallError) else self._picture(*outcome)
            for outcome in (outcomes[seed] for seed in seeds)
        ]

    def has_stored(self, prompt: str, outputs: Sequence[OutputSpec]) -> bool:
        """Whether the first pictures of all ``outputs`` with this prompt are stored; nothing is paid."""
        seeds = [self.seed(output, 0) for output in outputs]
        return self._expect_answers and self._stored(prompt, seeds).keys() == set(seeds)

    def _stored(self, prompt: str, seeds: Sequence[int]) -> dict[int, _AnswerOrError]:
        """The stored answers by seed: those for which the subject was given in words, and those for the current mask.

        Earlier versions did not include the digest of the mask in the identity, so an answer under the identity for
        words may have been made with a mask. It is used only if all settings about masks have their defaults.
        """
        stored: dict[int, _AnswerOrError] = {}
        for seed in seeds:
            name = self.identity_of(prompt, seed)
            answer = self._find(name)
            if answer is not None and (answer.by_words or self._has_default_mask_settings):
                stored[seed] = name, answer
        tried: set[str] = set()
        for find_mask in (self._current_mask, self._mask_before_network):
            missing = [seed for seed in seeds if seed not in stored]
            mask = find_mask() if missing and self._expect_answers else None
            for seed in missing if mask is not None else ():
                name = self._identity_with_mask(mask, prompt, seed)
                answer = None if name in tried else self._find(name)
                tried.add(name)
                if answer is not None:
                    stored[seed] = name, answer
        return stored

    def _find(self, name: str) -> Answer | None:
        """The stored answer, if it may be used and its model is known, which defines the photo's position on it."""
        answer = self._context.answers.find("picture", name, self._answer_policy)
        return answer if answer is not None and self._context.generator(answer.model) is not None else None

    def _identity_with_mask(self, mask: Mask | None, prompt: str, seed: int) -> str:
        """The identity of a picture for which this mask is sent; the mask is remembered for `_picture`."""
        if mask is None:
            return self.identity_of(prompt, seed)
        name = self.identity_of(prompt, seed, mask.digest())
        self._sent_masks[name] = mask
        return name

    @property
    def _has_default_mask_settings(self) -> bool:
        fields, settings = Settings.model_fields, self._settings
        return all(
            getattr(settings, name) == fields[name].default
            for name in ("mask_sources", "onnx_model", "sam_endpoint", "sam_form")
        )

    def _current_mask(self) -> Mask | None:
        """The mask that would be sent now to a model that needs one; None if finding it would cost money."""
        return self._mask_with(self._settings)

    def _mask_before_network(self) -> Mask | None:
        """The mask by the default sources of versions without the network; None if the user set the sources.

        Pictures that were paid for with it stay in use: the new default alone makes no picture due again.
        """
        settings = self._settings
        if self._image_settings.subject == "MASK" or settings.mask_sources != _DEFAULT_SOURCES:
            return None
        sources = tuple(source for source in settings.mask_sources if source != "network")
        return self._mask_with(settings.model_copy(update={"mask_sources": sources}))

    def _mask_with(self, settings: Settings) -> Mask | None:
        hints = replace(self._hints, cut_out=self._hints.stored_cut_out)
        try:
            return find_subject(self._image_settings, hints, settings, takes_words=False).mask
        except (ImageError, CallError):
            return None

    @property
    def _answer_policy(self) -> AnswerPolicy:
        return self._context.answer_policy(self._budget, occasion=self._occasion)

    def _picture(self, name: str, answer: Answer) -> GeneratedPicture | CallError:
        self._budget.charge(name, answer, self._context.answers)
        generator = self._context.generator(answer.model)
        if generator is None:
            return CallError(
                "BadAnswer", f"the picture was made by {answer.model}, which cannot be loaded any more"
            )
        fitted = generator.sizes.canvas(self._photo.size)
        mask = self._sent_masks.get(name)
        if mask is None and not answer.by_words:
            mask = self._mask_before_network() or self._prepare_input(generator).subject.mask
        return GeneratedPicture(answer, fitted, mask or self._mask_from_words(name, answer, fitted), name)

    def _painted_earlier(self, position: int) -> GeneratedPicture:
        """The picture that was paid for earlier, under the present mask. Raises `NeedsReview` if it is gone."""
        name = self._painted_before.get(position, "")
        answer = self._context.answers.find("picture", name) if name else None
        generator = self._context.generator(answer.model) if answer is not None else None
        if answer is None or generator is None:
            raise NeedsReview(
                "PictureGone",
                "the mended mask belongs to a painted picture that is not stored any more, and nothing was paid for "
                "another one; ask for another picture",
            )
        self._budget.charge(name, answer, self._context.answers)
        return GeneratedPicture(answer, generator.sizes.canvas(self._photo.size), self.subject(), name)

    def _mask_from_words(self, name: str, answer: Answer, fitted: Fitted) -> Mask | None:
        """The mask that a model made from words: the one it returned, or the area that it left unchanged."""
        data = self._model_masks.pop(name, None)
        if data is None:
            stored = self._context.answers.find("mask", name)
            data = stored.data if stored else None
        photo, workers = self._photo, self._context.workers
        limit = photo.limit(fitted.canvas)
        found: Mask | None
        if data is not None:
            found = workers.run(limit, mask_from_words, data, fitted, photo.small_size)
        else:
            found = workers.run(limit, mask_from_answer, photo.small, fitted, answer.data)
        return None if found is None else examined(found, self._hints, self._settings)

    def subject(self) -> Mask:
        """The subject's mask for an output without a generated background: a free one, else from a paid cut-out."""
        subject = find_subject(self._image_settings, self._hints, self._settings, takes_words=False)
        if subject.mask is None:
            raise NeedsReview("NoSubject", "no mask of the subject was found")
        return subject.mask

    def _prepare_input(self, generator: Generator) -> _ModelInput:
        """The subject and the picture as the generator accepts them; made once for all prompts."""
        key = (generator.name, len(self._words_without_subject))
        if key not in self._inputs:
            subject = find_subject(
                self._image_settings,
                self._hints,
                self._settings,
                takes_words=by_words(generator, self._image_settings.mode),
                not_words=self._words_without_subject,
            )
            fitted = generator.sizes.canvas(self._photo.size)
            picture = self._fitted_jpeg(generator, fitted)
            mask = None
            if subject.mask is not None:
                mask = FOR_MODELS.write_png(fit_mask(subject.mask.picture, fitted))
            self._inputs[key] = _ModelInput(subject, fitted, picture, mask)
        return self._inputs[key]

    def _fitted_jpeg(self, generator: Generator, fitted: Fitted) -> bytes:
        """The photo as a JPEG of the canvas size; decoded at full size only if that is necessary."""
        header = self._photo.header
        is_plain = (header.format, header.mode, header.has_exif) == ("jpeg", "RGB", False)
        if is_plain and header.size == fitted.inner == fitted.canvas:
            return self._photo.jpeg(fitted.canvas, max_bytes=generator.max_picture_bytes)
        return self._photo.fitted(fitted, max_bytes=generator.max_picture_bytes)

    def _call(self, prompt: str, missing: Sequence[int]) -> dict[int, _AnswerOrError]:
        """Makes one call for as many of the ``missing`` seeds as the model makes pictures at once.

        Returns their answers or errors by seed. If the call has to be made again (with another model, without words
        that the model did not find, or because another process has taken over), the result is empty. Raises
        `NeedsReview`, before anything is paid, if the mask is doubtful.
        """
        model = self._context.background_models.current()
        generator = model.candidate.client
        model_input = self._prepare_input(generator)
        if model_input.subject.mask is not None and model_input.subject.mask.doubt:
            raise NeedsReview(MASK_DOUBTFUL, model_input.subject.mask.doubt)
        names = {seed: self._identity_with_mask(model_input.subject.mask, prompt, seed) for seed in missing}
        seeds = missing[: images_at_once(generator, model_input.fitted.canvas)]
        (operation,) = model.candidate.operations
        facts = facts_of(operation.name, operation.model_id)
        self._photo.drop_decoded()
        self._photo.drop_view()
        claims = _Claims(self._context.answers, self._answer_policy)
        price = self._budget.price(operation.name, facts.cost(images=len(seeds)))
        try:
            answers_by_name = claims.take([names[seed] for seed in seeds], price)
            if answers_by_name:
                # Another process made the call meanwhile; it may have stored answers for more of the missing seeds.
                claims.give_back()
                seed_of = {name: seed for seed, name in names.items()}
                stored: dict[int, _AnswerOrError] = {
                    seed_of[name]: (name, answer) for name, answer in answers_by_name.items()
                }
                return self._stored(prompt, missing) | stored
            ask = Ask(
                picture=model_input.picture,
                size=model_input.fitted.canvas,
                prompt=prompt,
                seed=seed_within(seeds[0], generator.seeds),
                negative_prompt=self._image_settings.negative_prompt,
                mask_prompt=model_input.subject.words or None,
                mask=model_input.mask,
                mode=self._image_settings.mode,
                quality=self._image_settings.quality,
                cfg_scale=self._image_settings.cfg_scale,
                images=len(seeds),
            )
            call_names = [names[seed] for seed in seeds]
            made, answers = claims.make(lambda: self._make_call(model, ask, call_names, claims))
        except ClaimLost:
            return {}
        except ModelUnavailable as error:
            self._context.background_models.drop(model, error.region, error)
            return {}
        except SubjectNotFound as error:
            if not model_input.subject.words:
                return dict.fromkeys(seeds, error)
            self._words_without_subject.append(model_input.subject.words)
            return {}
        except CallError as error:
            return dict.fromkeys(seeds, error)
        outcomes: dict[int, _AnswerOrError] = {
            seed: (name, answer) for seed, name, answer in zip(seeds, call_names, answers, strict=False)
        }
        for seed in seeds[len(answers) :]:
            outcomes[seed] = Blocked(
                "ContentFiltered", made.note or f"{generator.name} returned fewer pictures"
            )
        return outcomes

    def _make_call(
        self, model: SelectedModel[Generator], ask: Ask, names: Sequence[str], claims: "_Claims"
    ) -> tuple[Made, list[Answer]]:
        """Makes the call and stores the returned pictures before anything else is done."""
        context, budget = self._context, self._budget
        generator = model.candidate.client
        (operation,) = model.candidate.operations
        facts = facts_of(operation.name, operation.model_id)
        with budget.pay(operation.name, facts.cost(images=ask.images), claims.first) as call:
            made = generator.replace(ask, context.invoke(model.regions, budget, call, *claims.all))
            cost = facts.cost(images=len(made.images))
            call.settle(cost)
        answers: list[Answer] = []
        for name, data, seed in zip(names, made.images, made.seeds, strict=False):
            answer = Answer(
                data,
                generator.name,
                call.region,
                seed,
                facts.cost(images=1),
                budget.made_for,
                by_words=ask.mask is None,
                call=call.id,
                paid_usd=cost,
                occasion=self._occasion,
            )
            stored = context.answers.keep(
                "picture", name, answer, media_type="image/png", claim=claims.of(name)
            )
            answers.append(stored)
        self._store_masks(ask, made, names, generator.name, call.region)
        return made, answers

    def _store_masks(self, ask: Ask, made: Made, names: Sequence[str], model: str, region: str) -> None:
        """Stores the mask that a model made from words, or that was sent after the model found nothing for the words.

        A later run cannot find that mask again from the identity. Without it, the mask is measured from the picture.
        """
        mask = made.mask if ask.mask is None else ask.mask if self._words_without_subject else None
        if mask is None:
            return
        answer = Answer(mask, model, region, made_for=self._budget.made_for)
        for name in names[: len(made.images)]:
            self._model_masks[name] = mask
            try:
                self._context.answers.keep("mask", name, answer, media_type="image/png")
            except (ClientError, BotoCoreError) as error:
                self._context.note(
                    f"the mask that {model} made could not be stored, it is measured instead: {error}"
                )


class _Claims:
    """The claims of all pictures of one call; every process takes them in the same order, which avoids deadlocks."""

    def __init__(self, answers: AnswerStore, policy: AnswerPolicy) -> None:
        self._answers = answers
        self._policy = policy
        self._claims: dict[str, Claim] = {}
        self._first = ""

    def take(self, names: Sequence[str], price: Price) -> dict[str, Answer]:
        """Claims the names, and returns the answers that are stored by now; if there is any, no call may be made."""
        self._first = names[0]
        answers: dict[str, Answer] = {}
        try:
            for name in sorted(names):
                # Only one of the claims contains the payment.
                claim = self._answers.claim(
                    "picture", name, self._policy, price if name == self._first else None
                )
                if isinstance(claim, Answer):
                    answers[name] = claim
                else:
                    self._claims[name] = claim
        except (BgPipelineError, ClientError, BotoCoreError):
            self.give_back()
            raise
        return answers

    @property
    def first(self) -> Claim:
        """The claim that contains the payment."""
        return self._claims[self._first]

    @property
    def all(self) -> list[Claim]:
        return list(self._claims.values())

    def of(self, name: str) -> Claim:
        return self._claims[name]

    def make(self, call: Callable[[], T]) -> T:
        """Makes the call as `Claim.make` does; if it fails, all claims are released."""
        try:
            return self.first.make(call)
        except (BgPipelineError, ClientError, BotoCoreError):
            self._give_back_others()
            raise
        finally:
            for claim in self.all:
                claim.leave()

    def give_back(self) -> None:
        """Releases all claims, so that any process can make the call."""
        for claim in self.all:
            claim.give_back()

    def _give_back_others(self) -> None:
        for name, claim in self._claims.items():
            if name != self._first:
                with suppress(ClientError, BotoCoreError):
                    claim.give_back()
