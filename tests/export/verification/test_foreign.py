"""A SavedModel that belongs to no run: what it takes is stated, put into the file, and judged."""

import json
import re
import shutil
import sys
import types

import numpy as np
import onnx
import pytest
import tensorflow as tf

from export import to_litert, to_onnx
from export.runtime.local_models import LiteRTModel, OnnxModel
from export.runtime.preprocessing import Preprocessing, from_options, joined
from export.verification import plausibility
from export.verification.source import open_source
from export.verification.verify import VerificationError
from tests.support.networks import toys
from training import recipes
from training.cli import InputError
from training.data import sources, streams

NORMALIZED = Preprocessing("0..1", recipes.PADDLE.mean, recipes.PADDLE.std)
STATED = ["--mean", "0.5071,0.4865,0.4409", "--std", "0.1942,0.1918,0.1958"]
NAMES = ["red", "green", "blue", "cyan", "magenta", "yellow"]
# From the mean of the normalized colours to the logits.
WEIGHTS = np.concatenate([np.eye(3), -np.eye(3)], axis=1).astype(np.float32)
IMAGE = tf.TensorSpec((None, 32, 32, 3), tf.float32)


def coloured(count, seed):
    rng = np.random.default_rng(seed)
    colours = rng.integers(30, 226, (count, 1, 1, 3))
    images = (colours + rng.integers(-20, 21, (count, 32, 32, 3))).astype(np.uint8)
    logits = NORMALIZED(images.astype(np.float32)).mean((1, 2)) @ WEIGHTS
    clear = np.diff(np.sort(logits, -1)[:, -2:], axis=-1)[:, 0] > 0.05
    return images[clear], logits.argmax(-1)[clear]


@pytest.fixture(autouse=True)
def colours(monkeypatch):
    """A data set whose classes are the mean colours."""

    def load(name, data_dir):
        return coloured(300, 0), coloured(300, 1), NAMES, "coloured noise"

    monkeypatch.setitem(sys.modules, "coloured_noise", types.SimpleNamespace(load=load))
    monkeypatch.setitem(sources.DATASETS, "colours", "coloured_noise")


def exporting(tmp_path, network, *options, export=to_onnx, labels=None):
    """Exports a network, a function of images to logits; returns where and the arguments."""
    folder = toys.save_functions(tmp_path / "own", predict=(lambda x: {"out": network(x)}, IMAGE))
    if labels:
        (folder / "assets").mkdir(exist_ok=True)
        (folder / "assets" / "labels.txt").write_text("".join(f"{name}\n" for name in labels))
    output = tmp_path / "out"
    data_options = ["--dataset", "colours", "--samples", "200", "--output", str(output)]
    export.main(["--saved-model", str(folder), *data_options, *options])
    return output


def of_normalized(images):
    return tf.reduce_mean(images, axis=(1, 2)) @ WEIGHTS


def report_of(output):
    return json.loads((output / "verification.json").read_text())


def top1(model):
    images, labels = coloured(300, 1)
    return np.mean(model.predict(images.astype(np.float32)).logits.argmax(-1) == labels)


def test_the_stated_normalization_is_in_the_onnx_file(tmp_path, capsys):
    output = exporting(tmp_path, of_normalized, *STATED)
    assert top1(OnnxModel(output / "model.onnx")) == 1
    assert report_of(output)["stages"]["accuracy"]["top1"] == 1
    said = capsys.readouterr().out
    assert "belongs to no run" in said
    assert " ".join(STATED) in said
    metadata = {e.key: e.value for e in onnx.load(output / "model.onnx").metadata_props}
    assert metadata["preprocessing"] == str(NORMALIZED)
    assert "data" not in metadata


@pytest.mark.parametrize("export", [to_onnx, to_litert])
def test_a_normalized_model_needs_its_normalization(tmp_path, export, capsys):
    with pytest.raises(VerificationError, match=r"by chance.*--mean 0\.5071.* 100% are right"):
        exporting(tmp_path, of_normalized, export=export)
    assert not list((tmp_path / "out").glob("model.[ot]*"))
    assert report_of(tmp_path / "out")["verdict"] == "not verified"
    assert "not stated" in capsys.readouterr().out
    if export is to_litert:
        output = exporting(tmp_path, of_normalized, *STATED, export=export)
        assert top1(LiteRTModel(output / "model.tflite")) == 1


def of_symmetric(images):
    return of_normalized(NORMALIZED(127.5 * (images + 1)))


def of_bgr(images):
    return of_normalized(NORMALIZED(images[..., ::-1]))


@pytest.mark.parametrize(
    ("network", "cause", "options"),
    [
        (of_symmetric, "--input-range -1..1", ["--input-range", "-1..1"]),
        (of_bgr, "--input-range 0..255 --channels bgr", ["--channels", "bgr"]),
    ],
)
def test_the_likely_cause_is_named(tmp_path, network, cause, options):
    with pytest.raises(VerificationError, match=re.escape(f"with {cause}, 100% are right")):
        exporting(tmp_path, network)
    output = exporting(tmp_path, network, *options)
    assert top1(OnnxModel(output / "model.onnx")) == 1


