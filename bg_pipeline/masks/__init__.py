"""Masks of the subject: read, found on this machine, selected by boxes, validated, and written as models need them.

A mask is a Pillow picture of mode "L": 255 where the subject is kept, 0 where the background is replaced, greys in
between on soft edges. Only `conventions` converts it to and from the form of a file or a model; nothing else inverts
a mask.

`user_mask` reads a given mask. `local_cutout` cuts out on this machine: `plain_background`, `onnx_model` (the network
in `networks/`, or a network of the user's), `persons`. `sam` calls the user's SageMaker endpoint. `label_boxes` and
`faces` select parts of a mask, `difference` finds what a model left unchanged, `refine` enlarges, `matting` draws the
edge where the photo's is, and `validation` and `second_opinion` check a mask before anything is paid for it.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

from PIL import Image

Source = Literal[
    "alpha",
    "studio",
    "onnx",
    "network",
    "cut-out",
    "labels",
    "faces",
    "persons",
    "given",
    "words",
    "difference",
]

FROM_USER = ("given", "alpha")
"""Sources of masks that a person made: used as they are, whatever looks odd about them."""


@dataclass(frozen=True, eq=False)
class Mask:
    """The subject's shape and where it came from.

    ``picture`` is mode "L", 255 = subject kept, 0 = replaced, usually of the upright source's size. ``confidence`` is
    0..1, None where the source has none. ``notes`` are sentences for the image's row. ``doubt`` is a sentence saying
    why the mask is probably wrong, empty where nothing speaks against it, and ``where`` a small picture of the places
    (mode "L", 255 = there). ``computed_from`` identifies a mask for the same photo where its bytes may differ between
    machines (networks); else it is empty and the bytes identify it: those of ``drawn_from``, if its edge was redrawn.
    """

    picture: Image.Image
    source: Source
    confidence: float | None = None
    notes: tuple[str, ...] = ()
    doubt: str = ""
    computed_from: str = ""
    where: Image.Image | None = None
    drawn_from: str = ""

    def __post_init__(self) -> None:
        if self.picture.mode != "L":
            raise ValueError(f"a mask is a picture of mode L, this one is {self.picture.mode}")

    def digest(self) -> str:
        """What identifies this mask among those of the same photo, in 32 hexadecimal digits.

        A network's values differ in their last bits between processors. Its masks are identified by what they were
        computed from, so that nothing is paid for again on another machine.
        """
        if self.drawn_from:
            return self.drawn_from
        if self.computed_from:
            return hashlib.sha256(self.computed_from.encode()).hexdigest()[:32]
        picture = self.picture
        content = f"{picture.size} {picture.mode} ".encode() + picture.tobytes()
        return hashlib.sha256(content).hexdigest()[:32]
