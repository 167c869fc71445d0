"""Recognizes words of a prompt: places, times of day, materials and colours."""

import re
from dataclasses import dataclass

from bg_pipeline_local_aws.brushes import Colour, mix, scale_brightness

_TOPIC_WORDS = {
    "city": "city cities skyline urban downtown skyscraper street building town metropolis manhattan york tokyo "
    "chicago berlin dubai singapore shanghai toronto sydney avenue rooftop london westminster paris",
    "london": "london westminster thames",
    "paris": "paris eiffel",
    "beach": "beach beaches shore coast seaside sand tropical island caribbean palm maldives hawaii",
    "sea": "sea ocean water lake river wave harbour harbor bay thames pier",
    "mountain": "mountain alp alps peak hill highland himalaya valley canyon cliff volcano",
    "forest": "forest woods tree jungle rainforest pine woodland autumn",
    "autumn": "autumn october",
    "desert": "desert dune sahara arid",
    "field": "field meadow grass garden park lawn countryside farm savanna pasture spring racetrack nature outdoors",
    "flower": "flower blossom lavender tulip poppy poppies",
    "snow": "snow snowy winter ice icy arctic ski glacier christmas frozen",
    "space": "space galaxy galaxies cosmos cosmic nebula universe planet orbit",
    "underwater": "underwater reef aquarium coral",
    "room": "office kitchen living room home interior library cafe café restaurant shop store hotel bedroom lobby "
    "house bar gym classroom hall museum gallery desk bookshelf",
    "studio": "studio backdrop plain seamless clean minimal podium photoshoot product packshot",
    "marble": "marble stone granite",
    "wood": "wood wooden oak plank timber parquet walnut",
    "concrete": "concrete cement plaster wall brick industrial loft",
    "sunset": "sunset sundown dusk golden evening twilight",
    "dawn": "dawn sunrise morning pastel",
    "night": "night midnight dark starry star moon moonlight neon lights",
    "grey": "fog foggy mist misty rain rainy storm stormy cloudy overcast moody",
}
_COLOURS: dict[str, Colour] = {
    "white": (0.95, 0.95, 0.95), "black": (0.07, 0.07, 0.08), "silver": (0.74, 0.76, 0.79),
    "grey": (0.55, 0.56, 0.58), "gray": (0.55, 0.56, 0.58), "green": (0.24, 0.52, 0.28),
    "red": (0.78, 0.14, 0.13), "orange": (0.94, 0.52, 0.16), "yellow": (0.96, 0.82, 0.28),
    "blue": (0.16, 0.36, 0.72), "navy": (0.08, 0.13, 0.30), "turquoise": (0.20, 0.68, 0.68),
    "teal": (0.10, 0.45, 0.47), "purple": (0.42, 0.24, 0.60), "violet": (0.50, 0.32, 0.70),
    "pink": (0.95, 0.66, 0.74), "magenta": (0.78, 0.18, 0.52), "brown": (0.42, 0.28, 0.18),
    "beige": (0.89, 0.82, 0.71), "cream": (0.96, 0.92, 0.82), "gold": (0.83, 0.66, 0.28),
    "peach": (0.98, 0.78, 0.65), "mint": (0.70, 0.90, 0.80), "olive": (0.45, 0.46, 0.20),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Light:
    """Light of a time of day: three sky colours, the sun's colour, and the brightness (0–1) of the ground."""

    zenith: Colour
    middle: Colour
    horizon: Colour
    sun: Colour
    ground: float

    def on(self, colour: Colour) -> Colour:
        """The colour of an object under this light: darkened and tinted by the horizon's colour."""
        return mix(scale_brightness(colour, self.ground), scale_brightness(self.horizon, self.ground), 0.14)


_LIGHTS = {
    "night": Light((0.02, 0.03, 0.09), (0.05, 0.08, 0.19), (0.15, 0.18, 0.32), (0.92, 0.94, 1.0), 0.22),
    "sunset": Light((0.20, 0.22, 0.42), (0.72, 0.38, 0.42), (1.0, 0.68, 0.36), (1.0, 0.80, 0.48), 0.7),
    "dawn": Light((0.52, 0.62, 0.84), (0.90, 0.77, 0.82), (1.0, 0.90, 0.76), (1.0, 0.88, 0.70), 0.88),
    "grey": Light((0.50, 0.55, 0.60), (0.66, 0.70, 0.73), (0.82, 0.84, 0.85), (0.92, 0.93, 0.94), 0.72),
    "day": Light((0.24, 0.48, 0.80), (0.52, 0.72, 0.92), (0.86, 0.92, 0.96), (1.0, 0.97, 0.88), 1.0),
}


@dataclass(frozen=True, slots=True)
class PromptWords:
    """The topics found in a prompt, its colours in the order named, and the light they imply."""

    topics: frozenset[str]
    colours: tuple[Colour, ...]
    light: Light

    def has(self, *topics: str) -> bool:
        """True if the prompt names any of the topics."""
        return not self.topics.isdisjoint(topics)


def parse_prompt(prompt: str, negative: str = "") -> PromptWords:
    """The topics and colours of ``prompt``, without words that ``negative`` contains."""
    words = [word for word in _forms(prompt) if word not in set(_forms(negative))]
    topics = {topic for topic, known in _TOPIC_WORDS.items() if not set(words).isdisjoint(known.split())}
    light = next((light for time, light in _LIGHTS.items() if time in topics), _LIGHTS["day"])
    colours = tuple(_COLOURS[word] for word in dict.fromkeys(words) if word in _COLOURS)
    if colours:
        sky = colours[0]
        light = Light(
            mix(light.zenith, sky, 0.15),
            mix(light.middle, sky, 0.2),
            light.horizon,
            light.sun,
            light.ground,
        )
    return PromptWords(frozenset(topics), colours, light)


def _forms(text: str) -> list[str]:
    """The words of a text in lower case, each also without a trailing s."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    return [form for word in words for form in (word, word.removesuffix("s"))]
