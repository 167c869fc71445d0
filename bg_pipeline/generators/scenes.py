"""Text-to-image models of Stability AI on Bedrock: empty scenes, of which a whole batch uses one.

Sources: Bedrock user guide, "Stable Image Core", "Stable Image Ultra" and "Stable Diffusion 3.5 Large" request and
response. They are called by their bare ids; one picture for each call.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from bg_pipeline.errors import SettingsError
from bg_pipeline.generators import Invoke, Operation, Size
from bg_pipeline.generators.stability import picture_of

Aspect = Literal["3:2", "1:1", "2:3"]

ASPECTS: Final[Mapping[Aspect, float]] = MappingProxyType({"3:2": 1.5, "1:1": 1.0, "2:3": 2 / 3})
"""Width divided by height of the scenes that are painted: a batch needs one for each that its photos have."""

COMPOSITION: Final = (
    "empty scene without any object in the foreground, seen at eye level, its empty surface fills the lower third of "
    "the picture, background softly out of focus, professional product photography"
)
"""What is added to the user's words, so that a subject can stand in the scene."""


@dataclass(frozen=True)
class SceneAsk:
    """The parameters of a call; ``prompt`` are the user's words, within `ScenePainter.prompt_limit`."""

    prompt: str
    aspect: Aspect
    seed: int
    negative_prompt: str = ""


@dataclass(frozen=True)
class ScenePainter:
    """A text-to-image model; ``name`` is its name in ``BG_SCENE_MODELS``, reports and provenance."""

    name: str
    paints: Operation
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the model's requests."""

    @property
    def prompt_limit(self) -> int:
        """Maximum length of the user's words in characters."""
        return 10_000 - len(COMPOSITION) - 2

    @property
    def seeds(self) -> range:
        """The valid seeds; 0 would ask for a random one."""
        return range(1, 4_294_967_295)

    def paint(self, ask: SceneAsk, invoke: Invoke) -> tuple[bytes, int]:
        """The picture file of one call and the seed that repeats it.

        Raises `errors.Blocked` with the model's words if its content policy refuses, and other `CallError`s.
        """
        body: dict[str, Any] = {
            "prompt": f"{ask.prompt}, {COMPOSITION}",
            "aspect_ratio": ask.aspect,
            "seed": ask.seed,
            "output_format": "png",
            **self.more,
        }
        if ask.negative_prompt:
            body["negative_prompt"] = ask.negative_prompt
        answer = invoke(self.paints, body)
        picture = picture_of(answer, self.name)
        seeds = answer.get("seeds") or [ask.seed]
        return picture, int(seeds[0])


SCENE_PAINTERS: Final[Mapping[str, ScenePainter]] = MappingProxyType(
    {
        painter.name: painter
        for painter in (
            ScenePainter(
                "stable-image-ultra", Operation("STABLE_IMAGE_ULTRA", "stability.stable-image-ultra-v1:1")
            ),
            ScenePainter(
                "stable-image-core", Operation("STABLE_IMAGE_CORE", "stability.stable-image-core-v1:1")
            ),
            ScenePainter(
                "sd3-5-large",
                Operation("SD3_5_LARGE", "stability.sd3-5-large-v1:0"),
                MappingProxyType({"mode": "text-to-image"}),
            ),
        )
    }
)
"""The known models by name."""


def scene_painter(name: str) -> ScenePainter:
    """The model with a name in ``BG_SCENE_MODELS``; raises `SettingsError` if there is none."""
    if name not in SCENE_PAINTERS:
        raise SettingsError(
            f"BG_SCENE_MODELS: there is no scene model {name!r}; use one of {', '.join(SCENE_PAINTERS)}"
        )
    return SCENE_PAINTERS[name]


def aspect_of(size: Size) -> Aspect:
    """The aspect of the scene for a photo of this size: the nearest, so that least of the scene is cut off."""
    ratio = size[0] / size[1]
    return min(ASPECTS, key=lambda name: max(ASPECTS[name] / ratio, ratio / ASPECTS[name]))
