"""Duration of a run divided by the minimum that the quotas allow, compared with usual ways to write such a run.

    python -m benchmarks.makespan [--rows NAME …] [--scale 10] [--images 1000]

The services are `SERVICES` made ``scale`` times faster: at 10, 1,000 images take 50 s instead of 500. Parts that do
not scale (imports, leases, the report, S3) therefore count ten times as much as in a real run.
"""

import argparse
import io
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import boto3
import orjson
import pybase64
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from PIL import ImageOps

from benchmarks.rig import MODEL_OPERATIONS, Rig, Run, days, figure, jpeg, rig, submit, table
from bg_pipeline.domain.batches import Batch
from bg_pipeline.generators import Ask
from bg_pipeline.generators.titan import request
from bg_pipeline.storage.object_store import Store

SERVICES = {"DetectLabels": (3000, 0.3), "Converse": (200, 2.0), "InvokeModel": (120, 7.0)}
"""Calls per minute and median latency (seconds) of labels, captions and pictures; lognormal with sigma 0.25."""
STABILITY = (
    "stability.stable-image-inpaint-v1:0",
    "stability.stable-image-remove-background-v1:0",
)
PHOTO = (192, 128)
LARGER = (640, 480)
FAST = 3.0
"""The scale at which pictures have a quota of 360 a minute."""
MASK = "assets/mask.png"
TAKEN = (576, 384)
"""`PHOTO` and its mask are small, because image operations are not measured here; `TAKEN` is a size Titan accepts."""
HEAD = ("run", "images", "floor s", "wall s", "x floor", "calls refused", "images lost", "CPU ms an image")


@dataclass(frozen=True)
class Scaled:
    """The services of one row: their quotas, and the quotas configured in the run (``configured`` times those).

    With one Region the model is Titan, with three it is Stability, because Titan is offered in two Regions only.
    Stability needs a mask: it is sent with the photos, or, with ``cut_out``, made by a call with a quota of its own.
    """

    scale: float
    regions: int = 1
    configured: float = 1.0
    cut_out: bool = False

    @property
    def per_second(self) -> float:
        return SERVICES["InvokeModel"][0] * self.scale / 60

    def configure(self, rig: Rig) -> None:
        """Sets the stand-in's quotas (buckets one second deep, divided over the Regions) and latencies."""
        each = self.scale / self.regions
        rig.control.quota(
            *(
                {
                    "operation": name,
                    "model": model,
                    "per_minute": rpm * each,
                    "depth": max(1.0, rpm * each / 60),
                }
                for name, (rpm, _) in SERVICES.items()
                for model in (STABILITY if name == "InvokeModel" and self.regions >= 3 else ("",))
            )
        )
        rig.control.latency(
            *(
                {"operation": name, "seconds": seconds / self.scale, "sigma": 0.25}
                for name, (_, seconds) in SERVICES.items()
            )
        )

    def settings(self) -> dict[str, Any]:
        each = self.scale * self.configured / self.regions
        return {
            "image_models": "titan-v2" if self.regions < 3 else "stability",
            "quota_titan_v2_rpm": SERVICES["InvokeModel"][0] * each,
            "quota_stability_inpaint_rpm": SERVICES["InvokeModel"][0] * each,
            "quota_stability_remove_background_rpm": SERVICES["InvokeModel"][0] * each,
            "quota_caption_rpm": SERVICES["Converse"][0] * each,
            "quota_detect_labels_tps": SERVICES["DetectLabels"][0] * each / 60,
            "regions": ",".join(("us-east-1", "us-east-2", "us-west-2")[: self.regions]),
            "mask_sources": "cut-out" if self.cut_out else "alpha",
        }

    def request(self, store: Store) -> dict[str, str]:
        """Fields of the batch's request about the subject; writes the mask if one is sent with the photos."""
        if self.regions < 3 or self.cut_out:
            return {}
        file = io.BytesIO()
        ImageOps.invert(figure(PHOTO)).save(file, "PNG")
        store.write(MASK, file.getvalue(), media_type="image/png")
        return {"Subject": "MASK", "MaskKey": MASK}


