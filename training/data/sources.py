"""Data sets: a table of names, any set of TFDS, and folders of pictures.

Each is a module with a function `load`. The table imports nothing, so that help texts can list it.
"""

import dataclasses
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from training.cli import InputError, nearest

# Sets of images of one size: `load(name, data_dir)` returns (images, labels) to train on, the same
# to test on, a list of class names and a string that names the source.
DATASETS = {
    "cifar100": "training.data.cifar",
    "cifar10": "training.data.cifar",
    "synthetic": "training.data.synthetic",
}
TFDS = "tfds:"
CROP_FRACTION = 0.875  # of the resized picture, which is evaluated
SIZE = (224, 224)  # height and width of pictures whose data set has no size


@dataclasses.dataclass(frozen=True)
class Options:
    """How a data set is read: the fields of `Job` with the same names, and `usual_crop`.

    Attributes:
        data_dir: Path of its folder, or `None` for its default.
        validation_split: Float, share of the training images that is held out, of each class.
        test_split: Float, the same for a test part that a folder or a set does not have.
        seed: Integer, chooses the held-out images of a set that has arrays.
        image_size: Height and width of the images, pixels; empty for the data set's, or `SIZE`.
        crop_fraction: See `pictures.Resize`; `None` for `usual_crop`.
        usual_crop: The same for pictures of several sizes, if `crop_fraction` is `None`. Images of
            one size are not cropped then.
        cache: `"auto"`, `"memory"`, `"disk"` or `"none"`; see `store.stored`.
        skip_unreadable: Whether unreadable pictures are left out.
    """

    data_dir: str | None = None
    validation_split: float = 0.0
    test_split: float = 0.1
    seed: int = 0
    image_size: tuple[int, ...] = ()
    crop_fraction: float | None = None
    usual_crop: float | None = CROP_FRACTION
    cache: str = "auto"
    skip_unreadable: bool = False

    def height_and_width(self, default):
        """Returns (height, width), of one or two numbers, or the default."""
        size = self.image_size or default
        return size[0], size[-1]


class Loaded(NamedTuple):
    """What a data set's module loads.

    Attributes:
        train: Images, uint8 [N, H, W, 3] (an array, or `store.Images`), and integer labels [N].
        test: The same; `None` if it is to be split off.
        class_names: List of strings, by label.
        source: String that names the data and their place, as `"... in <folder>"`.
        resize: The `pictures.Resize` that made the images; `None` if they have their own size.
        validation: As `train`, where the data set itself has such a part.
        listing: Rows (part, name, digest) that identify the pictures of a folder.
        warnings: List of strings.
    """

    train: tuple[Any, Any]
    test: tuple[Any, Any] | None
    class_names: list
    source: str
    resize: Any = None
    validation: tuple[Any, Any] | None = None
    listing: Sequence = ()
    warnings: Sequence = ()


def load(name, options):
    """Loads a data set: of the table, `tfds:NAME`, or the pictures of a folder.

    Args:
        name: String, a key of `DATASETS`, `tfds:NAME`, or the path of a folder.
        options: An `Options`.

    Returns:
        A `Loaded`.

    Raises:
        InputError: If the data set is unknown, missing, damaged or not usable.
    """
    if name in DATASETS:
        loaded = Loaded(*importlib.import_module(DATASETS[name]).load(name, options.data_dir))
        return _resized(loaded, options)
    if name.startswith(TFDS):
        from training.data import tfds

        return tfds.load(name.removeprefix(TFDS), options)
    if options.data_dir is None and not Path(name).is_dir():
        hint = f" Did you mean {nearest(name, DATASETS)!r}?" if Path(name).name == name else ""
        raise InputError(
            f"--dataset {name}: expected {', '.join(DATASETS)}, {TFDS}NAME, or an existing folder "
            f"of pictures. --data-dir names the new place of a moved folder.{hint}"
        )
    from training.data import folder

    return folder.load(name, options)


def _resized(loaded, options):
    """Returns a set of arrays with all images resized and cropped, if the options ask for it."""
    own_size = loaded.train[0].shape[1:3]
    size = options.height_and_width(own_size)
    if size == own_size and options.crop_fraction is None:
        return loaded
    from training.data import pictures

    resize = pictures.Resize(*size, options.crop_fraction)
    parts = {
        part: (resize.all(images), labels)
        for part, (images, labels) in (("train", loaded.train), ("test", loaded.test))
    }
    return loaded._replace(**parts, resize=resize)


def full_name(name):
    """Returns the name for `config.json`: of a folder its absolute path."""
    is_folder = name not in DATASETS and not name.startswith(TFDS)
    return str(Path(name).resolve()) if is_folder else name
