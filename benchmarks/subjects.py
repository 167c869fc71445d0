"""Masks found on this machine against exact mattes: 52 hard subjects of 13 kinds before five grounds.

Run `python -m benchmarks.subjects` from the repository's root; one of five grounds for each subject takes some
minutes, `--all` takes five times as long. The first table compares edges with those of the same network as rembg
applies it (320 pixels, stretched from its least to its largest value, enlarged by Lanczos; with its alpha matting,
too, where pymatting is installed) and of GrabCut started from the network's mask. The second one counts the wrong
masks that the second opinion doubts, and the right ones. `--seed 1` are the subjects on which its weights were
fitted; only other seeds are a measure. `--size 4000x3000` draws larger photos, `--each` prints every one.
"""

import argparse
import importlib.util
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.rig import table
from bg_pipeline.imaging import Photo, restore_subject
from bg_pipeline.masks import Mask
from bg_pipeline.masks.local_cutout import NETWORK, cut_plain_background, cut_with_network, examine
from bg_pipeline.masks.validation import SURE_NETWORK, disagreement
from bg_pipeline_tests.hard_subjects import GROUNDS, KINDS, HardSubject, hard_subjects
from bg_pipeline_tests.rendered import Rendered, old_ground

WRONG = 0.85
"""A mask with a smaller soft IoU is wrong."""
SIDE = 320
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NEW_GROUND = (47, 127, 191)

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Measures:
    """Errors of a matte, as alphamatting.com defines them, but over the whole picture.

    ``mae`` is the mean absolute error, ``sad`` its sum in thousands of pixels, ``gradient`` the sum of squared
    differences of gradients (Gaussian derivatives, deviation 1.4) in thousands, ``iou`` the soft overlap, ``halo``
    the share of the old background that shows along the edge on a new one, ``ms`` the CPU time.
    """

    mae: float
    sad: float
    gradient: float
    iou: float
    halo: float
    ms: float


def measured(mask: Image.Image, shot: Rendered, seconds: float) -> Measures:
    found, true = (np.asarray(each, np.float32) / np.float32(255) for each in (mask, shot.matte))
    error = np.abs(found - true)
    return Measures(
        float(error.mean()),
        float(error.sum()) / 1e3,
        float(((_gradient(found) - _gradient(true)) ** 2).sum()) / 1e3,
        overlap(mask, shot.matte),
        _halo(mask, shot),
        1e3 * seconds,
    )


def overlap(one: Image.Image, other: Image.Image) -> float:
    """Intersection over union of two soft masks."""
    first, second = (np.asarray(each, np.float32) for each in (one, other))
    return float(np.minimum(first, second).sum() / max(1.0, float(np.maximum(first, second).sum())))


def _gradient(matte: Plane) -> Plane:
    reach = np.arange(-5, 6, dtype=np.float64)
    bell = np.exp(-(reach**2) / (2 * 1.4**2))
    slope = -reach * bell
    bell /= bell.sum()
    slope /= -(reach * slope).sum()
    across = cv2.sepFilter2D(matte, cv2.CV_32F, slope, bell)
    down = cv2.sepFilter2D(matte, cv2.CV_32F, bell, slope)
    return np.hypot(across, down)


def _halo(mask: Image.Image, shot: Rendered) -> float:
    scene = Image.new("RGB", shot.photo.size, NEW_GROUND)
    return old_ground(shot, restore_subject(Photo(shot.photo, "png"), scene, mask, feather=2.0), scene)


class Ways:
    """The ways to a mask that are compared; each returns None where it has no mask."""

    def __init__(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(NETWORK, options, providers=["CPUExecutionProvider"])

    def all(self) -> dict[str, Callable[[Rendered], Image.Image | None]]:
        ways: dict[str, Callable[[Rendered], Image.Image | None]] = {
            "network as in rembg": lambda shot: self.plain(shot.photo),
            "GrabCut from it": lambda shot: grab_cut(shot.photo, self.plain(shot.photo)),
            "network here": lambda shot: examine(shot.photo, cut_with_network(shot.photo)).picture,
            "plain background here": lambda shot: studio(shot.photo),
            "its exact matte": lambda shot: shot.matte,
        }
        if importlib.util.find_spec("pymatting"):
            ways["rembg with alpha matting"] = lambda shot: alpha_matting(shot.photo, self.plain(shot.photo))
        return ways

    def plain(self, photo: Image.Image) -> Image.Image:
        """The network's mask as rembg makes it."""
        small = np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.LANCZOS), np.float64)
        pixels = ((small / max(small.max(), 1e-6) - MEAN) / DEVIATION).transpose(2, 0, 1)[None]
        name = self._session.get_inputs()[0].name
        values = self._session.run(None, {name: pixels.astype(np.float32)})[0][0, 0]
        stretched = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
        return Image.fromarray((stretched * 255).astype(np.uint8)).resize(
            photo.size, Image.Resampling.LANCZOS
        )


def alpha_matting(photo: Image.Image, mask: Image.Image) -> Image.Image:
    """What rembg's alpha matting does with its defaults."""
    from pymatting import estimate_alpha_cf  # type: ignore[import-not-found]

    values, kernel = np.asarray(mask), np.ones((10, 10), np.uint8)
    trimap = np.full(values.shape, 0.5)
    trimap[cv2.erode((values > 240).astype(np.uint8), kernel) > 0] = 1
    trimap[cv2.dilate((values >= 10).astype(np.uint8), kernel) == 0] = 0
    alpha = estimate_alpha_cf(np.asarray(photo) / 255, trimap)
    return Image.fromarray((255 * alpha + 0.5).astype(np.uint8))


