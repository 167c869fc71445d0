"""The plan of a simulation: batches, settings, and steps that happen at a time or at a certain request.

A plan is drawn from a seed and can be written as JSON, so that a shrunk one can be kept.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from random import Random
from typing import Any, Final, Self

from bg_pipeline_tests.simulation.models import FORBIDDEN

HORIZON: Final = 2400.0
"""Seconds during which steps happen; after them no more faults are injected."""


@dataclass(frozen=True)
class Step:
    """One event: ``do`` with ``args``, at a time or at a point.

    A point is the n-th request of a kind, such as "put answers", before or after its effect. A step that affects a
    process affects the one that made the request; at a time, the latest living run.
    """

    do: str
    args: dict[str, Any] = field(default_factory=dict)
    at: float | None = None
    point: str = ""
    number: int = 0
    moment: str = "before"

    def __str__(self) -> str:
        when = f"at {self.at:.0f} s" if self.at is not None else f"{self.moment} {self.point} {self.number}"
        arguments = ", ".join(f"{name}={value}" for name, value in self.args.items())
        return f"{when}: {self.do} {arguments}".rstrip()


@dataclass(frozen=True)
class Plan:
    """``batches`` maps each path (``date/name``) to its photos (numbers by name) and its request's fields."""

    seed: int
    batches: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    steps: tuple[Step, ...]

    def json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Self:
        document = json.loads(text)
        steps = tuple(Step(**step) for step in document.pop("steps"))
        return cls(**document, steps=steps)

    def __str__(self) -> str:
        lines = [f"seed {self.seed}; settings {self.settings}"]
        lines += [f"  batch {path}: {spec}" for path, spec in self.batches.items()]
        return "\n".join([*lines, *(f"  {step}" for step in self.steps)])


# Weights for drawing steps: requests whose failure matters most are chosen most often.
_S3_POINTS: Final = {
    "put answers": 8,
    "get answers": 3,
    "put calls": 6,
    "get calls": 2,
    "delete calls": 2,
    "put leases": 4,
    "get leases": 2,
    "delete leases": 3,
    "put ledger": 4,
    "get ledger": 2,
    "list ledger": 2,
    "delete ledger": 2,
    "put spend": 3,
    "get spend": 2,
    "get source": 4,
    "list uploads": 2,
    "get request": 2,
    "put results": 5,
    "get results": 3,
    "list results": 2,
    "head results": 1,
    "delete results": 3,
    "put provenance": 4,
    "put masks": 1,
    "put labels": 1,
    "put captions": 1,
    "put report": 4,
    "put payloads": 4,
    "put reviews": 1,
    "copy published": 1,
    "delete published": 1,
    "put published": 1,
    "put retries": 1,
}
_MODEL_POINTS: Final = {"picture": 6, "cut-out": 4, "labels": 2, "captions": 2}
_S3_FAULTS: Final = {
    "InternalError": 3,
    "SlowDown": 1,
    "closed": 2,
    "lost": 6,
    "stalled": 1,
    "cut": 2,
    "body stalled": 1,
    "AccessDenied": 2,
    "ConditionalRequestConflict": 2,
}
_MODEL_FAULTS: Final = {
    "ThrottlingException": 2,
    "InternalServerException": 2,
    "ServiceUnavailableException": 1,
    "ModelErrorException": 1,
    "refused": 2,
    "malformed": 1,
    "timeout": 2,
    "lost": 5,
    "unreachable": 1,
    "cut": 1,
    "bad picture": 3,
}
_OUTAGES: Final = (
    "answers",
    "calls",
    "leases",
    "ledger",
    "spend",
    "results",
    "report",
    "payloads",
    "source",
    "",
)
_DEEDS: Final = {
    "fault": 20,
    "model fault": 14,
    "kill": 9,
    "suspend": 6,
    "interrupt": 6,
    "outage": 5,
    "model dies": 2,
    "model away": 2,
    "unreadable": 2,
    "run": 12,
    "refresh": 7,
    "retry run": 3,
    "approve": 4,
    "retry": 5,
    "redo": 2,
    "publish": 4,
    "decide": 3,
    "replace request": 6,
    "overwrite photo": 3,
    "delete photo": 1,
    "add photo": 1,
    "settings": 4,
}


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    random = Random(seed)
    batches = _batches(random)
    steps = [Step("run", _run(random), at=0.0)]
    if random.random() < 0.3:
        steps.append(Step("sensor", at=0.0))
    for _ in range(random.choice((1, 2, 2, 3, 3, 4, 5, 6, 8, 10))):
        steps += _steps(random, batches)
    settings = _settings(random)
    sampled = [path for path, spec in batches.items() if "Sample" in spec["request"]]
    if sampled and random.random() < 0.5:
        # A cap stops the run, and a user retries the images that were left.
        settings |= random.choice(({"max_cost_usd": 0.1}, {"max_cost_usd_per_day": 0.1}, {}, {}))
        at = random.uniform(60, 600)
        steps.append(Step("retry", {"batch": random.choice(sampled)}, at=round(at, 1)))
        steps.append(Step("run", _run(random), at=round(at + 9, 1)))
    return Plan(seed, batches, settings, tuple(steps))


