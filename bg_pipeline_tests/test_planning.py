"""The calls and costs that a plan counts for each kind of request, without those of finished images."""

import threading
from typing import Any

import pytest

from bg_pipeline import planning
from bg_pipeline.planning import Plan, choose_models
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.discovery import find_work
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import DATE, Bench, aws
from bg_pipeline_tests.pictures import photo


@pytest.fixture
def bench(s3, bucket: str, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket))


def plan(bench: Bench, **overrides: Any) -> Plan:
    chosen = bench.settings(**overrides)
    context = RunContext(chosen, aws(*chosen.regions), bench.store, stop=threading.Event())
    try:
        models, _ = choose_models(context)
    finally:
        context.close()
    return planning.plan(find_work(bench.store, chosen, [DATE]), chosen, models)


def calls(found: Plan) -> dict[str, tuple[int, int]]:
    return {line.operation.name: (line.calls, line.at_worst) for line in found.lines}


LOOKS = {"DETECT_LABELS": (1, 1), "CAPTION": (1, 1)}


@pytest.mark.parametrize(
    ("models", "request_", "expected"),
    [
        # A model that takes words needs no cut-out, unless it finds nothing; then a picture may be made again.
        ("titan-v2", {}, {"TITAN_V2": (1, 3)}),
        ("titan-v2", {"Variants": 5, "Prompts": ["a", "b"]}, {"TITAN_V2": (2, 13)}),
        ("titan-v2", {"Subject": "SALIENT"}, {"TITAN_V2": (2, 3)}),
        ("titan-v2", {"MaskKey": "assets/m.png"}, {"TITAN_V2": (1, 2)}),
        ("titan-v2", {"Subject": "FACES"}, {"DETECT_FACES": (1, 1), "TITAN_V2": (1, 2)}),
        ("titan-v2", {"Task": "REMOVE"}, {"TITAN_V2": (1, 1)}),
        ("titan-v2", {"Backdrop": "#ffffff"}, {"TITAN_V2": (1, 1)}),
        # Two calls a picture, and one cut-out for all prompts of a photo.
        ("stability", {}, {"STABILITY_REMOVE_BACKGROUND": (1, 1), "STABILITY_INPAINT": (1, 2)}),
        (
            "stability",
            {"Prompts": ["a", "b", "c"]},
            {"STABILITY_REMOVE_BACKGROUND": (1, 1), "STABILITY_INPAINT": (3, 6)},
        ),
    ],
)
def test_calls_are_counted_once_and_at_worst(
    bench: Bench, models: str, request_: dict[str, Any], expected: dict[str, tuple[int, int]]
) -> None:
    bench.put("assets/m.png", photo(9))
    bench.submit(1, **request_)
    assert calls(plan(bench, image_models=(models,))) == LOOKS | expected


def test_without_cut_outs_in_the_mask_sources_none_is_planned(bench: Bench) -> None:
    bench.submit(1, Subject="SALIENT")
    assert calls(plan(bench, image_models=("titan-v2",), mask_sources=("alpha",))) == LOOKS | {
        "TITAN_V2": (1, 2)
    }


def test_the_slowest_quota_determines_the_time_and_all_calls_the_cost(bench: Bench) -> None:
    bench.submit(3)
    found = plan(bench, quota_titan_v2_rpm=6, max_regenerations=0, mask_sources=())
    assert found.minutes == found.minutes_at_worst == pytest.approx(0.5)
    assert found.worst_usd == pytest.approx(3 * (0.001 + 0.012) + 3 * 0.0025, abs=0.003)


def test_finished_images_are_not_planned(bench: Bench) -> None:
    bench.submit({"a.jpg": photo(1), "b.jpg": photo(2)})
    bench.run()
    bench.submit({"c.jpg": photo(3)}, batch="later")
    found = plan(bench)
    assert (found.images, found.due) == (3, 1)
    assert calls(found)["DETECT_LABELS"] == (1, 1)


def test_images_that_cannot_run_are_counted_and_cost_nothing(bench: Bench) -> None:
    bench.submit(2, requested=False)
    bench.submit(1, batch="broken", Promt="typo")
    found = plan(bench)
    assert found.without_prompt == 2
    assert "broken" in found.unreadable[0]
    assert "TITAN_V2" not in calls(found)


