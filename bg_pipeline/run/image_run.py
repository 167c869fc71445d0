"""One image's run through the stages labels, caption, pictures; each stage ends with a record, even after errors."""

import hashlib
import io
import json
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
from bg_pipeline.domain.batches import mending_key
from bg_pipeline.domain.ledger_entries import Entry, StageRecord
from bg_pipeline.domain.payments import Bill
from bg_pipeline.domain.requests import ImageSettings
from bg_pipeline.domain.rows import GOOD, Status, worst
from bg_pipeline.domain.stages import CAPTIONS, LABELS, PICTURES
from bg_pipeline.errors import (
    BgPipelineError,
    CallError,
    ImageError,
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
from bg_pipeline.run.finishing import mask_file
from bg_pipeline.run.generation import MASK_DOUBTFUL, BackgroundGenerator, GeneratedPicture
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
from bg_pipeline.run.scenes import Scene, SceneStudio
from bg_pipeline.run.source_image import SourceImage
from bg_pipeline.run.subject_mask import NetworkMasks, SubjectHints
from bg_pipeline.state.leased_writes import LeasedWriter
from bg_pipeline.state.leases import Lease
from bg_pipeline.state.mendings import Mending
from bg_pipeline.uploads.submission import late_upload

DOUBT_METADATA = "doubt"
"""The metadata of a stored picture of doubtful places: the sentence of the doubt, as JSON."""


class ImageRun:
    """Processes one image in one thread; its prompts may run in the threads of ``helpers``.

    ``entry`` is the image's ledger entry, which is updated. ``scenes`` are those of the run. ``occasions`` maps a
    stage to the refresh for which it is done again. ``lost`` are result keys of the entry that are missing or
    changed in S3. ``retry`` is the occasion of a request to try failures again, or empty. Once the ``lease`` is
    lost, nothing is paid and nothing is written. ``refusal`` is the error of all stages, if nothing may be done for
    the image. ``submitted_etag`` is the only ETag that the photo may have when it is read; empty: any.

    After `run`: ``stopped`` is the error that requires the batch or the run to stop, if any; ``call_failed`` is true
    if a call that may cost money failed, ``undelivered`` if S3 did not store a result; ``spent`` is what was paid.
    """

    def __init__(
        self,
        context: RunContext,
        locations: BatchLocations,
        image_settings: ImageSettings,
        entry: Entry,
        *,
        helpers: ThreadPoolExecutor,
        scenes: SceneStudio,
        writer: LeasedWriter,
        occasions: Mapping[str, str] = NO_OCCASIONS,
        lost: Collection[str] = (),
        retry: str = "",
        lease: Lease | None = None,
        refusal: ImageError | None = None,
        submitted_etag: str = "",
    ) -> None:
        self._context = context
        self._refusal = refusal
        self._submitted_etag = submitted_etag
        self._locations = locations
        self._image_settings = image_settings
        self.entry = entry
        self._occasions = occasions
        self._helpers = helpers
        self._scenes = scenes
        self._writer = writer
        self._lost = lost
        self._retry = retry
        self._lease = lease
        self.stopped: RunStopped | None = None
        self.call_failed = False
        self.undelivered = False
        self.spent = Bill()
        self._expect_answers = bool(entry.sha256) or lease is None or lease.left_behind
        key = f"{locations.input_prefix}/{image_settings.image}"
        store, current_key = locations.resolve(key)
        is_moved = key in locations.moved
        entry.archived = entry.archived if is_moved else ""
        self._photo = SourceImage(
            store, key, context.picture_memory, stored_at=current_key, etag=entry.etag if is_moved else ""
        )
        self._labels: Mapping[str, Any] | None = None
        self._caption: str | None = None
        self._caption_error: CallError | None = None
        self._stored_etags: Mapping[str, str] = {}
        self._network_masks = NetworkMasks()

    def run(self, due: Mapping[str, str]) -> Entry:
        """Does the stages in ``due`` (stage to fingerprint) in this order and returns the updated entry."""
        steps: dict[str, Callable[[PhotoAnalyzer, ImageBudget], None]] = {
            LABELS: lambda analyzer, budget: self._make_labels(analyzer),
            CAPTIONS: lambda analyzer, budget: self._make_caption(analyzer),
        }
        for stage, made_for in due.items():
            if stage == PICTURES:
                self._record_pictures(made_for)
            else:
                before = self.entry.stages.get(stage)
                self.entry.stages[stage] = keep_better(before, self._record(stage, made_for, steps[stage]))
            self._add_thumbnail()
        if self._photo.fetched and not self._replaced:
            self.entry.sha256 = self._photo.sha256
            self.entry.etag = self._photo.etag
        return self.entry

    @property
    def _replaced(self) -> bool:
        """Whether the photo that was read is not the one that was submitted."""
        return self._submitted_etag not in ("", self._photo.etag)

    def _check_submitted(self) -> None:
        """Raises the refusal, also if the photo was replaced since the run listed it."""
        if self._refusal is not None:
            raise self._refusal
        if self._replaced:
            raise late_upload(self._photo.key)

    def _add_thumbnail(self) -> None:
        """Adds the thumbnail of the source while a decoded copy still exists; doubtful places of its mask are red."""
        if not self._photo.fetched or self._replaced:
            return
        add, photo = self._locations.thumbnails.add, self._photo
        pictures = self.entry.stages.get(PICTURES)
        doubtful = (
            self._network_masks.doubtful(pictures.cause)
            if pictures and pictures.status == Status.NEEDS_REVIEW
            else None
        )
        where = doubtful.where if doubtful else None
        if where is None:
            add(photo.key, photo.etag, photo.thumbnail)
        else:
            add(photo.key, photo.etag, partial(photo.marked_thumbnail, where), again=True)

    def _record(
        self, stage: str, made_for: str, step: Callable[[PhotoAnalyzer, ImageBudget], None]
    ) -> StageRecord:
        """Runs ``step`` and returns the record of the stage, also if the step failed."""
        started = time.monotonic()
        locations = self._locations
        budget = ImageBudget(
            self._context.run_budget,
            locations.batch,
            self._image_settings.image,
            locations.cap_usd,
            family=locations.family,
            lease=self._lease,
            retry=self._retry,
            stage=stage,
            payments=self.entry.payments,
        )
        analyzer = PhotoAnalyzer(
            self._context, self._photo, budget, self._occasions, expect_answers=self._expect_answers
        )
        occasion = self._occasions.get(stage, "")
        record = StageRecord(made_for, Status.SUCCEEDED, occasion=occasion)

        def checked_step() -> None:
            self._check_submitted()
            step(analyzer, budget)

        error = capture_error(checked_step, self._photo.key)
        self._context.store_payloads(budget)
        if error is not None:
            outcome = self._outcome_of(error)
            record = StageRecord(
                made_for, outcome.status, outcome.final, outcome.error, outcome.cause, occasion=occasion
            )
        record.seconds = round(time.monotonic() - started, 3)
        record.reused = budget.reused
        self.spent += budget.spent
        return record

    def _record_pictures(self, made_for: str) -> None:
        """Makes the pictures and updates the entry; an earlier result stays if no new one replaces it."""
        entry = self.entry
        before = entry.stages.get(PICTURES)
        old_outputs = entry.outputs
        old_files = {key: etag for key, etag in entry.files.items() if key not in self._lost}
        wish = request_fingerprint(self._image_settings, entry.etag)
        is_same_request = before is not None and same_request(before, StageRecord(made_for, "", wish=wish))
        passed = {
            output["Number"]
            for output in old_outputs
            if is_same_request and output["Status"] == Status.SUCCEEDED and output["Key"] in old_files
        }
        blocked = self._blocked(made_for)
        entry.outputs, entry.files = [], {}
        record = self._record(
            PICTURES,
            made_for,
            lambda analyzer, budget: self._make_pictures(analyzer, budget, passed, blocked),
        )
        record.wish = wish
        new_outputs = entry.outputs
        if record.status == Status.SUCCEEDED and new_outputs:
            _set_worst_outcome(record, new_outputs)
        complete = record.status in GOOD and all(output["Key"] for output in new_outputs)
        entry.outputs = new_outputs if complete else merge_outputs(old_outputs, new_outputs, old_files)
        current_keys = {output["Key"] for output in entry.outputs}
        kept = {
            key: etag for key, etag in old_files.items() if key in current_keys and key not in entry.files
        }
        replaced = {key: entry.unproven.get(key, etag) for key, etag in old_files.items()} if complete else {}
        outdated = {**entry.outdated, **replaced}
        entry.files |= kept
        newer = {**entry.unproven, **self._stored_etags}
        entry.unproven = {key: etag for key, etag in newer.items() if entry.files.get(key, etag) != etag}
        intact = bool(old_outputs) and all(
            output["Key"] in old_files for output in old_outputs if output["Key"]
        )
        entry.stages[PICTURES] = keep_better(before, record, intact=intact, newer=bool(entry.unproven))
        self._keep_doubt(record)
        self._delete_outdated({key: etag for key, etag in outdated.items() if key not in entry.files})

    def _keep_doubt(self, record: StageRecord) -> None:
        """Stores where the mask is doubtful for which the pictures are for review, and a mask that was not used.

        People look at both, and mend the mask. Without them the outcome is the same, so an error is only noted.
        """
        doubtful = (
            self._network_masks.doubtful(record.cause) if record.status == Status.NEEDS_REVIEW else None
        )
        if doubtful is None:
            return
        batch, image, store = self._locations.batch, self._image_settings.image, self._context.store
        try:
            # The mask of results that stay is not replaced: a person mends it for them.
            if record.error == MASK_DOUBTFUL and not any(output["Key"] for output in self.entry.outputs):
                data = mask_file(doubtful.picture).read()
                self._writer.write(store, batch.mask_key(image), data, media_type="image/png")
            if doubtful.where is not None:
                about = {DOUBT_METADATA: json.dumps(doubtful.doubt)}  # S3 metadata must be ASCII
                with io.BytesIO() as file:
                    doubtful.where.save(file, "PNG")
                    data = file.getvalue()
                self._writer.write(
                    store, batch.doubt_key(image), data, media_type="image/png", metadata=about
                )
        except LeaseLost as error:
            self.stopped = self.stopped or error
        except (ClientError, BotoCoreError, NotDelivered, ImageError) as error:
            self._context.note(f"the doubtful mask of {image} was not stored for the review: {error}")

    def _blocked(self, made_for: str) -> dict[int, dict[str, Any]]:
        """The outputs, by number, that the content policy refused when the stage was last done for ``made_for``.

        They are not asked for again while others of the image are, except by a refresh.
        """
        before = self.entry.stages.get(PICTURES)
        if before is None or before.made_for != made_for:
            return {}
        if self._occasions.get(PICTURES, before.occasion) != before.occasion:
            return {}
        return {
            output["Number"]: output
            for output in self.entry.outputs
            if output["Status"] == Status.BLOCKED and output["Final"] and not output["Key"]
        }

    def _delete_outdated(self, outdated: Mapping[str, str]) -> None:
        """Deletes these results (key to ETag), which were replaced; an object with another ETag stays.

        A result that cannot be deleted now stays in ``entry.outdated``, and the next run of the image tries again.
        """
        data = self._locations.data
        self.entry.outdated = {}
        for key, etag in outdated.items():
            try:
                stored = data.head(key)
                if stored is not None and stored.etag == etag:
                    self._writer.delete(data, key, etag)
                    self._writer.delete(data, s3_keys.provenance_key(key))
            except LeaseLost as error:
                self.stopped = self.stopped or error
                self.entry.outdated[key] = etag
            except (ClientError, BotoCoreError) as error:
                self.entry.outdated[key] = etag
                self._context.note(f"s3://{data.bucket}/{key} is outdated and could not be deleted: {error}")

    # Labels and captions

    def _make_labels(self, analyzer: PhotoAnalyzer) -> None:
        analysis = analyzer.labels()
        self._labels = analysis.document
        document = {"Source": self._photo.key, "SourceETag": self._photo.etag, **analysis.document}
        self._writer.write_json(
            self._context.store, self._locations.batch.labels_key(self._image_settings.image), document
        )
        self.entry.labels = self._label_names(document)

    def _label_names(self, document: Mapping[str, Any]) -> str:
        """The request's labels, else the usable ones of a labels document, separated by commas."""
        return ", ".join(self._image_settings.labels) or ", ".join(usable_labels(document))

    def _make_caption(self, analyzer: PhotoAnalyzer) -> None:
        if self._caption_error is not None:
            raise self._caption_error  # no second call: a refusal is billed like an answer
        try:
            analysis = analyzer.caption()
        except CallError as error:
            self._caption_error = error
            raise
        self._caption = analysis.document["Caption"]
        alt_text = shortened(analysis.document.get("AltText", ""), self._context.settings.alt_text_length)
        document = {
            "Source": self._photo.key,
            "SourceETag": self._photo.etag,
            "Model": analysis.model,
            "Prompt": analysis.document.get("Prompt", self._context.settings.caption_prompt),
            "Caption": self._caption,
            **({"AltText": alt_text} if alt_text else {}),
        }
        self._writer.write_json(
            self._context.store, self._locations.batch.caption_key(self._image_settings.image), document
        )
        self.entry.caption, self.entry.alt_text = self._caption, alt_text

    def _labels_document(self, analyzer: PhotoAnalyzer) -> Mapping[str, Any]:
        """The labels of the photo, made if they were not made yet."""
        if self._labels is None:
            self._make_labels(analyzer)
        return self._labels or {}

    def _caption_text(self, analyzer: PhotoAnalyzer) -> str:
        """The caption of the photo, made if it was not made yet."""
        if self._caption is None:
            self._make_caption(analyzer)
        return self._caption or ""

    # Pictures

    def _make_pictures(
        self,
        analyzer: PhotoAnalyzer,
        budget: ImageBudget,
        passed: Collection[int],
        blocked: Mapping[int, dict[str, Any]],
    ) -> None:
        """Makes all outputs of the image and adds them to the entry.

        ``passed`` are the numbers of earlier results for the same request that passed their checks, ``blocked`` the
        outputs that stay as they are.
        """
        image_settings = self._image_settings
        if image_settings.needs_prompt and not image_settings.prompts:
            raise NotTried("NoPrompt", "no prompt: name one in the request or in BG_DEFAULT_PROMPT")
        result_writer = ResultWriter(
            self._context,
            self._locations,
            image_settings,
            self._photo,
            self._writer,
            made_for=budget.made_for,
            wish=request_fingerprint(self._image_settings, self.entry.etag),
            passed=passed,
        )
        self._stored_etags = result_writer.stored_etags
        hints = SubjectHints(
            photo=lambda: self._photo.small,
            labels=lambda: self._labels_document(analyzer),
            caption=lambda: self._caption_text(analyzer),
            faces=analyzer.faces,
            sam=analyzer.sam if self._context.settings.sam_endpoint else None,
            cut_out=analyzer.cut_out,
            stored_cut_out=analyzer.stored_cut_out,
            given=result_writer.given,
            note=self._context.note,
            workers=self._context.workers,
            limit=lambda: self._photo.limit(doing="find the subject of"),
            network_masks=self._network_masks,
        )
        mask_key = image_settings.mask_key
        mask_sha256 = hashlib.sha256(result_writer.given(mask_key)).hexdigest() if mask_key else ""
        background_generator = BackgroundGenerator(
            self._context,
            self._photo,
            image_settings,
            hints,
            budget,
            user_mask_sha256=mask_sha256,
            occasion=self._occasions.get(PICTURES, ""),
            expect_answers=self._expect_answers,
            painted_before=self._painted_before() if image_settings.needs_prompt else {},
        )
        if image_settings.scene is not None:
            self._make_on_scenes(result_writer, background_generator, analyzer, budget, blocked)
            return
        if not image_settings.needs_prompt:
            mask = background_generator.subject()
            cut_out = analyzer.last_cut_out if mask.source == "cut-out" else None
            made_by = MadeBy.of(cut_out, budget.made_for) if cut_out else MadeBy()
            self._add_outputs(1, result_writer.without_model(mask, made_by))
            return
        refuse_impossible(image_settings, self._photo.size)
        values, errors = self._placeholder_values(analyzer)
        limit = self._context.prompt_limit
        requests.fill(image_settings.negative_prompt, {}, limit, "NegativePrompt")
        outputs_by_prompt = [
            list(outputs) for _, outputs in groupby(image_settings.outputs, key=lambda output: output.prompt)
        ]

        def make(outputs: Sequence[requests.OutputSpec]) -> None:
            """Makes the outputs that share one prompt, without those that are blocked."""
            outputs = [output for output in outputs if not self._add_blocked(output.position, blocked)]
            if not outputs:
                return
            value_errors = [
                errors[name] for name in requests.placeholders(outputs[0].template) if name in errors
            ]
            prompt: str | BgPipelineError = (
                value_errors[0]
                if value_errors
                else capture_error(
                    lambda: self._prompt(background_generator, outputs, values, limit), self._photo.key
                )
            )
            if isinstance(prompt, BgPipelineError):
                for output in outputs:
                    self._add_outputs(output.position, prompt)
                return
            generated = capture_error(
                partial(background_generator.generate, prompt, outputs), self._photo.key
            )
            pictures = [generated] * len(outputs) if isinstance(generated, BgPipelineError) else generated
            for output, picture in zip(outputs, pictures, strict=True):
                results = self._store_results(result_writer, background_generator, prompt, output, picture)
                self._add_outputs(output.position, results)

        if len(outputs_by_prompt) == 1:
            make(outputs_by_prompt[0])
        else:
            self._make_each(make, outputs_by_prompt)
        self.entry.outputs.sort(key=lambda output: output["Number"])

    def _painted_before(self) -> Mapping[int, str]:
        """The paid pictures that a person's mended mask is put on; none for other masks and other wishes.

        Raises `ImageError` if it is not known whether a call may be paid for.
        """
        mask_key = self._image_settings.mask_key
        if mask_key is None or mending_key(mask_key) is None:
            return {}
        mending = Mending.read(self._context.store, mask_key)
        if mending is None:
            raise ImageError(
                "MendingUnknown",
                f"{mask_key} is a mended mask whose record is missing, so nothing is paid for it; mend the mask "
                "again, or give a copy of it under another name as MaskKey",
            )
        wish = request_fingerprint(self._image_settings, self._photo.etag)
        return mending.answers if mending.wish == wish else {}

    def _make_on_scenes(
        self,
        result_writer: ResultWriter,
        background_generator: BackgroundGenerator,
        analyzer: PhotoAnalyzer,
        budget: ImageBudget,
        blocked: Mapping[int, dict[str, Any]],
    ) -> None:
        """Puts the subject on each variant of the scene, and adds the outputs to the entry.

        The scenes come first: without one no cut-out of the subject is paid for.
        """
        refuse_impossible(self._image_settings, self._photo.size)
        occasion = self._occasions.get(PICTURES, "")
        scenes: list[tuple[int, Scene]] = []
        for output in self._image_settings.outputs:
            if self._add_blocked(output.position, blocked):
                continue
            scene = capture_error(
                partial(
                    self._scenes.scene,
                    self._image_settings,
                    output,
                    self._photo.size,
                    budget,
                    occasion=occasion,
                ),
                self._photo.key,
            )
            if isinstance(scene, BgPipelineError):
                self._add_outputs(output.position, scene)
            else:
                scenes.append((output.position, scene))
        if scenes:
            mask = background_generator.subject()
            cut_out = analyzer.last_cut_out if mask.source == "cut-out" else None
            cut_out_by = MadeBy.of(cut_out, budget.made_for) if cut_out else MadeBy()
            for position, scene in scenes:
                made = partial(result_writer.on_scene, mask, cut_out_by, scene, position)
                self._add_outputs(position, capture_error(made, self._photo.key))
                # The cut-out is paid for once.
                cut_out_by = MadeBy()
        self.entry.outputs.sort(key=lambda output: output["Number"])

    def _make_each(
        self,
        make: Callable[[Sequence[requests.OutputSpec]], None],
        outputs_by_prompt: Sequence[Sequence[requests.OutputSpec]],
    ) -> None:
        """Makes the outputs of each prompt in the helper threads.

        Once the run is stopped, the helpers may not start any more work, and this thread makes the rest itself.
        """
        futures = []
        for outputs in outputs_by_prompt:
            if self._context.stop.is_set():
                make(outputs)
            else:
                futures.append(self._helpers.submit(make, outputs))
        for future in futures:
            future.result()

    def _prompt(
        self,
        background_generator: BackgroundGenerator,
        outputs: Sequence[requests.OutputSpec],
        values: Mapping[str, str],
        limit: int,
    ) -> str:
        """The prompt of outputs that share one, with its placeholders filled for the selected model.

        Models accept prompts of different lengths, so the prompt may have been filled differently for another model.
        If the pictures of such a prompt are stored already, that prompt is returned, and nothing is paid again.
        """
        template = outputs[0].template
        prompt = requests.fill(template, values, limit)
        if requests.placeholders(template):
            for other_limit in self._context.prompt_limits - {limit}:
                filled = capture_error(partial(requests.fill, template, values, other_limit), self._photo.key)
                if (
                    isinstance(filled, str)
                    and filled != prompt
                    and background_generator.has_stored(filled, outputs)
                ):
                    return filled
        return prompt

    def _placeholder_values(
        self, analyzer: PhotoAnalyzer
    ) -> tuple[dict[str, str], dict[str, BgPipelineError]]:
        """The values of the prompts' placeholders by name, and the errors of those that cannot be made.

        Prompts that do not use a placeholder with an error are still processed.
        """
        image_settings = self._image_settings
        values = dict(requests.placeholder_values(image_settings, caption="", labels=""))
        errors: dict[str, BgPipelineError] = {}
        makers: dict[str, Callable[[], str]] = {
            "caption": lambda: self._caption_text(analyzer),
            "labels": lambda: (
                ", ".join(image_settings.labels) or ", ".join(usable_labels(self._labels_document(analyzer)))
            ),
        }
        used = {name for prompt in image_settings.prompts for name in requests.placeholders(prompt)}
        for name in used & makers.keys():
            value = capture_error(makers[name], self._photo.key)
            if isinstance(value, BgPipelineError):
                errors[name] = value
            else:
                values[name] = value
        return values, errors

    def _store_results(
        self,
        result_writer: ResultWriter,
        background_generator: BackgroundGenerator,
        prompt: str,
        output: requests.OutputSpec,
        picture: GeneratedPicture | BgPipelineError,
    ) -> list[StoredResult] | BgPipelineError:
        """The stored files of one picture; if another seed may do better, the picture is generated again.

        If no attempt passes its checks, the last stored one stays, for a person to review.
        """
        files: list[StoredResult] = []
        regenerated = 0
        while not isinstance(picture, BgPipelineError):
            stored = capture_error(
                partial(result_writer.finish, picture, prompt, output.position), self._photo.key
            )
            if isinstance(stored, BgPipelineError):
                picture = stored
                break
            files = stored
            if (
                not background_generator.may_repaint
                or not any(file.repaint for file in files)
                or regenerated >= self._context.settings.max_regenerations
            ):
                return files
            regenerated += 1
            generated = capture_error(
                partial(background_generator.generate, prompt, [output], regenerated), self._photo.key
            )
            picture = generated if isinstance(generated, BgPipelineError) else generated[0]
        if files:
            self._outcome_of(picture)
        return files or picture

    def _outcome_of(self, error: BgPipelineError) -> RowOutcome:
        """The outcome of an error, which also sets ``stopped``, ``call_failed`` and ``undelivered``."""
        if isinstance(error, RunStopped):
            self.stopped = error
        # An `ImageError` (a file that is not a picture) costs nothing and does not count.
        self.call_failed = self.call_failed or (isinstance(error, CallError) and not error.repeated)
        self.undelivered = self.undelivered or isinstance(error, NotDelivered)
        return outcome_of_error(error)

    def _numbers(self, position: int) -> range:
        """The numbers of the outputs of one picture, one for each rendition."""
        renditions = len(self._image_settings.renditions) or 1
        return range((position - 1) * renditions + 1, position * renditions + 1)

    def _add_blocked(self, position: int, blocked: Mapping[int, dict[str, Any]]) -> bool:
        """Adds the outputs of one picture to the entry if all of them are blocked; whether they are."""
        outputs = [blocked[number] for number in self._numbers(position) if number in blocked]
        if len(outputs) < len(self._numbers(position)):
            return False
        self.entry.outputs += outputs
        return True

    def _add_outputs(self, position: int, results: list[StoredResult] | BgPipelineError) -> None:
        """Adds the outputs of one picture, one for each rendition, to the entry."""
        numbers = self._numbers(position)
        if isinstance(results, BgPipelineError):
            outcome = self._outcome_of(results)
            for number in numbers:
                self.entry.outputs.append(
                    _output(
                        number,
                        status=outcome.status,
                        error=outcome.error,
                        cause=outcome.cause,
                        final=outcome.final,
                    )
                )
            return
        for number, file in enumerate(results, numbers.start):
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
                    cost=file.cost_usd if number == numbers.start else 0.0,
                    subject_changed=file.subject_changed,
                    confidence=file.confidence,
                )
            )


def _set_worst_outcome(record: StageRecord, outputs: Sequence[Mapping[str, Any]]) -> None:
    """Sets the outcome of the pictures stage to that of its worst output."""
    bad = [output for output in outputs if output["Status"] != Status.SUCCEEDED]
    if bad:
        record.status = worst(Status(output["Status"]) for output in bad)
        first = next(output for output in bad if output["Status"] == record.status)
        record.error, record.cause = first["Error"], first["Cause"]
        record.final = all(output["Final"] for output in bad)


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
    confidence: float | None = None,
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
        "Confidence": confidence,
    }
