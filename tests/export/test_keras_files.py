"""`.keras` files that belong to no run: exported from the command line, verified, refused."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

from export import predict, to_litert, to_onnx, to_savedmodel
from export.runtime.classification import Classifier
from export.runtime.local_models import open_model
from export.runtime.signatures import Scores
from export.targets import litert
from export.verification.verify import VerificationError
from tests.support.networks import colour_models
from training.cli import InputError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two folders of the same pictures: in class folders, and flat."""
    folder = tmp_path_factory.mktemp("photos")
    images, labels = colour_models.images()
    (folder / "flat").mkdir()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        name = colour_models.NAMES[label]
        (folder / "classes" / name).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(image).resize((24, 20))
        picture.save(folder / "classes" / name / f"{number}.png")
        picture.save(folder / "flat" / f"{number}.png")
    return folder


def saved(model, folder):
    model.save(folder / "own.keras")
    return ["--keras", str(folder / "own.keras")]


def report_of(folder):
    return json.loads((folder / "verification.json").read_text())


def logits_of(model, folder):
    """The Keras model's logits and the exported file's, of the same images."""
    images = colour_models.images(6)[0].astype("float32")
    return np.asarray(model(images)), open_model(folder).predict(images)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_class_folders_give_the_accuracy_and_the_names(tmp_path, photos, activation):
    model = colour_models.build(activation=activation)
    to_onnx.main([*saved(model, tmp_path), "--images", str(photos / "classes")])
    report = report_of(tmp_path / "own" / "onnx")
    assert report["stages"]["accuracy"]["top1"] == 1
    assert report["stages"]["accuracy"]["images"] == 48
    assert report["stages"]["weights"] == {"passed": True, "missing": []}
    assert "1 of 1 normalizations were folded." in report["notes"]
    outputs, scores = logits_of(model, tmp_path / "own" / "onnx" / "model.onnx")
    expected = scores.probabilities if activation else scores.logits
    np.testing.assert_allclose(expected, outputs, atol=1e-5)
    assert open_model(tmp_path / "own" / "onnx" / "model.onnx").labels == colour_models.NAMES


def test_without_class_folders_the_accuracy_is_not_checked(tmp_path, photos):
    labels = tmp_path / "labels.txt"
    labels.write_text("b\ng\nr\n")
    argv = [*saved(colour_models.build(), tmp_path), "--images", str(photos / "flat")]
    to_onnx.main([*argv, "--labels", str(labels), "--output", str(tmp_path / "out")])
    report = report_of(tmp_path / "out")
    assert report["stages"]["accuracy"] == {"passed": None}
    assert any("not checked" in note for note in report["notes"])
    assert open_model(tmp_path / "out" / "model.onnx").labels == ["b", "g", "r"]


def test_labels_in_another_order_are_followed(tmp_path, photos):
    """The model's order is that of labels.txt, also if a class has no picture."""
    model = colour_models.build()
    kernel, bias = model.get_layer("scores").get_weights()
    model.get_layer("scores").set_weights([kernel[:, ::-1], bias])
    labels = tmp_path / "labels.txt"
    labels.write_text("red\ngreen\nblue\n")
    argv = [*saved(model, tmp_path), "--images", str(photos / "classes"), "--labels", str(labels)]
    to_onnx.main(argv)
    assert report_of(tmp_path / "own" / "onnx")["stages"]["accuracy"]["top1"] == 1


def test_the_normalization_is_put_into_the_file(tmp_path, photos):
    argv = [*saved(colour_models.build(rescaling=False), tmp_path), "--images"]
    argv.append(str(photos / "classes"))
    to_litert.main([*argv, "--input-range", "0..1"])
    images, labels = colour_models.images(9)
    found = open_model(tmp_path / "own" / "litert" / "model.tflite").predict(images)
    assert (found.logits.argmax(-1) == labels).all()
    assert open_model(tmp_path / "own" / "litert" / "model.tflite").labels == colour_models.NAMES
    argv[-1] = str(photos / "flat")
    to_litert.main([*argv, "--input-range", "0..1"])
    assert open_model(tmp_path / "own" / "litert" / "model.tflite").labels is None


