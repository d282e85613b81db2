"""Reading one picture: any common file to RGB of 0–255, resized and cropped as a network takes it.

Training, evaluation, verification and `export/predict.py` all read pictures here.
"""

import glob
import io
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from training.cli import InputError

# Pillow knows more, some of which run other programs (EPS) or are rarely exercised.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
# What the signature `serving_bytes` decodes. The JPEG of a phone may call itself MPO.
ENCODED_FORMATS = ("PNG", "JPEG", "MPO")
# The largest phone cameras make 50 megapixels; decoded as RGBA that is 200 MB.
MAX_PIXELS = 50_000_000
# What `serving_bytes` decodes: a small file can declare gigabytes.
MAX_ENCODED_PIXELS = 4096 * 4096
SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
THIRTY_TWO_BIT_MODES = ("I", "F")
FILTER = "bilinear, antialiased"


class Resize(NamedTuple):
    """How a picture becomes an image of the network's size.

    With a `crop_fraction` f the picture keeps its aspect ratio: it is resized to cover
    [height / f, width / f], and the centre [height, width] is cropped. Without one the whole
    picture is resized to [height, width].

    Attributes:
        height: Integer, pixels.
        width: Integer, pixels.
        crop_fraction: Float in (0, 1], or `None`.
    """

    height: int
    width: int
    crop_fraction: float | None = None

    def scaled(self, height, width):
        """Returns the (height, width) to which a picture of this size is resized."""
        if self.crop_fraction is None:
            return self.height, self.width
        factor = max(
            round(self.height / self.crop_fraction) / height,
            round(self.width / self.crop_fraction) / width,
        )
        return round(height * factor), round(width * factor)

    def crop(self, pixels):
        """Returns the centre [height, width] of an array [H, W, 3]."""
        top, left = (pixels.shape[0] - self.height) // 2, (pixels.shape[1] - self.width) // 2
        return pixels[top : top + self.height, left : left + self.width]

    @classmethod
    def from_json(cls, content):
        """Returns the rule of `as_json`; a KeyError or a TypeError if it is not one."""
        return cls(content["height"], content["width"], content["crop_fraction"])

    def all(self, images):
        """Returns an array of images [N, H, W, 3], resized and cropped."""
        found = np.empty((len(images), self.height, self.width, 3), np.uint8)
        for row, image in zip(found, images, strict=True):
            row[:] = self.crop(scale_pixels(image, self))
        return found

    def as_json(self):
        """Returns the rule for `preprocessing.json`."""
        rule = "resize" if self.crop_fraction is None else "resize to cover, then crop the centre"
        return {
            "height": self.height,
            "width": self.width,
            "rule": rule,
            "crop_fraction": self.crop_fraction,
            "filter": FILTER,
        }


def find(sources, recursive=False):
    """Returns the paths of the pictures in files, folders and glob patterns, as strings.

    Args:
        sources: List of strings. Of a folder, files with a picture's suffix are taken, in sorted
            order, except hidden ones.
        recursive: Whether folders in a folder are searched, too.

    Raises:
        InputError: If a folder has no picture, a pattern no match, or a name is not UTF-8.
    """
    return [check_utf8(path) for source in sources for path in _find(source, recursive)]


def check_utf8(path):
    """Returns a path; InputError if it is not UTF-8, since no file could then list it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputError(f"{path!a}: the name is not UTF-8. Rename it.") from None
    return path


def _find(source, recursive):
    is_pattern = glob.has_magic(source) and not os.path.lexists(source)
    if is_pattern:
        matches = sorted(glob.glob(source, recursive=True))
        return find(matches, recursive) if matches else _nothing(f"nothing matches {source}")
    if not os.path.isdir(source):
        return [source]
    found = []
    for parent, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        found += [os.path.join(parent, name) for name in sorted(names) if is_picture(name)]
    hint = "" if recursive else "; --recursive searches the folders in it"
    return found or _nothing(f"{source} has no pictures ({', '.join(SUFFIXES)}){hint}")


def is_picture(name):
    """Whether a file has a picture's suffix and is not hidden."""
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def _nothing(reason):
    raise InputError(f"{reason}. Give files, folders, or patterns such as 'photos/*.jpg'.")


