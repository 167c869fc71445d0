"""Where the subject is: masks given, found, made from cut-outs, joined, judged and spelt for each model.

Inside the pipeline a mask is always a Pillow picture of mode "L", 255 where the subject is kept and 0
where the background is replaced, greys being a soft edge. `polarity` is the only module that turns
it into what a file or a model expects; nothing else inverts a mask.

`given` reads a person's mask, `local` cuts out on this machine (`studio`, `persons`, `matting`), `cutout` uses a
model's cut-out, `labels` and `faces` choose parts of it, `sam` asks an endpoint of one's own, `difference` recovers
what a model kept, `judge` says before anything is paid whether a mask can be right.
"""

from dataclasses import dataclass
from typing import Literal

from PIL import Image

Source = Literal[
    "alpha", "studio", "onnx", "cut-out", "labels", "faces", "persons", "given", "words", "difference"
]


@dataclass(frozen=True, eq=False)
class Mask:
    """A subject's shape and where it came from.

    ``picture`` is mode "L", 255 = subject kept, 0 = replaced, usually of the upright source's size.
    ``confidence`` is 0..1 where its maker can say, else None; ``notes`` are sentences for the report.
    """

    picture: Image.Image
    source: Source
    confidence: float | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.picture.mode != "L":
            raise ValueError(f"a mask is a picture of mode L, this one is {self.picture.mode}")
