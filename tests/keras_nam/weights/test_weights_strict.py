"""Checkpoints that do not fit: the report, an unchanged model, and `strict=False`."""

import keras
import numpy as np
import pytest

import keras_nam
from tests.support.networks.small_models import assert_equal, created_under, values_of
from tests.support.weights.golden_weights import GOLDEN, weights_for

TORCH = np.load(GOLDEN / "resnet_torch.npz")
BROKEN = {
    "missing": ({"bn1.running_mean": None}, r"1 missing \(bn1.running_mean\)"),
    "unexpected": (
        {"layer1.0.conv9.weight": np.zeros(3)},
        r"1 unexpected \(layer1.0.conv9.weight\)",
    ),
    "shape": (
        {"fc.weight": np.zeros((10, 64)), "fc.bias": np.zeros(10)},
        r"2 of another shape \(fc.weight .*\[100, 64\].*\[10, 64\].*strict=False",
    ),
    "dtype": ({"fc.bias": np.zeros(100, np.int64)}, "fc.bias .*floating-point.*int64"),
    "huge": (
        {"fc.bias": np.broadcast_to(np.float32(0), (1 << 40,))},
        "fc.bias .*1099511627776",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_failed_load_leaves_the_model_untouched(model, state, name):
    changes, message = BROKEN[name]
    arrays = {key: array for key, array in (state | changes).items() if array is not None}
    values = values_of(model)
    with pytest.raises(ValueError, match=message) as error:
        keras_nam.load_weights(model, arrays)
    assert "\n" not in str(error.value)
    assert_equal(model, values)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({}, {}, "No dictionary of arrays"),
        (weights_for(TORCH["r18_cbam/keys"]), {}, r"'r18w8_nam'.*unexpected \(layer1.0.cbam"),
        ({"weight": np.zeros(3)}, {"strict": False}, "0 fit"),
        ({}, {"format": "timm"}, "weiaicunzai.*timm"),
    ],
)
def test_refused_checkpoints(model, arrays, options, message):
    with pytest.raises(ValueError, match=message):
        keras_nam.load_weights(model, arrays, **options)


def test_not_strict_loads_what_fits_and_lists_the_rest(model, state):
    before = dict(zip([v.path for v in model.weights], values_of(model), strict=True))
    arrays = state | {"fc.weight": np.zeros((10, 64)), "fc.bias": np.zeros(10)}
    arrays |= {"extra": np.zeros(3)}
    del arrays["bn1.bias"]
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


def test_half_precision_is_exact_and_double_rounds(model, state):
    bfloat16 = keras.ops.convert_to_numpy(keras.ops.zeros(1, "bfloat16")).dtype
    for dtype in (np.float16, bfloat16, np.float64):
        typed = {key: array.astype(dtype) for key, array in state.items()}
        keras_nam.load_weights(model, typed)
        expected = state["fc.bias"].astype(dtype).astype(np.float32)
        np.testing.assert_array_equal(model.get_layer("logits").bias, expected)


@pytest.mark.parametrize("value", [np.nan, 1e300])
def test_non_finite_numbers_load_with_a_warning(model, state, value):
    bias = state["fc.bias"].astype(np.float64)
    bias[3] = value
    with pytest.warns(UserWarning, match=r"NaN or infinite.* \(logits/bias\)"):
        keras_nam.load_weights(model, state | {"fc.bias": bias})
    assert not np.isfinite(keras.ops.convert_to_numpy(model.get_layer("logits").bias)[3])


def test_refused_models_and_formats(model):
    with pytest.raises(ValueError, match=r"weiaicunzai.*timm"):
        keras_nam.to_torch_state_dict(model, format="timm")
    inputs = keras.Input((8, 8, 3))
    other = keras.Model(inputs, keras.layers.Conv2D(4, 3, name="mine")(inputs))
    with pytest.raises(ValueError, match=r"'mine/kernel'.*create_model"):
        keras_nam.to_torch_state_dict(other)
    for of in (keras_nam.to_torch_state_dict, keras_nam.to_paddle_state_dict):
        with pytest.raises(ValueError, match="no weights yet"):
            of(keras_nam.NAM())


def test_weights_under_mixed_precision_and_a_compiled_model(state):
    """The variables are float32 under a mixed policy, and an optimizer's are not the model's."""
    with created_under(policy="mixed_bfloat16"):
        model = keras_nam.create_model("r18w8_nam")
    model.compile("sgd", "mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    assert keras_nam.load_weights(model, state).fits
    back = keras_nam.to_torch_state_dict(model)
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[key], state[key]) for key in state)
