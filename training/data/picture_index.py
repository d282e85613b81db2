"""The index of a folder's pictures, in the cache folder: their sizes, hashes and errors."""

import contextlib
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from PIL import Image

from training import console
from training.cli import InputError
from training.data import pictures
from training.runs import files

INDEX_VERSION = 1
PLAIN = ("L", "RGB")  # JPEGs that TensorFlow decodes to the same pixels as Pillow


class Entry(NamedTuple):
    """What the index knows of a file.

    Attributes:
        size: Integer, bytes.
        modified: Integer, nanoseconds.
        digest: String, the hash of its content.
        height: Integer, pixels, with the EXIF orientation applied.
        width: Integer, pixels.
        is_jpeg: Whether TensorFlow can decode it: a grey or RGB JPEG without an orientation.
        error: String, why it cannot be read; empty for a good picture.
    """

    size: int
    modified: int
    digest: str
    height: int = 0
    width: int = 0
    is_jpeg: bool = False
    error: str = ""


def scan(path, names):
    """Returns the `Entry` of each name. Only files that are new or changed are read."""
    key = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    file = files.cache_folder() / f"index-{key}.json"
    known = _read_index(file)

    def entry(name):
        try:
            status = (path / name).stat()
        except OSError as error:  # a link to nothing
            return Entry(0, 0, "", error=f"{path / name}: {error.strerror}")
        old = known.get(name)
        if old and (old.size, old.modified) == (status.st_size, status.st_mtime_ns):
            return old
        return _examine(path / name, status)

    with console.progress("scanning pictures", len(names)) as advance, ThreadPoolExecutor() as pool:
        entries = {}
        for name, found in zip(names, pool.map(entry, names), strict=True):
            entries[name] = found
            advance()
    if entries != known:
        content = {"version": INDEX_VERSION, "folder": str(path.resolve()), "files": entries}
        with contextlib.suppress(OSError):  # the index only saves time
            file.parent.mkdir(parents=True, exist_ok=True)
            with files.lock(file.with_suffix(".lock")):
                files.write_json(file, content)
    return entries


def _read_index(file):
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["version"] == INDEX_VERSION:
            return {name: Entry(*entry) for name, entry in content["files"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or damaged: all files are read again
    return {}


def _examine(path, status):
    """Returns the entry of a file, which is decoded to see whether it can be."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return Entry(status.st_size, 0, "", error=f"{path}: {error.strerror}")
    entry = Entry(
        status.st_size, status.st_mtime_ns, hashlib.blake2b(content, digest_size=16).hexdigest()
    )
    try:
        height, width, _ = pictures.read_whole(content, path).shape
    except InputError as error:
        return entry._replace(error=str(error))
    return entry._replace(height=height, width=width, is_jpeg=_is_plain_jpeg(path))


def _is_plain_jpeg(path):
    with Image.open(path) as image:
        upright = image.getexif().get(0x0112, 1) == 1  # the tag of the orientation
        return image.format in ("JPEG", "MPO") and image.mode in PLAIN and upright
