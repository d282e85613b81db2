"""What is exported, opened: runs and SavedModels, ours and others', whole and damaged."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from export import to_savedmodel
from export.verification.classifier import classifier
from export.verification.source import open_run, open_source
from tests.support import toys
from training.cli import InputError
from training.runs import files

IMAGE = tf.TensorSpec((None, 32, 32, 3), tf.float32)
IMAGES = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)


@pytest.fixture
def run(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run")


def test_the_saved_model_is_the_keras_model(original):
    source = open_source(original)
    assert source.saved_model == original / "saved_model" / "1"
    assert source.truth == "the run's Keras model in float32"
    assert source.run.top1 == files.read_json(original / "result.json")["top1"]
    images = source.dataset.test.images[:70]
    found = source.classify(images.astype(np.float32))["logits"]
    np.testing.assert_allclose(source.evaluate(images), found, atol=5e-5)
    assert 1e-7 < source.rounding(images) < 2e-5


def test_a_gpu_computes_the_truth_in_full_float32_and_leaves_memory(original, monkeypatch):
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH", raising=False)
    tf.config.experimental.enable_tensor_float_32_execution(True)
    open_source(original)
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"


def test_a_saved_model_inside_a_run_belongs_to_it(original):
    for path in (original / "saved_model", original / "saved_model" / "1"):
        assert open_source(saved_model=path).run.folder == original


def test_versions_appear_beside_each_other(run):
    to_savedmodel.main(["--run", str(run), "--no-fold"])
    to_savedmodel.main(["--run", str(run)])
    assert sorted(path.name for path in (run / "saved_model").iterdir()) == ["1", "2", "3"]
    assert open_source(run).saved_model.name == "3"
    unfolded, folded = (
        classifier(run / "saved_model" / version).loaded.weights for version in "23"
    )
    assert len(unfolded) == len(open_run(run).model.variables)
    assert len(folded) < len(unfolded)


def test_an_unfinished_run_gets_a_saved_model(run):
    """As a training leaves it that was stopped between its last epoch and its end."""
    (run / "result.json").unlink()
    shutil.rmtree(run / "saved_model")
    to_savedmodel.main(["--run", str(run)])
    assert (run / "saved_model" / "1" / "saved_model.pb").exists()
    with pytest.raises(InputError, match=r"no finished run: it has no result\.json"):
        open_source(run)


def mean_colour(image):
    return tf.reduce_mean(image / 255, axis=(1, 2)) @ toys.WEIGHTS


def test_one_output_is_taken_for_logits(tmp_path):
    folder = toys.save_functions(
        tmp_path / "m", predict=(lambda x: {"dense": mean_colour(x)}, IMAGE)
    )
    found = classifier(folder)(IMAGES)
    np.testing.assert_allclose(found["logits"], mean_colour(IMAGES), atol=1e-5)
    np.testing.assert_allclose(
        found["probabilities"], tf.nn.softmax(mean_colour(IMAGES)), atol=1e-6
    )


def test_a_probability_of_zero_is_finite_as_a_logit(tmp_path):
    one_hot = tf.constant([[1.0, 0.0, 0.0]])
    folder = toys.save_functions(
        tmp_path / "m", a=(lambda x: {"y": tf.repeat(one_hot, tf.shape(x)[0], axis=0)}, IMAGE)
    )
    assert np.isfinite(classifier(folder)(IMAGES)["logits"]).all()


def test_one_output_of_probabilities_is_taken_for_them(tmp_path):
    folder = toys.save_functions(
        tmp_path / "m", serving_default=(lambda x: {"out": tf.nn.softmax(mean_colour(x))}, IMAGE)
    )
    found = classifier(folder)(IMAGES)
    np.testing.assert_allclose(
        found["probabilities"], tf.nn.softmax(mean_colour(IMAGES)), atol=1e-6
    )
    np.testing.assert_allclose(tf.nn.softmax(found["logits"]), found["probabilities"], atol=1e-6)


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ({}, r"has no signature serving_default \(it has: none\)"),
        (
            {name: (lambda x: {"y": mean_colour(x)}, IMAGE) for name in ("a", "b")},
            r"has no signature serving_default \(it has: a, b\)",
        ),
        (
            {"a": (lambda x: {"y": tf.reduce_mean(x)}, IMAGE)},
            r"takes x float32 \(None, 32, 32, 3\) and gives y float32 \(\); expected one image",
        ),
        (
            {"a": (lambda x: {"y": x}, tf.TensorSpec((None, 5), tf.float32))},
            r"takes x float32 \(None, 5\)",
        ),
        (
            {
                "a": (
                    lambda x: {"y": mean_colour(tf.cast(x, tf.float32))},
                    tf.TensorSpec((None, 32, 32, 3), tf.uint8),
                )
            },
            r"takes x uint8 .*expected one image, float32",
        ),
        (
            {
                "a": (
                    lambda x: {"y": tf.reduce_mean(x, axis=(2, 3))},
                    tf.TensorSpec((None, 3, 32, 32), tf.float32),
                )
            },
            r"takes x float32 \(None, 3, 32, 32\)",
        ),
        (
            {"a": (lambda x: {"y": mean_colour(x), "z": mean_colour(x)}, IMAGE)},
            "or one output",
        ),
    ],
)
def test_other_signatures(tmp_path, functions, message):
    folder = toys.save_functions(tmp_path / "m", **functions)
    with pytest.raises(InputError, match=message):
        classifier(folder)


def test_a_damaged_saved_model(run):
    pb = run / "saved_model" / "1" / "saved_model.pb"
    pb.write_bytes(pb.read_bytes()[:100])
    with pytest.raises(InputError, match="is a damaged SavedModel"):
        open_source(run)


def test_a_run_of_another_version(run):
    config = json.loads((run / "config.json").read_text())
    config["environment"]["versions"]["keras-nam"] = "9.9"
    del config["recipe_settings"]
    files.write_json(run / "config.json", config)
    with pytest.raises(InputError, match=r"has no recipe_settings: .* \(keras-nam 9\.9\)"):
        open_source(run)


def test_a_damaged_keras_file(run):
    (run / "best.keras").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"best\.keras is no model .* written by keras-nam"):
        open_source(run)


def test_a_run_without_saved_model(run):
    shutil.rmtree(run / "saved_model")
    with pytest.raises(InputError, match=r"python export/to_savedmodel\.py --run RUN writes it"):
        open_source(run)
