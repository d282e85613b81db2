"""A folder of pictures as a data set: its classes and its parts.

`FOLDER/<class>/**/*.jpg`, or `FOLDER/train/<class>/…` with `val` and `test` beside it. A class is
named after its folder. Files and folders whose names begin with a dot are left out.
"""

import hashlib
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training.cli import InputError
from training.data import pictures, sources, store
from training.data.picture_index import Entry, scan

PARTS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
LISTED = 5  # names in a message


class Picture(NamedTuple):
    """A picture of a part: its name relative to the folder, its label and its entry."""

    name: str
    label: int
    entry: Entry


@dataclass(frozen=True)
class Folder:
    """The pictures of a folder.

    Attributes:
        path: Path.
        class_names: List of strings, sorted, by label.
        parts: Dictionary from `"train"`, `"validation"` and `"test"` to lists of `Picture`, in an
            order drawn by a hash of their names; without a validation part that list is empty.
        warnings: List of strings.
    """

    path: Path
    class_names: list
    parts: dict
    warnings: list

    def listing(self):
        """Returns the rows (part, name, digest) that identify the data set and its split."""
        return [(part, p.name, p.entry.digest) for part, ps in self.parts.items() for p in ps]


def open_folder(path, test_split=0.1, validation_split=0.0, skip_unreadable=False):
    """Scans a folder, checks it, and splits it.

    Pictures are chosen for a part by a hash of their names, the same share of each class. Adding
    pictures moves at most one picture of a class for each that is added.

    Args:
        path: Path of the folder.
        test_split: Float, share of each class that is the test part, if the folder has none.
        validation_split: Float, share of the training pictures held out, where there is no such
            folder.
        skip_unreadable: Whether unreadable pictures are left out.

    Returns:
        A `Folder`.

    Raises:
        InputError: If the folder is missing, has fewer than two classes, an empty class, a class
            that is not in every part, or an unreadable picture.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"--dataset {path}: the folder does not exist.")
    roots = _part_folders(path)
    named = {part: _classes(path, root) for part, root in roots.items()}
    class_names = _check_classes(path, named)
    if validation_split and "validation" in roots:
        raise InputError(
            f"--validation-split {validation_split}: {path} has a validation part. Leave out the "
            "option."
        )
    names = [name for classes in named.values() for found in classes.values() for name in found]
    index = scan(path, names)
    warnings = _unreadable(path, index, names, skip_unreadable)
    parts = {
        part: [
            Picture(name, class_names.index(label), index[name])
            for label in class_names
            for name in classes.get(label, ())
            if not index[name].error
        ]
        for part, classes in named.items()
    }
    # Not class by class: a sample of the first pictures has all classes.
    parts = {part: sorted(found, key=_draw) for part, found in parts.items()}
    for part, share in (("test", test_split), ("validation", validation_split)):
        if part not in parts:
            parts["train"], parts[part] = _split(path, parts["train"], share, part)
    warnings += _duplicates(parts)
    _check_parts(path, class_names, parts)
    return Folder(path, class_names, {part: parts[part] for part in PARTS}, warnings)


def _draw(picture):
    """Returns a key that sorts pictures as if at random, and the same each time."""
    return hashlib.sha256(picture.name.encode()).digest()


def _part_folders(path):
    """Returns the folder of each part, or the whole folder as the training part."""
    found = {}
    for child in _visible(path):
        for part, names in PARTS.items():
            if child.name.lower() in names and child.is_dir():
                if part in found:
                    raise InputError(f"{path} has {found[part].name}/ and {child.name}/: keep one.")
                found[part] = child
    if not found:
        return {"train": path}
    if "train" not in found:
        raise InputError(f"{path} has {', '.join(sorted(found))}/ but no train/ beside it.")
    return found


def _classes(path, root):
    """Returns the names of the pictures of each class folder, relative to the data set's folder."""
    return {
        child.name: sorted(
            (root / child.name / name).relative_to(path).as_posix() for name in _pictures(child)
        )
        for child in _visible(root)
        if child.is_dir()
    }


def _visible(folder):
    return sorted(child for child in folder.iterdir() if not child.name.startswith("."))


def _pictures(folder):
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in filter(pictures.is_picture, names):
            path = pictures.check_utf8(os.path.join(parent, name))
            yield Path(path).relative_to(folder)


def _check_classes(path, named):
    """Returns the class names; InputError unless each class has pictures in each part's folder."""
    class_names = sorted(named["train"])
    expected = "expected FOLDER/<class>/<pictures>, or FOLDER/train|val|test/<class>/<pictures>"
    if not class_names:
        raise InputError(f"{path} has no class folders; {expected}.")
    if len(class_names) == 1:
        raise InputError(f"{path} has one class, {class_names[0]}; expected two or more.")
    for part, classes in named.items():
        if others := sorted(set(classes) ^ set(class_names)):
            raise InputError(
                f"{path}: the {part} part and the train part have different classes: "
                f"{_some(others)} is in one of them only."
            )
        if empty := [name for name, found in classes.items() if not found]:
            raise InputError(
                f"{path}: the class {_some(empty)} has no pictures in the {part} part. Add some "
                f"({', '.join(s[1:] for s in pictures.SUFFIXES)}), or delete the folder."
            )
    return class_names


