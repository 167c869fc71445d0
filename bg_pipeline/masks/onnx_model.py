"""A matting model of the user's own, run by onnxruntime on this machine."""

import threading
from pathlib import Path
from types import ModuleType
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bg_pipeline.errors import SettingsError

# For models that take any size: the longer side, and what many of them halve five times.
FREE_SIDE, FREE_MULTIPLE = 1024, 32

Channels = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]


class Normalisation(BaseModel):
    """How a model wants its pictures; the defaults are what U²-Net, BiRefNet and most others were trained with.

    ``mean`` and ``std`` are of colours in 0..1 (ISNet: 0.5 and 1; MODNet: 0.5 and 0.5). ``size`` is
    (width, height) for a model that takes any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: Channels = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    size: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] | None = None


class OnnxModel:
    """One loaded model; may be asked from several threads, runs one picture at a time.

    Matting at 1024 pixels takes over a gigabyte, and all cores already work on one. Raises `SettingsError`,
    naming the path, for whatever is wrong with the model.
    """

    def __init__(self, onnxruntime: ModuleType, path: Path) -> None:
        self.path = path
        self._running = threading.Lock()
        state = onnxruntime.capi.onnxruntime_pybind11_state
        self._failures = (
            state.Fail,
            state.InvalidArgument,
            state.InvalidGraph,
            state.InvalidProtobuf,
            state.NoSuchFile,
            state.NotImplemented,
            state.RuntimeException,
        )
        try:
            self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except self._failures as error:
            raise self._unusable(f"cannot be loaded: {error}") from None
        inputs = self._session.get_inputs()
        dtypes = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        shape = inputs[0].shape
        if (
            len(inputs) != 1
            or len(shape) != 4
            or 3 not in (shape[1], shape[3])
            or inputs[0].type not in dtypes
        ):
            takes = ", ".join(f"{entry.type} {entry.shape}" for entry in inputs)
            raise self._unusable(f"takes {takes}, not one RGB picture of floats")
        self._dtype = dtypes[inputs[0].type]
        self._channels_last = shape[3] == 3
        height, width = shape[1:3] if self._channels_last else shape[2:4]
        self._training = self._read_training()
        fixed = isinstance(width, int) and isinstance(height, int)
        self._size = (width, height) if fixed else self._training.size

    def matte(self, image: Image.Image) -> Image.Image:
        """The model's answer for ``image`` as a mask (255 = subject) of the model's own size."""
        small = image.resize(
            self._size or _free_size(image.size), Image.Resampling.BILINEAR, reducing_gap=2.0
        )
        mean, std = (np.array(channels) for channels in (self._training.mean, self._training.std))
        pixels = (np.asarray(small.convert("RGB")) / 255 - mean) / std
        if not self._channels_last:
            pixels = pixels.transpose(2, 0, 1)
        feed = {self._session.get_inputs()[0].name: pixels[None].astype(self._dtype)}
        with self._running:
            try:
                # Where a model has several outputs, the first is the finest (U²-Net, ISNet).
                answer = self._session.run([self._session.get_outputs()[0].name], feed)[0]
            except self._failures as error:
                raise self._unusable(
                    f"failed on a picture of {small.width}×{small.height}: {error}"
                ) from None
        alpha = np.asarray(answer, np.float64).squeeze()
        if alpha.ndim != 2:
            raise self._unusable(f"answers with shape {list(answer.shape)}, not with one channel")
        if not np.isfinite(alpha).all():
            raise self._unusable("answers with values that are no numbers; check its mean and std")
        if alpha.min() < 0:
            alpha = 1 / (1 + np.exp(-alpha))
        elif alpha.max() > 1.01:
            alpha = alpha / 255
        return Image.fromarray((255 * np.clip(alpha, 0, 1) + 0.5).astype(np.uint8))

    def _read_training(self) -> Normalisation:
        file = self.path.with_name(self.path.name + ".json")
        try:
            return Normalisation.model_validate_json(file.read_bytes()) if file.exists() else Normalisation()
        except ValidationError as error:
            problem = error.errors()[0]
            field = ".".join(map(str, problem["loc"])) or "the file"
            raise SettingsError(
                f"{file}: {field}: {problem['msg']}; it may hold mean, std and size"
            ) from None

    def _unusable(self, why: str) -> SettingsError:
        return SettingsError(f"BG_ONNX_MODEL {self.path} {why}")


def _free_size(size: tuple[int, int]) -> tuple[int, int]:
    scale = FREE_SIDE / max(size)
    width, height = (max(FREE_MULTIPLE, round(side * scale / FREE_MULTIPLE) * FREE_MULTIPLE) for side in size)
    return width, height