def draw_with_scenes(seed: int) -> Plan:
    """The plan of a seed with scenes in place of most painted backgrounds, and their faults with them."""
    plan, random = draw(seed), Random(f"scenes {seed}")

    def request(asked: dict[str, Any]) -> dict[str, Any]:
        words = json.dumps(asked.get("Prompts") or asked.get("Prompt") or "")
        if "Task" in asked or "Backdrop" in asked or random.random() < 0.2:
            return asked
        kept = {name: value for name, value in asked.items() if name not in ("Prompt", "Prompts")}
        scene = f"plain {FORBIDDEN} scene" if FORBIDDEN in words else f"plain scene {random.randrange(2)}"
        return {**kept, "Scene": scene}

    def step(old: Step) -> Step:
        args = dict(old.args)
        if "request" in args:
            args["request"] = request(args["request"])
        if old.do == "model dies" and random.random() < 0.5:
            args["model"] = "scenes"
        if args.get("of") == "picture":
            args["of"] = "scene"
        if old.point in ("picture", "cut-out") and random.random() < 0.8:
            # There are few calls for scenes.
            return replace(old, args=args, point="scene", number=1 + old.number // 3)
        return replace(old, args=args)

    batches = {path: {**spec, "request": request(spec["request"])} for path, spec in plan.batches.items()}
    settings = {**plan.settings, "scene_models": ["stable-image-ultra"]}
    return Plan(seed, batches, settings, tuple(map(step, plan.steps)))


def draw_with_parts(seed: int) -> Plan:
    """The plan of a seed with larger batches, which several runs work on in parts."""
    plan, random = draw(seed), Random(f"parts {seed}")
    photo = 100
    batches: dict[str, dict[str, Any]] = {}
    for path, spec in plan.batches.items():
        photos = dict(spec["photos"])
        for _ in range(random.choice((1, 2, 3, 4))):
            photo += 1
            photos[f"q{photo}.png"] = photo * 7 % 1728
        asked = dict(spec["request"])
        if random.random() < 0.7:
            asked.pop("Sample", None)
        batches[path] = {"photos": photos, "request": asked}
    settings = {**plan.settings, "runs_per_date": 3, "part_images": random.choice((1, 1, 2, 3))}
    settings.pop("html_report_images", None)
    steps = list(plan.steps)
    for _ in range(random.choice((1, 1, 2, 3))):
        steps.append(Step("run", {"machine": random.choice("abc")}, at=round(random.uniform(0, 20), 1)))
    for _ in range(random.choice((0, 1, 1, 2))):
        do, args = random.choice((("kill", {}), ("suspend", {"seconds": random.choice((30, 70, 100, 300))})))
        steps.append(Step(do, args, **_somewhere(random)))
    if random.random() < 0.15:
        changed = random.choice(({"runs_per_date": 1}, {"part_images": 2}, {"runs_per_date": 2}))
        at = round(random.uniform(1, 60), 1)
        steps += [Step("settings", changed, at=at), Step("run", {"machine": "b"}, at=at + 1)]
    return Plan(seed, batches, settings, tuple(steps))


def _pick(random: Random, weights: dict[str, int]) -> str:
    return random.choices(list(weights), list(weights.values()))[0]


def _batches(random: Random) -> dict[str, dict[str, Any]]:
    batches: dict[str, dict[str, Any]] = {}
    photo = 0
    for number in range(random.choice((1, 1, 2, 2, 3))):
        date = random.choice(("2026/11/20", "2026/11/20", "2026/11/19"))
        photos = {}
        for _ in range(random.choice((1, 1, 2, 2, 3, 4))):
            photo += 1
            photos[f"p{photo}.png"] = photo * 7 % 1728
        if random.random() < 0.08 and photo > 1:
            photos["same.png"] = 7  # the bytes of the first photo
        if random.random() < 0.06:
            photos["text.png"] = -1  # no picture
        batches[f"{date}/batch{number}"] = {"photos": photos, "request": _request(random, len(photos))}
    return batches


def _request(random: Random, photos: int) -> dict[str, Any]:
    asked: dict[str, Any] = {"Id": f"id-{random.randrange(10**6)}", "Prompt": _prompt(random)}
    what = random.random()
    if what < 0.12:
        asked["Variants"] = 2
    elif what < 0.2:
        asked["Prompts"] = [asked.pop("Prompt"), _prompt(random)]
    elif what < 0.25:
        asked["Backdrop"] = "#204060"
        del asked["Prompt"]
    elif what < 0.3:
        asked["Task"] = "REMOVE"
        del asked["Prompt"]
    if random.random() < 0.2 and photos > 1:
        asked["Sample"] = 1
    if random.random() < 0.15:
        asked["MaxCostUSD"] = random.choice((0.1, 0.2, 0.3, 0.5))
    if random.random() < 0.1:
        asked["Seed"] = random.choice((5, 6))
    return asked


def _prompt(random: Random) -> str:
    if random.random() < 0.03:
        return f"plain {FORBIDDEN} thing"
    ending = random.choice(("", "", "", " with {name}", " {caption}"))
    return f"plain ground {random.randrange(1000)}{ending}"


def _settings(random: Random) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "max_concurrency": random.choice((1, 2, 3, 4)),
        "image_models": random.choice(
            (["stability"], ["stability"], ["titan-v2", "stability"], ["stability", "titan-v2"])
        ),
    }
    if random.random() < 0.2:
        chosen["max_cost_usd"] = random.choice((0.08, 0.15, 0.3, 0.5))
    if random.random() < 0.15:
        chosen["max_cost_usd_per_day"] = random.choice((0.15, 0.3, 0.6))
    if random.random() < 0.15:
        chosen["keep_payloads"] = True
    if random.random() < 0.1:
        chosen["auto_approve"] = False
    if random.random() < 0.1:
        chosen["alt_text_length"] = 0
    if random.random() < 0.06:
        chosen["html_report_images"] = 10
    return chosen


