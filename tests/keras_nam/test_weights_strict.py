"""Checkpoints that do not fit: the report, what a failed load leaves, and `strict=False`."""

import keras
import numpy as np
import pytest

import keras_nam
from tests.support.golden_weights import GOLDEN, weights_for
from tests.support.small_models import assert_equal, tiny_checkpoint, values_of

TORCH = np.load(GOLDEN / "resnet_torch.npz")


def broken(change):
    arrays = tiny_checkpoint()
    change(arrays)
    return arrays


def with_class_count(arrays):
    arrays["fc.weight"], arrays["fc.bias"] = np.zeros((10, 64)), np.zeros(10)


def with_integers(arrays):
    arrays["fc.bias"] = np.zeros(100, np.int64)


BROKEN = {
    "missing": (lambda a: a.pop("bn1.running_mean"), r"1 missing \(bn1.running_mean\)"),
    "unexpected": (
        lambda a: a.update({"layer1.0.conv9.weight": np.zeros(3)}),
        r"1 unexpected \(layer1.0.conv9.weight\)",
    ),
    "shape": (
        with_class_count,
        r"2 of another shape \(fc.weight \(the model has \[100, 64\], the checkpoint \[10, 64\]\)"
        ".*strict=False",
    ),
    "dtype": (with_integers, "fc.bias is not of a floating-point type.*int64"),
    "huge": (
        lambda a: a.update({"fc.bias": np.broadcast_to(np.float32(0), (1 << 40,))}),
        "fc.bias .*1099511627776",
    ),
    "empty": (lambda a: a.clear(), "No dictionary of arrays"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_failed_load_leaves_the_model_untouched(model, name):
    change, message = BROKEN[name]
    values = values_of(model)
    with pytest.raises(ValueError, match=message) as error:
        keras_nam.load_weights(model, broken(change))
    assert "\n" not in str(error.value)
    assert_equal(model, values)


def test_another_arch_is_refused_with_the_keys_that_differ(model):
    with pytest.raises(ValueError, match=r"'r18w8_nam'.*unexpected \(layer1.0.cbam"):
        keras_nam.load_weights(model, weights_for(TORCH["r18_cbam/keys"]))


def test_not_strict_loads_what_fits_and_lists_the_rest(model):
    before = dict(zip([v.path for v in model.weights], values_of(model), strict=True))
    arrays = tiny_checkpoint(num_classes=10)
    arrays.pop("bn1.bias")
    arrays["extra"] = np.zeros(3)
    report = keras_nam.load_weights(model, arrays, strict=False)
    assert report.missing == ["bn1.bias"]
    assert report.unexpected == ["extra"]
    assert report.mismatched == [
        ("fc.weight", (100, 64), (10, 64)),
        ("fc.bias", (100,), (10,)),
    ]
    assert len(report.loaded) == len(model.weights) - 3
    for variable in model.weights:
        kept = variable.path in ("stem_bn/beta", "logits/kernel", "logits/bias")
        value = keras.ops.convert_to_numpy(variable)
        assert np.array_equal(value, before[variable.path]) == kept, variable.path


def test_not_strict_still_refuses_what_fits_nowhere(model):
    with pytest.raises(ValueError, match="0 fit"):
        keras_nam.load_weights(model, {"weight": np.zeros(3)}, strict=False)


def test_half_precision_is_exact_and_double_rounds(model):
    bfloat16 = keras.ops.convert_to_numpy(keras.ops.zeros(1, "bfloat16")).dtype
    arrays = tiny_checkpoint()
    for dtype in (np.float16, bfloat16, np.float64):
        typed = {key: array.astype(dtype) for key, array in arrays.items()}
        keras_nam.load_weights(model, typed)
        expected = arrays["fc.bias"].astype(dtype).astype(np.float32)
        np.testing.assert_array_equal(model.get_layer("logits").bias, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_what_is_not_finite_loads_with_a_warning(model, value):
    arrays = {key: array.astype(np.float64) for key, array in tiny_checkpoint().items()}
    arrays["fc.bias"][3] = value
    with pytest.warns(UserWarning, match=r"NaN or infinite numbers: 1 weights \(logits/bias\)"):
        keras_nam.load_weights(model, arrays)
    assert not np.isfinite(keras.ops.convert_to_numpy(model.get_layer("logits").bias)[3])


@pytest.mark.parametrize("function", [keras_nam.load_weights, keras_nam.to_torch_state_dict])
def test_unknown_format_lists_them(model, function):
    arguments = [{}] if function is keras_nam.load_weights else []
    with pytest.raises(ValueError, match=r"weiaicunzai.*timm"):
        function(model, *arguments, format="timm")


def test_a_network_of_another_make_is_refused():
    inputs = keras.Input((8, 8, 3))
    other = keras.Model(inputs, keras.layers.Conv2D(4, 3, name="mine")(inputs))
    with pytest.raises(ValueError, match=r"'mine/kernel'.*create_model"):
        keras_nam.to_torch_state_dict(other)


def test_weights_under_mixed_precision_and_a_compiled_model():
    """The variables are float32 under a mixed policy, and an optimizer's are not the model's."""
    arrays = tiny_checkpoint()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = keras_nam.create_model("r18w8_nam")
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile("sgd", "mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    assert keras_nam.load_weights(model, arrays).fits
    back = keras_nam.to_torch_state_dict(model)
    assert back.keys() == arrays.keys()
    assert all(np.array_equal(back[key], arrays[key]) for key in arrays)
