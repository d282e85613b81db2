"""The other contents of real checkpoints are named, and the weights are found."""

import argparse
import datetime
import pickle

import numpy as np
import pytest

import keras_nam
from tests.support.weights.checkpoint_files import SHAPES, Calls


def prefixed(arrays, prefix):
    return {prefix + key: array for key, array in arrays.items()}


def plus(arrays, number):
    return {key: array + number for key, array in arrays.items()}


def assert_has(model, arrays):
    np.testing.assert_array_equal(model.get_layer("logits").bias, arrays["fc.bias"])
    np.testing.assert_array_equal(model.get_layer("stem_bn").gamma, arrays["bn1.weight"])


def test_counters_do_not_break_a_strict_load(model, state):
    counters = {
        "total_ops": np.zeros(1),
        "layer1.0.conv1.total_params": np.zeros(1),
        "n_averaged": np.array(3),
        "best_acc": np.array(0.77),
    }
    report = keras_nam.load_weights(model, {**state, **counters})
    assert report.fits
    assert list(report.ignored) == list(counters)
    assert_has(model, state)


@pytest.mark.parametrize("prefix", ["model.", "student.backbone.", "module._orig_mod."])
def test_a_modules_other_parts_are_named_and_ignored(model, state, prefix):
    """As of a LightningModule: the buffers of its loss, and its trainer's state."""
    content = {
        "state_dict": {**prefixed(state, prefix), "criterion.weight": np.ones(100)},
        "epoch": 3,
        "callbacks": {"EarlyStopping": {"best": np.array(0.5)}},
        "optimizer_states": [{"state": {0: {"momentum_buffer": np.ones((8, 3, 3, 3))}}}],
    }
    report = keras_nam.load_weights(model, content)
    assert report.fits
    assert report.weights == f"state_dict.{prefix[:-1]}"
    assert set(report.ignored) == {"criterion.weight", "epoch", "callbacks", "optimizer_states"}
    assert_has(model, state)


@pytest.mark.parametrize("key", ["ema", "state_dict_ema", "swa_model"])
@pytest.mark.parametrize("order", [1, -1])
def test_raw_weights_are_taken_before_averaged_ones_with_a_warning(model, state, key, order):
    content = dict([("state_dict", state), (key, prefixed(plus(state, 1), "module."))][::order])
    with pytest.warns(UserWarning, match=rf"Loaded 'state_dict'.*{key}\.module"):
        report = keras_nam.load_weights(model, content)
    assert (report.weights, report.others) == ("state_dict", [f"{key}.module"])
    assert_has(model, state)
    assert keras_nam.load_weights(model, content, weights=key).weights == f"{key}.module"
    assert_has(model, plus(state, 1))


def test_averaged_weights_in_the_same_dictionary(model, state):
    """As `ema_model.` beside `model.`."""
    content = {**prefixed(plus(state, 1), "ema_model."), **prefixed(state, "model.")}
    with pytest.warns(UserWarning, match="ema_model"):
        report = keras_nam.load_weights(model, content)
    assert (report.weights, report.others) == ("model", ["ema_model"])
    assert_has(model, state)
    assert keras_nam.load_weights(model, content, weights="ema_model").fits
    assert_has(model, plus(state, 1))


def test_averaged_weights_alone_are_taken(model, state, recwarn):
    report = keras_nam.load_weights(model, {"model_ema": state, "epoch": 3})
    assert report.weights == "model_ema"
    assert not recwarn.list
    assert_has(model, state)


def test_several_weights_that_fit_equally_need_a_choice(model, state):
    content = {"first": state, "second": plus(state, 1)}
    with pytest.raises(ValueError, match=r"weights=.*'first', 'second'"):
        keras_nam.load_weights(model, content)
    assert keras_nam.load_weights(model, content, weights="second").weights == "second"
    assert_has(model, plus(state, 1))
    with pytest.raises(ValueError, match=r"'third'.*'first', 'second'"):
        keras_nam.load_weights(model, content, weights="third")


def test_one_dictionary_under_two_names_needs_no_choice(model, state):
    assert keras_nam.load_weights(model, {"first": state, "second": state}).weights == "first"


def test_a_small_part_of_another_network_is_not_taken_for_a_layer(layer):
    """One block's normalization fits; the rest is unexpected, unless it is chosen."""
    arrays = {f"layer1.0.nam.Channel_Att.{key}": np.ones(16, np.float32) for key in SHAPES}
    arrays |= {f"layer1.0.conv{number}.weight": np.ones((16, 16, 3, 3)) for number in range(5)}
    with pytest.raises(ValueError, match=r"5 unexpected"):
        keras_nam.load_weights(layer, arrays)
    assert keras_nam.load_weights(layer, arrays, weights="layer1.0.nam").fits


def test_a_pickle_with_all_of_it(model, state, tmp_path):
    keras_nam.load_weights(model, state)
    arrays = keras_nam.to_paddle_state_dict(model)
    content = {
        # Paddle's tensors, outside of a plain state dict.
        "model": {key: Calls(tuple, ("linear_0.w_0", array)) for key, array in arrays.items()},
        "best_acc": np.float64(0.77),
        "args": argparse.Namespace(lr=0.1, tags={"a"}),
        "date": datetime.datetime(2024, 1, 1),
        "classes": np.array(["a", "b"]),
        "StructuredToParameterName@@": {},
    }
    (tmp_path / "last.pdparams").write_bytes(pickle.dumps(content))
    model.get_layer("logits").bias.assign(np.zeros(100))
    report = keras_nam.load_weights(model, tmp_path / "last.pdparams")
    assert report.fits
    assert (report.format, report.weights) == ("paddle", "model")
    assert list(report.ignored) == ["best_acc", "args", "date", "classes"]
    assert_has(model, state)


def test_pytorchs_file_with_all_of_it(model, state, tmp_path):
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
        keras_nam.load_weights(model, tmp_path / "last.pth.tar")
    report = keras_nam.load_weights(model, tmp_path / "last.pth.tar", strict=False)
    assert set(report.ignored) == {"best_acc", "history", "classes", "args", "date"}
    assert_has(model, state)
    # PyTorch itself still refuses the stand-ins' types.
    with pytest.raises(Exception, match="WeightsUnpickler"):
        torch.load(tmp_path / "last.pth.tar", weights_only=True)


@pytest.mark.parametrize("kind", ["sparse", "meta", "quantized"])
def test_tensors_without_their_numbers_are_refused_by_name(model, state, kind):
    torch = pytest.importorskip("torch", reason="makes tensors of PyTorch, which is not installed")
    tensors = {key: torch.from_numpy(array) for key, array in state.items()}
    bias = tensors["fc.bias"]
    tensors["fc.bias"] = {
        "sparse": bias.to_sparse,
        "meta": lambda: bias.to("meta"),
        "quantized": lambda: torch.quantize_per_tensor(bias, 0.1, 0, torch.qint8),
    }[kind]()
    with pytest.raises(ValueError, match=rf"fc\.bias is a .*{kind}"):
        keras_nam.load_weights(model, tensors)
