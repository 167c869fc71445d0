"""Simulates a plan and checks the invariants; shrinks a plan that violates one."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from bg_pipeline_tests.simulation.invariants import INVARIANTS, Watch
from bg_pipeline_tests.simulation.plan import Plan
from bg_pipeline_tests.simulation.scheduler import Stuck
from bg_pipeline_tests.simulation.world import simulated


@dataclass(frozen=True)
class Broken:
    """A violated invariant and a description of the violation."""

    invariant: str
    what: str


def try_plan(
    plan: Plan, *, trace: Callable[[str], None] | None = None, without: Collection[str] = ()
) -> list[Broken]:
    """Simulates a plan and returns the violations of all invariants except those in ``without``."""
    watches: list[Watch] = []
    try:
        with simulated(plan, trace, lambda world: watches.append(_watch(world))) as world:
            return [
                Broken(check.__name__, what)
                for check in INVARIANTS
                if check.__name__ not in without
                for what in check(world, watches[0])
            ]
    except Stuck as error:
        return [] if "all_ends" in without else [Broken("all_ends", str(error))]


def _watch(world: object) -> Watch:
    watch = Watch(world)  # type: ignore[arg-type]
    watch.world.bucket.watchers.append(watch.see)
    watch.world.at_rest = watch.at_rest
    return watch


def shrink(plan: Plan, invariant: str, *, without: Collection[str] = ()) -> Plan:
    """A minimal plan (steps, batches, photos, settings) that still violates the invariant."""

    def breaks(smaller: Plan) -> bool:
        return any(broken.invariant == invariant for broken in try_plan(smaller, without=without))

    smaller = True
    while smaller:
        smaller = False
        for candidate in _smaller(plan):
            if breaks(candidate):
                plan, smaller = candidate, True
                break
    return plan


def _smaller(plan: Plan) -> list[Plan]:
    """All plans with one step, batch, photo, request field or setting less."""
    found = []
    for index in range(len(plan.steps)):
        found.append(replace(plan, steps=plan.steps[:index] + plan.steps[index + 1 :]))
    for path in plan.batches:
        if len(plan.batches) > 1:
            kept = {name: spec for name, spec in plan.batches.items() if name != path}
            steps = tuple(step for step in plan.steps if step.args.get("batch", next(iter(kept))) in kept)
            found.append(replace(plan, batches=kept, steps=steps))
        spec = plan.batches[path]
        for photo in spec["photos"]:
            if len(spec["photos"]) > 1:
                fewer = {name: number for name, number in spec["photos"].items() if name != photo}
                found.append(replace(plan, batches={**plan.batches, path: {**spec, "photos": fewer}}))
        for field in spec["request"]:
            if field not in ("Id", "Prompt", "Prompts", "Task", "Backdrop", "Scene"):
                request = {name: value for name, value in spec["request"].items() if name != field}
                found.append(replace(plan, batches={**plan.batches, path: {**spec, "request": request}}))
    for setting in plan.settings:
        if setting not in ("image_models", "scene_models"):
            found.append(replace(plan, settings={k: v for k, v in plan.settings.items() if k != setting}))
    return found
