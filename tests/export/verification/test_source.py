"""What is exported, opened: runs and SavedModels, this project's and others, valid and damaged."""

import json
import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_nam
from export import to_savedmodel
from export.verification import tensors, trained_weights
from export.verification.classifier import classifier
from export.verification.source import open_run, open_source
from tests.support.networks import toys
from training.cli import InputError
from training.data import streams
from training.runs import files

IMAGE = tf.TensorSpec((None, 32, 32, 3), tf.float32)
IMAGES = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)


@pytest.fixture
def run(small, tmp_path):
    return shutil.copytree(small, tmp_path / "run")


def test_the_saved_model_is_the_keras_model(original, source):
    assert source.saved_model == original / "saved_model" / "1"
    assert source.truth == "the run's Keras model in float32"
    assert source.run.top1 == files.read_json(original / "result.json")["top1"]
    images = source.dataset.test.images[:70]
    found = source.classify(images.astype(np.float32))["logits"]
    np.testing.assert_allclose(source.evaluate(images), found, atol=5e-5)
    assert 1e-7 < source.rounding(images) < 2e-5


def test_a_saved_model_in_a_run_belongs_to_it_and_a_gpu_computes_in_float32(small, monkeypatch):
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH", raising=False)
    tf.config.experimental.enable_tensor_float_32_execution(True)
    assert open_source(saved_model=small / "saved_model").run.folder == small
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"


def test_versions_of_an_unfinished_run(run):
    """As a training leaves it that was stopped between its last epoch and its end."""
    (run / "result.json").unlink()
    shutil.rmtree(run / "saved_model")
    to_savedmodel.main(["--run", str(run), "--no-fold"])
    to_savedmodel.main(["--run", str(run)])
    assert sorted(path.name for path in (run / "saved_model").iterdir()) == ["1", "2"]
    unfolded, folded = (classifier(run / "saved_model" / name).loaded.weights for name in "12")
    assert len(unfolded) == len(open_run(run, finished=False).model.variables)
    assert len(folded) < len(unfolded)
    with pytest.raises(InputError, match=r"not a finished run: it has no result\.json"):
        open_source(run)


def test_a_gates_scale_is_compared_as_the_converter_computes_it(source, monkeypatch):
    """It multiplies by 1 / sqrt(1), which is 1 - 2**-23 on processors with AVX-512."""
    inverse_root = np.float32(1 - 2**-23)
    monkeypatch.setattr(tf.math, "rsqrt", lambda ones: tf.constant(inverse_root * np.asarray(ones)))
    layers = keras_nam.fold(source.run.model).layers
    constants = {v.path: np.array(v) for layer in layers for v in layer.variables}
    scale, offset = streams.scale_and_offset(source.run.mean, source.run.std)
    constants |= {"scale": scale, "offset": offset}
    assert trained_weights.missing(source, constants, whole=False) == []
    name = "stage1_block1_nam/scale"
    constants[name] *= inverse_root
    assert trained_weights.missing(source, constants, whole=False) == []
    assert trained_weights.missing(source, constants) == [name, name]
    constants[name][0] = np.nextafter(constants[name][0], np.float32(9))
    assert trained_weights.missing(source, constants, whole=False) == [name]


def test_one_bit_of_a_weight_differs_from_the_saved_model(source):
    assert trained_weights.missing(source) == []
    kernel = source.run.model.layers[-1].kernel
    trained = np.array(kernel)
    kernel.assign(np.nextafter(trained, np.float32(9)))
    differing = trained_weights.missing(source)
    kernel.assign(trained)
    assert differing == [kernel.path]


def of_no_run(*layers, fold=True):
    """Returns the source of a Keras model of layers after the input, with random weights."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = image
    for layer in layers:
        x = layer(x)
    model = keras.Model(image, keras.layers.Conv2D(3, 1, name="last")(x))
    arrays = {"image": np.zeros((1, 8, 8, 3), np.float32)}
    return tensors.of_model(model, arrays, "own", ".", fold)


def served(source, factor=1.0):
    """Returns a file's constants: all variables, and the kernel `conv` multiplied by a factor."""
    variables = source.classify.loaded.weights
    arrays = {f"{number}": np.array(v) for number, v in enumerate(variables)}
    first = next(name for name, array in arrays.items() if array.ndim == 4)
    return arrays | {first: (arrays[first] * factor).astype(np.float32)}


def conv():
    return keras.layers.Conv2D(4, 3, name="conv")


@pytest.mark.parametrize("whole", [True, False], ids=["ONNX", "LiteRT"])
@pytest.mark.parametrize(
    ("scale", "factor"),
    [(1 / 255, 1.0), (1 / 255, np.float32(1 / 255)), ([1 / 255, 0.5, 1], 1.0)],
    ids=["as it is", "multiplied", "by channel"],
)
def test_a_kernel_after_a_factor(scale, factor, whole):
    """A converter may multiply the kernel by one number."""
    source = of_no_run(keras.layers.Rescaling(scale), conv(), keras.layers.BatchNormalization())
    constants = served(source, factor)
    assert trained_weights.missing(source, constants, whole) == []
    kernel = next(array for array in constants.values() if array.ndim == 4)
    one_bit = np.nextafter(kernel.flat[0], np.float32(9))
    kernel.flat[0] = one_bit if factor == 1 else 1.001 * kernel.flat[0]
    constants["zeros"] = np.zeros_like(kernel)
    assert trained_weights.missing(source, constants, whole) == ["conv/kernel"]