ORDER = [3, 1, 5, 0, 4, 2]


def permuted(images):
    return tf.gather(of_normalized(NORMALIZED(images)), ORDER, axis=1)


def test_another_order_of_classes(tmp_path):
    """The model's labels are followed. Without labels, a low top-1 shows the fault."""
    output = exporting(tmp_path, permuted, labels=[NAMES[i] for i in ORDER])
    assert report_of(output)["stages"]["accuracy"]["top1"] == 1
    shutil.rmtree(tmp_path / "own")
    with pytest.raises(VerificationError, match="order of classes"):
        exporting(tmp_path, permuted, "--input-range", "0..255")


@pytest.mark.parametrize(
    ("network", "labels"),
    [
        (lambda x: of_normalized(NORMALIZED(x))[:, :5], None),
        (lambda x: of_normalized(NORMALIZED(x)), list("abcdef")),
    ],
    ids=["five classes", "other names"],
)
def test_without_labels_the_accuracy_is_not_checked(tmp_path, capsys, network, labels):
    output = exporting(tmp_path, network, labels=labels)
    report = report_of(output)
    assert report["verdict"] == "verified"
    assert report["stages"]["pixels"] == report["stages"]["accuracy"] == {"passed": None}
    assert any("not checked" in note for note in report["notes"])
    assert "Accuracy was not checked" in capsys.readouterr().out


def test_options_that_contradict_the_model(original, tmp_path):
    for where in ({"run": original}, {"saved_model": original / "saved_model"}):
        with pytest.raises(InputError, match=r"Leave out .*--mean"):
            open_source(**where, preprocessing=NORMALIZED)
    with pytest.raises(InputError, match=r"labels\.txt has 2 names"):
        exporting(tmp_path, of_normalized, labels=["a", "b"])


@pytest.mark.parametrize(("classes", "other"), [(1, "of a class"), (6, "of several labels")])
def test_sigmoids_are_not_read_as_logits(tmp_path, classes, other):
    with pytest.raises(InputError, match=f"may be logits or .* {other}.*--keras FILE"):
        exporting(tmp_path, lambda x: tf.sigmoid(of_normalized(x))[:, :classes], *STATED)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("top1", "count", "by_chance", "better"),
    [
        (0.02, 1000, 0.01, False),
        (0.05, 1000, 0.01, True),
        (0.13, 1000, 0.1, False),
        (0.25, 1000, 0.1, True),
        (0.55, 1000, 0.5, False),
        (0.8, 1000, 0.5, True),
        (1.0, 8, 0.1, True),
        (0.25, 8, 0.1, False),
    ],
)
def test_better_than_chance_by_a_wide_margin(top1, count, by_chance, better):
    assert plausibility.is_better_than_chance(top1, count, by_chance) is np.bool_(better)


def test_chance_is_at_least_the_most_common_class():
    assert plausibility.chance(np.array([0, 0, 0, 1]), 10) == 0.75
    assert plausibility.chance(np.arange(10), 10) == 0.1


def test_one_class_is_not_judged():
    """Chance is always right then, and no model can be better."""
    labels, logits = np.zeros(40, int), np.eye(2)[np.arange(40) % 4 // 3]
    source = types.SimpleNamespace(stated=True)
    found = plausibility.check(source, None, labels, logits)
    assert found == ({"passed": None, "top1_by_chance": 1.0}, [])


def options(*argv):
    parser = to_onnx.parser()
    return from_options(parser.parse_args(joined(argv)))


def test_preprocessing():
    assert options() is None
    images = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3)).astype(np.float32)
    recipe = recipes.PADDLE
    numbers = [",".join(map(str, values)) for values in (recipe.mean, recipe.std)]
    form = options("--mean", numbers[0], "--std", numbers[1])
    np.testing.assert_array_equal(form(images), streams.normalize(images, recipe.mean, recipe.std))
    np.testing.assert_array_equal(options("--input-range", "0..255")(images), images)
    np.testing.assert_allclose(
        options("--input-range", "-1..1")(images), images / 127.5 - 1, atol=1e-6
    )
    caffe = options("--input-range", "0..255", "--mean", "124,117,104", "--channels", "bgr")
    np.testing.assert_allclose(caffe(images), (images - [124, 117, 104])[..., ::-1], atol=1e-4)
    assert options(*str(caffe).split()) == caffe


@pytest.mark.parametrize(
    "argv",
    [["--input-range", "0..2"], ["--std", "0,1,1"], ["--mean", "0.5"], ["--mean", "0,0,nan"]],
    ids=" ".join,
)
def test_bad_options(argv):
    with pytest.raises(InputError, match=argv[0].strip("-").split("-")[0]):
        options(*argv)
