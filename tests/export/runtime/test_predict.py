"""`predict.py`: the same pictures give the same classes through every kind of model."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from export.runtime.local_models import OnnxModel
from tests.support.networks import toys
from tests.support.serving import grpc_server
from tests.support.serving.grpc_server import LOGITS
from tests.support.serving.replay import replay
from training.cli import InputError

LOCAL = {
    "run": ["--model", "run"],
    "base path": ["--model", "run/saved_model"],
    "version": ["--model", "run/saved_model/2"],
    "encoded": ["--model", "run", "--signature", "bytes"],
    "ONNX": ["--model", "model.onnx"],
    "LiteRT": ["--model", "litert/model.tflite"],
}


@pytest.mark.parametrize("way", LOCAL)
def test_a_local_model_gives_the_known_answers(run, folder, way):
    names = ["blue.png", "grey.png", "seven.png"]
    found = run(*names, "--top", "2", "--json", *LOCAL[way])
    assert [prediction["image"] for prediction in found["predictions"]] == names
    for prediction in found["predictions"]:
        logits = toys.logits_of(np.asarray(Image.open(folder / prediction["image"])))
        order = np.argsort(-logits)[:2]
        top = prediction["top"]
        assert [entry["class"] for entry in top] == order.tolist()
        assert [entry["label"] for entry in top] == [toys.LABELS[i] for i in order]
        # float32 sums over 1,024 pixels
        np.testing.assert_allclose([entry["logit"] for entry in top], logits[order], atol=1e-5)
        np.testing.assert_allclose(
            [entry["probability"] for entry in top], toys.softmax(logits)[order], atol=1e-5
        )


def test_a_request_has_at_most_64_pictures(run, monkeypatch):
    sizes, predict = [], OnnxModel.predict

    def recording(model, pictures):
        sizes.append(len(pictures))
        return predict(model, pictures)

    monkeypatch.setattr(OnnxModel, "predict", recording)
    found = run(*130 * ["seven.png"], "blue.png", "--json", "--top", "1", "--model", "model.onnx")
    assert sizes == [64, 64, 3]
    assert len(found["predictions"]) == 131


def test_the_size_of_the_images_is_the_models(run, folder):
    toys.save_onnx(folder / "large.onnx", size=64)
    found = run("seven.png", "--top", "1", "--json", "--model", "large.onnx")
    logits = toys.logits_of(np.full((64, 64, 3), 7))
    assert found["predictions"][0]["top"][0]["logit"] == pytest.approx(logits.max(), abs=1e-5)


def save_keras(path, activation=None, classes=5):
    """Saves the toy as a `.keras` file that takes 0–1; returns the model."""
    dense = keras.layers.Dense(classes, activation=activation, use_bias=False)
    layers = [keras.Input((32, 32, 3)), keras.layers.GlobalAveragePooling2D(), dense]
    model = keras.Sequential(layers)
    if classes > 1:
        model = keras.Model(model.inputs[0], model.outputs[0])
    dense.set_weights([toys.WEIGHTS[:, :classes]])
    model(np.zeros((1, 32, 32, 3)))  # Keras exports to ONNX only what was called
    model.save(path)
    return model


@keras.saving.register_keras_serializable("test_predict")
class Centred(keras.Model):
    """Takes 0–255 of any dtype, as it is."""

    def call(self, image):
        mean = keras.ops.mean(keras.ops.cast(image - 128, "float32"), (1, 2))
        return keras.ops.matmul(mean, toys.WEIGHTS / 255)


def test_a_subclassed_keras_file_gets_float32(run, folder):
    """In uint8 the difference would wrap."""
    model = Centred()
    model(np.zeros((1, 32, 32, 3)))
    model.save(folder / "centred.keras")
    found = run("blue.png", "--json", "--model", "centred.keras", "--input-range", "0..255")
    expected = toys.logits_of(np.asarray(Image.open(folder / "blue.png")) - 128.0)
    np.testing.assert_allclose(logits_in(found), expected, atol=1e-5)


def logits_in(found):
    entries = sorted(found["predictions"][0]["top"], key=lambda entry: entry["class"])
    return [entry["logit"] for entry in entries]


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_a_keras_file(run, folder, activation):
    save_keras(folder / "toy.keras", activation)
    with pytest.raises(InputError, match=r"toy\.keras .*--mean"):
        run("blue.png", "--model", "toy.keras")
    expected = toys.logits_of(np.asarray(Image.open(folder / "blue.png")))
    if activation:
        expected = np.log(toys.softmax(expected))
    for stated in (["--input-range", "0..1"], ["--std", "1,1,1"]):
        found = run("blue.png", "--json", "--model", "toy.keras", *stated)
        np.testing.assert_allclose(logits_in(found), expected, atol=1e-5)


@pytest.mark.parametrize("suffix", ["keras", "onnx"])
def test_one_sigmoid_is_the_second_of_two_classes(run, folder, suffix):
    """Not a logit: nothing in an ONNX file says so, thus it must be stated."""
    path = f"sigmoid.{suffix}"
    model = save_keras(folder / "sigmoid.keras", "sigmoid", classes=1)
    argv = ["blue.png", "grey.png", "--json", "--model", path, "--input-range", "0..1"]
    if suffix == "onnx":
        model.export(folder / path, format="onnx", verbose=False)
        with pytest.raises(InputError, match=r"may be logits or .* --scores probabilities"):
            run(*argv)
        argv += ["--scores", "probabilities"]
    pixels = np.stack([np.asarray(Image.open(folder / name)) for name in argv[:2]])
    expected = 1 / (1 + np.exp(-(pixels / 255).mean((1, 2)) @ toys.WEIGHTS[:, 0]))
    found = run(*argv)["predictions"]
    second = [entry for each in found for entry in each["top"] if entry["class"] == 1]
    np.testing.assert_allclose([entry["probability"] for entry in second], expected, atol=1e-5)


def test_several_labels_are_refused(run, folder):
    model = save_keras(folder / "labels.keras", "sigmoid")
    model.export(folder / "labels.onnx", format="onnx", verbose=False)
    argv = ["blue.png", "--input-range", "0..1", "--model"]
    with pytest.raises(InputError, match="a probability for each of 5 labels"):
        run(*argv, "labels.keras")
    with pytest.raises(InputError, match="may be logits or probabilities of several labels"):
        run(*argv, "labels.onnx")
    with pytest.raises(InputError, match="a probability for each of 5 labels"):
        run(*argv, "labels.onnx", "--scores", "probabilities")


def test_a_keras_file_beside_another_tools_configuration(run, folder, tmp_path):
    save_keras(tmp_path / "toy.keras")
    for content in ({"architectures": ["ResNet"]}, ["a list"]):
        (tmp_path / "config.json").write_text(json.dumps(content))
        argv = ["blue.png", "--json", "--model", str(tmp_path / "toy.keras")]
        found = run(*argv, "--input-range", "0..1")
        expected = toys.logits_of(np.asarray(Image.open(folder / "blue.png")))
        np.testing.assert_allclose(logits_in(found), expected, atol=1e-5)


def test_a_keras_file_of_a_run(run, folder, tmp_path):
    """The run's configuration has the normalization, and its SavedModel the class names."""
    own = shutil.copytree(folder / "run", tmp_path / "run")
    save_keras(own / "best.keras")
    config = {"recipe_settings": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]}}
    (own / "config.json").write_text(json.dumps(config))
    found = run("blue.png", "--json", "--model", str(own / "best.keras"))
    pixels = np.asarray(Image.open(folder / "blue.png"))
    normalized = (pixels / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.25]
    np.testing.assert_allclose(logits_in(found), toys.logits_of(255 * normalized), atol=1e-5)
    assert {entry["label"] for entry in found["predictions"][0]["top"]} == set(toys.LABELS)