def test_images_whose_backdrop_is_missing_are_told_and_cost_nothing(bench: Bench) -> None:
    bench.submit(2, Backdrop="assets/none.png")
    found = plan(bench)
    assert list(found.refused.values()) == [2]
    assert "assets/none.png" in next(iter(found.refused))
    assert found.lines == []


def test_an_unknown_price_makes_the_total_unknown(bench: Bench) -> None:
    bench.submit(1)
    found = plan(bench, caption_models=("us.amazon.nova-pro-v1:0",))
    assert found.worst_usd is not None
    found.lines[0].worst_usd = None
    assert found.worst_usd is None


def test_a_scene_is_planned_once_and_compared_with_backgrounds_of_their_own(bench: Bench) -> None:
    bench.put("assets/m.png", photo(9))
    bench.submit(40, Scene="a sunlit oak table", Prompt=None, MaskKey="assets/m.png")
    found = plan(bench, regions="us-west-2", image_models=("stability",))
    assert calls(found)["STABLE_IMAGE_ULTRA"] == (1, 3)
    assert "STABILITY_INPAINT" not in calls(found)
    assert found.on_scenes == 40
    assert found.scenes_usd == pytest.approx(0.42)
    assert found.instead_usd == pytest.approx(40 * 0.07)
    assert found.scene_prices == (
        "40 pictures on shared scenes, which cost at most 0.42 USD; a background of its own for each would cost "
        "2.80 USD."
    )
    assert found.worst_usd == pytest.approx(0.42 + 40 * (0.001 + 0.0025), abs=0.05)


def test_scenes_with_other_words_or_seeds_are_counted_by_themselves(bench: Bench) -> None:
    bench.submit(
        {"a.jpg": photo(1), "b.jpg": photo(2), "c.jpg": photo(3)},
        Scene="a table",
        Prompt=None,
        Variants=2,
        Images=[{"ImageName": "a.jpg"}, {"ImageName": "b.jpg"}, {"ImageName": "c.jpg", "Scene": "a wall"}],
    )
    found = plan(bench, regions="us-west-2", scene_models=("stable-image-core",))
    assert calls(found)["STABLE_IMAGE_CORE"] == (4, 2 + 2 + 1 + 1)


def test_without_a_scene_no_scene_model_is_asked_for(bench: Bench, control: ControlClient) -> None:
    bench.submit(1)
    found = plan(bench)
    assert (found.scene_prices, found.scenes_usd) == ("", 0.0)
    assert not any("image-ultra" in line.operation.model_id for line in found.lines)


def test_a_plan_without_a_usable_scene_model_says_why(bench: Bench) -> None:
    bench.submit(1, Scene="a table", Prompt=None)
    chosen = bench.settings()
    context = RunContext(chosen, aws("us-east-1"), bench.store, stop=threading.Event())
    try:
        models, reasons = choose_models(context)
        found = planning.plan(find_work(bench.store, chosen, [DATE]), chosen, models)
    finally:
        context.close()
    assert found.on_scenes == 1
    assert "stable-image-ultra" in " ".join(reasons)


def test_as_many_runs_help_as_the_work_on_the_pictures_is_longer_than_the_quota(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def found(cpu: float, quota: float, parts: int) -> int:
        monkeypatch.setattr(Plan, "minutes", quota)
        return Plan(parts=parts, cpu_minutes=cpu).runs_that_help

    assert found(cpu=5, quota=10, parts=9) == 1
    assert found(cpu=25, quota=10, parts=9) == 3
    assert found(cpu=25, quota=10, parts=2) == 2
    assert found(cpu=25, quota=0, parts=9) == 9
    assert found(cpu=0, quota=0, parts=1) == 1


def test_a_plan_knows_its_parts_and_about_how_long_the_pictures_take(bench: Bench) -> None:
    bench.submit(7)
    small = plan(bench, part_images=3)
    assert small.parts == 3
    bench.submit({"large.jpg": photo(1, size=(3000, 2000))}, batch="large")
    assert plan(bench, part_images=3).parts == 4
    assert plan(bench).cpu_minutes > small.cpu_minutes > 0
    assert plan(bench, mask_sources="network").cpu_minutes > plan(bench).cpu_minutes
