"""The paid part of a picture: a new background for one photo, asked for once for what it is.

What is asked is turned into calls of the generator in use; what comes back is stored under the identity of
what was asked before anything is done with it.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
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
from bg_pipeline.masks.conventions import TITAN_OUTPAINTING
from bg_pipeline.models.selection import SelectedModel
from bg_pipeline.run.answer_masks import mask_from_answer, mask_from_words
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.source_image import SourceImage
from bg_pipeline.run.subject_mask import Subject, SubjectHints, find_subject
from bg_pipeline.settings import Settings
from bg_pipeline.state.answers import Answer, AnswerPolicy, AnswerStore, identity
from bg_pipeline.state.claims import Claim, Price

T = TypeVar("T")


@dataclass(frozen=True)
class GeneratedPicture:
    """A picture as a model made it, where the photo lies on it, and what is kept of the photo.

    ``mask`` is None where the model found the subject from words and nothing tells where: then no pixel of
    the photo can be put back, and a person has to look at the picture.
    """

    answer: Answer
    fitted: Fitted
    mask: Mask | None


@dataclass(frozen=True)
class _Prepared:
    """What a generator is sent for a photo, whatever the prompt."""

    subject: Subject
    fitted: Fitted
    picture: bytes
    mask: bytes | None


_Found = tuple[str, Answer] | CallError
"""A stored answer with its name, or why there is no picture."""


def _digest(mask: Mask) -> str:
    """A digest of a mask as it was found, whatever size a model takes it in."""
    picture = mask.picture
    return hashlib.sha256(f"{picture.size} {picture.mode} ".encode() + picture.tobytes()).hexdigest()[:32]


def derived_seed(source_sha256: str, position: int) -> int:
    """The seed of a result for which none was asked: always the same for the same bytes and position."""
    digest = hashlib.sha256(f"{source_sha256} {position}".encode()).digest()
    return 1 + int.from_bytes(digest[:8]) % MAX_SEED


class BackgroundGenerator:
    """Has the backgrounds of one photo painted. Several threads may paint different prompts at once.

    ``occasion`` names the refresh on which pictures have to have been made, or is empty; of a photo that is
    ``known``, some are likely to be stored.
    """

    def __init__(
        self,
        context: RunContext,
        photo: SourceImage,
        asked: ImageSettings,
        eyes: SubjectHints,
        budget: ImageBudget,
        *,
        given_mask_sha256: str = "",
        occasion: str = "",
        known: bool = True,
    ) -> None:
        self._context = context
        self._photo = photo
        self._asked = asked
        self._eyes = eyes
        self._budget = budget
        self._given = given_mask_sha256
        self._occasion = occasion
        self._known = known
        self._not_words: list[str] = []
        self._prepared: dict[tuple[str, int], _Prepared] = {}
        self._masks: dict[str, bytes] = {}
        self._sent: dict[str, Mask] = {}

    @property
    def asked_parameters(self) -> Settings:
        return self._context.settings

    def seed(self, wanted: OutputSpec, attempt: int) -> int:
        """The seed of a result's ``attempt``-th picture, counted from 0."""
        asked = self._asked.seed
        if asked is None:
            first = derived_seed(self._photo.sha256, wanted.position)
        else:
            first = asked + wanted.variant - 1
        return (first + attempt * 1_000_003) % (MAX_SEED + 1)

    def identity_of(self, prompt: str, seed: int, mask: str = "") -> str:
        """The identity of the picture that is asked for with this prompt and seed.

        ``mask`` is the digest of the mask that is sent, empty where the model finds the subject from words.
        """
        sent = {"mask_sent": mask} if mask else {}
        return identity(
            "picture",
            self._photo.sha256,
            {
                **paid_picture_fields(self._asked),
                "mask": self._given,
                "prompt": prompt,
                "seed": seed,
                **sent,
            },
        )

    def generate(
        self, prompt: str, wanted: Sequence[OutputSpec], attempt: int = 0
    ) -> list[GeneratedPicture | CallError]:
        """A picture, or why there is none, for each of ``wanted``, which share the prompt.

        Stored answers serve, whichever model made them; what is missing is asked for in as few calls as the model
        allows. Raises what stops more than these pictures: `ImageError`, `RunStopped`.
        """
        seeds = [self.seed(each, attempt) for each in wanted]
        with self._context.answers.lock_for(self.identity_of(prompt, seeds[0])):
            found = self._stored(prompt, seeds)
            while missing := [seed for seed in dict.fromkeys(seeds) if seed not in found]:
                found |= self._call(prompt, missing)
        outcomes = [found[seed] for seed in seeds]
        return [each if isinstance(each, CallError) else self._painted(*each) for each in outcomes]

    def has_stored(self, prompt: str, wanted: Sequence[OutputSpec]) -> bool:
        """Whether the first pictures asked for with this prompt are all stored; nothing is paid."""
        seeds = [self.seed(each, 0) for each in wanted]
        return self._known and self._stored(prompt, seeds).keys() == set(seeds)

    def _stored(self, prompt: str, seeds: Sequence[int]) -> dict[int, _Found]:
        """The stored answers by seed: those that words were the mask of, and those around the mask of today.

        What is stored under the name for words and was made around a mask is older than the mask's digest in the
        name; it serves where nothing about masks was set otherwise than by default.
        """
        found: dict[int, _Found] = {}
        for seed in seeds:
            name = self.identity_of(prompt, seed)
            answer = self._find(name)
            if answer is not None and (answer.by_words or self._default_masks):
                found[seed] = name, answer
        missing = [seed for seed in seeds if seed not in found]
        mask = self._mask_today() if missing and self._known else None
        for seed in missing if mask is not None else ():
            name = self._name_with(mask, prompt, seed)
            answer = self._find(name)
            if answer is not None:
                found[seed] = name, answer
        return found

    def _find(self, name: str) -> Answer | None:
        """The stored answer, if it will do and its model tells where the photo lies on its picture."""
        answer = self._context.answers.find("picture", name, self._terms)
        return answer if answer is not None and self._context.generator(answer.model) is not None else None

    def _name_with(self, mask: Mask | None, prompt: str, seed: int) -> str:
        """The identity of a picture for which this mask is sent, which is remembered for it."""
        if mask is None:
            return self.identity_of(prompt, seed)
        name = self.identity_of(prompt, seed, _digest(mask))
        self._sent[name] = mask
        return name

    @property
    def _default_masks(self) -> bool:
        fields, settings = Settings.model_fields, self.asked_parameters
        return all(
            getattr(settings, name) == fields[name].default
            for name in ("mask_sources", "onnx_model", "sam_endpoint", "sam_form")
        )

    def _mask_today(self) -> Mask | None:
        """The mask that a model which is given one would be sent now, as far as it is found without paying."""
        eyes = replace(self._eyes, cut_out=self._eyes.stored_cut_out)
        try:
            return find_subject(self._asked, eyes, self.asked_parameters, takes_words=False).mask
        except (ImageError, CallError):
            return None

    @property
    def _terms(self) -> AnswerPolicy:
        return self._context.answer_policy(self._budget, occasion=self._occasion)

    def _painted(self, name: str, answer: Answer) -> GeneratedPicture | CallError:
        self._budget.charge(name, answer, self._context.answers)
        generator = self._context.generator(answer.model)
        if generator is None:
            return CallError(
                "BadAnswer", f"the picture was made by {answer.model}, which cannot be loaded any more"
            )
        fitted = generator.sizes.canvas(self._photo.size)
        mask = self._sent.get(name)
        if mask is None and not answer.by_words:
            mask = self.prepare_input(generator).subject.mask
        return GeneratedPicture(answer, fitted, mask or self._mask_of(name, answer, fitted))

    def _mask_of(self, name: str, answer: Answer, fitted: Fitted) -> Mask | None:
        """The mask a model made from words: the one it returned, or what it left as it was."""
        made = self._masks.pop(name, None)
        if made is None:
            stored = self._context.answers.find("mask", name)
            made = stored.data if stored else None
        photo, workers = self._photo, self._context.workers
        limit = photo.limit(fitted.canvas)
        if made is not None:
            return workers.run(limit, mask_from_words, made, fitted, photo.small_size)
        return workers.run(limit, mask_from_answer, photo.small, fitted, answer.data)

    def subject(self) -> Mask:
        """The mask for a picture that no model paints: from what is free, else a paid cut-out."""
        subject = find_subject(self._asked, self._eyes, self.asked_parameters, takes_words=False)
        if subject.mask is None:
            raise NeedsReview("NoSubject", "no mask of the subject was found")
        return subject.mask

    def prepare_input(self, generator: Generator) -> _Prepared:
        """Subject and picture as the generator takes them; made once for all prompts."""
        key = (generator.name, len(self._not_words))
        if key not in self._prepared:
            subject = find_subject(
                self._asked,
                self._eyes,
                self.asked_parameters,
                takes_words=by_words(generator, self._asked.mode),
                not_words=self._not_words,
            )
            fitted = generator.sizes.canvas(self._photo.size)
            picture = self._fitted(generator, fitted)
            mask = None
            if subject.mask is not None:
                mask = TITAN_OUTPAINTING.write_png(fit_mask(subject.mask.picture, fitted))
            self._prepared[key] = _Prepared(subject, fitted, picture, mask)
        return self._prepared[key]

    def _fitted(self, generator: Generator, fitted: Fitted) -> bytes:
        header = self._photo.header
        plain = (header.format, header.mode, header.has_exif) == ("jpeg", "RGB", False)
        if plain and header.size == fitted.inner == fitted.canvas:
            return self._photo.jpeg(fitted.canvas, max_bytes=generator.max_picture_bytes)
        return self._photo.fitted(fitted, max_bytes=generator.max_picture_bytes)

    def _call(self, prompt: str, missing: Sequence[int]) -> dict[int, _Found]:
        """One call for as many seeds of ``missing`` as the model makes pictures at once."""
        choice = self._context.background_models.current()
        generator = choice.candidate.client
        prepared = self.prepare_input(generator)
        names = {seed: self._name_with(prepared.subject.mask, prompt, seed) for seed in missing}
        part = missing[: images_at_once(generator, prepared.fitted.canvas)]
        (operation,) = choice.candidate.operations
        facts = facts_of(operation.name, operation.model_id)
        self._photo.drop_decoded()
        self._photo.drop_view()
        claims = _Claims(self._context.answers, self._terms)
        price = self._budget.price(operation.name, facts.cost(images=len(part)))
        try:
            found = claims.take([names[seed] for seed in part], price)
            if found:
                # Whose call it was stored them all, and maybe others that are wanted.
                claims.give_back()
                by_name = {name: seed for seed, name in names.items()}
                stored: dict[int, _Found] = {by_name[name]: (name, answer) for name, answer in found.items()}
                return self._stored(prompt, missing) | stored
            ask = Ask(
                picture=prepared.picture,
                size=prepared.fitted.canvas,
                prompt=prompt,
                seed=seed_within(part[0], generator.seeds),
                negative_prompt=self._asked.negative_prompt,
                mask_prompt=prepared.subject.words or None,
                mask=prepared.mask,
                mode=self._asked.mode,
                quality=self._asked.quality,
                cfg_scale=self._asked.cfg_scale,
                images=len(part),
            )
            part_names = [names[seed] for seed in part]
            made, paid = claims.make(lambda: self._pay(choice, ask, part_names, claims))
        except ClaimLost:
            return {}
        except ModelUnavailable as error:
            self._context.background_models.drop(choice, error.region, error)
            return {}
        except SubjectNotFound as error:
            if not prepared.subject.words:
                return dict.fromkeys(part, error)
            self._not_words.append(prepared.subject.words)
            return {}
        except CallError as error:
            return dict.fromkeys(part, error)
        kept: dict[int, _Found] = {
            seed: (name, answer) for seed, name, answer in zip(part, part_names, paid, strict=False)
        }
        for seed in part[len(paid) :]:
            kept[seed] = Blocked("ContentFiltered", made.note or f"{generator.name} returned fewer pictures")
        return kept

    def _pay(
        self, choice: SelectedModel[Generator], ask: Ask, names: Sequence[str], claims: "_Claims"
    ) -> tuple[Made, list[Answer]]:
        """Makes the call and stores what came back, before anything else is done."""
        context, budget = self._context, self._budget
        generator = choice.candidate.client
        (operation,) = choice.candidate.operations
        facts = facts_of(operation.name, operation.model_id)
        with budget.pay(operation.name, facts.cost(images=ask.images), claims.first) as call:
            made = generator.replace(ask, context.invoke(choice.regions, budget, call, *claims.all))
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
            kept = context.answers.keep(
                "picture", name, answer, media_type="image/png", claim=claims.of(name)
            )
            answers.append(kept)
        self._keep_masks(ask, made, names, generator.name, call.region)
        return made, answers

    def _keep_masks(self, ask: Ask, made: Made, names: Sequence[str], model: str, region: str) -> None:
        """Keeps the mask that a model made from words, or that was sent after words found nothing.

        Without it the same question would not find it again; it is then measured from the picture.
        """
        mask = made.mask if ask.mask is None else ask.mask if self._not_words else None
        if mask is None:
            return
        kept = Answer(mask, model, region, made_for=self._budget.made_for)
        for name in names[: len(made.images)]:
            self._masks[name] = mask
            try:
                self._context.answers.keep("mask", name, kept, media_type="image/png")
            except (ClientError, BotoCoreError) as error:
                self._context.note(f"the mask that {model} made is not kept, it is measured instead: {error}")


