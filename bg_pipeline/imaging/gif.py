"""GIF files, decoded by Pillow: the first frame on its screen."""

from io import BytesIO

from PIL import Image

from bg_pipeline.imaging.source import UNREADABLE, Source, damaged, loaded

Box = tuple[int, int, int, int]


def read(data: bytes) -> Source:
    """The header of a GIF and a way to its pixels; raises `ImageError` if it is damaged."""
    try:
        image = Image.open(BytesIO(data), formats=("GIF",))
    except UNREADABLE as error:
        raise damaged(error) from None
    size = image.size
    box = _first_frame(data)
    partial = box is not None and box != (0, 0, *size)

    def decode(_: tuple[int, int]) -> Image.Image:
        decoded = loaded(image)
        if not partial or box is None:
            return decoded.copy()
        # Pillow fills the rest of the screen with a colour; browsers leave it transparent.
        screen = Image.new("RGBA", size)
        screen.paste(decoded.convert("RGBA").crop(box), box[:2])
        return screen

    try:
        frames = image.n_frames  # type: ignore[attr-defined]
    except UNREADABLE:
        frames = 1
    return Source(
        format="gif",
        size=size,
        mode=image.mode,
        decode=decode,
        frames=frames,
        has_alpha=partial or image.has_transparency_data,
    )


def _first_frame(data: bytes) -> Box | None:
    """The box of the first frame on the screen; None if there is no frame."""
    place = 13 + (3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 0x80 else 0)
    while place + 10 <= len(data):
        if data[place] == 0x2C:
            left, top, width, height = (
                int.from_bytes(data[at : at + 2], "little") for at in range(place + 1, place + 9, 2)
            )
            return left, top, left + width, top + height
        if data[place] != 0x21:
            return None
        place += 2
        while place < len(data) and data[place]:
            place += 1 + data[place]
        place += 1
    return None