def grab_cut(photo: Image.Image, mask: Image.Image) -> Image.Image | None:
    """GrabCut at 320 pixels, started from a mask, enlarged."""
    scale = SIDE / max(photo.size)
    size = round(photo.width * scale), round(photo.height * scale)
    values = np.asarray(mask.resize(size))
    labels = np.where(values > 127, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[values < 10], labels[values > 245] = cv2.GC_BGD, cv2.GC_FGD
    if not (labels == cv2.GC_FGD).any() or not (labels == cv2.GC_BGD).any():
        return None
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(np.array(photo.resize(size)), labels, (0, 0, 1, 1), *models, 3, cv2.GC_INIT_WITH_MASK)
    kept = (labels & 1) * np.uint8(255)
    return Image.fromarray(kept).resize(photo.size, Image.Resampling.BICUBIC)


def studio(photo: Image.Image) -> Image.Image | None:
    found = cut_plain_background(photo)
    return None if found is None else examine(photo, found).picture


def opinions(shot: Rendered) -> Iterator[tuple[str, float, float, bool]]:
    """Each mask that would be used: its source, soft IoU, confidence, and whether it is for review."""
    network = cut_with_network(shot.photo)
    sure = (network.confidence or 0.0) >= SURE_NETWORK
    plain = cut_plain_background(shot.photo)
    found: list[tuple[Mask, str]] = [(network, "")] if sure else []
    if plain is not None:
        found.append((plain, disagreement(plain, network) if sure else ""))
    for mask, contradicted in found:
        judged = examine(shot.photo, mask)
        confidence = judged.confidence or 0.0
        doubted = bool(judged.doubt or contradicted)
        yield mask.source, overlap(judged.picture, shot.matte), confidence, doubted


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--size", default="900x720")
    parser.add_argument("--all", action="store_true", help="all five grounds for each subject")
    parser.add_argument("--each", action="store_true")
    parser.add_argument("--only", choices=("edges", "opinion"))
    options = parser.parse_args()
    width, height = (int(side) for side in options.size.split("x"))
    subjects = [
        each
        for each in hard_subjects(options.seed)
        if options.all
        or (KINDS.index(each.kind) + each.variant + GROUNDS.index(each.ground)) % len(GROUNDS) == 0
    ]
    if options.only != "opinion":
        print(
            "Edges: medians of a kind; the last lines are medians of all, and of those that the network sees"
        )
        head = ("kind", "way", "photos", *(field.name for field in fields(Measures)))
        table(head, _edges(subjects, (width, height), each=options.each))
    if options.only != "edges":
        print("\nSecond opinion: masks that would be used, wrong below an IoU of", WRONG)
        table(
            ("kind", "masks", "wrong", "of them doubted", "right", "of them doubted"),
            _judged(subjects, (width, height), each=options.each),
        )


def _edges(subjects: list[HardSubject], size: tuple[int, int], *, each: bool) -> Iterator[tuple[str, ...]]:
    results: dict[str, dict[str, list[Measures]]] = defaultdict(lambda: defaultdict(list))
    ways = Ways().all()
    for subject in subjects:
        shot = subject.render(size)
        for name, way in ways.items():
            started = time.process_time()
            mask = way(shot)
            if mask is None:
                continue
            one = measured(mask, shot, time.process_time() - started)
            seen = [subject.kind, "all"]
            if name == "network as in rembg":
                found = one.iou >= WRONG
            if found:
                seen.append("IoU ≥ 0.85")
            for kind in seen:
                results[kind][name].append(one)
            if each:
                yield str(subject), name, "1", *_cells([one])
    for kind in (*KINDS, "all", "IoU ≥ 0.85"):
        for name, measures in results[kind].items():
            yield kind, name, str(len(measures)), *_cells(measures)


def _cells(measures: list[Measures]) -> list[str]:
    values = np.median([astuple(one) for one in measures], axis=0)
    return [f"{value:.{digits}f}" for value, digits in zip(values, (4, 2, 2, 3, 2, 0), strict=True)]


def _judged(subjects: list[HardSubject], size: tuple[int, int], *, each: bool) -> Iterator[tuple[str, ...]]:
    counts: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for subject in subjects:
        for source, iou, confidence, doubted in opinions(subject.render(size)):
            for kind in (subject.kind, "all"):
                counts[kind].append((iou < WRONG, doubted))
            if each:
                yield f"{subject} {source}", f"{iou:.2f}", f"{confidence:.2f}", str(doubted), "", ""
    for kind in (*KINDS, "all"):
        wrong = [doubted for is_wrong, doubted in counts[kind] if is_wrong]
        right = [doubted for is_wrong, doubted in counts[kind] if not is_wrong]
        yield (
            kind,
            str(len(counts[kind])),
            str(len(wrong)),
            f"{sum(wrong) / len(wrong):.0%}" if wrong else "–",
            str(len(right)),
            f"{sum(right) / len(right):.0%}" if right else "–",
        )


if __name__ == "__main__":
    main()
