"""Each recipe of docs/in-your-model.md is run, and does what the page says."""

import importlib
import json
import re
from functools import partial

import keras
import numpy as np
import pytest
from PIL import Image

import keras_nam
from export import to_onnx
from export.runtime.preprocessing import from_options
from tests.support import page
from tests.support.backends import arrays, tensorflow_only
from tests.support.networks import applications, colour_models
from tests.support.networks.folded_models import TOLERANCE, draw, normalizations
from tests.support.weights.golden_modules import relative_error

PAGE = "docs/in-your-model.md"
IMAGES = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype("float32")
LIBRARIES = {"keras": keras, "keras_nam": keras_nam, "np": np}

run = partial(page.run, PAGE, **LIBRARIES)


def in_inference(model, x):
    return arrays(model(x, training=False))[0]


def fit(model, x, classes=5):
    """Trains for one step, with a rate that changes whatever is trained."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    model.fit(x, np.arange(len(x)) % classes, batch_size=len(x), verbose=0)


def assert_saved_and_folded(model, x, path):
    """The file and the folded model have the model's outputs."""
    expected = in_inference(model, x)
    model.save(path)
    np.testing.assert_array_equal(in_inference(keras.saving.load_model(path), x), expected)
    folded = keras_nam.fold(model)
    assert relative_error(folded(x), expected) < TOLERANCE
    return folded


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("MobileNetV3Small", marks=pytest.mark.slow),
        pytest.param("ResNet50", marks=pytest.mark.slow),
        pytest.param("EfficientNetV2B0", marks=pytest.mark.slow),
    ],
)
def test_pretrained_networks(name, tmp_path, monkeypatch):
    images = applications.images(32)
    network = applications.network(name, images)
    images = images[:4]
    monkeypatch.setattr(keras.applications, "MobileNetV3Small", lambda **options: network)
    ends, count, folded_away = applications.BLOCKS[name]
    row = next(
        line for line in (page.ROOT / PAGE).read_text().splitlines() if f"| `{name}`" in line
    )
    assert row.split(" | ")[1:3] == [f'`"{ends}"`', str(count)]
    names = run("Pretrained networks")
    model = names["with_nam"](network, ends)
    found = keras_nam.gate_values(model, images)
    assert len(found) == count
    largest = max(np.abs(values - 0.5).max() for values in found.values())
    assert 0 < largest < 0.05  # gamma is 0.01
    expected = in_inference(network, images)
    assert relative_error(in_inference(model, images), expected) < 0.03
    draw(model)
    folded = assert_saved_and_folded(model, images, tmp_path / "model.keras")
    assert len(normalizations(network)) == folded_away
    assert not normalizations(folded)


def test_an_adapted_normalization_is_copied():
    with_nam = applications.recipe()
    inputs = keras.Input((32, 32, 3))
    normalization = keras.layers.Normalization()
    normalization.adapt(IMAGES)
    x = keras.layers.Conv2D(4, 3)(normalization(inputs))
    x = keras.layers.BatchNormalization(name="block_bn")(x)
    network = keras.Model(inputs, x)
    model = with_nam(network, "_bn$")
    assert relative_error(in_inference(model, IMAGES), in_inference(network, IMAGES)) < 0.01


def test_subclassed_models(tmp_path):
    model = run("Subclassed models")["Network"](5)
    fit(model, IMAGES)
    assert len(keras_nam.gate_values(model, IMAGES)) == 2
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(in_inference(again, IMAGES), in_inference(model, IMAGES))
    with pytest.raises(ValueError, match="graph of layers"):
        keras_nam.fold(model)


def test_images_of_any_size(tmp_path):
    unet = run("Segmentation: images of any size")["unet"]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    unet.compile("sgd", loss)
    unet.fit(IMAGES, np.zeros((8, 32, 32)), verbose=0)
    assert unet(IMAGES[:, :20, :28]).shape == (8, 20, 28, 2)
    assert len(keras_nam.gate_values(unet, IMAGES)) == 5
    folded = assert_saved_and_folded(unet, IMAGES[:, :20], tmp_path / "unet.keras")
    assert not normalizations(folded)
    with pytest.raises(ValueError, match="height and width"):
        keras_nam.NAMSpatialAttention()(keras.Input((None, None, 3)))


def test_signals(tmp_path):
    classifier = run("Signals")["classifier"]
    signals = np.random.default_rng(0).normal(size=(8, 50, 3)).astype("float32")
    fit(classifier, signals, classes=4)
    assert classifier(signals[:, :20]).shape == (8, 4)
    assert_saved_and_folded(classifier, signals, tmp_path / "signals.keras")


