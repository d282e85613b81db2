"""Run folders: what a training leaves, and how it is found again."""

import contextlib
import csv
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from pathlib import Path

from training.cli import InputError, needing

ROOT = "runs"
CONFIG, LOCK = "config.json", ".lock"
HISTORY_COLUMNS = (
    *("epoch", "loss", "top1", "top5", "val_loss", "val_top1", "val_top5"),
    *("learning_rate", "seconds", "images_per_second"),
)
LABELS, PREPROCESSING = "labels.txt", "preprocessing.json"  # beside an exported model
LISTING, LISTING_COLUMNS = "data.csv", ("part", "name", "digest")
LISTED = 3  # names in a message
PACKAGES = ("keras-nam", "keras", "tensorflow", "numpy", "tensorflow-datasets")


def cache_folder():
    """Returns the folder of indices and decoded pictures, `XDG_CACHE_HOME`'s or `~/.cache`'s."""
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "keras-nam"


def write_atomically(path, write):
    """Calls `write(temporary_path)`, then renames to `path`: there is no half-written file.

    The temporary file keeps the suffix of `path`, since savers choose the format by it.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path):
    return path.with_name(f".{path.stem}.writing{path.suffix}")


def cached(name, is_complete, write):
    """Returns the path of a file in the cache folder; `write(path)` unless `is_complete(path)`.

    One process writes, and the others wait for it.
    """
    path = cache_folder() / name
    if not is_complete(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path.with_name(f".{name}.lock")):
            if not is_complete(path):
                write(path)
    return path


def write_json(path, content):
    """Writes indented JSON atomically; NaN and infinity become `null`."""
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _finite(content):
    """Returns the content with `None` for each number that JSON cannot express."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_json(path):
    """Returns a JSON file's content; InputError if it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; is {Path(path).parent} a run folder?") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def write_history(path, rows):
    """Writes `history.csv`: a row (a dictionary of `HISTORY_COLUMNS`) an epoch."""

    def write(temporary):
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, HISTORY_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)


def read_history(path):
    """Returns the rows of a `history.csv`, or an empty list without the file.

    Raises:
        InputError: If it is damaged.
    """
    if not Path(path).exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return [
            {key: int(value) if key == "epoch" else float(value) for key, value in row.items()}
            for row in rows
        ]
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}). Delete it, or train again.") from None


def sha256(path):
    """Returns the hash of a file on the disk."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def environment(packages=PACKAGES):
    """Returns the packages' versions, the machine and the git revision."""
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {"versions": versions, "machine": machine(), "git_revision": git_revision()}