def _run(random: Random) -> dict[str, Any]:
    run: dict[str, Any] = {"machine": random.choice(("a", "a", "b"))}
    if random.random() < 0.08:
        run["stages"] = random.choice((["labels"], ["captions"], ["labels", "captions"], ["status_report"]))
    return run


def _steps(random: Random, batches: dict[str, dict[str, Any]]) -> list[Step]:
    """One or several related steps."""
    do = _pick(random, _DEEDS)
    batch = random.choice(list(batches))
    at = round(random.choice((random.uniform(0, 40), random.uniform(0, 200), random.uniform(0, HORIZON))), 1)
    match do:
        case "fault":
            return [Step("fault", {"kind": _pick(random, _S3_FAULTS)}, **_point(random, _S3_POINTS, 12))]
        case "model fault":
            kind = _pick(random, _MODEL_FAULTS)
            first = _point(random, _MODEL_POINTS, 5)
            again = [] if random.random() < 0.7 else [{**first, "number": first["number"] + 1}]
            return [Step("fault", {"kind": kind}, **point) for point in (first, *again)]
        case "kill":
            after = [Step("run", _run(random), at=round(at + random.uniform(0, 90), 1))]
            return [Step("kill", **_somewhere(random)), *(after if random.random() < 0.6 else [])]
        case "suspend":
            seconds = random.choice((20, 70, 100, 300, 600, 1500))
            step = Step("suspend", {"seconds": seconds}, **_somewhere(random))
            replaced = {"batch": batch, "request": _replaced(random, batches[batch])}
            delay = random.uniform(5, 80)
            others = [
                Step("run", _run(random), at=round(delay + random.choice((5.0, 60.0)), 1)),
                Step("replace request", replaced, at=round(delay, 1)),
            ]
            return [step, *others[: random.choice((0, 1, 1, 2, 2))]]
        case "interrupt":
            twice = random.choice((None, None, 0.5, 3.0))
            step = Step("interrupt", {"again": twice}, **_somewhere(random))
            return [step, Step("run", _run(random), at=round(random.uniform(1, 60), 1))][
                : random.choice((1, 2, 2))
            ]
        case "outage":
            args: dict[str, Any] = {
                "area": random.choice(_OUTAGES),
                "operation": random.choice(("put", "put", "get", "delete", "*")),
                "kind": random.choice(("AccessDenied", "InternalError", "closed")),
                "seconds": random.choice((5, 30, 75, 200, 1000)),
            }
            return [Step("outage", args, **_somewhere(random))]
        case "model dies":
            return [
                Step("model dies", {"model": random.choice(("titan-v2", "stability"))}, **_somewhere(random))
            ]
        case "model away":
            kind = random.choice(
                ("AccessDeniedException", "ServiceUnavailableException", "ThrottlingException")
            )
            args = {
                "kind": kind,
                "of": random.choice(list(_MODEL_POINTS)),
                "seconds": random.choice((20, 100, 600)),
            }
            return [Step("model away", args, **_somewhere(random))]
        case "unreadable":
            photo = random.choice(list(batches[batch]["photos"]))
            kind = random.choice(("AccessDenied", "InvalidObjectState"))
            return [Step("unreadable", {"batch": batch, "photo": photo, "kind": kind}, at=0.0)]
        case "run":
            return [Step("run", _run(random), at=at)]
        case "refresh":
            stages = random.choice(
                (["generated_images"], ["generated_images"], ["labels"], ["captions", "generated_images"])
            )
            args = {**_run(random), "again": stages, "occasion": f"refresh{random.randrange(10**6)}"}
            args.pop("stages", None)
            start = max(at, 30.0)
            steps = [Step("run", args, at=start)]
            if random.random() < 0.5:
                steps.append(Step("run", args, at=round(start + random.uniform(30, 300), 1)))
                if random.random() < 0.7:
                    steps.append(
                        Step("kill", {"process": "last"}, at=round(start + random.uniform(1, 25), 1))
                    )
            return steps
        case "retry run":
            args = {**_run(random), "retry": True, "occasion": f"retry{random.randrange(10**6)}"}
            return [Step("run", args, at=at)] * random.choice((1, 1, 2))
        case "replace request":
            return [Step(do, {"batch": batch, "request": _replaced(random, batches[batch])}, at=at)]
        case "overwrite photo" | "delete photo":
            photo = random.choice(list(batches[batch]["photos"]))
            return [Step(do, {"batch": batch, "photo": photo, "number": random.randrange(900, 1700)}, at=at)]
        case "add photo":
            return [Step("overwrite photo", {"batch": batch, "photo": "added.png", "number": 1701}, at=at)]
        case "settings":
            return [Step("settings", _changed(random), at=at), Step("run", _run(random), at=round(at + 5, 1))]
        case "retry":
            return [Step("retry", {"batch": batch}, at=at), Step("run", _run(random), at=round(at + 9, 1))]
        case _:  # approve, redo, publish, decide
            times = random.choice((1, 1, 2))
            return [
                Step(do, {"batch": batch, "choice": random.randrange(100)}, at=at + time)
                for time in range(times)
            ]


