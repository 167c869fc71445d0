"""One image's way through the stages: labels, caption, pictures; each ends in a record, whatever happens."""

import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.budget.image_budget import ImageBudget
from bg_pipeline.captioners.nova import shortened
from bg_pipeline.domain import requests, s3_keys
from bg_pipeline.domain.ledger_entries import Entry, StageRecord
from bg_pipeline.domain.payments import Bill
from bg_pipeline.domain.requests import ImageSettings
from bg_pipeline.domain.rows import GOOD, Status, worst
from bg_pipeline.domain.stages import CAPTIONS, LABELS, PICTURES
from bg_pipeline.errors import (
    BgPipelineError,
    CallError,
    LeaseLost,
    NotDelivered,
    NotTried,
    RunStopped,
)
from bg_pipeline.masks.label_boxes import usable_labels
from bg_pipeline.run.analysis import NO_OCCASIONS, PhotoAnalyzer
from bg_pipeline.run.batch_locations import BatchLocations
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.fingerprints import request_fingerprint
from bg_pipeline.run.generation import BackgroundGenerator, GeneratedPicture
from bg_pipeline.run.outcomes import (
    RowOutcome,
    capture_error,
    keep_better,
    merge_outputs,
    outcome_of_error,
    same_request,
)
from bg_pipeline.run.renditions import refuse_impossible
from bg_pipeline.run.results import MadeBy, ResultWriter, StoredResult
from bg_pipeline.run.source_image import SourceImage
from bg_pipeline.run.subject_mask import SubjectHints
from bg_pipeline.state.leased_writes import LeasedWriter
from bg_pipeline.state.leases import Lease


