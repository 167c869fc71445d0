"""One scene for a whole batch: painted once, paid once, and one cause for all photos if it cannot be painted."""

import io
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError
from PIL import Image, ImageFilter, ImageOps

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.rows import Row, Status
from bg_pipeline.generators.scenes import COMPOSITION, aspect_of
from bg_pipeline.imaging import open_photo
from bg_pipeline.run.engine import Engine
from bg_pipeline.run.outcome_recorder import OutcomeRecorder
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import DATE, Bench
from bg_pipeline_tests.pictures import photo, photo_and_mask

PICTURES = ("generated_images", "status_report")
"""Without captions the sum that was billed is known exactly."""
ULTRA, CORE = "stability.stable-image-ultra-v1:1", "stability.stable-image-core-v1:1"
PRICES = {
    ULTRA: 0.14,
    CORE: 0.04,
    "stability.sd3-5-large-v1:0": 0.08,
    "amazon.titan-image-generator-v2:0": 0.012,
}
TABLE = "a sunlit oak table"


@pytest.fixture
def bench(s3, bucket, control: ControlClient) -> Bench:
    control.switch(canned=True)
    quotas = {f"quota_{name}_rpm": 60_000 for name in ("stable_image_ultra", "stable_image_core")}
    # The only Region that has text-to-image models.
    return Bench(Store(s3, bucket), {"regions": "us-west-2", **quotas})


def submitted(bench: Bench, photos: dict[str, bytes] | int, **request: Any) -> Batch:
    return bench.submit(photos, **{"Scene": TABLE, "Prompt": None, "Subject": "SALIENT", **request})


def painted(control: ControlClient) -> list[dict[str, Any]]:
    return [call for call in control.paid(operation="InvokeModel") if call["model"] in (ULTRA, CORE)]


def billed(control: ControlClient) -> float:
    return sum(PRICES.get(call["model"], 0.001) for call in control.paid())


def rows_and_books(bench: Bench, control: ControlClient, *batches: Batch) -> list[Row]:
    """The rows of the batches, after checking that their payments hold what was billed."""
    rows = [row for batch in batches for row in bench.rows(batch).values()]
    sure = sum(row.CostUSD or 0.0 for row in rows)
    most = sure + sum(row.MaybeBilledUSD or 0.0 for row in rows)
    assert sure - 1e-9 <= billed(control) <= most + 1e-9, (sure, billed(control), most)
    return rows


def test_a_catalogue_costs_one_picture(bench: Bench, control: ControlClient) -> None:
    batch = submitted(bench, 12)
    bench.run(stages=PICTURES)
    rows = rows_and_books(bench, control, batch)
    assert {row.Status for row in rows} == {Status.SUCCEEDED}, {row.Cause for row in rows}
    (call,) = painted(control)
    assert f"{TABLE}, {COMPOSITION}".startswith(call["prompt"]), "the call log cuts long prompts"
    assert sorted(row.CostUSD for row in rows) == [0.0] * 11 + [0.14]
    assert sorted(row.Reused for row in rows) == [False] + [True] * 11
    assert {(row.Model, row.Seed) for row in rows} == {("stable-image-ultra", rows[0].Seed)}
    bench.run(stages=PICTURES)
    bench.submit(3, Scene=TABLE, Prompt=None, Subject="SALIENT", batch="later", day=date(2025, 11, 19))
    bench.run(date(2025, 11, 19), stages=PICTURES)
    assert len(painted(control)) == 1, "also not for another batch with the same words"


def test_each_aspect_has_its_scene(bench: Bench, control: ControlClient) -> None:
    sizes = {"wide": (300, 200), "wide too": (320, 230), "square": (200, 190), "tall": (200, 300)}
    batch = submitted(bench, {f"{name}.jpg": photo(2, size=size) for name, size in sizes.items()})
    bench.run(stages=PICTURES)
    rows = rows_and_books(bench, control, batch)
    assert {row.Status for row in rows} == {Status.SUCCEEDED}
    assert len(painted(control)) == 3
    assert Counter(aspect_of(size) for size in sizes.values()) == {"3:2": 2, "1:1": 1, "2:3": 1}
    for row in rows:
        with Image.open(io.BytesIO(bench.store.read(row.Results[0]).data)) as made:
            assert made.size == sizes[row.ImageName.removesuffix(".jpg")]


