"""Pictures of every kind become RGB of the model's size; others are refused with their name."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from training.cli import InputError
from training.data import pictures
from training.data.pictures import Resize

SIZE = Resize(32, 32)
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (32, 32, 3), np.uint8)


def png(width, height, rows, depth=8, colour=2):
    """Returns a PNG file written by hand: it may declare what its rows do not hold."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def encoded(image, form="PNG", **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def read(path, resize=SIZE):
    return pictures.read(path, resize)


@pytest.fixture
def write(tmp_path):
    def write(data, name="picture"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_a_lossless_picture_of_the_size_keeps_its_pixels(write, form):
    path = write(encoded(PIXELS, form))
    assert read(path).dtype == np.uint8
    np.testing.assert_array_equal(read(path), PIXELS)
    assert read(path, Resize(48, 64)).shape == (48, 64, 3)


def test_resizing_is_antialiased_and_keeps_the_whole_picture(write):
    fine = np.tile(np.array([[0, 255], [255, 0]], np.uint8), (64, 64))  # a checkerboard, 128×128
    array = read(write(encoded(fine)))
    # Four pixels to one: the mean is 127.5, and without antialiasing the squares would be seen.
    assert np.abs(array.astype(float) - 127.5).max() <= 8
    wide = np.zeros((40, 400, 3), np.uint8)
    wide[:, :100], wide[:, -100:] = 200, 100
    array = read(write(encoded(wide)))
    assert array[16, 2].tolist() == [200] * 3
    assert array[16, 29].tolist() == [100] * 3


@pytest.mark.parametrize(
    ("height", "width", "scaled"),
    [(100, 200, (50, 100)), (200, 100, (150, 75)), (50, 75, (50, 75))],
)
def test_the_picture_covers_the_size_and_its_centre_is_kept(height, width, scaled):
    """Of 40×60 with a share of 0.8: the scaled picture has at least 50×75 pixels."""
    resize = Resize(40, 60, 0.8)
    assert resize.scaled(height, width) == scaled
    marked = np.full((height, width, 3), 200, np.uint8)
    outside = np.ones((height, width), bool)  # of the centre, and a little around it
    rows, columns = height * 40 / scaled[0] / 2 + 2, width * 60 / scaled[1] / 2 + 2
    outside[
        int(height / 2 - rows) : int(height / 2 + rows) + 1,
        int(width / 2 - columns) : int(width / 2 + columns) + 1,
    ] = False
    marked[outside] = 0
    found = pictures.read(encoded(marked), resize)
    assert found.shape == (40, 60, 3)
    assert found.min() == 200
    np.testing.assert_array_equal(found, resize.all(marked[None])[0])


def test_a_rule_is_written_and_read():
    for resize in (Resize(40, 60, 0.8), SIZE):
        assert Resize.from_json(resize.as_json()) == resize


def test_grey_palette_and_16_bits(write):
    array = read(write(encoded(PIXELS[..., 0])))
    np.testing.assert_array_equal(array, np.repeat(PIXELS[..., :1], 3, axis=-1))
    palette = Image.fromarray(PIXELS // 128 * 128).convert("P", palette=Image.Palette.ADAPTIVE)
    np.testing.assert_array_equal(read(write(encoded(palette))), palette.convert("RGB"))
    grey = RANDOM.integers(0, 65536, (32, 32), np.uint16)
    np.testing.assert_array_equal(read(write(encoded(grey)))[..., 1], grey >> 8)
    colours = RANDOM.integers(0, 65536, (32, 32, 3), np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    np.testing.assert_array_equal(read(write(png(32, 32, rows, depth=16))), colours >> 8)


@pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (255, 51), (51, 214)])
def test_transparency_is_put_on_white(write, alpha, expected):
    # 51 of 255 opaque: 0.2 · 51 + 0.8 · 255 = 214.2.
    image = Image.new("RGBA", (32, 32), (51, 51, 51, alpha))
    assert np.unique(read(write(encoded(image)))).tolist() == [expected]


def test_exif_orientation(write):
    top = np.zeros((32, 32, 3), np.uint8)
    top[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    np.testing.assert_array_equal(read(write(encoded(top, exif=exif))), top[::-1])


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(write, form):
    red, blue = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))
    data = encoded(red, form, save_all=True, append_images=[blue], lossless=True)
    np.testing.assert_array_equal(read(write(data)), np.asarray(red))


BAD_PICTURES = {
    "empty": (b"", "is not a picture"),
    "text": (b"not a picture at all", "is not a picture"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a picture"),
    "cut PNG": (encoded(PIXELS)[:1000], "damaged or cut short"),
    "cut JPEG": (encoded(PIXELS, "JPEG")[:900], "damaged or cut short"),
    "PNG without its rows": (png(32, 32, b"\0"), "damaged or cut short"),
    "51 megapixels": (png(5100, 10_000, b"\0"), "more than 50 million pixels"),
    "4 gigapixels": (png(65_000, 65_000, b"\0"), "more than 50 million pixels"),
    "32 bits": (encoded(Image.new("F", (32, 32)), "TIFF"), "32 bits a channel"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", BAD_PICTURES)
def test_a_bad_picture_is_refused_by_name(write, kind):
    data, message = BAD_PICTURES[kind]
    path = write(data, "holiday.png")
    with pytest.raises(InputError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)


def test_a_path_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"none\.png: No such file"):
        read(tmp_path / "none.png")
    with pytest.raises(InputError, match="Is a directory"):
        read(tmp_path)


def test_encoded_files(write):
    data = encoded(PIXELS, "JPEG")
    assert pictures.read_encoded(write(data)) == data
    with pytest.raises(InputError, match="is a GIF file"):
        pictures.read_encoded(write(encoded(PIXELS, "GIF")))
    with pytest.raises(InputError, match="damaged or cut short"):
        pictures.read_encoded(write(BAD_PICTURES["cut PNG"][0]))
    with pytest.raises(InputError, match="16,777,216 pixels"):
        pictures.read_encoded(write(encoded(np.zeros((4096, 4097), np.uint8))))