def measured(
    rig: Rig, name: str, images: int, services: Scaled, work: Callable[[Store], tuple[float, float, int]]
) -> list[object]:
    """One row; ``work`` returns seconds, CPU seconds and images with a result."""
    services.configure(rig)
    store = rig.bucket()
    rig.control.mark()
    wall, cpu, done = work(store)
    calls = rig.control.calls(operation="InvokeModel")
    refused = sum(call["outcome"] == "ThrottlingException" for call in calls)
    floor = images / services.per_second
    return [
        name,
        images,
        f"{floor:.1f}",
        f"{wall:.1f}",
        f"{wall / floor:.3f}",
        f"{refused / len(calls):.1%}",
        images - done,
        f"{cpu / images * 1000:.0f}",
    ]


def pipeline(
    images: int, services: Scaled, processes: int = 1, size: tuple[int, int] = PHOTO
) -> Callable[[Store], tuple[float, float, int]]:
    """The pipeline, with photos of this size; several processes have a date each and start at once."""

    def work(store: Store) -> tuple[float, float, int]:
        dates, each = days(processes), images // processes
        for number, day in enumerate(dates):
            submit(store, jpeg(size), each, day=day, first=number * each, **services.request(store))
        runs = [Run(store, [day], **services.settings()).ready() for day in dates]
        results = [run.result() for run in [run.go() for run in runs]]
        wall = max(result["ended"] for result in results) - min(result["began"] for result in results)
        done = sum(result["counts"].get("Succeeded", 0) for result in results)
        return wall, sum(result["cpu"] for result in results), done

    return work


# The usual ways to write such a run


class Plain:
    """The three model calls for an image with plain boto3."""

    def __init__(self, store: Store, threads: int, **retries: Any) -> None:
        config = Config(max_pool_connections=threads, retries=cast(Any, retries))
        self._rekognition = boto3.client("rekognition", config=config)
        self._bedrock = boto3.client("bedrock-runtime", config=config)
        self._store = store

    def labels(self, key: str) -> None:
        photo = self._store.client.get_object(Bucket=self._store.bucket, Key=key)["Body"].read()
        self._rekognition.detect_labels(Image={"Bytes": photo})

    def caption(self, key: str) -> None:
        photo = self._store.client.get_object(Bucket=self._store.bucket, Key=key)["Body"].read()
        image: Any = {"image": {"format": "jpeg", "source": {"bytes": photo}}}
        message: Any = {"role": "user", "content": [image, {"text": "Describe the image."}]}
        self._bedrock.converse(modelId="us.amazon.nova-pro-v1:0", messages=[message])

    def picture(self, key: str) -> None:
        photo = self._store.client.get_object(Bucket=self._store.bucket, Key=key)["Body"].read()
        body = request(Ask(photo, TAKEN, "a sunny beach", 1, mask_prompt="Object"))
        answer = self._bedrock.invoke_model(
            modelId="amazon.titan-image-generator-v2:0", body=orjson.dumps(body)
        )
        made = pybase64.b64decode(orjson.loads(answer["body"].read())["images"][0], validate=True)
        self._store.client.put_object(Bucket=self._store.bucket, Key=f"made/{key}", Body=made)

    @property
    def stages(self) -> tuple[Callable[[str], None], ...]:
        return self.labels, self.caption, self.picture


def plain(
    images: int, how: Callable[[Plain, list[str]], int], threads: int, **retries: object
) -> Callable[[Store], tuple[float, float, int]]:
    """A run with plain boto3 calls, in the order and with the threads of ``how``."""

    def work(store: Store) -> tuple[float, float, int]:
        batch: Batch = submit(store, jpeg(TAKEN), images)
        keys = [batch.upload_key(f"{number:06}.jpg") for number in range(images)]
        calls = Plain(store, threads, **retries)
        began, cpu = time.monotonic(), time.process_time()
        done = how(calls, keys)
        return time.monotonic() - began, time.process_time() - cpu, done

    return work