def read(source, resize, name=None):
    """Reads a picture as a network's input.

    The EXIF orientation is applied. Of an animation the first frame is taken. Grey becomes RGB,
    transparency is laid over white, and of 16 bits a channel the upper 8 are kept. A picture that
    has the size already keeps its pixels.

    Args:
        source: Path, or the bytes, of a file in one of `FORMATS` with at most `MAX_PIXELS` pixels.
        resize: A `Resize`.
        name: String for messages, if the source is bytes.

    Returns:
        An array [height, width, 3], uint8 in 0–255.

    Raises:
        InputError: If the file is missing, not such a picture, damaged or too large.
    """
    return resize.crop(read_scaled(source, resize, name))


def read_scaled(source, resize, name=None):
    """Returns the picture of `read` before its centre is cropped."""
    image = _rgb(source, name)
    height, width = resize.scaled(image.height, image.width)
    if height * width > MAX_PIXELS:
        raise InputError(
            f"{name or source} is too narrow: its {image.width}×{image.height} pixels would become "
            f"{width}×{height}. Crop it first."
        )
    return _scaled(image, resize)


def scale_pixels(pixels, resize):
    """Returns decoded pixels, uint8 [H, W, 1 or 3], as `read_scaled` returns a file's."""
    return _scaled(Image.fromarray(pixels.squeeze()).convert("RGB"), resize)


def _scaled(image, resize):
    height, width = resize.scaled(image.height, image.width)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def read_whole(source, name=None):
    """Returns a picture in its own size, uint8 [H, W, 3]; see `read`."""
    return np.asarray(_rgb(source, name))


def read_encoded(path):
    """Returns the bytes of a PNG or JPEG file, for a model that decodes pictures itself.

    Such a model also resizes, but ignores the EXIF orientation and drops transparency.

    Raises:
        InputError: As `read`, or if the picture is neither PNG nor JPEG, or has more than
            `MAX_ENCODED_PIXELS` pixels.
    """
    image, found = _decode(path, path)
    if found not in ENCODED_FORMATS:
        raise InputError(
            f"{path} is a {found} file, and a model that decodes pictures itself takes PNG or"
            " JPEG. Convert it, or send its pixels (--signature image)."
        )
    if image.width * image.height > MAX_ENCODED_PIXELS:
        raise InputError(
            f"{path} has more than {MAX_ENCODED_PIXELS:,} pixels, the most that a model decodes. "
            "Scale it down, or send its pixels (--signature image)."
        )
    return Path(path).read_bytes()


def _decode(source, name):
    """Returns the picture, upright, and the name of its format."""
    try:
        with warnings.catch_warnings(), _opened(source) as file:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:  # as declared: nothing is decoded yet
                raise Image.DecompressionBombError
            return ImageOps.exif_transpose(image), image.format
    except Image.DecompressionBombError:
        raise InputError(
            f"{name} declares more than {MAX_PIXELS // 1_000_000} million pixels, the most that"
            " are decoded. Scale it down first."
        ) from None
    except Image.UnidentifiedImageError:
        raise InputError(
            f"{name} is not a picture ({', '.join(FORMATS)}), or its first bytes are damaged."
        ) from None
    except Exception as error:  # a damaged file raises whatever its decoder runs into
        if reason := getattr(error, "strerror", None):
            raise InputError(f"cannot read the picture {name}: {reason}") from None
        raise InputError(f"the picture {name} is damaged or cut short ({error})") from None


def _opened(source):
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


def _rgb(source, name):
    name = name or source
    image, _ = _decode(source, name)
    if image.mode in THIRTY_TWO_BIT_MODES:
        raise InputError(
            f"{name} has 32 bits a channel, whose range is not known. Convert it to 8 or 16 bits."
        )
    if image.mode in SIXTEEN_BIT_MODES:
        # The upper byte, which is what decoders keep of 16-bit RGB.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")