def _changed(random: Random) -> dict[str, Any]:
    return random.choice(
        (
            {"feather": random.choice((0.5, 2.0))},
            {"image_models": random.choice((["stability"], ["titan-v2"], ["titan-v2", "stability"]))},
            {"mask_sources": random.choice((["cut-out"], ["alpha", "cut-out"]))},
            {"max_cost_usd": random.choice((0.0, 0.2, 0.5))},
            {"max_cost_usd_per_day": random.choice((0.0, 0.3, 1.0))},
            {"caption_prompt": "Describe it otherwise."},
        )
    )


def _replaced(random: Random, batch: dict[str, Any]) -> dict[str, Any]:
    return {**_request(random, len(batch["photos"])), "Id": batch["request"]["Id"]}


def _point(random: Random, points: dict[str, int], most: int) -> dict[str, Any]:
    return {
        "point": _pick(random, points),
        "number": 1 + int(random.random() ** 2 * most),
        "moment": "before",
    }


def _somewhere(random: Random) -> dict[str, Any]:
    if random.random() < 0.25:
        return {"at": round(random.choice((random.uniform(0, 40), random.uniform(0, 300))), 1)}
    points, most = (_MODEL_POINTS, 5) if random.random() < 0.5 else (_S3_POINTS, 10)
    return {**_point(random, points, most), "moment": random.choice(("before", "after"))}
