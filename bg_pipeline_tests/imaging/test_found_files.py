"""Files that once became a wrong picture or a wrong sentence, with what is right for them."""

import functools
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bg_pipeline.errors import ImageError
from bg_pipeline.imaging import open_photo

# name, the picture it shows, the levels it may differ on average, what is told
OPENED = (
    ("tiff_thumb_first.tif", "base", 0, ""),
    ("png_gama_linear.png", "base", 1, "gamma 1"),
    ("png_cicp_p3.png", "base", 1, "Display P3"),
    ("heic_nclx_p3.heic", "base", 1.5, "Display P3"),
    ("heic_pq_2020_10bit.heic", "base", 1.5, "BT.2020 PQ"),
    ("tiff_rgb16_planar.tif", "base", 0, "16-bit"),
    ("tiff_float_rgb_gamma.tif", "base", 0, "floating point"),
    ("bmp_v5_alpha0.bmp", "base", 0, ""),
    ("png_ztxt_2.8MB.png", "base", 0, ""),
    ("png_bad_crc_text.png", "base", 0, ""),
    ("jpeg_no_eoi.jpg", "base", 1, ""),
    ("exif_orient_long.jpg", "base", 1, ""),
    ("apng_hidden_default.png", "base", 0, "first of 2 frames"),
    ("gif_frame_offset.gif", "gif", 0, ""),
    ("EXPECTED_rgb_key.png", "rgb_key", 0, ""),
)
REFUSED = (
    ("half_upload_eoi.jpg", "DamagedImage", "premature end"),
    ("jpeg_middle_garbage.jpg", "DamagedImage", "premature end"),
    ("jpeg_12bit.jpg", "UnsupportedImage", "12 bits a channel, of a kind that cannot be read"),
    ("photo.jp2", "UnsupportedImage", "JPEG 2000"),
    ("jpeg_gzip.jpg", "NotAnImage", "gzip"),
)


@functools.cache
def _files() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for archive in sorted(Path(__file__).parent.glob("found-*.zip")):
        with zipfile.ZipFile(archive) as files:
            found |= {name: files.read(name) for name in files.namelist()}
    return found


def found(name: str) -> bytes:
    return _files()[name]


def shown(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with Image.open(io.BytesIO(found(f"EXPECTED_{name}.png"))) as picture:
        return np.asarray(picture.convert("RGBA"), np.float32)


def test_every_file_found_is_tried() -> None:
    names = {name for name in _files() if not name.startswith("EXPECTED_")}
    assert names
    tried = {row[0] for row in (*OPENED, *REFUSED)} | {"png_grey16_trns.png"}
    assert names <= tried


@pytest.mark.parametrize(("name", "picture", "tolerance", "note"), OPENED)
def test_a_file_that_was_wrong_opens_as_it_looks(
    name: str, picture: str, tolerance: float, note: str
) -> None:
    photo = open_photo(found(name))
    difference = np.asarray(photo.image.convert("RGBA"), np.float32) - shown(picture)
    assert np.abs(difference).mean() <= tolerance
    assert note in "; ".join(photo.notes)


def test_the_clear_level_of_a_deep_grey_is_clear() -> None:
    photo = open_photo(found("png_grey16_trns.png"))
    pixels, expected = np.asarray(photo.image, np.float32), shown("grey")
    assert (pixels[:60, :60, 3] == 0).all()
    opaque = pixels[..., 3] == 255
    assert opaque.sum() == 320 * 240 - 60 * 60
    assert np.abs(pixels - expected)[opaque].max() <= 1


@pytest.mark.parametrize(("name", "code", "words"), REFUSED)
def test_a_file_that_was_wrong_is_refused_for_what_it_is(name: str, code: str, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        open_photo(found(name))
    assert caught.value.code == code