@pytest.mark.parametrize("frozen", ["backbone", "all", "by call"])
def test_frozen_normalizations(frozen):
    """The rows of the table, and the loop above it."""
    heading = "Fine-tuning with frozen normalizations"
    inputs = keras.Input((32, 32, 3))
    x = keras_nam.BatchNormalization(name="bn")(keras.layers.Conv2D(8, 3)(inputs))
    x = keras.layers.ReLU()(x)
    x = keras_nam.NAMChannelAttention(name="gate")(x)
    base = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    features = base(inputs, training=False) if frozen == "by call" else base(inputs)
    model = keras.Model(inputs, keras.layers.Dense(5)(features))
    if frozen != "by call":
        run(heading, model=base)
    bn, gate = base.get_layer("bn"), base.get_layer("gate")
    gate.trainable = frozen != "all"
    before = [layer.get_weights() for layer in (bn, gate)]
    fit(model, IMAGES / 255)
    changed = [
        [not np.array_equal(*pair) for pair in zip(old, layer.get_weights(), strict=True)]
        for old, layer in zip(before, (bn, gate), strict=True)
    ]
    nothing, everything = [False] * 4, [True] * 4
    expected = {
        "backbone": [nothing, everything],
        "all": [nothing, nothing],
        "by call": [everything, everything],
    }
    assert changed == expected[frozen]


def test_preprocessing_inside(tmp_path):
    names = run("Preprocessing inside the model", images=IMAGES)
    normalized = arrays(names["normalization"](IMAGES))[0]
    np.testing.assert_allclose(normalized.mean((0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(normalized.std((0, 1, 2)), 1, atol=1e-3)
    assert_saved_and_folded(names["model"], IMAGES, tmp_path / "model.keras")


def test_the_options_for_resnet50_are_its_preprocessing():
    text = page.section(PAGE, "Preprocessing inside the model")
    (options,) = re.findall(r"`(--input-range .*--channels bgr)`", text)
    stated = from_options(to_onnx.parser().parse_args(options.split()))
    images = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3)).astype("float32")
    expected = keras.applications.resnet50.preprocess_input(images.copy())
    np.testing.assert_allclose(stated(images), expected, atol=1e-5)


def test_augmentation_inside():
    names = run("Augmentation inside the model", images=IMAGES)
    model = names["model"]
    expected = in_inference(model, IMAGES)
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), expected, rtol=1e-5, atol=1e-4)
    for _ in range(3):
        assert relative_error(keras_nam.fold(model)(IMAGES), expected) < TOLERANCE
    gate = model.get_layer(index=-3)
    before = gate.get_weights()
    assert not np.allclose(arrays(model(IMAGES))[0], expected, rtol=1e-3)
    assert not np.array_equal(gate.get_weights()[3], before[3])


@tensorflow_only
def test_augmentation_in_exports_of_keras(tmp_path):
    import tensorflow as tf

    model = run("Augmentation inside the model", images=IMAGES)["model"]
    expected = in_inference(model, IMAGES)

    def answers(exported):
        exported.export(str(tmp_path / "saved_model"), verbose=False)
        loaded = tf.saved_model.load(str(tmp_path / "saved_model"))
        return [loaded.serve(tf.constant(IMAGES)).numpy() for _ in range(3)]

    assert relative_error(answers(model)[0], expected) > 0.01
    for found in answers(keras_nam.fold(model)):
        assert relative_error(found, expected) < TOLERANCE


def test_the_penalty_halves_a_channel():
    gate = run("The penalty of equation 4")["gate"]
    found = arrays(gate(np.array([[3.0, 3.0]], "float32")))[0]
    np.testing.assert_allclose(found, [[2.86, 1.5]], atol=5e-3)
    np.testing.assert_allclose(arrays(gate.losses), 1e-4)


@pytest.mark.slow
def test_from_pictures_to_a_verified_file(tmp_path, monkeypatch, capsys):
    """The commands as they stand; a network of seconds instead of one with ImageNet's weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pictures, labels = colour_models.images(96, size=(96, 96))
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        folder = tmp_path / "photos" / colour_models.NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{number}.png")
    Image.fromarray(pictures[2]).save(tmp_path / "photos" / "red" / "1.png")

    def small(**options):
        network = applications.network("small", pictures)
        return keras.Model(network.input, network.layers[-3].output)

    monkeypatch.setattr(keras.applications, "EfficientNetV2B0", small)
    heading = "From a folder of pictures to a verified file"
    run(heading, with_nam=applications.recipe())
    commands = re.findall(r"^python export/(\w+).py (.*)$", page.section(PAGE, heading), re.M)
    for script, options in commands:
        importlib.import_module(f"export.{script}").main(options.split())
    report = json.loads((tmp_path / "model" / "onnx" / "verification.json").read_text())
    assert report["verdict"] == "verified"
    assert report["stages"]["accuracy"]["top1"] > 0.9
    assert "red" in capsys.readouterr().out
