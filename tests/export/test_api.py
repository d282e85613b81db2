"""`from export import export_onnx, verify_onnx, open_model`, as a Python program uses them."""

import keras
import numpy as np
import onnx
import pytest
from PIL import Image

from export import Preprocessing, export_onnx, open_model, verify_onnx
from export.verification.verify import VerificationError
from tests.support.networks import colour_models
from tests.support.serving import grpc_server
from tests.support.serving.replay import replay
from training.cli import FailedError, InputError

IMAGES, LABELS = colour_models.images()


@pytest.fixture(scope="module")
def model():
    return colour_models.build(activation="softmax")


@pytest.fixture(scope="module")
def foreign(model, tmp_path_factory):
    """A file by Keras' own exporter."""
    path = tmp_path_factory.mktemp("foreign") / "model.onnx"
    model(IMAGES[:1])  # Keras exports only what was called
    model.export(path, format="onnx", verbose=False)
    return path


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_export_and_classify(model, tmp_path, precision):
    path = tmp_path / "colours.onnx"
    before = [np.array(weight) for weight in model.weights]
    report = export_onnx(
        model,
        path,
        images=IMAGES,
        labels=LABELS,
        precision=precision,
        calibration=colour_models.images(30, seed=1)[0],
        class_names=colour_models.NAMES,
    )
    assert report["verdict"] == "verified"
    assert report["stages"]["accuracy"]["images"] == len(IMAGES)
    assert (tmp_path / "verification.colours.json").is_file()
    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)
    Image.fromarray(IMAGES[2]).save(tmp_path / "red.png")
    (tmp_path / "text.png").write_text("no picture")
    found = open_model(path).classify([tmp_path / "red.png", tmp_path / "text.png"], top=1)
    assert found[0]["top"][0]["label"] == "red"
    assert "not a picture" in found[1]["error"]


def test_a_file_of_other_tools_is_verified(model, foreign):
    report = verify_onnx(foreign, model, IMAGES.astype("float32"), LABELS)
    assert report["verdict"] == "verified"
    assert report["stages"]["accuracy"]["top1"] == 1
    assert report["stages"]["weights"] == {"passed": None}


@pytest.mark.parametrize("groups", [1, 2])
def test_gelu_is_exported_and_a_convolution_in_groups_refused(tmp_path, groups):
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, activation="gelu")(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.Conv2D(8, 3, groups=groups)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(3)(x))
    if groups == 1:
        assert export_onnx(model, tmp_path / "a.onnx", IMAGES)["verdict"] == "verified"
        return
    with pytest.raises(InputError, match="cannot be converted to ONNX"):
        export_onnx(model, tmp_path / "a.onnx", IMAGES)
    assert not list(tmp_path.iterdir())


def other_epsilon(model):
    model.get_layer("normalization").epsilon *= 10


def other_weight(model):
    kernel, bias = model.get_layer("scores").get_weights()
    kernel[1, 1] *= 1.001
    model.get_layer("scores").set_weights([kernel, bias])


@pytest.mark.parametrize("change", [other_epsilon, other_weight])
def test_another_model_is_not_verified(foreign, change):
    model = colour_models.build(activation="softmax")
    change(model)
    with pytest.raises(VerificationError, match="values"):
        verify_onnx(foreign, model, IMAGES)


