"""A salient-object or matting network in an ONNX file, run by onnxruntime on this machine."""

import hashlib
import threading
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bg_pipeline.errors import SettingsError

# For networks that take any size: the longer side, and the multiple that many of them need, as they halve it 5 times.
FREE_SIDE, FREE_MULTIPLE = 1024, 32
# Size of the picture with which the form of the output is detected, for networks that take any size.
PROBE_SIDE = 256
# Mattes kept for photos that are asked for again: one photo is looked at for each prompt and for the second opinion.
KEPT_MATTES = 16
# onnxruntime appends source paths and stack frames to its messages.
MAX_MESSAGE = 200

Channels = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]
Side = Annotated[int, Field(gt=0)]
_Float = type[np.float32] | type[np.float16]
OutputForm = Literal["probability", "byte", "logit", "range"]


class ModelConfig(BaseModel):
    """How a network takes pictures and what its output means; the content of the JSON file beside the ONNX file.

    ``mean`` and ``std`` apply to colours in 0..1. ``size`` is (width, height), for a network that takes any size.
    ``output``: ``probability`` is 0..1, ``byte`` 0..255, ``logit`` needs a sigmoid, ``range`` is stretched from its
    smallest to its largest value for each picture; ``auto`` detects which of them it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: Channels = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    size: tuple[Side, Side] | None = None
    output: Literal[OutputForm, "auto"] = "auto"


# U²-Net and BiRefNet were trained with ImageNet's mean and deviation, the default. The others by their file names.
_KNOWN: Final[tuple[tuple[str, ModelConfig], ...]] = (
    ("modnet", ModelConfig(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))),
    ("isnet", ModelConfig(mean=(0.5, 0.5, 0.5), std=(1, 1, 1))),
    ("is-net", ModelConfig(mean=(0.5, 0.5, 0.5), std=(1, 1, 1))),
    ("rmbg", ModelConfig(mean=(0.5, 0.5, 0.5), std=(1, 1, 1))),
)


class OnnxModel:
    """One loaded network; safe for threads, runs one picture at a time on one thread.

    It takes one RGB picture of floats, (1, 3, H, W) or (1, H, W, 3), of a fixed size or any, and answers with one
    channel in the first of its outputs. Without ``config``, the JSON file ``<path>.json`` configures it, else its
    file's name (IS-Net, MODNet, RMBG), else `ModelConfig`'s defaults apply. ``name`` stands for it in messages.
    Raises `SettingsError`, naming the file, for whatever is wrong with it.

    One thread: several processes share a machine, and onnxruntime would start a thread per core in each of them. One
    picture at a time: a network of 1024 pixels takes over a gigabyte.
    """

    def __init__(
        self, onnxruntime: ModuleType, path: Path, *, name: str, config: ModelConfig | None = None
    ) -> None:
        self.path = path
        self._name = name
        self._running = threading.Lock()
        self._mattes: OrderedDict[bytes, Image.Image] = OrderedDict()
        self._failures = _failures(onnxruntime)
        self._config = config or self._read_config()
        self._session = self._load(onnxruntime)
        self._dtype, self._channels_last, self._size = self._input_form()
        self._output: OutputForm = (
            self._detect_output() if self._config.output == "auto" else self._config.output
        )

    def matte(self, image: Image.Image) -> Image.Image:
        """The network's answer for ``image`` as a mask (mode "L", 255 = subject) of the network's own size."""
        size = self._size or _free_size(image.size)
        small = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0).convert("RGB")
        key = hashlib.sha256(f"{size}".encode() + small.tobytes()).digest()
        with self._running:
            if key not in self._mattes:
                self._mattes[key] = self._as_mask(self._run(small))
                if len(self._mattes) > KEPT_MATTES:
                    self._mattes.popitem(last=False)
            self._mattes.move_to_end(key)
            return self._mattes[key].copy()

    def _load(self, onnxruntime: ModuleType) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # The arena would keep the memory of the largest picture for ever: 540 MB instead of 210 for U²-Net small.
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        options.log_severity_level = 4
        try:
            return onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        except self._failures as error:
            raise self._unusable(f"cannot be loaded: {_short(error)}") from None

    def _input_form(self) -> tuple[_Float, bool, tuple[int, int] | None]:
        """The type of the input, whether channels come last, and its (width, height), None if it takes any."""
        inputs = self._session.get_inputs()
        dtypes: dict[str, _Float] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        shape = inputs[0].shape
        fits = (
            len(inputs) == 1
            and len(shape) == 4
            and (shape[0] == 1 or not isinstance(shape[0], int))
            and (3 in (shape[1], shape[3]) or not isinstance(shape[1], int))
            and inputs[0].type in dtypes
        )
        if not fits:
            takes = ", ".join(f"{entry.type} {entry.shape}" for entry in inputs)
            raise self._unusable(f"takes {takes}, not one RGB picture of floats")
        channels_last = shape[3] == 3 and shape[1] != 3
        height, width = shape[1:3] if channels_last else shape[2:4]
        fixed = isinstance(width, int) and isinstance(height, int)
        return dtypes[inputs[0].type], channels_last, (width, height) if fixed else self._config.size

    def _detect_output(self) -> OutputForm:
        """The form of the output, from the answer to a drawn picture whose subject is plain to see."""
        size = self._size or (PROBE_SIDE, PROBE_SIDE)
        probe = Image.new("RGB", size, (40, 90, 160))
        width, height = size
        ImageDraw.Draw(probe).ellipse(
            (width // 4, height // 4, 3 * width // 4, 3 * height // 4), (230, 60, 40)
        )
        values = self._run(probe)
        if values.min() < -0.5:
            return "logit"
        if values.max() <= 1.5:
            return "probability"
        return "byte" if values.max() > 64 else "range"

    def _run(self, picture: Image.Image) -> NDArray[np.float64]:
        """The raw values for ``picture`` (RGB, of the input's size), (height, width)."""
        mean, std = (np.array(channels) for channels in (self._config.mean, self._config.std))
        pixels = (np.asarray(picture) / 255 - mean) / std
        if not self._channels_last:
            pixels = pixels.transpose(2, 0, 1)
        feed = {self._session.get_inputs()[0].name: pixels[None].astype(self._dtype)}
        try:
            # Where a network has several outputs, the first is the finest (U²-Net, IS-Net).
            answer = self._session.run([self._session.get_outputs()[0].name], feed)[0]
        except self._failures as error:
            raise self._unusable(
                f"failed on a picture of {picture.width}×{picture.height}: {_short(error)}"
            ) from None
        values = np.asarray(answer, np.float64).squeeze()
        if values.ndim != 2:
            raise self._unusable(f"answers with shape {list(np.shape(answer))}, not with one channel")
        if not np.isfinite(values).all():
            raise self._unusable("answers with infinite or undefined numbers; check its mean and std")
        return values

    def _as_mask(self, values: NDArray[np.float64]) -> Image.Image:
        match self._output:
            case "logit":
                values = 1 / (1 + np.exp(-np.clip(values, -50, 50)))
            case "byte":
                values = values / 255
            case "range":
                values = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
        return Image.fromarray((255 * np.clip(values, 0, 1) + 0.5).astype(np.uint8))

    def _read_config(self) -> ModelConfig:
        file = self.path.with_name(self.path.name + ".json")
        try:
            if file.exists():
                return ModelConfig.model_validate_json(file.read_bytes())
        except (ValidationError, OSError) as error:
            problem = "the file cannot be read"
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                problem = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
            raise SettingsError(f"{file}: {problem}; it may hold mean, std, size and output") from None
        stem = self.path.stem.casefold()
        return next((known for word, known in _KNOWN if word in stem), ModelConfig())

    def _unusable(self, why: str) -> SettingsError:
        return SettingsError(f"{self._name} {why}")


def _failures(onnxruntime: ModuleType) -> tuple[type[Exception], ...]:
    """What onnxruntime raises for a file or a picture it cannot use."""
    state = onnxruntime.capi.onnxruntime_pybind11_state
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    own = (getattr(state, name) for name in (*names, "NoModel", "EngineError", "EPFail", "RuntimeException"))
    return (*own, OSError, RuntimeError, ValueError)


def _short(error: Exception) -> str:
    words = " ".join(str(error).split())
    return words if len(words) <= MAX_MESSAGE else words[:MAX_MESSAGE] + "…"


def _free_size(size: tuple[int, int]) -> tuple[int, int]:
    scale = FREE_SIDE / max(size)
    width, height = (max(FREE_MULTIPLE, round(side * scale / FREE_MULTIPLE) * FREE_MULTIPLE) for side in size)
    return width, height