def test_variants_and_seeds_are_scenes_of_their_own(bench: Bench, control: ControlClient) -> None:
    batch = submitted(bench, 3, Variants=2, Seed=7)
    bench.run(stages=PICTURES)
    rows = rows_and_books(bench, control, batch)
    assert [[output.Seed for output in row.Outputs] for row in rows] == [[7, 8]] * 3
    assert len(painted(control)) == 2
    assert all(len(row.Results) == 2 for row in rows)


def test_the_subject_keeps_its_pixels_and_the_document_says_what_was_painted(
    bench: Bench, control: ControlClient
) -> None:
    picture, matte = photo_and_mask(3, size=(360, 240))
    out, given = io.BytesIO(), io.BytesIO()
    picture.save(out, "PNG")
    ImageOps.invert(matte).save(given, "PNG")
    bench.put("assets/m.png", given.getvalue())
    batch = submitted(bench, {"a.png": out.getvalue()}, MaskKey="assets/m.png", Subject="MASK")
    bench.run(stages=PICTURES)
    (row,) = rows_and_books(bench, control, batch)
    data = bench.store.read(row.Results[0]).data
    made = np.asarray(open_photo(data).image)
    inside = np.asarray(matte.filter(ImageFilter.MinFilter(11))) == 255
    assert (made[inside] == np.asarray(picture)[inside]).all()
    assert b"compositeWithTrainedAlgorithmicMedia" in data
    document = bench.store.read_json(f"{row.Results[0]}.json")
    assert (document["Scene"], document["SceneAspect"], document["CostUSD"]) == (TABLE, "3:2", 0.14)
    assert document["Fidelity"]["subject_changed"] == 0


def test_presets_and_renditions_are_made_from_it(bench: Bench, control: ControlClient) -> None:
    batch = submitted(
        bench, 2, Renditions=[{"Format": "png"}, {"Width": 100, "Height": 100, "Format": "jpeg"}]
    )
    bench.run(stages=PICTURES)
    for row in rows_and_books(bench, control, batch):
        assert [result.rpartition(".")[2] for result in row.Results] == ["png", "jpg"], row.Cause
    assert len(painted(control)) == 1


# Money


def test_two_runs_at_once_pay_for_one_scene(bench: Bench, control: ControlClient) -> None:
    control.latency({"operation": "InvokeModel", "seconds": 3.0})
    other = date(2025, 11, 19)
    batches = [submitted(bench, 3), submitted(bench, 3, day=other)]
    with ThreadPoolExecutor(2) as pool:
        days = list(pool.map(lambda day: bench.run(day, stages=PICTURES), (DATE, other)))
    assert [day.counts for day in days] == [{Status.SUCCEEDED: 3}] * 2
    assert len(painted(control)) == 1
    rows = rows_and_books(bench, control, *batches)
    assert sum(row.CostUSD for row in rows) == pytest.approx(0.14)


