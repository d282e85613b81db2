"""What real checkpoints hold beside the weights: it is named, and the weights are found."""

import argparse
import datetime
import pickle

import numpy as np
import pytest

import keras_nam

KEYS = ("weight", "bias", "running_mean", "running_var")


@pytest.fixture
def network():
    """A network of few weights, and how its layer is filled by `state`."""
    return keras_nam.create_model("r18w8_nam")


@pytest.fixture(scope="module")
def state():
    rng = np.random.default_rng(0)
    arrays = keras_nam.to_torch_state_dict(keras_nam.create_model("r18w8_nam"))
    return {
        key: array if array.dtype == np.int64 else rng.normal(size=array.shape).astype("float32")
        for key, array in arrays.items()
    }


def prefixed(arrays, prefix):
    return {prefix + key: array for key, array in arrays.items()}


def plus(arrays, number):
    return {key: array + number for key, array in arrays.items()}


def assert_has(network, arrays):
    np.testing.assert_array_equal(network.get_layer("logits").bias, arrays["fc.bias"])
    np.testing.assert_array_equal(network.get_layer("stem_bn").gamma, arrays["bn1.weight"])


COUNTERS = {
    "thop": {"total_ops": np.zeros(1), "layer1.0.conv1.total_params": np.zeros(1)},
    "swa": {"n_averaged": np.array(3)},
    "scalar": {"best_acc": np.array(0.77)},
}


@pytest.mark.parametrize("name", COUNTERS)
def test_counters_do_not_break_a_strict_load(network, state, name):
    report = keras_nam.load_weights(network, {**state, **COUNTERS[name]})
    assert report.fits
    assert list(report.ignored) == list(COUNTERS[name])
    assert_has(network, state)


@pytest.mark.parametrize("prefix", ["model.", "net.", "student.backbone.", "module._orig_mod."])
def test_a_modules_other_parts_are_named_and_left(network, state, prefix):
    """As of a LightningModule: the buffers of its loss, and what its trainer keeps."""
    content = {
        "state_dict": {**prefixed(state, prefix), "criterion.weight": np.ones(100)},
        "epoch": 3,
        "callbacks": {"EarlyStopping": {"best": np.array(0.5)}},
        "optimizer_states": [{"state": {0: {"momentum_buffer": np.ones((8, 3, 3, 3))}}}],
    }
    report = keras_nam.load_weights(network, content)
    assert report.fits
    assert report.weights == f"state_dict.{prefix[:-1]}"
    assert set(report.ignored) == {"criterion.weight", "epoch", "callbacks", "optimizer_states"}
    assert_has(network, state)


@pytest.mark.parametrize("key", ["ema", "state_dict_ema", "model_ema", "swa_model"])
@pytest.mark.parametrize("order", [1, -1])
def test_raw_weights_are_taken_before_averaged_ones_with_a_warning(network, state, key, order):
    content = dict([("state_dict", state), (key, prefixed(plus(state, 1), "module."))][::order])
    with pytest.warns(UserWarning, match=rf"Loaded 'state_dict'.*{key}\.module"):
        report = keras_nam.load_weights(network, content)
    assert (report.weights, report.others) == ("state_dict", [f"{key}.module"])
    assert_has(network, state)
    assert keras_nam.load_weights(network, content, weights=key).weights == f"{key}.module"
    assert_has(network, plus(state, 1))


def test_averaged_weights_in_the_same_dictionary(network, state):
    """As `ema_model.` beside `model.`."""
    content = {**prefixed(plus(state, 1), "ema_model."), **prefixed(state, "model.")}
    with pytest.warns(UserWarning, match="ema_model"):
        report = keras_nam.load_weights(network, content)
    assert (report.weights, report.others) == ("model", ["ema_model"])
    assert_has(network, state)
    assert keras_nam.load_weights(network, content, weights="ema_model").fits
    assert_has(network, plus(state, 1))


def test_averaged_weights_alone_are_taken(network, state, recwarn):
    report = keras_nam.load_weights(network, {"model_ema": state, "epoch": 3})
    assert report.weights == "model_ema"
    assert not recwarn.list
    assert_has(network, state)