def test_another_input_range_is_not_verified(foreign, model, tmp_path):
    with pytest.raises(VerificationError, match="values"):
        verify_onnx(foreign, model, IMAGES, preprocessing=Preprocessing("0..1"))
    without = colour_models.build(activation="softmax", rescaling=False)
    with pytest.raises(VerificationError, match="values"):
        verify_onnx(foreign, without, IMAGES)
    verify_onnx(foreign, without, IMAGES, preprocessing=Preprocessing("0..1"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": IMAGES / 255.0}, "0 to 255"),
        ({"images": IMAGES[..., :1]}, r"expected \[N, 16, 16, 3\]"),
        ({"images": IMAGES[:0]}, "one image"),
        ({"labels": LABELS[:5]}, "labels of shape"),
        ({"images": [*IMAGES[:2], IMAGES[0, :8]]}, "images: expected a NumPy array"),
        ({"images": IMAGES.astype(str)}, "images of dtype <U.*: expected numbers"),
        ({"images": np.where(IMAGES > 200, np.nan, IMAGES)}, "0 to 255"),
        ({"labels": LABELS + 1}, "label 3"),
        ({"labels": LABELS - 1}, "labels: received -1"),
        ({"labels": LABELS * 1.0}, "labels of dtype float64: expected integers"),
        ({"scores": "logit"}, "kind of scores 'logit'.* 'logits'"),
        ({"precision": "int8"}, "calibration"),
        ({"precision": "int8", "calibration": IMAGES}, "calibration: .* are among images"),
        ({"precision": "int8", "calibration": IMAGES[9:3:-1] / 1.0}, "are among images"),
        ({"precision": "int4"}, "int8"),
        ({"class_names": ["red"]}, "1 names for 3 classes"),
        ({"opset": 99}, "opset"),
    ],
    ids=lambda given: given if isinstance(given, str) else next(iter(given)),
)
def test_bad_arguments(model, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        export_onnx(model, tmp_path / "model.onnx", **{"images": IMAGES, **options})
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def two_outputs(tmp_path_factory):
    """A model of numbers with two outputs, its samples, and its ONNX file."""
    numbers = keras.Input((4,), name="numbers")
    outputs = {name: keras.layers.Dense(2, name=name)(numbers) for name in ("left", "right")}
    model = keras.Model(numbers, outputs)
    samples = {"numbers": np.random.default_rng(0).normal(size=(9, 4)).astype("float32")}
    path = tmp_path_factory.mktemp("two") / "model.onnx"
    assert export_onnx(model, path, samples)["verdict"] == "verified"
    return model, samples, path


def fixed_batch(graph):
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def other_dtype(graph):
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    for node in graph.node:
        node.input[:] = ["as_float" if name == "numbers" else name for name in node.input]
    cast = onnx.helper.make_node("Cast", ["numbers"], ["as_float"], to=onnx.TensorProto.FLOAT)
    graph.node.insert(0, cast)


@pytest.mark.parametrize(
    ("change", "message"),
    [(fixed_batch, r"it declares .*\(1, 4\)"), (other_dtype, "Unexpected input data type")],
)
def test_a_file_that_rejects_the_inputs_is_not_verified(two_outputs, tmp_path, change, message):
    model, samples, path = two_outputs
    changed = onnx.load(path)
    change(changed.graph)
    onnx.save(changed, tmp_path / "changed.onnx")
    with pytest.raises(VerificationError, match=f"interface: .*{message}") as refused:
        verify_onnx(tmp_path / "changed.onnx", model, samples)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        {"preprocessing": Preprocessing("0..1")},
        {"labels": LABELS[:9]},
        {"class_names": ["a", "b"]},
        {"scores": "logits"},
        {"calibration": IMAGES},
    ],
    ids=list,
)
def test_no_argument_is_ignored(two_outputs, tmp_path, options):
    """What only an image classifier has is refused for other models."""
    model, samples, path = two_outputs
    message = next(iter(options)).replace("_", " ")
    with pytest.raises(InputError, match=f"received {message}"):
        export_onnx(model, tmp_path / "model.onnx", samples, **options)
    if not {"class_names", "calibration"} & {*options}:
        with pytest.raises(InputError, match=f"received {message}"):
            verify_onnx(path, model, samples, **options)
    assert not list(tmp_path.iterdir())


def sequence_model():
    """Three outputs of one layer."""
    steps = keras.Input((5, 4), name="steps")
    outputs = keras.layers.LSTM(6, return_sequences=True, return_state=True, name="lstm")(steps)
    return keras.Model(steps, outputs)


def embedding():
    """Ends in a normalization that `fold` removes, which names the output."""
    steps = keras.Input((4,), name="steps")
    x = keras.layers.BatchNormalization(name="embedding")(keras.layers.Dense(6)(steps))
    model = keras.Model(steps, x)
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.2, 1, weight.shape) for weight in model.get_weights()])
    return model


@pytest.mark.parametrize(
    ("make", "shape", "names"),
    [
        (sequence_model, (9, 5, 4), ["lstm", "lstm_1", "lstm_2"]),
        (embedding, (9, 4), ["embedding"]),
    ],
)
def test_every_output_has_its_name(tmp_path, make, shape, names):
    samples = {"steps": np.random.default_rng(0).normal(size=shape).astype("float32")}
    report = export_onnx(make(), tmp_path / "model.onnx", samples)
    assert report["verdict"] == "verified"
    outputs = onnx.load(tmp_path / "model.onnx").graph.output
    assert sorted(output.name for output in outputs) == names


