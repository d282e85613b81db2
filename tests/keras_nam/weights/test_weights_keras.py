"""Weights of Keras' own files, without building the model that they describe."""

import keras
import numpy as np
import pytest

import keras_nam
from tests.support.networks.small_models import assert_equal, created_under, randomize, values_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("keras")


@pytest.fixture(scope="module")
def bam_network():
    return keras_nam.create_model("r18w8_bam", num_classes=10)


@pytest.fixture(scope="module")
def values(folder, bam_network):
    """The weights of a network that was saved with its optimizer."""
    saved = randomize(bam_network)
    bam_network.compile("adam", "mse")
    bam_network.optimizer.build(bam_network.trainable_variables)
    bam_network.save(folder / "a.keras")
    bam_network.save_weights(folder / "a.weights.h5")
    (folder / "best.model").write_bytes((folder / "a.keras").read_bytes())
    return saved


@pytest.mark.parametrize("name", ["a.keras", "a.weights.h5", "best.model"])
def test_a_keras_file_loads_bit_equal(folder, values, bam_network, name):
    randomize(bam_network, seed=1)
    report = keras_nam.load_weights(bam_network, folder / name)
    assert report.fits
    assert (report.format, len(report.loaded)) == ("keras", len(values))
    assert_equal(bam_network, values)
    with pytest.raises(ValueError, match=r"'keras'.*'official'"):
        keras_nam.load_weights(bam_network, folder / name, format="official")


def test_another_classifier_needs_not_strict(folder, values):
    network = keras_nam.create_model("r18w8_bam", num_classes=7)
    before = values_of(network)
    with pytest.raises(ValueError, match=r"logits/0 \(the model has \[64, 7\].*strict=False"):
        keras_nam.load_weights(network, folder / "a.keras")
    assert_equal(network, before)
    report = keras_nam.load_weights(network, folder / "a.keras", strict=False)
    assert report.mismatched == [
        ("logits/0", (64, 7), (64, 10)),
        ("logits/1", (7,), (10,)),
    ]
    assert_equal(network, [*values[:-2], *before[-2:]])


def test_another_attention_loads_what_fits_by_name(folder, values, model):
    report = keras_nam.load_weights(model, folder / "a.keras", strict=False)
    assert {key.split("/")[0] for key in report.unexpected} == {f"stage{n}_bam" for n in (1, 2, 3)}
    assert "stage1_block1_nam/0" in report.missing
    np.testing.assert_array_equal(model.get_layer("stem_bn").gamma, values[1])


def test_a_model_of_the_user(tmp_path):
    """By the layers' names, in any order; the state of a random layer is no weight."""

    def build(*units, classes=3):
        layers = [keras.layers.Dense(n, name=f"dense_{n}") for n in units]
        head = keras.layers.Dense(classes, name="head")
        noise = keras.layers.GaussianNoise(0.1)
        return keras.Sequential([keras.Input((4,)), noise, *layers, head])

    source = build(5, 4)
    randomize(source)
    source.save(tmp_path / "own.keras")
    target = build(5, 6)
    report = keras_nam.load_weights(target, tmp_path / "own.keras", strict=False)
    assert report.loaded == ["dense_5/0", "dense_5/1", "head/1"]
    assert report.missing == ["dense_6/0", "dense_6/1"]
    assert_equal(target.get_layer("dense_5"), values_of(source.get_layer("dense_5")))
    assert keras_nam.load_weights(build(5, 4), tmp_path / "own.keras").fits


def adapted(data):
    normalization = keras.layers.Normalization(name="normalization")
    normalization.adapt(data)
    return keras.Sequential([keras.Input((4,)), normalization, keras.layers.Dense(3, name="head")])


def shared(data):
    """A layer of the outer and of a nested model, which Keras saves once."""
    both, within = keras.layers.Dense(4, name="both"), keras.Input((4,))
    nested = keras.Model(within, both(within), name="nested")
    inputs = keras.Input((4,))
    return keras.Model(inputs, nested(both(inputs)))