def test_all_files_of_a_model_in_one_folder(tmp_path, photos, monkeypatch):
    argv = [*saved(colour_models.build(), tmp_path), "--output", str(tmp_path), "--images"]
    to_onnx.main([*argv, str(photos / "classes")])
    for precision in ("float32", "int8", "float32"):
        to_litert.main([*argv, str(photos / "classes"), "--precision", precision])
    monkeypatch.setattr(litert, "convert", None)  # it is refused before the conversion
    with pytest.raises(InputError, match="other class names"):
        to_litert.main([*argv, str(photos / "flat"), "--precision", "float16"])
    assert not (tmp_path / "model.float16.tflite").exists()
    for name in ("model.onnx", "model.tflite", "model.int8.tflite"):
        assert open_model(tmp_path / name).labels == colour_models.NAMES


def test_mixed_precision_is_rebuilt_in_float32(tmp_path, photos):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = colour_models.build()
    finally:
        keras.config.set_dtype_policy("float32")
    to_onnx.main([*saved(model, tmp_path), "--images", str(photos / "flat")])
    exact, scores = logits_of(colour_models.build(), tmp_path / "own" / "onnx" / "model.onnx")
    np.testing.assert_allclose(scores.logits, exact, atol=1e-5)


def test_an_own_class_is_found_in_a_python_file(tmp_path, photos):
    source = tmp_path / "own_layers.py"
    source.write_text(colour_models.OWN_LAYERS)
    own = {}
    exec(compile(colour_models.OWN_LAYERS, str(source), "exec"), own)
    model = own["Subclassed"]()
    model(colour_models.images(2)[0])
    colour_models.trained(model)
    argv = [*saved(model, tmp_path), "--images", str(photos / "classes")]
    with pytest.raises(InputError, match="--custom"):
        to_onnx.main(argv)
    source.write_text(f"import keras\nkeras.Layr\n{colour_models.OWN_LAYERS}")
    with pytest.raises(InputError, match=r"cannot be imported: .*Layr"):
        to_onnx.main([*argv, "--custom", str(source)])
    source.write_text(colour_models.OWN_LAYERS)
    to_onnx.main([*argv, "--custom", str(source)])
    report = report_of(tmp_path / "own" / "onnx")
    assert report["stages"]["accuracy"]["top1"] == 1
    assert any("Nothing was folded" in note for note in report["notes"])


def test_one_sigmoid_is_two_classes(tmp_path, photos):
    model = colour_models.build()
    x = keras.layers.Dense(1, activation="sigmoid", name="is_red")(model.layers[-2].output)
    red = keras.Model(model.input, x)
    kernel, _ = model.get_layer("scores").get_weights()
    red.get_layer("is_red").set_weights([kernel[:, 2:] - kernel[:, 1:2], np.array([0.2])])
    to_onnx.main([*saved(red, tmp_path), "--images", str(photos / "flat")])
    outputs, scores = logits_of(red, tmp_path / "own" / "onnx" / "model.onnx")
    np.testing.assert_allclose(scores.probabilities[:, 1:], outputs, atol=1e-6)
    assert scores.logits.shape == (6, 2)


@pytest.mark.parametrize(
    ("export", "file"), [(to_onnx, "onnx/model.onnx"), (to_litert, "litert/model.tflite")]
)
def test_images_of_any_size(tmp_path, photos, export, file):
    argv = [*saved(colour_models.build((None, None)), tmp_path), "--images"]
    export.main([*argv, str(photos / "classes"), "--image-size", "40", "48"])
    path = tmp_path / "own" / file
    assert report_of(path.parent)["stages"]["interface"]["images_of_another_size"] == [32, 32]
    model = open_model(path)
    assert Classifier(model).read(photos / "flat" / "0.png").shape == (40, 48, 3)
    assert model.predict(colour_models.images(2, (24, 16))[0]).logits.shape == (2, 3)


