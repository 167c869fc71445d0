"""CPU and memory of a run's container, from the photos of its date, for the launchers that give each run one.

A run on ECS or Kubernetes is killed if it needs more memory than its container has, and is billed for what it does
not need. Elsewhere runs share their machine, and no tags are set.
"""

import json
from collections.abc import Iterable
from typing import Final

import dagster as dg

from bg_pipeline.settings import Settings

ECS, KUBERNETES = "EcsRunLauncher", "K8sRunLauncher"

FEW_IMAGES: Final = 50
"""Up to this number of images, one vCPU is enough: a model's quota, not the CPU, decides how long they take."""

_MIB: Final = 1 << 20
_RUN_BYTES: Final = 1_200 * _MIB
"""Of a run with its clients, its threads and the photos that wait for a worker, without its worker processes."""
_WORKER_BYTES: Final = 300 * _MIB
"""Of a worker process without a photo, with the built-in network."""
_BYTES_PER_PIXEL: Final = 36
"""Of a worker for each pixel of its photo: 20 for JPEG and up to 34 for WebP of 100 megapixels (README, "Limits")."""
_MIN_PIXELS, _MAX_PIXELS = 12_000_000, 100_000_000

_PIXELS_PER_BYTE: Final = {"jpg": 10, "jpeg": 10, "heic": 25, "heif": 25, "avif": 25, "webp": 25}
"""The most pixels that a byte of a file may stand for, in photos. Other formats compress flat colours further."""
_OTHER_PIXELS_PER_BYTE: Final = 50

_MEMORY_OF_CPU: Final = {1024: (2, 8), 2048: (4, 16), 4096: (8, 30)}
"""Smallest and largest memory in GiB of a task on Fargate, in steps of 1, by CPU units (ECS guide, "Task CPU and
memory")."""


def launcher_of(instance: dg.DagsterInstance) -> str:
    """The class name of the instance's run launcher, which is not created for that; empty if it has none."""
    if instance.is_ephemeral:
        return ""
    data = instance.get_ref().run_launcher_data
    return data.class_name if data else ""


def cpu_and_memory(photos: Iterable[tuple[str, int]], settings: Settings) -> tuple[int, int]:
    """CPU units (1,024 are one vCPU) and MiB of memory that Fargate offers, for photos given as (key, bytes).

    From the sizes of the files alone, without opening one, so it is rather too much than too little. If no container
    is large enough for the worker processes that ``BG_MAX_DECODED_IMAGES`` asks for, it is the largest.
    """
    number, pixels = 0, _MIN_PIXELS
    for key, size in photos:
        number += 1
        pixels = max(pixels, min(_MAX_PIXELS, size * _pixels_per_byte(key)))
    least = 1024 if number <= FEW_IMAGES else 2048
    for cpu, (smallest, largest) in _MEMORY_OF_CPU.items():
        if cpu < least:
            continue
        workers = settings.max_decoded_images or cpu // 1024
        needed = _RUN_BYTES + workers * (_WORKER_BYTES + pixels * _BYTES_PER_PIXEL)
        gib = -(-needed // (1024 * _MIB))
        if gib <= largest:
            return cpu, max(gib, smallest) * 1024
    return 4096, 30 * 1024


def run_tags(launcher: str, photos: Iterable[tuple[str, int]], settings: Settings) -> dict[str, str]:
    """The tags of a run that tell its launcher how large a container it needs; none for other launchers."""
    if launcher not in (ECS, KUBERNETES):
        return {}
    cpu, memory = cpu_and_memory(photos, settings)
    if launcher == ECS:
        return {"ecs/cpu": str(cpu), "ecs/memory": str(memory)}
    amounts = {"cpu": f"{cpu * 1000 // 1024}m", "memory": f"{memory}Mi"}
    resources = {"requests": amounts, "limits": {"memory": amounts["memory"]}}
    return {"dagster-k8s/config": json.dumps({"container_config": {"resources": resources}})}


def _pixels_per_byte(key: str) -> int:
    return _PIXELS_PER_BYTE.get(key.rpartition(".")[2].lower(), _OTHER_PIXELS_PER_BYTE)
