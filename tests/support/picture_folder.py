"""A folder of drawn pictures of many kinds: formats, sizes, modes, orientations, names."""

import numpy as np
from PIL import Image

from training.data import synthetic

ORIENTATION = 0x0112  # EXIF's tag
FORMATS = ("jpg", "png", "JPG", "bmp", "gif", "jpeg", "PNG")


def draw(rng, label, height, width):
    """Returns a picture [height, width] of one of the synthetic set's classes."""
    colour = np.array(list(synthetic.COLOURS.values())[label % len(synthetic.COLOURS)])
    y, x = np.mgrid[:height, :width]
    along = y if label % 2 else x
    wave = 40 * np.sin(2 * np.pi * (8 * along / min(height, width) + rng.uniform()))
    pixels = (
        colour * rng.uniform(0.85, 1.1) + wave[..., None] + rng.normal(0, 8, (height, width, 3))
    )
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def make(folder, classes=("red", "blue", "Größe", "dark grey", "light grey"), count=20, seed=0):
    """Writes `count` pictures of each class; returns the folder.

    Their sizes and formats differ. Some are grey, CMYK, of 16 bits, transparent, turned by their
    EXIF orientation, in a folder of a class' folder; hidden files and texts lie between them.
    """
    rng = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        (folder / name / "more").mkdir(parents=True)
        for number in range(count):
            height, width = rng.integers(40, 130, 2)
            picture = draw(rng, label, height, width)
            stem = folder / name / ("more" if number % 4 == 0 else ".") / f"{number:03}"
            kind = number % 12
            if kind == 7:
                picture.convert("L").save(f"{stem}.jpg")
            elif kind == 8:
                picture.convert("CMYK").save(f"{stem}.jpg")
            elif kind == 9:
                grey = np.asarray(picture.convert("L")).astype(np.uint16)
                Image.fromarray(grey * 257).save(f"{stem}.png")
            elif kind == 10:
                picture.putalpha(200)
                picture.save(f"{stem}.png")
            elif kind == 11:
                exif = Image.Exif()
                exif[ORIENTATION] = 6
                picture.rotate(90, expand=True).save(f"{stem}.jpg", exif=exif)
            else:
                picture.save(f"{stem}.{FORMATS[number % len(FORMATS)]}")
        (folder / name / ".hidden.jpg").write_bytes(b"no picture")
        (folder / name / "notes.txt").write_text("no picture")
    (folder / ".cache").mkdir()
    return folder