def test_the_saved_model_is_verified_before_it_gets_its_place(tmp_path, photos):
    model = colour_models.build()
    argv = [*saved(model, tmp_path), "--images", str(photos / "classes")]
    to_savedmodel.main(argv)
    to_savedmodel.main(argv)
    base = tmp_path / "own" / "saved_model"
    assert sorted(path.name for path in base.iterdir()) == ["1", "2"]
    report = json.loads((tmp_path / "own" / "saved_model.verification.json").read_text())
    assert report["file"] == "saved_model/2"
    written = [path for path in (base / "2").rglob("*") if path.is_file()]
    assert report["bytes"] == sum(path.stat().st_size for path in written)
    outputs, scores = logits_of(model, tmp_path / "own")
    np.testing.assert_allclose(scores.logits, outputs, atol=1e-5)
    wrong = [*argv, "--channels", "bgr"]
    with pytest.raises(VerificationError, match="pixels"):
        to_savedmodel.main(wrong)
    assert sorted(path.name for path in base.iterdir()) == ["1", "2"]


def test_a_float16_model_of_several_outputs_keeps_its_names(tmp_path):
    a, b = keras.Input((4,), name="numbers"), keras.Input((8, 8, 3), name="photo")
    features = keras.layers.Conv2D(4, 3, name="features")(b)
    model = keras.Model(
        {"numbers": a, "photo": b}, {"sum": keras.layers.Dense(2)(a), "map": features}
    )
    rng = np.random.default_rng(0)
    arrays = {"numbers": rng.normal(size=(9, 4)), "photo": rng.normal(size=(9, 8, 8, 3))}
    np.savez(tmp_path / "inputs.npz", **arrays)
    argv = [*saved(model, tmp_path), "--inputs", str(tmp_path / "inputs.npz")]
    for precision in ("float32", "float16"):
        to_onnx.main([*argv, "--precision", precision])
    to_litert.main(argv)
    report = report_of(tmp_path / "own" / "onnx")
    assert set(report["stages"]["values"]["largest_absolute_difference"]) == {"sum", "map"}
    assert not set(Scores._fields) & set(report["stages"]["values"])
    with pytest.raises(InputError, match="int8"):
        to_onnx.main([*argv, "--precision", "int8"])
    for count in ("0", "10"):
        with pytest.raises(InputError, match=f"--samples {count}: expected 1 to 9"):
            to_onnx.main([*argv, "--samples", count])
    with pytest.raises(InputError, match=r"--calibration-images: .* Leave the option out"):
        to_onnx.main([*argv, "--calibration-images", "4"])
    arrays["photo"] = arrays["photo"][:, :7]
    np.savez(tmp_path / "inputs.npz", **arrays)
    with pytest.raises(InputError, match=r"photo of shape \[None, 8, 8, 3\]"):
        to_onnx.main(argv)


@pytest.mark.parametrize("content", ["nothing", "one array", "a number"])
def test_bad_arrays(tmp_path, content):
    with open(path := tmp_path / "x.npz", "wb") as file:
        if content == "one array":
            np.save(file, np.zeros((2, 16, 16, 3)))
        elif content == "a number":
            np.savez(file, photo=1.0)
    message = r"photo of shape .*received \[\]" if content == "a number" else r"expected an \.npz"
    with pytest.raises(InputError, match=message):
        to_onnx.main([*saved(colour_models.build(), tmp_path), "--inputs", str(path)])


def test_options_of_classifiers_are_refused_for_several_labels(tmp_path, photos):
    names = tmp_path / "labels.txt"
    names.write_text("b\ng\nr\n")
    argv = [*saved(colour_models.build(activation="sigmoid"), tmp_path)]
    argv += ["--images", str(photos / "classes")]
    for options in (["--input-range", "0..1"], ["--labels", str(names)]):
        with pytest.raises(InputError, match=r"received (preprocessing|class names)"):
            to_onnx.main([*argv, *options])
    to_onnx.main(argv)
    report = report_of(tmp_path / "own" / "onnx")
    assert any("accuracy is not checked" in note for note in report["notes"])


def test_probabilities_of_a_subclass_must_be_stated(tmp_path, photos):
    """Its last activation cannot be seen, and numbers of 0 to 1 can be either."""
    model = colour_models.build()
    squashed = keras.Model(model.input, keras.ops.sigmoid(model.output))
    argv = [*saved(squashed, tmp_path), "--images", str(photos / "flat")]
    with pytest.raises(InputError, match="--scores"):
        to_onnx.main(argv)
    to_onnx.main([*argv, "--scores", "logits"])


