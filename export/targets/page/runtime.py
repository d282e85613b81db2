"""ONNX Runtime Web, which a page contains: installed by npm from a lockfile, or from a folder."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import onnxruntime

from training.cli import InputError
from training.runs import files

WEB = Path(__file__).parent / "web"
PACKAGE = "onnxruntime-web"
NPM = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
NPM += ("--fetch-retries=1",)
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")


def version():
    """Returns the version that the page contains."""
    packages = files.read_json(WEB / "package-lock.json")["packages"]
    return packages[f"node_modules/{PACKAGE}"]["version"]


def find(folder=None):
    """Returns the paths of `FILES`.

    Without a folder they come from the cache, or `npm ci` installs them there: npm compares the
    package with the hash in the lockfile, and its scripts are not run.

    Args:
        folder: A folder that holds them, such as `node_modules/onnxruntime-web/dist`, or `None`.

    Raises:
        InputError: If they are not there, or cannot be installed.
    """
    found = [Path(folder or _cache()) / name for name in FILES]
    if folder is None and not all(path.exists() for path in found):
        _install(_cache())
    for path in found:
        if not path.exists():
            raise InputError(
                f"{path.parent} does not hold {path.name}. Give the folder dist/ of the npm "
                f"package {PACKAGE} {version()} as --runtime"
            )
    return found


def _cache():
    return files.cache_folder() / f"{PACKAGE}-{version()}"


def _install(cache):
    if shutil.which("npm") is None:
        raise InputError(
            f"npm is not installed, and the page contains {PACKAGE}: install Node.js, or copy the "
            f"folder dist/ of {PACKAGE} {version()} here and give it as --runtime"
        )
    with tempfile.TemporaryDirectory() as folder:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(WEB / name, folder)
        ended = subprocess.run(NPM, cwd=folder, capture_output=True, text=True)
        if ended.returncode:
            reason = " ".join((ended.stderr or ended.stdout).split())[:300]
            raise InputError(f"npm could not install {PACKAGE} {version()}: {reason}")
        cache.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            source = Path(folder) / "node_modules" / PACKAGE / "dist" / name
            files.write_atomically(cache / name, lambda path, file=source: shutil.copy(file, path))


def licence():
    """Returns ONNX Runtime's licence, from its Python package: npm's does not hold it."""
    return (Path(onnxruntime.__file__).parent / "LICENSE").read_text("utf-8")