class ImageRun:
    """One image's way; used by one thread, which may hand prompts to others.

    ``entry`` is what the ledger knows and is brought up to date; ``occasions`` names, by stage, the refresh on
    which it is made anew. ``lost`` are results that the entry knows and that are not stored any more as they were.
    ``retry`` names the occasion on which a person asked again for what failed. Nothing is paid and nothing is
    written once the ``lease`` is lost. ``stopped`` is set when something ended the run, ``call_failed`` when a call
    that may cost money failed; ``spent`` is what was paid.
    """

    def __init__(
        self,
        context: RunContext,
        place: BatchLocations,
        asked: ImageSettings,
        entry: Entry,
        *,
        helpers: ThreadPoolExecutor,
        writer: LeasedWriter,
        occasions: Mapping[str, str] = NO_OCCASIONS,
        lost: Collection[str] = (),
        retry: str = "",
        lease: Lease | None = None,
    ) -> None:
        self._context = context
        self._place = place
        self._asked = asked
        self.entry = entry
        self._occasions = occasions
        self._helpers = helpers
        self._writer = writer
        self._lost = lost
        self._retry = retry
        self._lease = lease
        self.stopped: RunStopped | None = None
        self.call_failed = False
        self.undelivered = False
        self.spent = Bill()
        self._known = bool(entry.sha256) or lease is None or lease.left_behind
        key = f"{place.input_prefix}/{asked.image}"
        store, lies_at = place.resolve(key)
        moved = key in place.moved
        entry.archived = entry.archived if moved else ""
        self._photo = SourceImage(
            store, key, context.picture_memory, stored_at=lies_at, etag=entry.etag if moved else ""
        )
        self._labels: Mapping[str, Any] | None = None
        self._caption: str | None = None
        self._no_caption: CallError | None = None

    def run(self, due: Mapping[str, str]) -> Entry:
        """Does the stages in ``due`` (name to fingerprint) in order and returns the entry with their records."""
        steps: dict[str, Callable[[PhotoAnalyzer, ImageBudget], None]] = {
            LABELS: lambda looks, budget: self._make_labels(looks),
            CAPTIONS: lambda looks, budget: self._make_caption(looks),
        }
        for stage, made_for in due.items():
            if stage == PICTURES:
                self._record_pictures(made_for)
            else:
                before = self.entry.stages.get(stage)
                self.entry.stages[stage] = keep_better(before, self._record(stage, made_for, steps[stage]))
            self._keep_thumbnail()
        if self._photo.fetched:
            self.entry.sha256 = self._photo.sha256
            self.entry.etag = self._photo.etag
        return self.entry

    def _keep_thumbnail(self) -> None:
        """Keeps the small picture of the source as early as its pixels are at hand."""
        if self._photo.fetched:
            self._place.thumbnails.add(self._photo.key, self._photo.etag, self._photo.thumbnail)

    def _record(
        self, stage: str, made_for: str, step: Callable[[PhotoAnalyzer, ImageBudget], None]
    ) -> StageRecord:
        """Makes a stage; its record, whatever happens."""
        started = time.monotonic()
        place = self._place
        budget = ImageBudget(
            self._context.run_budget,
            place.batch,
            self._asked.image,
            place.cap_usd,
            family=place.family,
            lease=self._lease,
            retry=self._retry,
            stage=stage,
            payments=self.entry.payments,
        )
        looks = PhotoAnalyzer(self._context, self._photo, budget, self._occasions, known=self._known)
        occasion = self._occasions.get(stage, "")
        record = StageRecord(made_for, Status.SUCCEEDED, occasion=occasion)
        failed = capture_error(lambda: step(looks, budget), self._photo.key)
        self._context.store_payloads(budget)
        if failed is not None:
            outcome = self._outcome(failed)
            record = StageRecord(
                made_for, outcome.status, outcome.final, outcome.error, outcome.cause, occasion=occasion
            )
        record.seconds = round(time.monotonic() - started, 3)
        record.reused = budget.reused
        self.spent += budget.spent
        return record

    def _record_pictures(self, made_for: str) -> None:
        """Makes the pictures; what was delivered before stays where none is made in its place."""
        entry = self.entry
        before = entry.stages.get(PICTURES)
        outputs, files = (
            entry.outputs,
            {key: etag for key, etag in entry.files.items() if key not in self._lost},
        )
        wish = request_fingerprint(self._asked, entry.etag)
        same = before is not None and same_request(before, StageRecord(made_for, "", wish=wish))
        passed = {
            output["Number"]
            for output in outputs
            if same and output["Status"] == Status.SUCCEEDED and output["Key"] in files
        }
        entry.outputs, entry.files = [], {}
        record = self._record(
            PICTURES, made_for, lambda looks, budget: self._make_pictures(looks, budget, passed)
        )
        record.wish = wish
        made = entry.outputs
        if record.status == Status.SUCCEEDED and made:
            self._outcome_of_pictures(record, made)
        complete = record.status in GOOD and all(output["Key"] for output in made)
        entry.outputs = made if complete else merge_outputs(outputs, made, files)
        still_there = {output["Key"] for output in entry.outputs}
        kept = {key: etag for key, etag in files.items() if key in still_there and key not in entry.files}
        outdated = {**entry.outdated, **files} if complete else dict(entry.outdated)
        entry.files |= kept
        intact = bool(outputs) and all(output["Key"] in files for output in outputs if output["Key"])
        entry.stages[PICTURES] = keep_better(before, record, intact=intact)
        self._remove({key: etag for key, etag in outdated.items() if key not in entry.files})

    def _outcome_of_pictures(self, record: StageRecord, outputs: Sequence[Mapping[str, Any]]) -> None:
        """A stage ended as the worst of its outputs."""
        bad = [output for output in outputs if output["Status"] != Status.SUCCEEDED]
        if bad:
            record.status = worst(Status(output["Status"]) for output in bad)
            first = next(output for output in bad if output["Status"] == record.status)
            record.error, record.cause = first["Error"], first["Cause"]
            record.final = all(output["Final"] for output in bad)

    def _remove(self, outdated: Mapping[str, str]) -> None:
        """Takes away results that the settings no longer ask for; what is not ours any more stays.

        What S3 does not delete now is tried again with the next change of the image.
        """
        data = self._place.data
        self.entry.outdated = {}
        for key, etag in outdated.items():
            try:
                found = data.head(key)
                if found is not None and found.etag == etag:
                    self._writer.delete(data, key, etag)
                    self._writer.delete(data, s3_keys.provenance_key(key))
            except LeaseLost as error:
                self.stopped = self.stopped or error
                self.entry.outdated[key] = etag
            except (ClientError, BotoCoreError) as error:
                self.entry.outdated[key] = etag
                self._context.note(f"s3://{data.bucket}/{key} is outdated and could not be deleted: {error}")

    # Labels and captions

    def _make_labels(self, looks: PhotoAnalyzer) -> None:
        seen = looks.labels()
        self._labels = seen.document
        document = {"Source": self._photo.key, "SourceETag": self._photo.etag, **seen.document}
        self._writer.write_json(
            self._context.store, self._place.batch.labels_key(self._asked.image), document
        )
        self.entry.labels = ", ".join(self._asked.labels) or ", ".join(usable_labels(document))

    def _make_caption(self, looks: PhotoAnalyzer) -> None:
        if self._no_caption is not None:
            raise self._no_caption  # asked for once: a refusal is billed like an answer
        try:
            seen = looks.caption()
        except CallError as error:
            self._no_caption = error
            raise
        self._caption = seen.document["Caption"]
        alt_text = shortened(seen.document.get("AltText", ""), self._context.settings.alt_text_length)
        document = {
            "Source": self._photo.key,
            "SourceETag": self._photo.etag,
            "Model": seen.model,
            "Prompt": seen.document.get("Prompt", self._context.settings.caption_prompt),
            "Caption": self._caption,
            **({"AltText": alt_text} if alt_text else {}),
        }
        self._writer.write_json(
            self._context.store, self._place.batch.caption_key(self._asked.image), document
        )
        self.entry.caption, self.entry.alt_text = self._caption, alt_text

    def _labels_document(self, looks: PhotoAnalyzer) -> Mapping[str, Any]:
        if self._labels is None:
            self._make_labels(looks)
        return self._labels or {}

    def _caption_text(self, looks: PhotoAnalyzer) -> str:
        if self._caption is None:
            self._make_caption(looks)
        return self._caption or ""

    # Pictures

    def _make_pictures(self, looks: PhotoAnalyzer, budget: ImageBudget, passed: Collection[int]) -> None:
        asked = self._asked
        if asked.needs_prompt and not asked.prompts:
            raise NotTried("NoPrompt", "no prompt: name one in the request or in BG_DEFAULT_PROMPT")
        finisher = ResultWriter(
            self._context,
            self._place,
            asked,
            self._photo,
            self._writer,
            made_for=budget.made_for,
            passed=passed,
        )
        eyes = SubjectHints(
            photo=lambda: self._photo.small,
            labels=lambda: self._labels_document(looks),
            caption=lambda: self._caption_text(looks),
            faces=looks.faces,
            sam=looks.sam if self._context.settings.sam_endpoint else None,
            cut_out=looks.cut_out,
            stored_cut_out=looks.stored_cut_out,
            given=finisher.given,
            workers=self._context.workers,
            limit=lambda: self._photo.limit(doing="find the subject of"),
        )
        mask_sha256 = hashlib.sha256(finisher.given(asked.mask_key)).hexdigest() if asked.mask_key else ""
        painter = BackgroundGenerator(
            self._context,
            self._photo,
            asked,
            eyes,
            budget,
            given_mask_sha256=mask_sha256,
            occasion=self._occasions.get(PICTURES, ""),
            known=self._known,
        )
        if not asked.needs_prompt:
            mask = painter.subject()
            cut = looks.cut_out_in_use if mask.source == "cut-out" else None
            made_by = MadeBy.of(cut, budget.made_for) if cut else MadeBy()
            self._write_document(1, finisher.without_model(mask, made_by))
            return
        refuse_impossible(asked, self._photo.size)
        values, missing = self._prompt_values(looks)
        limit = self._context.prompt_limit
        requests.fill(asked.negative_prompt, {}, limit, "NegativePrompt")
        groups = [list(group) for _, group in groupby(asked.outputs, key=lambda wanted: wanted.prompt)]

        def make(group: Sequence[requests.OutputSpec]) -> None:
            lacking = [missing[name] for name in requests.placeholders(group[0].template) if name in missing]
            prompt: str | BgPipelineError = (
                lacking[0]
                if lacking
                else capture_error(lambda: self._prompt(painter, group, values, limit), self._photo.key)
            )
            if isinstance(prompt, BgPipelineError):
                for wanted in group:
                    self._write_document(wanted.position, prompt)
                return
            painted = capture_error(partial(painter.generate, prompt, group), self._photo.key)
            pictures = [painted] * len(group) if isinstance(painted, BgPipelineError) else painted
            for wanted, picture in zip(group, pictures, strict=True):
                self._write_document(
                    wanted.position, self._finished(finisher, painter, prompt, wanted, picture)
                )

        if len(groups) == 1:
            make(groups[0])
        else:
            list(self._helpers.map(make, groups))
        self.entry.outputs.sort(key=lambda output: output["Number"])

    def _prompt(
        self,
        painter: BackgroundGenerator,
        group: Sequence[requests.OutputSpec],
        values: Mapping[str, str],
        limit: int,
    ) -> str:
        """The prompt of a group, filled for the model in use.

        Models take prompts of different lengths. Where the pictures are stored that another one made of the prompt
        as it was filled for that one, it is that prompt.
        """
        template = group[0].template
        prompt = requests.fill(template, values, limit)
        if requests.placeholders(template):
            for other in self._context.prompt_limits - {limit}:
                filled = capture_error(partial(requests.fill, template, values, other), self._photo.key)
                if isinstance(filled, str) and filled != prompt and painter.has_stored(filled, group):
                    return filled
        return prompt

    def _prompt_values(self, looks: PhotoAnalyzer) -> tuple[dict[str, str], dict[str, BgPipelineError]]:
        """What the placeholders of the prompts stand for; those that cannot be had, with the reason.

        Prompts that do not use what is missing are painted all the same.
        """
        asked = self._asked
        values = dict(requests.placeholder_values(asked, caption="", labels=""))
        missing: dict[str, BgPipelineError] = {}
        makers: dict[str, Callable[[], str]] = {
            "caption": lambda: self._caption_text(looks),
            "labels": lambda: (
                ", ".join(asked.labels) or ", ".join(usable_labels(self._labels_document(looks)))
            ),
        }
        wanted = {name for prompt in asked.prompts for name in requests.placeholders(prompt)}
        for name in wanted & makers.keys():
            made = capture_error(makers[name], self._photo.key)
            if isinstance(made, BgPipelineError):
                missing[name] = made
            else:
                values[name] = made
        return values, missing

    def _finished(
        self,
        finisher: ResultWriter,
        painter: BackgroundGenerator,
        prompt: str,
        wanted: requests.OutputSpec,
        picture: GeneratedPicture | BgPipelineError,
    ) -> list[StoredResult] | BgPipelineError:
        """The stored files of one picture; one that does not pass is asked for again with another seed.

        Where there is no other, the one that did not pass is kept for a person.
        """
        files: list[StoredResult] = []
        regenerated = 0
        while not isinstance(picture, BgPipelineError):
            finished = capture_error(
                partial(finisher.finish, picture, prompt, wanted.position), self._photo.key
            )
            if isinstance(finished, BgPipelineError):
                picture = finished
                break
            files = finished
            if (
                not any(file.repaint for file in files)
                or regenerated >= self._context.settings.max_regenerations
            ):
                return files
            regenerated += 1
            painted = capture_error(partial(painter.generate, prompt, [wanted], regenerated), self._photo.key)
            picture = painted if isinstance(painted, BgPipelineError) else painted[0]
        if files:
            self._outcome(picture)
        return files or picture

    def _outcome(self, error: BgPipelineError) -> RowOutcome:
        if isinstance(error, RunStopped):
            self.stopped = error
        # A file that is no picture costs nothing, however many there are of them.
        self.call_failed = self.call_failed or isinstance(error, CallError)
        self.undelivered = self.undelivered or isinstance(error, NotDelivered)
        return outcome_of_error(error)

    def _write_document(self, position: int, outcome: list[StoredResult] | BgPipelineError) -> None:
        """Takes the outputs of one picture into the entry."""
        each = len(self._asked.renditions) or 1
        first = (position - 1) * each + 1
        if isinstance(outcome, BgPipelineError):
            means = self._outcome(outcome)
            for number in range(first, first + each):
                self.entry.outputs.append(
                    _output(
                        number, status=means.status, error=means.error, cause=means.cause, final=means.final
                    )
                )
            return
        for number, file in enumerate(outcome, first):
            if file.key:
                self.entry.files[file.key] = file.etag
                self.entry.names[str(number)] = file.name
            self.entry.outputs.append(
                _output(
                    number,
                    key=file.key,
                    status=Status.NEEDS_REVIEW if file.reasons else Status.SUCCEEDED,
                    error="Fidelity" if file.reasons else "",
                    cause="; ".join([*file.reasons, *file.notes]),
                    final=True,
                    model=file.model,
                    region=file.region,
                    seed=file.seed,
                    cost=file.cost_usd if number == first else 0.0,
                    subject_changed=file.subject_changed,
                )
            )


def _output(
    number: int,
    *,
    status: str,
    error: str = "",
    cause: str = "",
    final: bool,
    key: str = "",
    model: str = "",
    region: str = "",
    seed: int | None = None,
    cost: float | None = 0.0,
    subject_changed: float | None = None,
) -> dict[str, Any]:
    return {
        "Number": number,
        "Key": key,
        "Status": status,
        "Error": error,
        "Cause": cause,
        "Final": final,
        "Model": model,
        "Region": region,
        "Seed": seed,
        "CostUSD": cost,
        "SubjectChanged": subject_changed,
    }
