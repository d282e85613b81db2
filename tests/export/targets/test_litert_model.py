"""`LiteRTModel`: labels, arrays and files that are no such thing, and TensorFlow beside it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import interpreter

from export.runtime.local_models import LiteRTModel
from export.targets import litert
from tests.support import toys
from training.cli import InputError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "1"
    toys.save_savedmodel(folder)
    return folder


@pytest.fixture(scope="module")
def images():
    """float32 [4, 32, 32, 3] in 0–255."""
    return np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def contents(saved_model, images):
    """Precision -> the toy's bytes."""
    return {
        precision: litert.convert(saved_model, precision, images) for precision in litert.PRECISIONS
    }


@pytest.fixture
def path(contents, tmp_path):
    """The toy in a folder of its own."""
    path = tmp_path / "model.tflite"
    path.write_bytes(contents["float32"])
    return path


def assert_answers(model, images):
    expected = [toys.logits_of(image) for image in images]
    # float32 sums over 1,024 pixels
    np.testing.assert_allclose(model.predict(images).logits, expected, rtol=0, atol=1e-5)


def test_labels(path):
    assert LiteRTModel(path).labels is None
    labels = path.with_name("labels.txt")
    labels.write_text("".join(f"{name}\n" for name in toys.LABELS))
    assert LiteRTModel(path).labels == toys.LABELS
    labels.write_text("\n")
    with pytest.raises(InputError, match="holds no class names"):
        LiteRTModel(path)


@pytest.mark.parametrize(("threads", "expected"), [(None, os.cpu_count()), (1, 1), (3, 3)])
def test_threads(path, images, monkeypatch, threads, expected):
    used = []

    class Recording(interpreter.Interpreter):
        def __init__(self, num_threads, **options):
            used.append(num_threads)
            super().__init__(num_threads=num_threads, **options)

    monkeypatch.setattr(interpreter, "Interpreter", Recording)
    assert_answers(LiteRTModel(path, threads), images)
    assert used == [expected]


@pytest.mark.parametrize(
    "shape", [(1, 64, 64, 3), (32, 32, 3), (2, 32, 32, 1), (2, 32, 32, 4), (0, 32, 32, 3), ()]
)
def test_arrays_of_other_shapes(path, images, shape):
    model = LiteRTModel(path)
    with pytest.raises(InputError, match=r"expected images of shape .* received: \[") as caught:
        model.predict(np.zeros(shape, np.float32))
    assert str(list(shape)) in str(caught.value)
    assert_answers(model, images)


def test_what_is_no_array(path):
    with pytest.raises(InputError, match=r"model\.tflite: could not convert"):
        LiteRTModel(path).predict([b"\x89PNG"])


def test_integers(path, images):
    assert_answers(LiteRTModel(path), images.astype(np.uint8))


def test_nan(path, contents, images):
    poisoned = np.concatenate([np.full_like(images[:1], np.nan), images])
    logits = LiteRTModel(path).predict(poisoned).logits
    assert np.isnan(logits[0]).all()
    assert np.isfinite(logits[1:]).all()
    path.write_bytes(contents["int8"])  # which has no NaN
    assert np.isfinite(LiteRTModel(path).predict(poisoned).logits).all()


def python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=120,
    )


OPEN_ALL = """
import sys
from export.runtime.local_models import LiteRTModel
from training.cli import InputError
for path in sys.argv[1:]:
    try:
        LiteRTModel(path)
    except InputError as error:
        print(error)
"""


@pytest.mark.parametrize("precision", litert.PRECISIONS)
def test_damaged_files(contents, precision, tmp_path):
    # In a process of its own, which a crash would end.
    whole = contents[precision]
    damaged = [whole[:size] for size in (*range(0, len(whole), 32), len(whole) - 1)]
    damaged += [whole[:8] + bytes(5000), whole[:8] + b"\xff" * 5000, b"no model\n" * 1000]
    paths = [tmp_path / f"{number}.tflite" for number in range(len(damaged))]
    for path, content in zip(paths, damaged, strict=True):
        path.write_bytes(content)
    process = python(OPEN_ALL, *paths, tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    lines = process.stdout.splitlines()
    assert len(lines) == len(damaged) + 1
    for path, line in zip([*paths, tmp_path], lines, strict=True):
        assert line.startswith(f"{path} is no valid LiteRT model: ")
        assert "model_content" not in line  # the name of an argument means nothing to a user


OPEN_AND_EMPTY = """
import sys, numpy as np
from export.runtime.local_models import LiteRTModel
model = LiteRTModel(sys.argv[1])
open(sys.argv[1], "wb").close()
print(*model.predict(np.full((3, 32, 32, 3), 7)).logits[2])
"""


def test_a_file_that_is_emptied_while_it_is_used(path):
    process = python(OPEN_AND_EMPTY, path)
    assert (process.returncode, process.stderr) == (0, "")
    expected = toys.logits_of(np.full((32, 32, 3), 7))
    np.testing.assert_allclose([float(n) for n in process.stdout.split()], expected, atol=1e-5)


ORDERS = {
    "LiteRT first": ("import ai_edge_litert.interpreter", "import tensorflow"),
    "TensorFlow first": ("import tensorflow", "import ai_edge_litert.interpreter"),
}
BOTH = """
import sys, numpy as np
from export.runtime.local_models import LiteRTModel, SavedModel
images = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype(np.float32)
models = LiteRTModel(sys.argv[1]), SavedModel(sys.argv[2])
for _ in range(2):
    one, other = (model.predict(images).logits for model in models)
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_beside_tensorflow_in_either_order(path, saved_model, order):
    process = python("\n".join((*ORDERS[order], BOTH)), path, saved_model)
    assert process.stdout == "equal\n", process.stderr
