"""Pictures of a data set, in memory, in a cache on the disk, or decoded each time.

All three hold the same pixels: those of `pictures.read_scaled`, before the centre is cropped.
"""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from training import console
from training.cli import InputError
from training.data import pictures
from training.runs import files

SHARE_OF_MEMORY = 0.25  # of what is available, which `auto` fills with pictures


class Decoded:
    """Pictures that are decoded at each access.

    Args:
        paths: List of paths.
        resize: A `pictures.Resize`.
        sizes: Int array [N, 2], the height and width of each picture's file.
        is_jpeg: Bool array [N], which of them TensorFlow can decode.
    """

    def __init__(self, paths, resize, sizes, is_jpeg):
        self.paths = paths
        self.resize = resize
        self.sizes = sizes
        self.is_jpeg = is_jpeg

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return pictures.read_scaled(self.paths[index], self.resize)

    def scaled_sizes(self):
        """Returns the size of each picture that is returned, int array [N, 2]."""
        return np.array([self.resize.scaled(*size) for size in self.sizes])


class Stored:
    """Decoded pictures in one flat array: in memory, or a file that is mapped into it.

    Args:
        pixels: Uint8 array, flat.
        sizes: Int array [N, 2], the height and width of each picture.
    """

    def __init__(self, pixels, sizes):
        self.pixels = pixels
        self.sizes = sizes
        self.ends = np.cumsum(3 * sizes.prod(-1))

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        height, width = self.sizes[index]
        end = self.ends[index]
        return self.pixels[end - 3 * height * width : end].reshape(height, width, 3)


def stored(decoded, cache, key):
    """Returns a store of the same pictures, as `cache` wants it.

    Args:
        decoded: A `Decoded`.
        cache: `"auto"`, `"memory"`, `"disk"` or `"none"`.
        key: String, different for different pictures or sizes; names the file on the disk.

    Raises:
        InputError: If the disk has no room.
    """
    sizes = decoded.scaled_sizes()
    total = int(3 * sizes.prod(-1).sum())
    path = f"pixels-{key}.bin"
    if cache == "auto":
        is_there = _is_complete(files.cache_folder() / path, total)
        cache = choose(total, 0 if is_there else total)
    if cache == "none":
        return decoded
    if cache == "memory":
        return _fill(decoded, np.empty(total, np.uint8), sizes)
    return Stored(_mapped(decoded, sizes, total, path), sizes)


def choose(total, missing):
    """Returns where `auto` keeps so many bytes: memory, else the disk, else nowhere.

    `missing` of them are not on the disk yet.
    """
    if total <= SHARE_OF_MEMORY * _available_memory():
        return "memory"
    folder = files.cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return "disk" if 2 * missing <= shutil.disk_usage(folder).free else "none"
    except OSError:
        return "none"


def _available_memory():
    """Returns the free bytes of the machine, or of its control group if that has fewer."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable"))
        available = 1024 * int(line.split()[1])
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        return min(available, int(limit) - used)
    except (OSError, StopIteration, ValueError):  # no such files, or a limit of "max"
        return available


def _fill(decoded, pixels, sizes):
    """Returns the `Stored` whose pixels are decoded into an array, in parallel."""
    result = Stored(pixels, sizes)

    def decode(index):
        result[index][:] = decoded[index]

    label = "decoding pictures"
    with console.progress(label, len(decoded)) as advance, ThreadPoolExecutor() as pool:
        for _ in pool.map(decode, range(len(decoded))):
            advance()
    return result


def _is_complete(path, total):
    return path.is_file() and path.stat().st_size == total


def _mapped(decoded, sizes, total, name):
    """Returns the pixels in the cache's file, which is written unless it is there."""

    def fill(temporary):
        mapped = np.memmap(temporary, np.uint8, "w+", shape=(total,))
        _fill(decoded, mapped, sizes)
        mapped.flush()

    def write(path):
        if shutil.disk_usage(path.parent).free < total:
            raise InputError(
                f"--cache disk: {path.parent} has no room for {total:,} bytes. Free some space, or "
                "give --cache none."
            )
        files.write_atomically(path, fill)

    path = files.cached(name, partial(_is_complete, total=total), write)
    return np.memmap(path, np.uint8, "r", shape=(total,))


class Images:
    """Images of one size that are read when they are asked for, like a uint8 array [N, H, W, 3].

    Args:
        store: A `Decoded` or a `Stored`.
        resize: The `pictures.Resize` of the images.
        indices: Int array [N], the pictures of the store.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, store, resize, indices):
        self.store = store
        self.resize = resize
        self.indices = indices
        self.shape = (len(indices), resize.height, resize.width, 3)

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, index):
        """Returns an image for an integer, an array of images for a slice, indices or a mask."""
        chosen = self.indices[index]
        if np.ndim(chosen) == 0:
            return self.resize.crop(self.store[chosen])
        images = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        for place, number in enumerate(chosen):
            images[place] = self.resize.crop(self.store[number])
        return images

    def take(self, index):
        """Returns the `Images` of a slice, indices or a mask, which are not read yet."""
        return Images(self.store, self.resize, self.indices[index])
