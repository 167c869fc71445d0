"""A good outcome stays until there is a better one; an error of one image, batch or date stops no other."""

import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from PIL import Image, ImageDraw

from bg_pipeline.domain.rows import WAITING_FOR_APPROVAL, Status
from bg_pipeline.imaging import measure
from bg_pipeline.run import finishing
from bg_pipeline.run.engine import Engine
from bg_pipeline.run.outcome_recorder import OutcomeRecorder
from bg_pipeline.state import leases
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import DATE, Bench
from bg_pipeline_tests.pictures import photo
from bg_pipeline_tests.run.test_payments import refuse

TITAN = "amazon.titan-image-generator-v2:0"


@pytest.fixture
def bench(s3, bucket, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket))


def stored_results(bench: Bench) -> dict[str, str]:
    return {found.key: found.etag for found in bench.store.list("generated-image-files/")}


def test_a_refresh_that_stops_at_a_cap_loses_no_result(bench: Bench) -> None:
    batch = bench.submit(6)
    bench.run()
    before = stored_results(bench)
    bench.run(again=("generated_images",), max_cost_usd=0.02, max_concurrency=1)
    assert before.keys() == stored_results(bench).keys()
    rows = bench.rows(batch).values()
    assert {row.Status for row in rows} == {Status.SUCCEEDED}
    assert all(len(row.Results) == 1 for row in rows)
    assert any("the earlier result stays" in row.Cause and "BG_MAX_COST_USD" in row.Cause for row in rows)


