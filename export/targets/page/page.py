"""The page's files: one HTML file with all that it needs, or a folder for large models."""

import base64
import gzip
import html
import io
import json
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np
import onnx
from PIL import Image

from export.runtime.local_models import OnnxModel
from export.targets.page import graph, runtime
from export.verification.limits import LIMITS
from export.verification.release import report_path
from training.cli import InputError
from training.data import pictures
from training.runs import files

LARGE = 40e6  # bytes of a page's models, beyond which it is a folder
PRECISIONS = ("float32", "int8", "float16")  # in the order of the page
INDEX, PAYLOADS = "index.html", ".payload.js"
# No address is allowed: the page contains all that it needs.
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval' data:; "
    "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
)
NOISE = 8  # images that a graph with gates is compared on
TEST_SIZE = (61, 47)  # pixels, of the picture that a page tests itself with


class Example(NamedTuple):
    """A picture that is offered on the page: RGB uint8 [H, W, 3], and its class."""

    pixels: np.ndarray
    name: str


def examples(source, count):
    """Returns the first test picture of each of `count` classes of a `Source`'s data set."""
    test, names = source.dataset.test, source.dataset.class_names
    _, first = np.unique(test.labels, return_index=True)
    if count == 0:
        return []
    chosen = test.take(np.sort(first)[:count])
    images = chosen.images[:count].astype(np.uint8)
    return [Example(*each) for each in zip(images, (names[n] for n in chosen.labels), strict=True)]


def write(folder, paths, title, gammas=None, examples=(), runtime_folder=None):
    """Writes a page for the ONNX files of one network.

    Args:
        folder: Path of the folder; the page is its `index.html`.
        paths: Paths of the files, such as float32 and int8.
        title: Name of the network.
        gammas: As in `graph.with_gates`.
        examples: List of `Example`s; by default the page's own test picture.
        runtime_folder: As in `runtime.find`.

    Returns:
        The path of the page.

    Raises:
        InputError: If a file is not a classifier of pictures, has no rule for resizing, or differs
            from the report beside it; or if ONNX Runtime Web is missing.
        FailedError: If the graph with gates does not equal the file.
    """
    module, binary = runtime.find(runtime_folder)
    test = _test_picture()
    models = [_Shown.of(path, test, gammas) for path in paths]
    models.sort(key=lambda model: PRECISIONS.index(model.description["precision"]))
    rule = models[0].rule
    examples = examples or [Example(np.asarray(Image.open(io.BytesIO(test))), "test picture")]
    description = {
        "class_names": models[0].labels,
        "resize": rule.as_json(),
        "max_pixels": pictures.MAX_PIXELS,
        "check": {"picture": _base64(test), "pixels": _base64(pictures.read(test, rule).tobytes())},
        "examples": [{"name": name, "picture": _base64(_png(pixels))} for pixels, name in examples],
        "models": [model.description for model in models],
    }
    payloads = {"runtime": binary.read_bytes()}
    payloads |= {model.description["payload"]: model.content for model in models}
    scripts = {name: f'payload("{name}", "{_compressed(each)}")' for name, each in payloads.items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    apart = sum(map(len, payloads.values())) - binary.stat().st_size > LARGE
    beside = {folder / f"{name}{PAYLOADS}": script for name, script in scripts.items() if apart}
    for path, script in beside.items():
        _write(path, script)
    web = runtime.WEB
    sources = {file.stem: file for file in sorted(web.glob("*.js"))} | {runtime.PACKAGE: module}
    imports = {name: _module(name, source.read_bytes()) for name, source in sources.items()}
    values = {
        "title": html.escape(title),
        "policy": POLICY,
        "style": (web / "style.css").read_text("utf-8"),
        "imports": json.dumps({"imports": imports}),
        "description": json.dumps(description, ensure_ascii=False).replace("<", "\\u003c"),
        "payloads": "\n".join(
            f'<script src="{name}{PAYLOADS}"></script>' if apart else f"<script>{script}</script>"
            for name, script in scripts.items()
        ),
        "version": runtime.version(),
        "licence": html.escape(runtime.licence()),
    }
    template = Template((web / INDEX).read_text("utf-8"))
    index = _write(folder / INDEX, template.substitute(values))
    for old in {*folder.glob(f"*{PAYLOADS}")} - {*beside}:
        old.unlink()
    return index


class _Shown(NamedTuple):
    """A model on the page."""

    description: dict
    content: bytes
    rule: pictures.Resize
    labels: list | None

    @classmethod
    def of(cls, path, test, gammas):
        """Returns a file with gates, checked, and what the page must know of it."""
        path = Path(path)
        opened = OnnxModel(path)
        if opened.rule is None:
            raise InputError(
                f"{path} does not say how pictures are resized: expected the metadata `picture`, "
                "which export/to_onnx.py writes"
            )
        logits = opened.predict(pictures.read(test, opened.rule)[None]).logits[0]
        original = onnx.load(path)
        image, *_ = original.graph.input
        for axis, size in enumerate(opened.rule[:2], 1):  # of a model that takes any size
            image.type.tensor_type.shape.dim[axis].dim_value = size
        changed = graph.with_gates(original, gammas)
        noise = np.random.default_rng(0).integers(0, 256, (NOISE, *opened.rule[:2], 3))
        graph.check(changed, path, noise)
        precision = graph.precision(original)
        limits = LIMITS[precision]
        limit = limits.of_logits(float(np.abs(logits).max()))
        description = {
            "file": path.name,
            "precision": precision,
            "payload": f"model.{precision}",
            "bytes": path.stat().st_size,
            "image_shape": [opened.rule.height, opened.rule.width, 3],
            "gates": [
                {**gate._asdict(), "unit_shape": gate.unit_shape} for gate in graph.gates(changed)
            ],
            "logits": logits.tolist(),
            "limits": {"logits": limit, "kl": limits.kl},
            "report": _report(path),
        }
        return cls(description, changed.SerializeToString(), opened.rule, opened.labels)


def _report(path):
    """Returns the verification report of a file, or `None` without one."""
    report = report_path(path)
    if not report.exists():
        return None
    content = files.read_json(report)
    if content.get("sha256") != files.sha256(path):
        raise InputError(
            f"{report} is the report of another file than {path.name}: export it again"
        )
    return content


def _test_picture():
    """Returns a PNG with smooth colours, fine lines and transparency, in an odd size."""
    height, width = TEST_SIZE
    rows, columns = np.mgrid[:height, :width]
    channels = [
        127 + 120 * np.sin(rows / 7 + columns / 11),
        255 * ((rows + columns) % 3 == 0),
        columns * 5 % 256,
        np.where((rows - 30) ** 2 + (columns - 23) ** 2 < 300, 128, 255),
    ]
    return _png(np.stack(channels, axis=-1).astype(np.uint8))


def _png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _base64(content):
    return base64.b64encode(content).decode("ascii")


def _module(name, source):
    """Returns a JavaScript module as an address; the browser's console shows its name."""
    named = source + f"\n//# sourceURL={name}.js".encode()
    return f"data:text/javascript;base64,{_base64(named)}"


def _compressed(content):
    return _base64(gzip.compress(content, mtime=0))


def _write(path, text):
    files.write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path