def test_predict_takes_an_onnx_file_of_other_tools(tmp_path, photos, capsys):
    path = tmp_path / "foreign.onnx"
    model = colour_models.build(activation="softmax")
    model(colour_models.images(1)[0])  # Keras exports only what was called
    model.export(path, format="onnx", verbose=False)
    argv = [str(photos / "classes" / "red"), "--model", str(path), "--json", "--top", "1"]
    with pytest.raises(InputError, match="--input-range"):
        predict.main(argv)
    capsys.readouterr()
    predict.main([*argv, "--input-range", "0..255"])
    found = json.loads(capsys.readouterr().out)["predictions"]
    assert {picture["top"][0]["class"] for picture in found} == {2}


BAD = {
    "missing.keras": ([], "does not exist"),
    "old.h5": ([], "Convert it"),
    "own.keras": (["--image-size", "20"], "16×16"),
    "unbuilt.keras": ([], "not built"),
    "two.keras": ([], "--inputs"),
    "damaged.keras": ([], "cannot be loaded"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_models_are_refused_in_one_line(tmp_path, photos, name):
    saved(colour_models.build(), tmp_path)
    keras.Sequential([keras.layers.Dense(2)]).save(tmp_path / "unbuilt.keras")
    two = [keras.Input((8, 8, 3), name=each) for each in ("left", "right")]
    keras.Model(two, keras.layers.Dense(2)(keras.layers.Add()(two))).save(tmp_path / "two.keras")
    (tmp_path / "damaged.keras").write_bytes((tmp_path / "own.keras").read_bytes()[:-300])
    options, message = BAD[name]
    argv = ["--keras", str(tmp_path / name), "--images", str(photos / "flat"), *options]
    with pytest.raises(InputError, match=message) as refused:
        to_onnx.main(argv)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.rglob("*.onnx"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--images", "nowhere"], "does not exist"),
        ([], "--images FOLDER"),
        (["--labels", "labels.txt"], "2 names for 3 classes"),
        (["--opset", "99"], "--opset 99"),
        (["--custom", "labels.txt"], "expected a Python file"),
        (["--custom", "none.py"], "expected a Python file"),
        (["--images", "one", "--precision", "int8"], "one: 1 picture: expected 2 or more"),
        (["--inputs", "labels.txt"], ".npz"),
    ],
    ids=str,
)
def test_bad_options_are_refused(tmp_path, photos, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.txt").write_text("red\ngreen\n")
    (tmp_path / "one").mkdir()
    Image.new("RGB", (16, 16), "red").save(tmp_path / "one" / "red.png")
    if argv and argv[0] not in ("--images", "--inputs"):
        argv = [*argv, "--images", str(photos / "flat")]
    with pytest.raises(InputError, match=message):
        to_onnx.main([*saved(colour_models.build(), tmp_path), *argv])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--inputs", "x.npz", "--labels", "x"], "--labels has no effect with --inputs"),
        (["--inputs", "x.npz", "--input-range", "0..1"], "--input-range 0..1 has no effect"),
        (["--images", "x", "--dataset", "cifar10"], "--dataset has no effect with --images"),
        (["--images", "x", "--image-size", "8", "8", "8"], "--image-size"),
    ],
    ids=str,
)
def test_no_option_is_ignored(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        to_onnx.main([*saved(colour_models.build(), tmp_path), *options])


def test_a_saved_model_needs_data_too(tmp_path):
    argv = saved(colour_models.build(), tmp_path)
    with pytest.raises(InputError, match="--images FOLDER"):
        to_savedmodel.main(argv)
    to_savedmodel.main([*argv, "--dataset", "synthetic", "--input-range", "0..255"])


@pytest.mark.parametrize(
    "option", [["--dataset", "cifar10"], ["--mean", "1,1,1"], ["--input-range", "nonsense"]]
)
def test_options_of_keras_files_are_refused_for_a_runs_saved_model(original, option):
    with pytest.raises(InputError, match=f"{option[0]} {option[1]}.* is a run|nonsense"):
        to_savedmodel.main(["--run", str(original), *option])
    assert [path.name for path in (original / "saved_model").iterdir()] == ["1"]


@pytest.mark.parametrize("option", [["--images", "x"], ["--no-fold"], ["--scores", "logits"]])
def test_options_of_keras_files_are_refused_for_runs(original, option):
    with pytest.raises(InputError, match=f"{option[0]} is for --keras"):
        to_onnx.main(["--run", str(original), *option])
