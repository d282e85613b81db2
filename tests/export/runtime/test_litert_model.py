"""`LiteRTModel`: labels, threads, arrays and files that do not fit, and TensorFlow beside it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import interpreter

from export.runtime.local_models import LiteRTModel
from tests.support.networks import toys
from training.cli import InputError

ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(folder, tmp_path):
    """The toy in a folder without labels."""
    path = tmp_path / "model.tflite"
    path.write_bytes((folder / "litert" / "model.tflite").read_bytes())
    return path


@pytest.fixture(scope="module")
def images():
    """float32 [4, 32, 32, 3] in 0–255."""
    return np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)


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
    with pytest.raises(InputError, match="does not hold class names"):
        LiteRTModel(path)


@pytest.mark.parametrize(("threads", "expected"), [(None, os.cpu_count()), (3, 3)])
def test_threads(path, images, monkeypatch, threads, expected):
    used = []

    class Recording(interpreter.Interpreter):
        def __init__(self, num_threads, **options):
            used.append(num_threads)
            super().__init__(num_threads=num_threads, **options)

    monkeypatch.setattr(interpreter, "Interpreter", Recording)
    assert_answers(LiteRTModel(path, threads), images)
    assert used == [expected]


def test_arrays(path, images):
    model = LiteRTModel(path)
    for shape in ((1, 64, 64, 3), (32, 32, 3), (2, 32, 32, 1), (0, 32, 32, 3), ()):
        with pytest.raises(InputError, match=r"expected images of shape .* received: \[") as caught:
            model.predict(np.zeros(shape, np.float32))
        assert str(list(shape)) in str(caught.value)
    with pytest.raises(InputError, match=r"model\.tflite: could not convert"):
        model.predict([b"\x89PNG"])
    assert_answers(model, images.astype(np.uint8))
    poisoned = np.concatenate([np.full_like(images[:1], np.nan), images])
    logits = model.predict(poisoned).logits
    assert np.isnan(logits[0]).all()
    assert np.isfinite(logits[1:]).all()
    assert_answers(model, images)


def python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=120,
    )


OPEN_ALL = """
import sys, numpy as np
from export.runtime.local_models import LiteRTModel
from training.cli import InputError
whole, *damaged = sys.argv[1:]
model = LiteRTModel(whole)
open(whole, "wb").close()
print(*model.predict(np.full((3, 32, 32, 3), 7)).logits[2])
for path in damaged:
    try:
        LiteRTModel(path)
    except InputError as error:
        print(error)
"""


def test_damaged_files_and_one_that_is_emptied_while_it_is_used(path, tmp_path):
    # In another process, which a crash would end.
    whole = path.read_bytes()
    damaged = [whole[:size] for size in (*range(0, len(whole), 32), len(whole) - 1)]
    damaged += [whole[:8] + bytes(5000), whole[:8] + b"\xff" * 5000, b"no model\n" * 1000]
    paths = [tmp_path / f"{number}.tflite" for number in range(len(damaged))]
    for each, content in zip(paths, damaged, strict=True):
        each.write_bytes(content)
    process = python(OPEN_ALL, path, *paths, tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    numbers, *lines = process.stdout.splitlines()
    expected = toys.logits_of(np.full((32, 32, 3), 7))
    np.testing.assert_allclose([float(n) for n in numbers.split()], expected, atol=1e-5)
    assert len(lines) == len(damaged) + 1
    for each, line in zip([*paths, tmp_path], lines, strict=True):
        assert line.startswith(f"{each} is not a valid LiteRT model: ")
        assert "model_content" not in line  # the name of an argument means nothing to a user


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
@pytest.mark.parametrize("first", ["ai_edge_litert.interpreter", "tensorflow"])
def test_beside_tensorflow_in_either_order(path, folder, first):
    code = f"import {first}, tensorflow, ai_edge_litert.interpreter{BOTH}"
    process = python(code, path, folder / "run" / "saved_model" / "2")
    assert process.stdout == "equal\n", process.stderr