def test_a_refresh_that_is_refused_leaves_the_earlier_result(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit(1)
    bench.run()
    before = stored_results(bench)
    control.fault(operation="InvokeModel", action="block", where="prompt")
    bench.run(again=("generated_images",))
    (row,) = bench.rows(batch).values()
    assert row.Status == Status.SUCCEEDED
    assert "the earlier result stays" in row.Cause
    assert stored_results(bench) == before


def test_a_changed_request_that_fails_is_reported_and_leaves_the_earlier_result(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(1)
    bench.run()
    before = stored_results(bench)
    control.fault(operation="InvokeModel", action="block", where="prompt")
    bench.submit(1, Prompt="snow")
    bench.run()
    (row,) = bench.rows(batch).values()
    assert row.Status == Status.BLOCKED
    assert len(row.Results) == 1
    assert stored_results(bench) == before


def test_retired_models_delete_no_results_and_stored_answers_need_no_model(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(4)
    bench.run(image_models="titan-v2")
    control.model(TITAN, lifecycle="RETIRED", end_of_life="2026-06-30")
    control.mark()
    day = bench.run(image_models="titan-v2", feather=4.0)
    assert day.counts == {Status.SUCCEEDED: 4}
    assert day.made["generated_images"] == 4
    assert control.paid() == []
    assert len(bench.rows(batch)) == 4


def test_stored_answers_of_any_model_are_used(bench: Bench, control: ControlClient) -> None:
    bench.submit(2)
    bench.run(image_models="titan-v2")
    control.mark()
    for models in ("nova-canvas", "titan-v2", "stability"):
        bench.submit({}, Renditions=[{"Format": "png"}, {"Format": "webp"}][: 1 + (models == "titan-v2")])
        bench.run(image_models=models)
    assert control.paid(operation="InvokeModel") == []


def test_a_deleted_result_that_cannot_be_made_again_is_not_reported_as_succeeded(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = bench.submit(1)
    bench.run()
    for key in stored_results(bench):
        bench.store.delete(key)
    refuse(monkeypatch, "read", lambda key: key == batch.upload_key("photo-0.jpg"), "AccessDenied")
    bench.run()
    (row,) = bench.rows(batch).values()
    assert (row.Status, row.Results) == (Status.FAILED, ())


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("AccessDenied", "s3:GetObject"),
        ("InvalidObjectState", "restore it"),
        ("KMS.DisabledException", "kms:Decrypt"),
    ],
)
def test_a_photo_that_s3_refuses_to_return_is_one_row_that_names_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, code: str, advice: str
) -> None:
    batch = bench.submit(5)
    with monkeypatch.context() as patch:
        refuse(patch, "read", lambda key: key == batch.upload_key("photo-3.jpg"), code)
        day = bench.run()
    assert (day.counts, day.stopped) == ({Status.SUCCEEDED: 4, Status.FAILED: 1}, "")
    row = bench.rows(batch)["photo-3.jpg"]
    assert batch.upload_key("photo-3.jpg") in row.Cause
    assert advice in row.Cause
    assert bench.run().counts == {Status.SUCCEEDED: 5}


def test_files_that_are_not_images_stop_nothing(bench: Bench) -> None:
    bench.submit({f"{number}.png": b"some text" for number in range(25)}, batch="100000")
    good = bench.submit(3, batch="110000")
    day = bench.run()
    assert day.counts == {Status.FAILED: 25, Status.SUCCEEDED: 3}
    assert day.stopped == ""
    assert {row.Status for row in bench.rows(good).values()} == {Status.SUCCEEDED}
    assert bench.run().stopped == ""


def test_failing_calls_of_one_batch_stop_that_batch_alone(bench: Bench, control: ControlClient) -> None:
    control.fault(operation="InvokeModel", code="ValidationException", message="no", times=0, match="volcano")
    bench.submit({f"v{n}.jpg": photo(n) for n in range(25)}, batch="100000", Prompt="a volcano")
    good = bench.submit(3, batch="110000")
    day = bench.run(max_concurrency=2)
    assert "BG_MAX_FAILED_SHARE" in day.stopped
    assert {row.Status for row in bench.rows(good).values()} == {Status.SUCCEEDED}


def test_a_batch_whose_bucket_is_gone_fails_alone(bench: Bench) -> None:
    other = date(2026, 11, 19)
    gone = bench.submit({}, batch="100000", S3Bucket="a-bucket-that-is-gone", Images=[{"ImageName": "a.jpg"}])
    good = bench.submit(2, batch="110000")
    bench.submit(1, day=other)
    day = bench.run(DATE, other, allowed_buckets="a-bucket-that-is-gone")
    assert day.counts == {Status.SUCCEEDED: 1}
    assert {row.Status for row in bench.rows(good).values()} == {Status.SUCCEEDED}
    (row,) = bench.rows(gone, gone.derived_id(bench.store.bucket)).values()
    assert row.Status == Status.FAILED
    assert "a-bucket-that-is-gone" in row.Cause


def test_a_report_that_cannot_be_written_is_a_problem_of_its_date_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = date(2026, 11, 19)
    batch = bench.submit(1)
    bench.submit(1, day=other)
    with monkeypatch.context() as patch:
        refuse(patch, "write", lambda key: key.startswith(f"{batch.status_prefix}/"), "AccessDenied")
        fine = bench.run(DATE, other)
        assert (fine.counts, fine.problems) == ({Status.SUCCEEDED: 1}, [])
        (problem,) = bench.run(DATE).problems
        assert batch.path in problem
    assert bench.run(DATE).problems == []
    assert len(bench.rows(batch)) == 1


def test_an_outdated_result_that_cannot_be_deleted_stops_nothing_and_is_deleted_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = bench.submit({"cat.jpg": photo(1)}, Prompts=["a beach", "a forest"])
    bench.run()
    bench.submit({}, Prompts=["a beach"])
    with monkeypatch.context() as patch:
        refuse(patch, "delete", lambda key: key.endswith("cat_2.jpg"), "AccessDenied")
        assert bench.run().counts == {Status.SUCCEEDED: 1}
    assert f"{batch.output_prefix}/cat_2.jpg" in stored_results(bench)
    bench.submit({}, Prompts=["a beach"], Ref="x")
    bench.run()
    assert f"{batch.output_prefix}/cat_2.jpg" not in stored_results(bench)


def test_results_that_s3_does_not_store_stop_their_batch_and_are_stored_later_without_paying_again(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = bench.submit(12, batch="100000")
    good = bench.submit({"x.jpg": photo(50), "y.jpg": photo(51)}, batch="110000")
    with monkeypatch.context() as patch:
        refuse(patch, "write", lambda key: key.startswith(f"{batch.output_prefix}/"), "AccessDenied")
        bench.run(max_concurrency=1)
    assert {row.Status for row in bench.rows(good).values()} == {Status.SUCCEEDED}
    assert len(control.paid(operation="InvokeModel")) <= 3 + 2 + 1
    assert bench.run().counts == {Status.SUCCEEDED: 14}
    assert len(control.paid(operation="InvokeModel")) == 14


def test_a_newer_result_that_cannot_be_read_back_takes_nothing_away_and_counts_once_it_was(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = bench.submit({"cat.jpg": photo(1)})
    bench.run()
    key = f"{batch.output_prefix}/cat.jpg"
    control.switch(canned=False)
    with monkeypatch.context() as patch:
        refuse(patch, "read", lambda read: read == key, "InternalError")
        for again in (("generated_images",), ()):
            bench.run(again=again)
            (row,) = bench.rows(batch).values()
            assert (row.Status, row.Results) == (Status.SUCCEEDED, (key,))
            assert "once a run has read it back" in row.Cause
    bench.run()
    (row,) = bench.rows(batch).values()
    assert (row.Status, row.Results, row.Cause) == (Status.SUCCEEDED, (key,), "")
    assert len(control.paid(operation="InvokeModel")) == 2
    assert bench.run().due == 0


@pytest.mark.parametrize(
    ("method", "prefix"),
    [
        ("write", "generated-image-files/"),
        ("read", "generated-image-files/"),
        ("read", "image-files/"),
        ("read", "pipeline-state/answers/"),
    ],
)
def test_a_result_that_a_killed_run_replaced_stays_delivered_until_it_is_checked(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch, method: str, prefix: str
) -> None:
    batch = bench.submit({"cat.jpg": photo(1)})
    bench.run()
    key, ledger_key = f"{batch.output_prefix}/cat.jpg", batch.ledger_key("ledger.jsonl.gz")
    ledger = bench.store.read(ledger_key)
    control.switch(canned=False)
    bench.run(again=("generated_images",))
    bench.put(ledger_key, ledger.data)  # as if the run was killed before it wrote the ledger
    with monkeypatch.context() as patch:
        refuse(patch, method, lambda asked: asked.startswith(prefix) and "json" not in asked, "InternalError")
        bench.run()
        (row,) = bench.rows(batch).values()
        assert (row.Status, row.Results) == (Status.SUCCEEDED, (key,))
        assert "once a run has read it back" in row.Cause
    bench.run()
    (row,) = bench.rows(batch).values()
    assert (row.Status, row.Results, row.Cause) == (Status.SUCCEEDED, (key,), "")
    assert len(control.paid(operation="InvokeModel")) == 2


def test_a_result_that_somebody_else_overwrote_is_not_delivered_any_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = bench.submit({"cat.jpg": photo(1)})
    bench.run()
    bench.put(f"{batch.output_prefix}/cat.jpg", photo(2))
    refuse(monkeypatch, "write", lambda key: key.startswith(f"{batch.output_prefix}/"), "AccessDenied")
    bench.run()
    (row,) = bench.rows(batch).values()
    assert (row.Status, row.Error, row.Results) == (Status.FAILED, "NotStored", ())


def test_an_interrupted_run_leaves_an_up_to_date_report(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept, accepted = OutcomeRecorder.accept, []

    def interrupt(recorder: OutcomeRecorder, *args: Any) -> None:
        accept(recorder, *args)
        accepted.append(args)
        if len(accepted) == 3:
            raise KeyboardInterrupt

    batch = bench.submit(8)
    monkeypatch.setattr(OutcomeRecorder, "accept", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.run(max_concurrency=1)
    rows = bench.rows(batch)
    assert len(rows) == 8
    finished = {name for name, row in rows.items() if row.Status == Status.SUCCEEDED}
    assert len(finished) >= 3
    assert {row.Status for name, row in rows.items() if name not in finished} == {Status.SKIPPED}


def test_images_beyond_a_sample_wait_for_its_approval_whatever_stops_the_run(
    bench: Bench, control: ControlClient
) -> None:
    control.model(TITAN, lifecycle="RETIRED", end_of_life="2026-06-30")
    batch = bench.submit(8, Sample=2)
    bench.run(image_models="titan-v2")
    errors = [row.Error for row in bench.rows(batch).values()]
    assert errors.count(WAITING_FOR_APPROVAL) == 6
    assert errors.count("NothingUsable") == 2


def test_a_run_that_lost_its_lease_changes_nothing_of_what_the_next_one_wrote(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run is suspended before it stores its result; its request is replaced and run by another."""
    batch = bench.submit(1)
    write = Store.write
    suspended: list[str] = []

    def suspend(store: Store, key: str, *args: Any, **how: Any) -> str:
        if key == f"{batch.output_prefix}/photo-0.jpg" and not suspended:
            suspended.append(key)
            bench.submit({}, Prompt="snow")
            bench.store.delete(batch.lease_key)  # as if it had run out
            bench.run()
        return write(store, key, *args, **how)

    monkeypatch.setattr(Store, "write", suspend)
    # After a pause a holder renews its lease before it trusts it.
    monkeypatch.setattr(leases.Lease, "_expired", lambda lease: bool(suspended))
    bench.run()
    document = json.loads(bench.store.read(f"{batch.output_prefix}/photo-0.jpg.json").data)
    assert document["Prompt"] == "snow"
    assert bench.run().counts == {Status.SUCCEEDED: 1}
    (row,) = bench.rows(batch).values()
    assert row.Status == Status.SUCCEEDED


def test_a_new_mask_needs_a_new_picture_and_no_old_one_is_used(bench: Bench, control: ControlClient) -> None:
    bench.submit({"cat.png": _with_alpha()}, Subject="SALIENT")
    bench.run(mask_sources="alpha", image_models="stability")
    control.mark()
    bench.run(mask_sources="cut-out", image_models="stability")
    tasks = [call["model"] for call in control.paid(operation="InvokeModel")]
    assert len(tasks) == 2, "a cut-out, and a picture painted around it"


def _with_alpha() -> bytes:
    picture = Image.open(io.BytesIO(photo(3))).convert("RGBA")
    alpha = Image.new("L", picture.size, 0)
    width, height = picture.size
    ImageDraw.Draw(alpha).rectangle((width // 4, height // 4, width // 2, height // 2), fill=255)
    picture.putalpha(alpha)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def test_only_a_fault_of_the_generated_background_is_paid_for_again(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch, in_process: None
) -> None:
    monkeypatch.setattr(finishing, "measure", lambda *given: replace(measure(*given), edge_halo=0.9))
    batch = bench.submit(1)
    bench.run()
    (row,) = bench.rows(batch).values()
    assert row.Status == Status.NEEDS_REVIEW
    assert len(control.paid(operation="InvokeModel")) == 1


@pytest.mark.parametrize("times", [1, 2])
def test_a_run_that_is_interrupted_repeatedly_waits_for_its_calls_before_it_releases_its_lease(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    control.latency({"operation": "InvokeModel", "seconds": 1.0})
    collect, left = Engine._collect_finished, [times]

    def interrupt(engine: Engine) -> None:
        if left[0] and control.calls(operation="Converse"):
            left[0] -= 1
            raise KeyboardInterrupt
        collect(engine)

    batch = bench.submit(4)
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_collect_finished", interrupt)
        with pytest.raises(KeyboardInterrupt):
            bench.run()
    assert bench.store.read(batch.lease_key) is None
    assert bench.run().counts == {Status.SUCCEEDED: 4}
    assert len(control.paid(operation="InvokeModel")) == 4


def test_a_run_that_is_interrupted_while_it_ends_leaves_no_thread_that_waits_for_work(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever holds the error holds the run's frames, and with them the pools.
    shutdown, before = ThreadPoolExecutor.shutdown, set(threading.enumerate())

    def interrupt(pool: ThreadPoolExecutor, wait: bool = True, **how: Any) -> None:
        shutdown(pool, wait=False, **how)
        if wait:
            raise KeyboardInterrupt

    bench.submit(2, Prompts=["a sandy beach", "a quiet street"], Prompt=None)
    with monkeypatch.context() as patch:
        patch.setattr(ThreadPoolExecutor, "shutdown", interrupt)
        with pytest.raises(KeyboardInterrupt) as ended:
            bench.run()
    left = [each for each in set(threading.enumerate()) - before if each.name.startswith(("image", "prompt"))]
    for thread in left:
        thread.join(timeout=10)
    assert ended.value is not None
    assert not [thread for thread in left if thread.is_alive()]