def test_several_weights_that_fit_equally_are_to_be_chosen(network, state):
    content = {"first": state, "second": plus(state, 1)}
    with pytest.raises(ValueError, match=r"weights=.*'first', 'second'"):
        keras_nam.load_weights(network, content)
    assert keras_nam.load_weights(network, content, weights="second").weights == "second"
    assert_has(network, plus(state, 1))
    with pytest.raises(ValueError, match=r"'third'.*'first', 'second'"):
        keras_nam.load_weights(network, content, weights="third")


def test_a_small_part_of_another_network_is_not_taken_for_a_layer(layer):
    """One block's normalization fits; the rest is unexpected, unless it is asked for."""
    arrays = {f"layer1.0.nam.Channel_Att.bn2.{key}": np.ones(16, np.float32) for key in KEYS}
    arrays |= {f"layer1.0.conv{number}.weight": np.ones((16, 16, 3, 3)) for number in range(5)}
    with pytest.raises(ValueError, match=r"5 unexpected"):
        keras_nam.load_weights(layer, arrays)
    assert keras_nam.load_weights(layer, arrays, weights="layer1.0.nam").fits


class Tensor:
    """Pickles as Paddle's tensor does outside of a plain state dict."""

    def __init__(self, array):
        self.array = array

    def __reduce__(self):
        return tuple, (("linear_0.w_0", self.array),)


def test_a_pickle_with_all_of_it(network, tmp_path):
    arrays = keras_nam.to_paddle_state_dict(keras_nam.create_model("r18w8_nam"))
    content = {
        "model": {key: Tensor(array) for key, array in arrays.items()},
        "best_acc": np.float64(0.77),
        "args": argparse.Namespace(lr=0.1, tags={"a"}),
        "date": datetime.datetime(2024, 1, 1),
        "classes": np.array(["a", "b"]),
        "StructuredToParameterName@@": {},
    }
    (tmp_path / "last.pdparams").write_bytes(pickle.dumps(content))
    report = keras_nam.load_weights(network, tmp_path / "last.pdparams")
    assert report.fits
    assert (report.format, report.weights) == ("paddle", "model")
    assert list(report.ignored) == ["best_acc", "args", "date", "classes"]
    assert_has(network, {**arrays, "bn1.weight": arrays["bn1.weight"]})


def test_pytorchs_file_with_all_of_it(network, state, tmp_path):
    torch = pytest.importorskip("torch", reason="writes a file of PyTorch, which is not installed")
    tensors = {key: torch.from_numpy(array) for key, array in state.items()}
    content = {
        "state_dict": {**tensors, "sparse": torch.eye(3).to_sparse()},
        "best_acc": np.float64(0.77),
        "history": np.arange(3),
        "classes": np.array(["a", "b"]),
        "args": argparse.Namespace(lr=0.1, tags={"a"}),
        "date": datetime.datetime(2024, 1, 1),
    }
    torch.save(content, tmp_path / "last.pth.tar")
    with pytest.raises(ValueError, match=r"1 unexpected \(sparse\)"):
        keras_nam.load_weights(network, tmp_path / "last.pth.tar")
    report = keras_nam.load_weights(network, tmp_path / "last.pth.tar", strict=False)
    assert set(report.ignored) == {"best_acc", "history", "classes", "args", "date"}
    assert_has(network, state)
    # Nothing was made known to PyTorch for good.
    with pytest.raises(Exception, match="WeightsUnpickler"):
        torch.load(tmp_path / "last.pth.tar", weights_only=True)


@pytest.mark.parametrize("kind", ["sparse", "meta", "quantized"])
def test_tensors_without_their_numbers_are_refused_by_name(network, state, kind):
    torch = pytest.importorskip("torch", reason="makes tensors of PyTorch, which is not installed")
    tensors = {key: torch.from_numpy(array) for key, array in state.items()}
    bias = tensors["fc.bias"]
    if kind == "quantized":
        tensors["fc.bias"] = torch.quantize_per_tensor(bias, 0.1, 0, torch.qint8)
    else:
        tensors["fc.bias"] = bias.to_sparse() if kind == "sparse" else bias.to("meta")
    with pytest.raises(ValueError, match=rf"fc\.bias is a .*{kind}"):
        keras_nam.load_weights(network, tensors)