class _Claims:
    """The claims of all pictures of one call, taken in one order by every process so that none waits for another."""

    def __init__(self, answers: AnswerStore, terms: AnswerPolicy) -> None:
        self._answers = answers
        self._terms = terms
        self._claims: dict[str, Claim] = {}
        self._first = ""

    def take(self, names: Sequence[str], price: Price) -> dict[str, Answer]:
        """Claims the names, or gives the answers that are there by now: then no call is to be made."""
        self._first = names[0]
        found: dict[str, Answer] = {}
        try:
            for name in sorted(names):
                # The payment stands in one of the claims.
                claim = self._answers.claim(
                    "picture", name, self._terms, price if name == self._first else None
                )
                if isinstance(claim, Answer):
                    found[name] = claim
                else:
                    self._claims[name] = claim
        except (BgPipelineError, ClientError, BotoCoreError):
            self.give_back()
            raise
        return found

    @property
    def first(self) -> Claim:
        """The claim that the payment stands in."""
        return self._claims[self._first]

    @property
    def all(self) -> list[Claim]:
        return list(self._claims.values())

    def of(self, name: str) -> Claim:
        return self._claims[name]

    def make(self, call: Callable[[], T]) -> T:
        """Makes the call as `Claim.make` does; one that fails gives all claims back."""
        try:
            return self.first.make(call)
        except (BgPipelineError, ClientError, BotoCoreError):
            self._give_back_others()
            raise
        finally:
            for claim in self.all:
                claim.leave()

    def give_back(self) -> None:
        """Lets anybody make the call."""
        for claim in self.all:
            claim.give_back()

    def _give_back_others(self) -> None:
        for name, claim in self._claims.items():
            if name != self._first:
                with suppress(ClientError, BotoCoreError):
                    claim.give_back()