def backbone(name, *after):
    return keras.Sequential([keras.Input((8, 8, 3)), conv(), *after], name=name)


def test_two_layers_of_one_path():
    """Of two nested models. Both are in the file, or one is missing."""
    image = keras.Input((8, 8, 3), name="image")
    two = [backbone(n, keras.layers.BatchNormalization(name="n")) for n in ("left", "right")]
    model = keras.Model(image, keras.layers.Add()([each(image) for each in two]))
    arrays = {"image": np.zeros((1, 8, 8, 3), np.float32)}
    source = tensors.of_model(model, arrays, "own", ".")
    constants = served(source)
    assert trained_weights.missing(source, constants) == []
    constants.pop(next(name for name, array in constants.items() if array.ndim == 4))
    assert trained_weights.missing(source, constants) == ["conv/kernel"]


def test_what_was_not_compared_is_not_missing():
    plain, normalized = of_no_run(conv()), of_no_run(conv(), keras.layers.BatchNormalization())
    unfolded = of_no_run(conv(), keras.layers.BatchNormalization(), fold=False)
    assert trained_weights.missing(plain, served(plain)) == []
    assert trained_weights.missing(plain, served(plain, np.nan)) == ["conv/kernel"]
    for source, constants, whole in (
        (plain, None, True),  # LiteRT of float16 or int8
        (plain, served(plain), False),
        (normalized, None, True),
        (unfolded, served(unfolded), True),
    ):
        assert trained_weights.missing(source, constants, whole) is None
    assert trained_weights.missing(plain, {}) == ["conv/kernel", "last/kernel"]


def mean_colour(image):
    return tf.reduce_mean(image / 255, axis=(1, 2)) @ toys.WEIGHTS


@pytest.mark.parametrize("activation", [tf.identity, tf.nn.softmax])
def test_one_output_is_taken_for_logits_or_probabilities(tmp_path, activation):
    functions = {"predict": (lambda x: {"dense": activation(mean_colour(x))}, IMAGE)}
    found = classifier(toys.save_functions(tmp_path / "m", **functions))(IMAGES)
    expected = tf.nn.softmax(mean_colour(IMAGES))
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-6)
    np.testing.assert_allclose(tf.nn.softmax(found["logits"]), expected, atol=1e-6)
    if activation is tf.identity:
        np.testing.assert_allclose(found["logits"], mean_colour(IMAGES), atol=1e-5)


def test_a_probability_of_zero_is_finite_as_a_logit(tmp_path):
    one_hot = tf.constant([[1.0, 0.0, 0.0]])
    folder = toys.save_functions(
        tmp_path / "m", a=(lambda x: {"y": tf.repeat(one_hot, tf.shape(x)[0], axis=0)}, IMAGE)
    )
    assert np.isfinite(classifier(folder)(IMAGES)["logits"]).all()


def test_the_image_size_is_the_signatures(tmp_path):
    """Or the data set's, for a model that takes any size."""
    for shape, expected in (((64, 48), (64, 48, 3)), ((None, None), (32, 32, 3))):
        spec = tf.TensorSpec((None, *shape, 3), tf.float32)
        function = (lambda x: {"y": mean_colour(x)}, spec)
        folder = toys.save_functions(tmp_path / str(shape[0]), a=function)
        source = open_source(saved_model=folder, dataset="synthetic")
        assert source.classify.image_shape == source.dataset.image_shape == expected


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
            r"takes x float32 \(None, 32, 32, 3\) and returns y float32 \(\); expected one image",
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
            {"a": (lambda x: {"y": mean_colour(x), "z": mean_colour(x)}, IMAGE)},
            "or one output",
        ),
    ],
)
def test_other_signatures(tmp_path, functions, message):
    folder = toys.save_functions(tmp_path / "m", **functions)
    with pytest.raises(InputError, match=message):
        classifier(folder)


def test_damaged_runs(run):
    shutil.rmtree(run / "saved_model" / "1" / "variables")
    with pytest.raises(InputError, match="is a damaged SavedModel"):
        open_source(run)
    shutil.rmtree(run / "saved_model")
    with pytest.raises(InputError, match=r"python export/to_savedmodel\.py --run RUN writes it"):
        open_source(run)
    (run / "best.keras").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"best\.keras .* written by keras-nam"):
        open_source(run)
    config = json.loads((run / "config.json").read_text())
    config["environment"]["versions"]["keras-nam"] = "9.9"
    del config["recipe_settings"]
    files.write_json(run / "config.json", config)
    with pytest.raises(InputError, match=r"has no recipe_settings.* keras-nam 9\.9"):
        open_source(run)