def machine():
    """Returns the system, its CPU, and whether oneDNN's fast convolutions were switched."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
    parts = [
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        fields.get("model name"),
    ]
    if fields.get("flags"):
        parts.append("AVX-512" if "avx512f" in fields["flags"].split() else "no AVX-512")
    if "TF_ENABLE_ONEDNN_OPTS" in os.environ:
        parts.append(f"TF_ENABLE_ONEDNN_OPTS={os.environ['TF_ENABLE_ONEDNN_OPTS']}")
    return ", ".join(filter(None, parts))


def git_revision():
    """Returns the commit of the checkout, with `+changes` if files differ from it.

    `None` outside a checkout, and where the project lies within another project's checkout.
    """
    root, here = Path(__file__).parents[2], Path(__file__).parent

    def git(*arguments):
        # Below the root, since git takes the folder itself for the root where GIT_DIR is set.
        return subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if not root.samefile(git("rev-parse", "--show-toplevel")):
            return None
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@contextlib.contextmanager
def opened(folder, config, resume):
    """Creates a run folder, or opens an unfinished one to resume it, and holds its lock.

    A finished run is not locked, since nothing more is written there.

    Args:
        folder: Path of the run folder.
        config: Dictionary, every setting that the numbers depend on. Its `"environment"` may differ
            when a run is resumed.
        resume: Whether an existing folder is resumed.

    Yields:
        The path of the folder.

    Raises:
        InputError: If another training writes into the folder, or it cannot be written, exists
            without `resume`, or has other settings. Nothing in the folder is changed then.
    """
    folder = Path(folder)
    busy = f"Another training writes into {folder}. Wait for its end, or give another --run-dir."
    with contextlib.ExitStack() as stack:
        try:
            _check(folder, config, resume)
            if not is_finished(folder):
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock(folder / LOCK, busy))
                _check(folder, config, resume)  # what another training wrote before the lock
                if not (folder / CONFIG).exists():
                    write_json(folder / CONFIG, config)
        except OSError as error:
            raise InputError(
                f"The run folder {folder} cannot be written ({error.strerror}). Give another "
                "--run-dir."
            ) from None
        yield folder


def _check(folder, config, resume):
    """Raises an InputError unless a training with this configuration may use the folder."""
    path = folder / CONFIG
    if path.exists():
        old, new = flat(read_json(path)), flat(json.loads(json.dumps(config)))
        differences = [
            f"{key}: {old.get(key)} there, {new.get(key)} now"
            for key in sorted({*old, *new})
            if old.get(key) != new.get(key)
        ]
        if differences:
            raise InputError(
                f"{folder} was started with other settings: {'; '.join(differences)}. "
                "Give those settings, or another --run-dir."
            )
        if not resume:
            raise InputError(
                f"{folder} exists. Resume it with --resume, or give another --run-dir."
            )
    # A process that was killed as it began left its lock and the temporary file at most.
    elif folder.is_dir() and {*folder.iterdir()} - {folder / LOCK, _temporary(path)}:
        raise InputError(f"{folder} is not empty, and not a run folder. Give another --run-dir.")


@contextlib.contextmanager
def lock(path, busy=None):
    """Holds a file's lock, which ends with the processes that hold it, however they end.

    Args:
        path: Path of the file, which stays.
        busy: The error message if another process has the lock; `None` waits for it.

    Yields:
        The file's descriptor. A child process that inherits it holds the lock too.

    Raises:
        InputError: If another process has the lock, with the message `busy`.
    """
    with needing("train"):
        import filelock
    with open(path, "a") as file:
        if not filelock.lock_descriptor(file.fileno(), blocking=busy is None):
            raise InputError(busy)
        yield file.fileno()


def flat(config):
    """Returns the settings of a `config.json` and its recipe, without the environment."""
    settings = {key: value for key, value in config.items() if key != "environment"}
    recipe = settings.pop("recipe_settings", {})
    return {**settings, **recipe}


def described(config):
    """Returns name -> value of a `config.json`, in one level, without the classes' names."""
    described = {**flat(config), **config["environment"], **config["environment"]["versions"]}
    return {k: v for k, v in described.items() if k not in ("class_names", "versions")}


def write_listing(folder, listing):
    """Writes `data.csv`, a row (part, name, digest) a picture; nothing for an empty listing."""

    def write(temporary):
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([LISTING_COLUMNS, *listing])

    if listing and not (folder / LISTING).exists():
        write_atomically(folder / LISTING, write)


def read_listing(folder):
    """Returns the rows (part, name, digest) of `data.csv`, or an empty list without the file."""
    path = Path(folder) / LISTING
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


def check_listing(folder, listing):
    """Raises an InputError if the pictures are not the ones that a run was started with."""
    before = {name: (part, digest) for part, name, digest in read_listing(folder)}
    if not before:
        return
    now = {name: (part, digest) for part, name, digest in listing}
    changes = [
        f"{len(names)} {what} ({', '.join(names[:LISTED])}{', …' if names[LISTED:] else ''})"
        for what, names in (
            ("are gone", sorted(before.keys() - now.keys())),
            ("are new", sorted(now.keys() - before.keys())),
            (
                "have other content or another part",
                sorted(n for n in before.keys() & now.keys() if before[n] != now[n]),
            ),
        )
        if names
    ]
    if changes:
        raise InputError(
            f"The pictures of {folder} have changed since it was started: {', '.join(changes)}. "
            "Restore them, or give another --run-dir."
        )


def is_finished(folder):
    """Whether a run has its `result.json`, which a training writes last."""
    return (Path(folder) / "result.json").is_file()


def newest_finished(root=ROOT):
    """Returns the folder of the run that finished last; InputError if none under `root` has."""
    results = Path(root).glob("*/result.json")
    newest = max(results, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        raise InputError(
            f"No finished run under {root}/. Train one (python training/train.py), or name one."
        )
    return newest.parent
