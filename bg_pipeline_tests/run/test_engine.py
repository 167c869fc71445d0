"""A run over a date: what is stored and reported, what is paid for, and what a second run does."""

import io
import json
from datetime import date
from typing import Any

import pytest
from PIL import Image

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.rows import Status
from bg_pipeline.errors import Blocked
from bg_pipeline.generators.pictures import from_base64
from bg_pipeline.imaging import Photo, restore_subject
from bg_pipeline.run import finishing
from bg_pipeline.run.generation import BackgroundGenerator
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import DATE, Bench
from bg_pipeline_tests.pictures import photo

PAID = ("InvokeModel", "Converse", "DetectLabels", "DetectFaces")


@pytest.fixture
def bench(s3, bucket, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket))


def paid(control: ControlClient, operation: str = "InvokeModel") -> int:
    return len(control.paid(operation=operation))


def test_every_image_has_labels_a_caption_a_picture_and_a_row(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit(3)
    day = bench.run()
    assert day.counts == {Status.SUCCEEDED: 3}
    rows = bench.rows(batch)
    for name, row in rows.items():
        assert row.Status == Status.SUCCEEDED, row.Cause
        assert row.Results == (f"{batch.output_prefix}/{name}",)
        assert row.Model == "titan-v2"
        assert row.Region == "us-east-1"
        assert row.CostUSD > 0
        labels = bench.store.read_json(batch.labels_key(name))
        caption = bench.store.read_json(batch.caption_key(name))
        provenance = bench.store.read_json(f"{row.Results[0]}.json")
        assert labels["Source"] == caption["Source"] == provenance["Source"] == batch.upload_key(name)
        assert caption["Caption"] == row.Caption
        assert provenance["Prompt"] == "a sunny beach"
        assert provenance["Seed"] == row.Seed
    assert (paid(control), paid(control, "Converse"), paid(control, "DetectLabels")) == (3, 3, 3)


def test_a_result_has_the_size_and_format_of_its_source(bench: Bench) -> None:
    sources = {
        "wide.jpg": photo(1, size=(300, 100)),
        "tall.png": photo(2, size=(90, 260), format="PNG"),
        "square.webp": photo(3, size=(128, 128), format="WEBP"),
    }
    batch = bench.submit(sources)
    bench.run()
    for name, row in bench.rows(batch).items():
        made = Image.open(io.BytesIO(bench.store.read(row.Results[0]).data))
        source = Image.open(io.BytesIO(sources[name]))
        assert (made.size, made.format) == (source.size, source.format)


def test_a_second_run_calls_nothing_and_changes_nothing(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit(3)
    bench.run()
    before = {found.key: found.etag for found in bench.store.list("") if "spend" not in found.key}
    control.mark()
    day = bench.run()
    assert day.due == 0
    assert day.counts == {Status.SUCCEEDED: 3}
    assert control.calls() == []
    assert {found.key: found.etag for found in bench.store.list("") if "spend" not in found.key} == before
    assert len(bench.rows(batch)) == 3


def test_a_report_made_alone_does_not_call_a_picture_of_an_earlier_request_done(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit({"first.jpg": photo(1), "second.jpg": photo(2)})
    bench.run()
    bench.submit({"third.jpg": photo(3)}, Prompt="a forest")
    bench.put(batch.upload_key("first.jpg"), photo(4))
    bench.run(stages=("status_report",))
    rows = bench.rows(batch)
    assert {(row.Status, row.Error) for row in rows.values()} == {(Status.SKIPPED, "NotTried")}
    assert rows["second.jpg"].Results
    assert "a run of all stages makes it anew" in rows["second.jpg"].Cause
    bench.run()
    assert {row.Status for row in bench.rows(batch).values()} == {Status.SUCCEEDED}


def test_a_report_tells_of_the_images_that_are_there_though_nothing_was_made_of_them(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit({"first.jpg": photo(1), "second.jpg": photo(2)})
    bench.run(stages=("status_report",))
    bench.store.delete(batch.upload_key("first.jpg"))
    bench.put(batch.upload_key("third.jpg"), photo(3))
    bench.run(stages=("status_report",))
    assert {row.Status for row in bench.rows(batch).values()} == {Status.SKIPPED}
    assert bench.rows(batch).keys() == {"second.jpg", "third.jpg"}
    for name in ("second.jpg", "third.jpg"):
        bench.store.delete(batch.upload_key(name))
    bench.run()
    assert bench.rows(batch) == {}
    assert control.calls() == []


def test_a_changed_prompt_of_one_image_makes_that_image_again(bench: Bench, control: ControlClient) -> None:
    bench.submit(3)
    bench.run()
    control.mark()
    batch = bench.submit(
        {}, Images=[{"ImageName": "photo-0.jpg"}, {"ImageName": "photo-1.jpg", "Prompt": "snow"}]
    )
    bench.run()
    assert [call["prompt"] for call in control.paid(operation="InvokeModel")] == ["snow"]
    assert paid(control, "Converse") == paid(control, "DetectLabels") == 0
    assert list(bench.rows(batch)) == ["photo-0.jpg", "photo-1.jpg"]


def test_a_changed_caption_prompt_makes_captions_again_and_no_picture_that_does_not_use_them(
    bench: Bench, control: ControlClient
) -> None:
    bench.submit(1, batch="plain")
    bench.submit({"other.jpg": photo(9)}, batch="with-caption", Prompt="{caption} on a beach")
    bench.run()
    control.mark()
    bench.run(caption_prompt="What is this?")
    assert paid(control, "Converse") == 2
    assert paid(control) <= 1  # the stand-in may say the same words to another question


def test_the_same_bytes_under_another_name_are_paid_for_once_and_marked_as_reused(
    bench: Bench, control: ControlClient
) -> None:
    first = bench.submit({"a.jpg": photo(1), "b.jpg": photo(1)}, Seed=7)
    second = bench.submit({"c.jpg": photo(1)}, batch="later", Seed=7)
    bench.run()
    assert paid(control) == paid(control, "Converse") == paid(control, "DetectLabels") == 1
    rows = {**bench.rows(first), **bench.rows(second)}
    assert sorted(row.Reused for row in rows.values()) == [False, True, True]
    assert sum(row.CostUSD for row in rows.values()) == pytest.approx(0.0153, abs=0.005)


def test_a_result_that_was_removed_or_overwritten_is_made_again_from_its_stored_answer(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(2)
    bench.run()
    gone, foreign = (f"{batch.output_prefix}/photo-{number}.jpg" for number in (0, 1))
    bench.store.delete(gone)
    bench.put(foreign, b"something else")
    control.mark()
    day = bench.run()
    assert day.due == 2
    assert control.paid() == []
    for key in (gone, foreign):
        Image.open(io.BytesIO(bench.store.read(key).data)).load()


def test_refresh_is_the_only_way_to_pay_again(bench: Bench, control: ControlClient) -> None:
    bench.submit(2)
    bench.run()
    control.mark()
    bench.run(again=("generated_images",))
    assert paid(control) == 2
    assert paid(control, "Converse") == 0


def test_a_file_that_is_not_an_image_fails_alone(bench: Bench) -> None:
    batch = bench.submit(
        {
            "page.jpg": b"<html>404</html>",
            "empty.png": b"",
            "torn.jpg": photo(1)[:2000],
            "good.jpg": photo(2),
        }
    )
    day = bench.run()
    rows = bench.rows(batch)
    assert {name: row.Status for name, row in rows.items()} == {
        "page.jpg": Status.FAILED,
        "empty.png": Status.FAILED,
        "torn.jpg": Status.FAILED,
        "good.jpg": Status.SUCCEEDED,
    }
    assert "empty" in rows["empty.png"].Cause
    assert not day.nothing_worked


def test_a_permanent_failure_is_not_tried_again_before_its_source_changes(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit({"bad.jpg": b"nothing", "good.jpg": photo(1)})
    bench.run()
    control.mark()
    assert bench.run().due == 0
    bench.put(batch.upload_key("bad.jpg"), photo(2))
    assert bench.run().counts == {Status.SUCCEEDED: 2}
    assert paid(control) == 1


def test_a_final_failure_is_tried_again_with_retry_and_nothing_else_is_paid_again(
    bench: Bench, control: ControlClient
) -> None:
    control.fault(operation="InvokeModel", match="an odd place", code="ValidationException", message="no")
    odd = {"ImageName": "odd.jpg", "Prompt": "an odd place"}
    batch = bench.submit({"odd.jpg": photo(2), "good.jpg": photo(1)}, Images=[odd, {"ImageName": "good.jpg"}])
    assert bench.run().counts == {Status.SUCCEEDED: 1, Status.FAILED: 1}
    assert bench.run().due == 0
    control.mark()
    assert bench.run(retry=True).counts == {Status.SUCCEEDED: 2}
    assert paid(control) == 1
    assert bench.rows(batch)["odd.jpg"].Status == Status.SUCCEEDED


def test_a_date_where_nothing_worked_has_a_report(bench: Bench) -> None:
    batch = bench.submit({"bad.jpg": b"nothing"})
    day = bench.run()
    assert day.nothing_worked
    assert bench.rows(batch)["bad.jpg"].Error == "NotAnImage"


def test_an_image_in_the_request_that_was_not_uploaded_is_a_row(bench: Bench) -> None:
    batch = bench.submit({"a.jpg": photo(1)}, Images=[{"ImageName": "a.jpg"}, {"ImageName": "b.jpg"}])
    bench.run()
    rows = bench.rows(batch)
    assert rows["a.jpg"].Status == Status.SUCCEEDED
    assert rows["b.jpg"].Status == Status.FAILED
    assert "no such object" in rows["b.jpg"].Cause
    bench.put(batch.upload_key("b.jpg"), photo(2))
    assert bench.run().counts == {Status.SUCCEEDED: 2}


def test_a_request_that_cannot_be_read_is_one_row_that_names_the_field(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(1, Modus="PRECISE", Prompt=3)
    day = bench.run()
    rows = bench.rows(batch, batch.derived_id(bench.store.bucket))
    assert list(rows) == ["request.json"]
    assert "Modus" in rows["request.json"].Cause
    assert day.nothing_worked
    assert control.paid() == []
    assert bench.run().due == 0


def test_a_folder_without_a_request_is_skipped_unless_there_is_a_default_prompt(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(1, requested=False)
    bench.run()
    own = batch.derived_id(bench.store.bucket)
    assert bench.rows(batch, own)["photo-0.jpg"].Status == Status.SKIPPED
    assert paid(control) == 0
    bench.run(default_prompt="a beach")
    assert bench.rows(batch, own)["photo-0.jpg"].Status == Status.SUCCEEDED


def test_a_folder_with_a_draft_is_not_processed(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit(1, requested=False)
    bench.put(batch.draft_key, b"{}")
    day = bench.run()
    assert (day.images, day.unfinished) == (0, [batch.path])
    assert control.calls() == []


@pytest.mark.parametrize(
    "name",
    [
        "a b+c.jpg",
        "100%.jpg",
        'it\'s "q".jpg',
        "a=b&c.jpg",
        "🦊.jpg",
        "x..y.jpg",
        "sub/deep/a.jpg",
        "../up.jpg",
        "~.jpg",
    ],
)
def test_odd_names_succeed(bench: Bench, name: str) -> None:
    batch = bench.submit({name: photo(1)})
    bench.run()
    row = bench.rows(batch)[name]
    assert (row.Status, row.Results) == (Status.SUCCEEDED, (f"{batch.output_prefix}/{name}",))


def test_a_blocked_prompt_is_a_row_with_the_models_message_costs_nothing_and_is_not_called_again(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(1, Prompt="blockme please")
    bench.run()
    row = bench.rows(batch)["photo-0.jpg"]
    assert row.Status == Status.BLOCKED
    assert "content filters" in row.Cause
    assert row.Outputs[0].CostUSD == 0
    control.mark()
    assert bench.run().due == 0
    assert control.calls() == []


def test_a_blocked_prompt_is_not_called_again_while_another_of_its_image_is(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(1, Prompt=None, Prompts=["blockme please", "a quiet street"])
    control.fault(operation="InvokeModel", match="quiet street", code="InternalServerException", times=0)
    bench.run()
    assert bench.rows(batch)["photo-0.jpg"].Status == Status.FAILED
    control.reset()
    control.switch(canned=True)
    control.mark()
    bench.run()
    row = bench.rows(batch)["photo-0.jpg"]
    assert [output.Status for output in row.Outputs] == [Status.BLOCKED, Status.SUCCEEDED]
    assert row.Status == Status.BLOCKED
    assert len(control.calls(operation="InvokeModel")) == 1
    assert bench.run().due == 0
    bench.run(again=("generated_images",))
    assert len(control.calls(operation="InvokeModel")) == 3


def test_throttled_calls_never_cost_an_image(bench: Bench, control: ControlClient) -> None:
    control.fault(operation="InvokeModel", code="ThrottlingException", times=5)
    bench.submit(3)
    assert bench.run().counts == {Status.SUCCEEDED: 3}
    assert paid(control) == 3


def test_temporary_errors_are_tried_again_and_then_are_a_transient_failure(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bg_pipeline.rate_limits.calls.BACK_OFF_SECONDS", (0.01, 0.02))
    batch = bench.submit(1)
    control.fault(operation="InvokeModel", code="InternalServerException", status=500, times=2)
    assert bench.run().counts == {Status.SUCCEEDED: 1}
    batch = bench.submit(1, batch="second", Prompt="another beach")
    control.fault(operation="InvokeModel", code="InternalServerException", status=500, times=3)
    bench.run()
    assert bench.rows(batch)["photo-0.jpg"].Status == Status.FAILED
    assert bench.run().counts == {Status.SUCCEEDED: 2}


def test_a_call_with_an_unknown_outcome_is_repeated_once_and_reported(
    bench: Bench, control: ControlClient
) -> None:
    control.fault(operation="InvokeModel", action="reset", times=1)
    batch = bench.submit(1)
    bench.run()
    row = bench.rows(batch)["photo-0.jpg"]
    assert row.Status == Status.SUCCEEDED
    assert paid(control) == 2
    assert "MaybeBilled" in row.Cause
    assert bench.store.read_json(f"{row.Results[0]}.json")["MaybeBilled"] == 1


def test_a_call_with_an_unknown_outcome_is_never_made_a_third_time(
    bench: Bench, control: ControlClient
) -> None:
    control.fault(operation="InvokeModel", action="reset", times=0)
    batch = bench.submit(1)
    for _ in range(3):
        bench.run()
    row = bench.rows(batch)["photo-0.jpg"]
    assert (row.Status, row.Error) == (Status.FAILED, "MaybeBilled")
    assert paid(control) == 2


@pytest.mark.parametrize("operation", ["DetectLabels", "Converse", "InvokeModel"])
def test_retry_makes_a_call_that_may_have_been_billed_twice_once_more(
    bench: Bench, control: ControlClient, operation: str
) -> None:
    batch = bench.submit({"met.jpg": photo(1)})
    control.fault(operation=operation, action="reset", times=0)
    bench.run()
    bench.run()
    assert len(control.paid(operation=operation)) == 2
    bench.run(retry=True)
    assert len(control.paid(operation=operation)) == 3
    bench.run()
    assert len(control.paid(operation=operation)) == 3
    assert "run --retry" in bench.rows(batch)["met.jpg"].Cause
    control.reset()
    control.switch(canned=True)
    bench.submit({"other.jpg": photo(2)}, batch="second")
    control.mark()
    assert bench.run(retry=True).counts == {Status.SUCCEEDED: 2}
    assert sorted(call["operation"] for call in control.paid(operation=operation)) == [operation] * 2


def test_a_retry_batch_makes_a_call_that_may_have_been_billed_twice_once_more(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit({"met.jpg": photo(1), "other.jpg": photo(2)}, Seed=1)
    control.fault(operation="InvokeModel", action="reset", times=2)
    bench.run(max_concurrency=1)
    retry = bench.store.read_json(f"{batch.status_prefix}/retry_id-{batch.name}.json")
    control.fault(operation="InvokeModel", action="reset", times=1)
    again = Batch(DATE, "again")
    bench.store.write_json(again.request_key, retry)
    for _ in range(2):
        bench.run()
        (row,) = bench.rows(again, retry["Id"]).values()
        assert (row.Status, row.Error) == (Status.FAILED, "MaybeBilled")
        assert paid(control) == 2 + 1 + 1
    retry["Id"] = "id-third"
    third = Batch(DATE, "third")
    bench.store.write_json(third.request_key, retry)
    bench.run()
    (row,) = bench.rows(third).values()
    assert row.Status == Status.SUCCEEDED
    assert paid(control) == 2 + 1 + 1 + 1


@pytest.mark.parametrize("answer", ["no picture", ""])
def test_an_answer_that_is_not_a_picture_counts_as_billed_and_the_call_is_made_twice_at_most(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(
        "bg_pipeline.generators.titan.pictures", lambda body, model: (from_base64(answer, model),)
    )
    batch = bench.submit(1)
    for _ in range(3):
        bench.run()
    row = bench.rows(batch)["photo-0.jpg"]
    assert (row.Status, row.Error) == (Status.FAILED, "MaybeBilled")
    assert "not a picture" in row.Cause or "--retry" in row.Cause
    assert paid(control) == 2
    spent = bench.store.read_json(batch.spend_key)
    assert spent["SettledMicroUsd"] > 2 * 8_000


def test_an_internal_error_ends_only_its_image(
    bench: Bench,
    control: ControlClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    in_process: None,
) -> None:
    def fail_for_one(source: Photo, *args: Any, **kwargs: Any) -> Image.Image:
        if source.size == (182, 160):
            raise ZeroDivisionError("a case nobody thought of")
        return restore_subject(source, *args, **kwargs)

    batch = bench.submit({"a.jpg": photo(1), "odd.jpg": photo(2, size=(182, 160)), "c.jpg": photo(3)})
    with monkeypatch.context() as patched:
        patched.setattr(finishing, "restore_subject", fail_for_one)
        day = bench.run()
    assert day.counts == {Status.SUCCEEDED: 2, Status.FAILED: 1}
    row = bench.rows(batch)["odd.jpg"]
    assert row.Error == "InternalError"
    assert "ZeroDivisionError: a case nobody thought of" in row.Cause
    (record,) = caplog.records
    assert record.exc_info
    assert "odd.jpg" in record.getMessage()
    # Mended, the image is finished from its stored answer.
    control.mark()
    day = bench.run()
    assert day.counts == {Status.SUCCEEDED: 3}, bench.rows(batch)["odd.jpg"].Cause
    assert control.paid() == []


def test_an_internal_error_in_one_of_several_prompts_ends_only_that_prompt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(background_generator: BackgroundGenerator, prompt: str, *rest: Any) -> Any:
        if "odd" in prompt:
            raise ZeroDivisionError("a case nobody thought of")
        return real(background_generator, prompt, *rest)

    real = BackgroundGenerator.generate
    monkeypatch.setattr(BackgroundGenerator, "generate", generate)
    batch = bench.submit(1, Prompts=["a beach", "an odd place", "a wood"])
    bench.run()
    outputs = bench.rows(batch)["photo-0.jpg"].Outputs
    assert [output.Status for output in outputs] == [Status.SUCCEEDED, Status.FAILED, Status.SUCCEEDED]


def test_a_refused_caption_counts_as_paid(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise Blocked("content_filtered", "no")

    bench.submit(1)
    fair = bench.run(stages=("captions",)).spent.cost_usd
    assert fair > 0
    monkeypatch.setattr("bg_pipeline.captioners.nova.read", refuse)
    bench.submit({"b.jpg": photo(7)}, batch="second")
    assert bench.run(stages=("captions",)).spent.cost_usd == pytest.approx(fair, rel=0.2)


def test_a_retired_model_is_replaced_by_the_next_and_nothing_is_paid_again(
    bench: Bench, control: ControlClient
) -> None:
    first = bench.submit(2)
    bench.run()
    control.model("amazon.titan-image-generator-v2:0", lifecycle="RETIRED", end_of_life="2026-06-30")
    second = bench.submit({"new.jpg": photo(5)}, batch="second")
    control.mark()
    bench.run()
    assert {row.Model for row in bench.rows(first).values()} == {"titan-v2"}
    assert bench.rows(second)["new.jpg"].Model == "nova-canvas"
    assert paid(control) == 1
    assert any("titan-v2" in note and "2026-06-30" in note for note in bench.notes)


@pytest.mark.parametrize("workers", [1, 8])
def test_a_model_that_is_retired_during_a_run_is_replaced(
    bench: Bench, control: ControlClient, workers: int
) -> None:
    control.fault(
        operation="InvokeModel",
        model="amazon.titan-image-generator-v2:0",
        code="ResourceNotFoundException",
        message="This model version has reached the end of its life.",
        status=404,
        times=0,
        skip=2,
    )
    bench.submit(12)
    day = bench.run(max_concurrency=workers)
    assert day.counts == {Status.SUCCEEDED: 12}, day.failed_rows
    assert any("end of its life" in note for note in bench.notes)


def test_without_a_usable_model_nothing_is_spent_and_the_images_wait(
    bench: Bench, control: ControlClient
) -> None:
    for model in ("amazon.titan-image-generator-v2:0", "amazon.nova-canvas-v1:0"):
        control.model(model, lifecycle="RETIRED", end_of_life="2026-06-30")
    batch = bench.submit(2)
    day = bench.run(image_models="titan-v2,nova-canvas")
    assert control.paid() == []
    assert {row.Status for row in bench.rows(batch).values()} == {Status.SKIPPED}
    assert "2026-06-30" in day.stopped
    control.reset()
    control.switch(canned=True)
    assert bench.run(image_models="titan-v2,nova-canvas").counts == {Status.SUCCEEDED: 2}


def test_a_cap_stops_the_run_cleanly_and_a_later_run_continues(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit(6)
    day = bench.run(max_cost_usd=0.04, max_concurrency=1)
    counts = day.counts
    assert counts[Status.SUCCEEDED] >= 1
    assert counts[Status.SKIPPED] >= 1
    assert counts[Status.FAILED] == 0
    assert day.spent.cost_usd <= 0.04
    assert "BG_MAX_COST_USD" in day.stopped
    assert len(bench.rows(batch)) == 6
    assert bench.run().counts == {Status.SUCCEEDED: 6}
    assert paid(control) == 6


def test_too_many_failures_stop_the_run(bench: Bench, control: ControlClient) -> None:
    control.fault(operation="InvokeModel", code="ValidationException", message="no", times=0)
    bench.submit(30)
    day = bench.run(max_failed_share=0.5, max_concurrency=2)
    assert day.counts[Status.FAILED] < 30
    assert day.counts[Status.SKIPPED] > 0
    assert "BG_MAX_FAILED_SHARE" in day.stopped


def test_captions_can_be_made_alone_and_are_reused(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit(2)
    bench.run(stages=["captions"])
    assert (paid(control), paid(control, "Converse"), paid(control, "DetectLabels")) == (0, 2, 0)
    assert bench.keys(batch.status_prefix) == []
    assert bench.run().counts == {Status.SUCCEEDED: 2}
    assert paid(control, "Converse") == 2


def test_several_prompts_and_variants_are_numbered_prompt_major(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit({"cat.jpg": photo(1)}, Prompts=["a beach", "a forest"], Variants=2)
    bench.run()
    row = bench.rows(batch)["cat.jpg"]
    assert row.Results == tuple(f"{batch.output_prefix}/cat_{number}.jpg" for number in (1, 2, 3, 4))
    prompts = [bench.store.read_json(f"{key}.json")["Prompt"] for key in row.Results]
    assert prompts == ["a beach", "a beach", "a forest", "a forest"]
    assert len({output.Seed for output in row.Outputs} | {None}) > 1


def test_results_that_are_no_longer_requested_are_deleted(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit({"cat.jpg": photo(1)}, Prompts=["a beach", "a forest"])
    bench.run()
    control.mark()
    bench.submit({}, Prompts=["a beach"], Seed=None)
    bench.run()
    left = f"{batch.output_prefix}/cat.jpg"
    assert bench.keys(batch.output_prefix) == [left, f"{left}.json"]
    assert control.paid() == []


def test_a_cut_out_is_a_transparent_png(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit({"cat.jpg": photo(1)}, Task="REMOVE", Prompt=None)
    bench.run()
    row = bench.rows(batch)["cat.jpg"]
    assert row.Results == (f"{batch.output_prefix}/cat.jpg.png",), row.Cause
    made = Image.open(io.BytesIO(bench.store.read(row.Results[0]).data))
    assert made.mode == "RGBA"
    assert made.getchannel("A").getextrema() == (0, 255)
    assert paid(control) == 0  # a studio background is cut out on this machine


def test_a_backdrop_is_composited_without_a_paid_call(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit({"cat.jpg": photo(1)}, Backdrop="#00ff00", Prompt=None)
    bench.run()
    row = bench.rows(batch)["cat.jpg"]
    made = Image.open(io.BytesIO(bench.store.read(row.Results[0]).data)).convert("RGB")
    red, green, blue = made.getpixel((2, 2))  # type: ignore[misc]
    assert green > 240
    assert max(red, blue) < 20
    assert paid(control) == 0


def test_a_retry_request_contains_the_failed_images(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit({"bad.jpg": b"x", "good.jpg": photo(1)})
    bench.run()
    retry = bench.store.read_json(f"{batch.status_prefix}/retry_id-101530.json")
    assert retry["RetryOf"] == "id-101530"
    assert [entry["ImageName"] for entry in retry["Images"]] == ["bad.jpg"]
    again = Batch(date(2026, 11, 21), "again")
    bench.put(again.request_key, json.dumps(retry).encode())
    bench.put(batch.upload_key("bad.jpg"), photo(2))
    bench.run(again.date)
    rows = bench.rows(again, retry["Id"])
    assert rows["bad.jpg"].Status == Status.SUCCEEDED


def test_a_range_of_dates_is_one_run(bench: Bench) -> None:
    other = date(2026, 11, 19)
    bench.submit(2)
    bench.submit(1, day=other)
    days = [bench.run(other, DATE)]
    assert days[0].counts == {Status.SUCCEEDED: 2}
    assert bench.run(other).counts == {Status.SUCCEEDED: 1}


def test_renditions_are_many_files_from_one_paid_answer(bench: Bench, control: ControlClient) -> None:
    renditions = [
        {"Preset": "marketplace-white", "FileName": "shop/{ref}"},
        {"Preset": "square-social"},
        {"Format": "webp", "Width": 50},
    ]
    batch = bench.submit(
        {"cat.jpg": photo(1, size=(1200, 900))}, Renditions=renditions, Task="REPLACE", Ref="SKU-1"
    )
    bench.run()
    row = bench.rows(batch)["cat.jpg"]
    assert row.Results[0] == f"{batch.output_prefix}/shop/SKU-1.jpg"
    assert len(row.Results) == 3
    assert paid(control) == 1
    sizes = [Image.open(io.BytesIO(bench.store.read(key).data)).size for key in row.Results]
    assert sizes == [(1600, 1600), (1080, 1080), (50, 38)]
    control.mark()
    bench.submit({}, Renditions=renditions[:1], Task="REPLACE", Ref="SKU-1")
    bench.run()
    assert control.paid() == []