def with_lora(data):
    """Its kernel is saved as the sum of three variables."""
    dense = keras.layers.Dense(3, name="dense")
    model = keras.Sequential([keras.Input((4,)), dense])
    dense.enable_lora(2)
    dense.lora_kernel_b.assign(data[:2, :3])
    return model


@pytest.mark.parametrize("build", [adapted, shared, with_lora])
def test_layers_load_as_in_keras(tmp_path, build):
    data = np.random.default_rng(0).normal(3, 2, (3, 20, 4)).astype("float32")
    source, target = build(data[0]), build(data[1])
    source.save(tmp_path / "source.keras")
    assert keras_nam.load_weights(target, tmp_path / "source.keras").fits
    ours, theirs = (keras.ops.convert_to_numpy(model(data[2])) for model in (target, source))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


class WithToken(keras.Model):
    """Has a weight of its own, beside its layers."""

    def __init__(self):
        super().__init__()
        self.token = self.add_weight(shape=(4,), initializer="zeros", name="token")
        self.dense = keras.layers.Dense(4, name="dense")

    def call(self, inputs):
        return self.dense(inputs + self.token)


def test_a_models_own_weights(tmp_path):
    source, target = WithToken(), WithToken()
    for model in (source, target):
        model(np.ones((1, 4)))
    randomize(source)
    for name in ("own.weights.h5", "own.keras"):
        getattr(source, "save_weights" if "weights" in name else "save")(tmp_path / name)
        report = keras_nam.load_weights(target, tmp_path / name)
        assert report.loaded == ["0", "dense/0", "dense/1"]
        assert_equal(target, values_of(source))
        randomize(target, seed=1)


class Experts(keras.Model):
    def __init__(self):
        super().__init__()
        self.experts = [keras.layers.Dense(4, name="expert") for _ in range(2)]

    def call(self, inputs):
        return self.experts[1](self.experts[0](inputs))


def test_inner_layers_of_one_name_are_refused(tmp_path):
    model = Experts()
    model(np.ones((1, 4)))
    model.save_weights(tmp_path / "experts.weights.h5")
    for source in (tmp_path / "experts.weights.h5", {"expert/0": np.ones((4, 4))}):
        with pytest.raises(ValueError, match="two have the name 'expert'"):
            keras_nam.load_weights(model, source, format="keras", strict=False)


@pytest.mark.parametrize("policy", ["bfloat16", "float16"])
def test_half_precision_loads_exactly(tmp_path, policy, model):
    with created_under(policy=policy):
        source = keras_nam.create_model("r18w8_nam")
    source.save(tmp_path / "half.keras")
    assert keras_nam.load_weights(model, tmp_path / "half.keras").fits
    for ours, theirs in zip(model.weights, source.weights, strict=True):
        theirs = keras.ops.convert_to_numpy(keras.ops.cast(theirs, "float32"))
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["link", "external", "virtual"])
def test_numbers_of_another_file_are_not_read(tmp_path, folder, values, bam_network, kind):
    import h5py

    other, copy = folder / "a.weights.h5", tmp_path / "copy.weights.h5"
    copy.write_bytes(other.read_bytes())
    with h5py.File(copy, "a") as file:
        places = []
        file.visititems(lambda place, item: places.append(place))
        place = next(p for p in places if file[p].attrs.get("name") == "logits")
        group = file[place]
        del group["1"]
        if kind == "link":
            group["1"] = h5py.ExternalLink(str(other), f"{place}/1")
        elif kind == "external":
            group.create_dataset("1", (10,), "f4", external=[(str(other), 0, 40)])
        else:
            layout = h5py.VirtualLayout((10,), "f4")
            layout[:] = h5py.VirtualSource(str(other), f"{place}/1", shape=(10,))
            group.create_virtual_dataset("1", layout)
    with pytest.raises(ValueError, match=r"1 missing \(logits/1\)"):
        keras_nam.load_weights(bam_network, copy)