def test_a_run_that_is_interrupted_before_its_ledger_pays_no_second_time(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = submitted(bench, 5)
    accept = OutcomeRecorder.accept

    def killed(*_: Any) -> None:
        raise SystemExit("killed")

    monkeypatch.setattr(OutcomeRecorder, "accept", killed)
    monkeypatch.setattr(Engine, "_close", lambda self, pools: pools.shutdown())
    monkeypatch.setattr(Engine, "_interrupted", lambda self: None)
    with pytest.raises(SystemExit):
        bench.run(stages=PICTURES)
    monkeypatch.undo()
    assert OutcomeRecorder.accept is accept
    bench.run(stages=PICTURES)
    rows = rows_and_books(bench, control, batch)
    assert {row.Status for row in rows} == {Status.SUCCEEDED}
    assert len(painted(control)) == 1
    assert sum(row.CostUSD for row in rows) == pytest.approx(0.14), "the photo that paid has the price"


def test_a_lost_answer_is_asked_for_once_more_and_both_are_in_the_books(
    bench: Bench, control: ControlClient
) -> None:
    control.fault(operation="InvokeModel", action="reset", times=1)
    batch = submitted(bench, 6)
    bench.run(stages=PICTURES)
    rows = rows_and_books(bench, control, batch)
    assert {row.Status for row in rows} == {Status.SUCCEEDED}
    assert len(painted(control)) == 2
    assert sum(row.MaybeBilledUSD for row in rows) == pytest.approx(0.14)


def test_answers_that_are_always_lost_cost_two_calls_and_not_two_a_photo(
    bench: Bench, control: ControlClient
) -> None:
    control.fault(operation="InvokeModel", action="reset", times=0)
    batch = submitted(bench, 25)
    bench.run(stages=PICTURES)
    rows = rows_and_books(bench, control, batch)
    assert {(row.Status, row.Error) for row in rows} == {(Status.FAILED, "MaybeBilled")}
    assert len(painted(control)) == 2
    bench.run(stages=PICTURES)
    assert len(painted(control)) == 2, "nor by another run, before a person retries"
    rows_and_books(bench, control, batch)
    bench.run(stages=PICTURES, retry=True)
    assert len(painted(control)) in (3, 4)
    rows_and_books(bench, control, batch)


def test_a_refusal_is_one_cause_and_one_call(bench: Bench, control: ControlClient) -> None:
    control.fault(operation="InvokeModel", action="block", times=0)
    batch = submitted(bench, 25)
    bench.run(stages=PICTURES)
    rows = rows_and_books(bench, control, batch)
    assert {row.Status for row in rows} == {Status.BLOCKED}
    (cause,) = {row.Cause for row in rows}
    assert cause == "the batch's scene could not be painted: Filter reason: prompt"
    assert len(control.calls(operation="InvokeModel")) == 1
    bench.run(stages=PICTURES)
    assert len(control.calls(operation="InvokeModel")) == 1, "a refusal is not asked for again"
    bench.put(
        batch.request_key,
        json.dumps({**bench.store.read_json(batch.request_key), "Scene": "a table"}).encode(),
    )
    control.reset()
    control.switch(canned=True)
    bench.run(stages=PICTURES)
    assert {row.Status for row in bench.rows(batch).values()} == {Status.SUCCEEDED}


def test_a_service_fault_is_one_cause_for_all_and_the_next_run_tries_again(
    bench: Bench, control: ControlClient
) -> None:
    control.fault(
        operation="InvokeModel", action="error", code="InternalServerException", status=500, times=0
    )
    batch = submitted(bench, 25)
    bench.run(stages=PICTURES, attempts=2)
    rows = rows_and_books(bench, control, batch)
    assert {row.Status for row in rows} == {Status.FAILED}
    assert len({row.Cause for row in rows}) == 1, "not `TooManyFailures` either"
    first = len(control.calls(operation="InvokeModel"))
    assert first <= 4
    control.reset()
    control.switch(canned=True)
    bench.run(stages=PICTURES)
    assert {row.Status for row in bench.rows(batch).values()} == {Status.SUCCEEDED}


def test_a_failed_scene_pays_for_no_cut_outs(bench: Bench, control: ControlClient) -> None:
    control.fault(operation="InvokeModel", model=ULTRA, action="block", times=0)
    submitted(bench, 4)
    bench.run(stages=PICTURES, mask_sources=("cut-out",))
    assert control.paid() == []


def test_one_images_scene_that_fails_leaves_the_others_alone(bench: Bench, control: ControlClient) -> None:
    control.fault(operation="InvokeModel", match="forbidden", action="block", times=0)
    batch = submitted(
        bench,
        {"a.jpg": photo(1), "b.jpg": photo(2)},
        Images=[{"ImageName": "a.jpg"}, {"ImageName": "b.jpg", "Scene": "a forbidden place"}],
    )
    bench.run(stages=PICTURES)
    rows = bench.rows(batch)
    assert (rows["a.jpg"].Status, rows["b.jpg"].Status) == (Status.SUCCEEDED, Status.BLOCKED)


def test_a_cap_without_room_for_the_scene_pays_nothing(bench: Bench, control: ControlClient) -> None:
    batch = submitted(bench, 3, MaxCostUSD=0.1)
    bench.run(stages=PICTURES)
    assert {(row.Status, row.Error) for row in bench.rows(batch).values()} == {(Status.SKIPPED, "CapReached")}
    assert control.paid() == []
    bench.run(stages=PICTURES, scene_models="stable-image-core", again=())
    bench.put(
        batch.request_key,
        json.dumps({**bench.store.read_json(batch.request_key), "MaxCostUSD": 0.15}).encode(),
    )
    bench.run(stages=PICTURES)
    rows_and_books(bench, control, batch)
    assert {row.Status for row in bench.rows(batch).values()} == {Status.SUCCEEDED}


def test_a_refresh_paints_one_new_scene_and_keeps_the_books(bench: Bench, control: ControlClient) -> None:
    batch = submitted(bench, 4)
    bench.run(stages=PICTURES)
    bench.run(stages=PICTURES, again=("generated_images",))
    assert len(painted(control)) == 2
    rows = rows_and_books(bench, control, batch)
    assert sum(row.CostUSD for row in rows) == pytest.approx(0.28)
    bench.run(stages=PICTURES)
    assert len(painted(control)) == 2


def test_another_retired_or_refused_model_is_followed_by_the_next(
    bench: Bench, control: ControlClient
) -> None:
    control.model(ULTRA, lifecycle="RETIRED")
    batch = submitted(bench, 3)
    bench.run(stages=PICTURES)
    rows = rows_and_books(bench, control, batch)
    assert {row.Model for row in rows} == {"stable-image-core"}
    assert sum(row.CostUSD for row in rows) == pytest.approx(0.04)


def test_without_any_scene_model_the_batch_fails_with_one_cause_and_other_batches_go_on(
    bench: Bench, control: ControlClient
) -> None:
    for model in PRICES:
        if model.startswith("stability"):
            control.model(model, lifecycle="RETIRED")
    batch = submitted(bench, 3)
    other = bench.submit(2, batch="inpainted")
    bench.run(stages=PICTURES)
    rows = bench.rows(batch)
    assert {(row.Status, row.Error) for row in rows.values()} == {(Status.FAILED, "NothingUsable")}
    assert len({row.Cause for row in rows.values()}) == 1
    assert {row.Status for row in bench.rows(other).values()} == {Status.SUCCEEDED}


def test_an_answer_that_s3_does_not_store_is_a_payment_and_not_lost(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Store.write
    monkeypatch.setattr("bg_pipeline.state.answers.KEEP_PAUSES", ())

    def refusing(store: Store, key: str, *args: Any, **how: Any) -> Any:
        if "/answers/scene/" in key:
            answer: Any = {"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}
            raise ClientError(answer, "PutObject")
        return write(store, key, *args, **how)

    control.latency({"operation": "InvokeModel", "seconds": 0.5})
    batch = submitted(bench, 8)
    monkeypatch.setattr(Store, "write", refusing)
    bench.run(stages=PICTURES)
    assert len(painted(control)) == 1, "the photos that wait for it do not pay again"
    monkeypatch.setattr(Store, "write", write)
    bench.run(stages=PICTURES)
    rows = rows_and_books(bench, control, batch)
    assert {row.Status for row in rows} == {Status.SUCCEEDED}
    assert len(painted(control)) == 2


def test_a_damaged_picture_is_paid_for_once_and_is_the_scenes_fault(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "bg_pipeline.generators.scenes.picture_of", lambda answer, model: b"\x89PNG\r\n\x1a\n" + b"\0" * 50
    )
    batch = submitted(bench, 8)
    bench.run(stages=PICTURES)
    rows = rows_and_books(bench, control, batch)
    assert {row.Status for row in rows} == {Status.FAILED}
    (cause,) = {row.Cause for row in rows}
    assert "scene could not be painted" in cause
    assert len(painted(control)) == 1
    assert sum(row.CostUSD for row in rows) == pytest.approx(0.14)


def test_words_that_are_too_long_cost_nothing(bench: Bench, control: ControlClient) -> None:
    batch = submitted(bench, 2, Scene="x" * 9_990)
    bench.run(stages=PICTURES)
    assert {row.Error for row in bench.rows(batch).values()} == {"PromptTooLong"}
    assert control.paid() == []


# What it looks like


def test_colour_matching_is_off_for_precise_and_gentle_otherwise(bench: Bench) -> None:
    batch = submitted(
        bench,
        {"a.jpg": photo(4), "b.jpg": photo(4)},
        Images=[{"ImageName": "a.jpg"}, {"ImageName": "b.jpg", "Mode": "DEFAULT"}],
        Renditions=[{"Format": "png"}],
    )
    bench.run(stages=PICTURES, scene_colour_matching=1.0)
    rows = bench.rows(batch)
    inside = np.asarray(photo_and_mask(4)[1].filter(ImageFilter.MinFilter(15))) == 255
    before = np.asarray(open_photo(photo(4)).image, np.int16)[inside]
    precise, matched = (
        np.asarray(open_photo(bench.store.read(rows[name].Results[0]).data).image, np.int16)[inside]
        for name in ("a.jpg", "b.jpg")
    )
    assert (precise == before).all()
    assert 0 < np.abs(matched - before).max() <= 14
    assert {row.Status for row in rows.values()} == {Status.SUCCEEDED}