def sequential(calls: Plain, keys: list[str]) -> int:
    for key in keys:
        for stage in calls.stages:
            stage(key)
    return len(keys)


def stage_by_stage(scale: float) -> Callable[[Plain, list[str]], int]:
    """All labels, then all captions, then all pictures, each evenly paced at its quota."""

    def how(calls: Plain, keys: list[str]) -> int:
        for name, stage in zip(MODEL_OPERATIONS, calls.stages, strict=True):
            seconds = 60 / (SERVICES[name][0] * scale)
            with ThreadPoolExecutor(64) as pool:
                list(pool.map(stage, _paced(keys, seconds)))
        return len(keys)

    return how


def _paced(keys: list[str], seconds: float) -> Iterator[str]:
    at = time.monotonic()
    for key in keys:
        at = max(at + seconds * 1.002, time.monotonic())
        time.sleep(max(0.0, at - time.monotonic()))
        yield key


def threads(calls: Plain, keys: list[str]) -> int:
    """All images in a pool of 64 threads; throttled calls are retried by the SDK only."""

    def walk(key: str) -> bool:
        try:
            for stage in calls.stages:
                stage(key)
        except (ClientError, BotoCoreError):
            return False
        return True

    with ThreadPoolExecutor(64) as pool:
        return sum(pool.map(walk, keys))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scale", type=float, default=10.0)
    parser.add_argument("--images", type=int, default=1000)
    names = (
        "short",
        "long",
        "regions",
        "regions-cut-out",
        "too-high",
        "processes",
        "fast",
        "sequential",
        "stages",
        "standard",
        "adaptive",
    )
    parser.add_argument(
        "--rows", nargs="+", choices=names, default=names, metavar="NAME", help=" ".join(names)
    )
    options = parser.parse_args()
    right, many = Scaled(options.scale), options.images
    three, high = Scaled(options.scale, regions=3), Scaled(options.scale, configured=4.0)
    cut_out = Scaled(options.scale, regions=3, cut_out=True)
    few, some = min(100, many), min(300, many)
    rows: dict[str, tuple[str, int, Scaled, Callable[[Store], tuple[float, float, int]]]] = {
        "short": ("pipeline", few, right, pipeline(few, right)),
        "long": ("pipeline", many, right, pipeline(many, right)),
        "regions": ("pipeline, 3 Regions", many, three, pipeline(many, three)),
        "regions-cut-out": (
            "pipeline, 3 Regions, two calls a picture",
            many,
            cut_out,
            pipeline(many, cut_out),
        ),
        "too-high": ("pipeline, quota configured 4 times too high", many, high, pipeline(many, high)),
        "processes": ("pipeline, 4 processes at once", many, right, pipeline(many, right, 4)),
        "fast": (
            "pipeline, 360 a minute, photos of 640 × 480",
            many,
            Scaled(FAST),
            pipeline(many, Scaled(FAST), size=LARGER),
        ),
        "sequential": ("sequential loop", 20, right, plain(20, sequential, 1)),
        "stages": ("stage by stage, paced", some, right, plain(some, stage_by_stage(options.scale), 64)),
        "standard": (
            "64 threads, SDK retries (standard, 10)",
            some,
            right,
            plain(some, threads, 64, mode="standard", total_max_attempts=10),
        ),
        "adaptive": (
            "64 threads, SDK retries (adaptive, 10)",
            some,
            right,
            plain(some, threads, 64, mode="adaptive", total_max_attempts=10),
        ),
    }
    with rig() as services:
        table(HEAD, (measured(services, *rows[name]) for name in options.rows))


if __name__ == "__main__":
    main()