def test_float16_without_a_convolution(tmp_path):
    numbers = keras.Input((4,), name="numbers")
    x = keras.layers.Dense(8, activation="relu")(keras.layers.Rescaling(0.1)(numbers))
    model = keras.Model(numbers, keras.layers.Dense(2, bias_initializer="ones")(x))
    samples = {"numbers": np.random.default_rng(0).normal(size=(9, 4)).astype("float32")}
    export_onnx(model, tmp_path / "model.float16.onnx", samples, precision="float16")
    graph = onnx.load(tmp_path / "model.float16.onnx").graph
    kernels = [tensor for tensor in graph.initializer if np.prod(tensor.dims) > 8]
    assert {tensor.data_type for tensor in kernels} == {onnx.TensorProto.FLOAT16}
    model = keras.Model(numbers, keras.layers.Dense(2)(numbers))
    with pytest.raises(FailedError, match=r"no weight .* can be float16"):
        export_onnx(model, tmp_path / "one.float16.onnx", samples, precision="float16")


def test_int8_of_other_models_has_no_tolerance(two_outputs, tmp_path):
    model, samples, path = two_outputs
    with pytest.raises(InputError, match=r"precision int8: .* not an image classifier"):
        verify_onnx(path, model, samples, precision="int8")


def test_the_pixels_of_caffe(tmp_path):
    """The scale is 1, and a product with it is in no file."""
    caffe = Preprocessing("0..255", (123.68, 116.779, 103.939), channels="bgr")
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, padding="same")(image)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    model = keras.Model(image, keras.layers.Dense(3)(x))
    report = export_onnx(model, tmp_path / "model.onnx", IMAGES, preprocessing=caffe)
    assert report["stages"]["weights"] == {"passed": True, "missing": []}


def test_few_images_say_nothing_about_the_pixels(model, tmp_path):
    few = np.arange(6)
    report = export_onnx(model, tmp_path / "model.onnx", IMAGES[few], LABELS[few])
    assert report["stages"]["pixels"]["passed"] is None
    assert report["stages"]["accuracy"]["top1"] == 1


def test_several_labels_have_no_accuracy(tmp_path):
    model = colour_models.build(activation="sigmoid")
    path = tmp_path / "model.onnx"
    for options in ({"preprocessing": Preprocessing("0..1")}, {"labels": LABELS}):
        with pytest.raises(InputError, match=f"received {next(iter(options))}"):
            export_onnx(model, path, IMAGES, **options)
    assert export_onnx(model, path, IMAGES)["verdict"] == "verified"


def test_arrays_of_other_packages(model, tmp_path):
    images, labels = list(IMAGES), keras.ops.convert_to_tensor(LABELS)
    report = export_onnx(model, tmp_path / "model.onnx", images, labels)
    assert report["stages"]["accuracy"]["top1"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": "BGR"}, "channels 'BGR': expected 'rgb' or 'bgr'"),
        ({"range": "0..2"}, r"input range '0\.\.2'"),
        ({"mean": 0.5}, "mean 0.5: expected three numbers,"),
        ({"std": (1, 1, 0)}, r"std \(1, 1, 0\): expected three numbers above 0"),
    ],
    ids=str,
)
def test_bad_preprocessing(options, message):
    with pytest.raises(InputError, match=message):
        Preprocessing(**options)


def test_a_server_is_opened_by_its_address(tmp_path):
    seven = tmp_path / "seven.png"
    Image.fromarray(np.full((32, 32, 3), 7, np.uint8)).save(seven)
    with replay() as (url, log):
        model = open_model(url, labels=list("abcde"), name="toy")
        found = model.classify([seven, seven], top=1)
    assert log == ["metadata", "predict, row format"]
    assert [picture["top"][0]["label"] for picture in found] == ["a", "a"]
    with grpc_server.running() as target:
        found = open_model(f"grpc://{target}").classify(3 * [seven], top=1)
    classes = [picture["top"][0]["class"] for picture in found]
    assert classes == grpc_server.LOGITS.argmax(1).tolist()


def test_bad_models(foreign, tmp_path):
    for given, message in ((tmp_path / "no.keras", "does not exist"), ("model", "does not exist")):
        with pytest.raises(InputError, match=message):
            export_onnx(given, tmp_path / "model.onnx", IMAGES)
    with pytest.raises(InputError, match="does not exist"):
        verify_onnx(tmp_path / "no.onnx", colour_models.build(), IMAGES)
    with pytest.raises(InputError, match="does not exist"):
        open_model(tmp_path / "no.onnx")
    form = Preprocessing("0..255")
    for options, message in (({"signature": "x"}, "signature 'x'"), ({"scores": "x"}, "'x'")):
        with pytest.raises(InputError, match=message):
            open_model(foreign, preprocessing=form, **options)
