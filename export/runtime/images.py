"""Reads pictures as a model takes them: RGB of 0–255, resized, or the encoded file."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from training.cli import InputError

# Pillow knows more, some of which run other programs (EPS) or are rarely tested.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# What the signature `serving_bytes` decodes; the JPEG of a phone may call itself MPO.
ENCODED_FORMATS = ("PNG", "JPEG", "MPO")
# The largest phone cameras make 50 megapixels; decoded as RGBA that is 200 MB.
MAX_PIXELS = 50_000_000
SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
THIRTY_TWO_BIT_MODES = ("I", "F")


def read(path, size=(32, 32)):
    """Reads a picture as a model's input.

    The EXIF orientation is applied. The picture is resized, not cropped, by an antialiased
    bilinear filter; one of the right size keeps its pixels. Of an animation the first frame is
    read. Grey becomes RGB, transparency is put on white, and 16 bits a channel keep the upper 8.

    Args:
        path: A PNG, JPEG, WebP, GIF, BMP or TIFF file of at most `MAX_PIXELS` pixels.
        size: Height and width of the result, in pixels.

    Returns:
        An array of shape [height, width, 3], uint8 in 0–255.

    Raises:
        InputError: If the file is missing, not such a picture, damaged or too large.
    """
    image, _ = _decode(path)
    if image.mode in THIRTY_TWO_BIT_MODES:
        raise InputError(f"{path} has 32 bits a channel: convert it to 8 or 16 bits")
    if image.mode in SIXTEEN_BIT_MODES:
        # The upper byte, which is what decoders keep of 16-bit RGB.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR))


def read_encoded(path):
    """Reads the bytes of a PNG or JPEG file, for a model that decodes pictures itself.

    Such a model resizes too, but ignores the EXIF orientation and drops transparency.

    Raises:
        InputError: As `read`, or if the picture is neither PNG nor JPEG.
    """
    _, found = _decode(path)
    if found not in ENCODED_FORMATS:
        raise InputError(
            f"{path} is a {found} file, and a model that decodes pictures itself takes PNG or"
            " JPEG: convert it, or send its pixels (--signature image)"
        )
    return Path(path).read_bytes()


def _decode(path):
    """Returns the picture, upright, and the name of its format."""
    try:
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:  # as declared: nothing is decoded yet
                raise Image.DecompressionBombError
            return ImageOps.exif_transpose(image), image.format
    except Image.DecompressionBombError:
        reason = f"it declares more than {MAX_PIXELS // 1_000_000} million pixels: scale it down"
    except Image.UnidentifiedImageError:
        reason = f"it is not a picture ({', '.join(FORMATS)}), or its first bytes are damaged"
    except Exception as error:  # a damaged file raises whatever its decoder runs into
        reason = getattr(error, "strerror", None) or f"it is damaged or cut short ({error})"
    raise InputError(f"cannot read the picture {path}: {reason}")