def test_pixels_may_be_stated_for_any_model(run, folder):
    found = run("blue.png", "--json", "--model", "model.onnx", "--channels", "bgr")
    pixels = np.asarray(Image.open(folder / "blue.png"))[..., ::-1]
    np.testing.assert_allclose(logits_in(found), toys.logits_of(pixels), atol=1e-5)
    with pytest.raises(InputError, match="--channels bgr"):
        run("blue.png", "--model", "run", "--channels", "bgr", "--signature", "bytes")


def test_the_table(run):
    lines = run("seven.png", "--model", "model.onnx", "--top", "2").splitlines()
    cells = [line.split() for line in lines if line.strip()]
    logits = toys.logits_of(np.full((32, 32, 3), 7))
    (first, second), parts = np.argsort(-logits)[:2], toys.softmax(logits)
    assert cells[0] == ["model.onnx"]
    assert cells[1] == ["picture", "class", "probability"]
    assert cells[3] == ["seven.png", toys.LABELS[first], f"{parts[first]:.2%}"]
    assert cells[4] == [toys.LABELS[second], f"{parts[second]:.2%}"]


def test_the_default_is_the_newest_finished_run(run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="No finished run"):
        run(str(folder / "seven.png"))
    shutil.copytree(folder / "run", "runs/finished")
    Path("runs/finished/result.json").write_text("{}")
    found = run(str(folder / "seven.png"), "--json")
    assert found["model"] == "runs/finished/saved_model/2"


def test_a_server_over_rest(run, tmp_path):
    """The signatures are asked before the pictures are sent."""
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\ne\n", encoding="utf-8-sig")  # as Notepad writes it
    with replay() as (url, log):
        options = ["seven.png", "seven.png", "--url", url, "--model-name", "toy"]
        found = run(*options, "--top", "1", "--json")
        table = run(*options)
        named = run(*options, "--json", "--labels", str(labels))
    assert log == ["metadata", "predict, row format"] * 3
    entry = {"class": 0, "label": None}
    entry["probability"] = float(np.float32(0.207177937))
    entry["logit"] = float(np.float32(0.0314119309))
    assert [prediction["top"] for prediction in found["predictions"]] == [[entry]] * 2
    assert "class 0" in table
    assert "20.72%" in table
    assert [entry["label"] for entry in named["predictions"][0]["top"]] == list("aecdb")


def test_a_server_over_grpc(run):
    with grpc_server.running() as target:
        found = run("blue.png", "grey.png", "seven.png", "--json", "--top", "1", "--grpc", target)
    tops = [prediction["top"][0] for prediction in found["predictions"]]
    np.testing.assert_array_equal([top["class"] for top in tops], LOGITS.argmax(axis=1))
    np.testing.assert_array_equal([top["logit"] for top in tops], LOGITS.max(axis=1))