def _some(names):
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _unreadable(path, index, names, skip):
    bad = [name for name in names if index[name].error]
    if bad and not skip:
        listed = "; ".join(index[name].error for name in bad)
        raise InputError(
            f"{path}: {len(bad)} of {len(names)} pictures cannot be read: {listed}. Repair or "
            "delete them, or leave them out with --skip-unreadable."
        )
    return [f"{len(bad)} unreadable pictures are left out: {_some(bad)}"] if bad else []


def _split(path, found, share, part):
    """Returns the rest and `share` of the pictures of each class, chosen by a hash of the name."""
    if not share:
        return found, []
    by_class = defaultdict(list)
    for picture in found:
        by_class[picture.label].append(picture)
    chosen = set()
    for members in by_class.values():
        if len(members) < 2:
            raise InputError(
                f"{path}: the class of {members[0].name} has one picture, which cannot be split; "
                f"expected two or more, or a folder {PARTS[part][0]}/."
            )
        members.sort(key=lambda p: hashlib.sha256(f"{part} {p.name}".encode()).digest())
        count = min(max(1, round(share * len(members))), len(members) - 1)
        chosen.update(picture.name for picture in members[:count])
    kept = [picture for picture in found if picture.name not in chosen]
    return kept, [picture for picture in found if picture.name in chosen]


def _duplicates(parts):
    """Returns a warning for each part that shares files with the training part."""
    train = {picture.entry.digest: picture.name for picture in parts["train"]}
    warnings = []
    for part in ("validation", "test"):
        shared = [p.name for p in parts[part] if p.entry.digest in train]
        if shared:
            example = next(p for p in parts[part] if p.entry.digest in train)
            warnings.append(
                f"{len(shared)} pictures of the {part} part are also in the training part, which "
                f"makes its accuracy too high: {example.name} equals {train[example.entry.digest]}"
            )
    return warnings


def _check_parts(path, class_names, parts):
    for part, found in parts.items():
        present = {picture.label for picture in found}
        if found and (missing := [n for i, n in enumerate(class_names) if i not in present]):
            raise InputError(
                f"{path}: no readable picture of {_some(missing)} is in the {part} part."
            )
    if not parts["test"]:
        raise InputError(
            f"{path} has no test part: give --test-split above 0, or make a folder test/."
        )


def load(name, options):
    """Returns the `sources.Loaded` of a folder; `options.data_dir` names its new place, if any."""
    path = Path(options.data_dir or name)
    found = open_folder(path, options.test_split, options.validation_split, options.skip_unreadable)
    return _loaded(found, options)


def load_any(path, options):
    """Returns the `sources.Loaded` of pictures that no training here was on, for a verification.

    A folder with a training and a test part is read as by `load`. Any other is shuffled, and
    `options.test_split` of it is the test part. Without class folders there are no class names, and
    every label is 0.

    Raises:
        InputError: If the folder is missing, or has no picture or an unreadable one.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"--images {path}: the folder does not exist.")
    if len(_part_folders(path)) > 1:
        found = open_folder(path, options.test_split, skip_unreadable=options.skip_unreadable)
    else:
        found = _unsplit(path, options.test_split, options.skip_unreadable)
    return _loaded(found, options)


def _unsplit(path, test_split, skip_unreadable):
    names = sorted(found.as_posix() for found in _pictures(path))
    if not names:
        suffixes = ", ".join(suffix[1:] for suffix in pictures.SUFFIXES)
        raise InputError(f"--images {path}: the folder has no pictures ({suffixes}).")
    classes = {name: found for name, found in _classes(path, path).items() if found}
    if sum(map(len, classes.values())) < len(names):  # some are in no class folder
        classes = {}
    labels = {name: i for i, found in enumerate(classes.values()) for name in found}
    index = scan(path, names)
    warnings = _unreadable(path, index, names, skip_unreadable)
    found = [Picture(n, labels.get(n, 0), index[n]) for n in names if not index[n].error]
    found.sort(key=_draw)
    if test_split < 1 and len(found) == 1:
        raise InputError(
            f"--images {path}: 1 picture: expected 2 or more for float16 and int8, whose ranges "
            "are measured on other pictures than they are verified on. Add pictures, or export "
            "float32."
        )
    count = max(1, round(test_split * len(found)))
    parts = {"train": found[count:] or found, "validation": [], "test": found[:count]}
    return Folder(path, list(classes), parts, warnings)


def _loaded(found, options):
    path = found.path
    crop_fraction = options.crop_fraction or options.usual_crop
    resize = pictures.Resize(*options.height_and_width(sources.SIZE), crop_fraction)
    everything = [picture for part in found.parts.values() for picture in part]
    decoded = store.Decoded(
        [path / picture.name for picture in everything],
        resize,
        np.array([(picture.entry.height, picture.entry.width) for picture in everything]),
        np.array([picture.entry.is_jpeg for picture in everything]),
    )
    listing = found.listing()
    key = hashlib.sha256(repr((str(path.resolve()), resize, listing)).encode()).hexdigest()[:16]
    stored = store.stored(decoded, options.cache, key)
    loaded, first = {}, 0
    for part, members in found.parts.items():
        indices = np.arange(first, first := first + len(members))
        labels = np.array([picture.label for picture in members], np.int64)
        loaded[part] = (store.Images(stored, resize, indices), labels) if members else None
    return sources.Loaded(
        **loaded,
        class_names=found.class_names,
        source=f"{path.resolve().name} ({len(everything)} pictures) in {path.resolve().parent}",
        resize=resize,
        listing=listing,
        warnings=found.warnings,
    )
