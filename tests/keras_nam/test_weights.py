"""Checkpoints as dictionaries: names, layouts, reports, and what a failed load leaves."""

import pickle
import re

import keras
import numpy as np
import pytest
from golden_weights import GOLDEN, weights_for

import keras_nam

TORCH = np.load(GOLDEN / "resnet_torch.npz")
PADDLE = np.load(GOLDEN / "resnet_paddle.npz")
CASES = [
    *[(TORCH, "", tag.removesuffix("/keys")) for tag in TORCH.files if tag.endswith("/keys")],
    *[(PADDLE, "paddle/", tag.removesuffix("/keys")) for tag in PADDLE.files if "/keys" in tag],
]
ATTENTIONS = ("", "_nam", "_nam_spatial", "_nam_full", "_se", "_cbam", "_bam", "_eca")
ARCHS = [*(f"r18w8{a}" for a in ATTENTIONS), *(f"mbv2w8{a}" for a in ATTENTIONS), "r50w8_nam_full"]


def values_of(model):
    return [keras.ops.convert_to_numpy(variable) for variable in model.weights]


def randomize(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(rng.normal(size=variable.shape))
    return values_of(model)


def assert_equal(model, values):
    for variable, ours, value in zip(model.weights, values_of(model), values, strict=True):
        np.testing.assert_array_equal(ours, value, err_msg=variable.path)


def tiny_checkpoint(arch="r18w8_nam", **options):
    model = keras_nam.create_model(arch, **options)
    randomize(model, seed=1)
    return keras_nam.to_torch_state_dict(model)


@pytest.fixture
def model():
    model = keras_nam.create_model("r18w8_nam")
    randomize(model)
    return model


@pytest.mark.parametrize(("file", "salt", "tag"), CASES, ids=[s + t for _, s, t in CASES])
def test_golden_logits_and_keys(file, salt, tag):
    """The reference implementations' logits, within 5e-6 of the largest; and the way back."""
    model = keras_nam.create_model(tag.removesuffix("_none"))
    weights = weights_for(file[f"{tag}/keys"], salt)
    report = keras_nam.load_weights(model, weights)
    assert report.format == ("paddle" if salt else "official")
    assert report.fits

    expected = file[f"{tag}/logits"]
    logits = keras.ops.convert_to_numpy(model(file["x"].transpose(0, 2, 3, 1)))
    assert np.abs(logits - expected).max() < 5e-6 * np.abs(expected).max()

    back = (keras_nam.to_paddle_state_dict if salt else keras_nam.to_torch_state_dict)(model)
    assert back.keys() == weights.keys()
    for key, value in weights.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


@pytest.mark.parametrize("arch", ARCHS)
def test_round_trip_is_bit_equal_in_every_format(arch):
    source, target = keras_nam.create_model(arch), keras_nam.create_model(arch)
    values = randomize(source)
    for format in ("official", "weiaicunzai", "torchvision", "paddle"):
        if format == "paddle":
            arrays = keras_nam.to_paddle_state_dict(source)
        else:
            arrays = keras_nam.to_torch_state_dict(source, format)
        assert all(array.flags.c_contiguous for array in arrays.values())
        randomize(target, seed=2)
        keras_nam.load_weights(target, arrays)
        assert_equal(target, values)


def test_the_format_may_be_named(model):
    arrays = keras_nam.to_torch_state_dict(model, "weiaicunzai")
    assert keras_nam.load_weights(model, arrays, format="weiaicunzai").fits
    with pytest.raises(ValueError, match=r"missing \(conv1.weight"):
        keras_nam.load_weights(model, arrays, format="torchvision")


def test_paddle_checkpoint_of_a_layer():
    layer = keras_nam.NAMChannelAttention()
    layer.build((None, 4, 4, 16))
    report = keras_nam.load_weights(layer, GOLDEN / "channel_att_16.pdparams")
    assert report.format == "paddle"
    # Read by Python's own unpickler, which this trusted file may have.
    arrays = pickle.loads((GOLDEN / "channel_att_16.pdparams").read_bytes())
    for name, variable in (
        ("weight", layer.gamma),
        ("bias", layer.beta),
        ("_mean", layer.moving_mean),
        ("_variance", layer.moving_variance),
    ):
        np.testing.assert_array_equal(variable, arrays[f"bn2.{name}"])


@pytest.mark.parametrize(
    "layer",
    [
        keras_nam.NAM(spatial=True),
        keras_nam.NAMSpatialAttention(),
        keras_nam.CBAM(),
        keras_nam.BAM(),
        keras_nam.ECA(),
        keras_nam.SqueezeExcite(),
    ],
    ids=lambda layer: layer.name,
)
def test_layers_round_trip(layer):
    layer.build((None, 4, 4, 32))
    values = randomize(layer)
    for arrays in (keras_nam.to_torch_state_dict(layer), keras_nam.to_paddle_state_dict(layer)):
        randomize(layer, seed=1)
        keras_nam.load_weights(layer, arrays)
        assert_equal(layer, values)


def test_a_layer_that_is_not_built_is_refused():
    with pytest.raises(ValueError, match="build it"):
        keras_nam.load_weights(keras_nam.NAMChannelAttention(), GOLDEN / "channel_att_16.pdparams")


def test_torchvision_layout_into_the_imagenet_stem():
    """torchvision's resnet50: its keys' number and some of its shapes, with random weights."""
    model = keras_nam.create_model("r50", 1000, input_shape=(64, 64, 3), stem="imagenet")
    values = randomize(model)
    arrays = keras_nam.to_torch_state_dict(model, "torchvision")
    assert len(arrays) == 320
    assert arrays["conv1.weight"].shape == (64, 3, 7, 7)
    assert arrays["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    assert arrays["layer4.2.conv3.weight"].shape == (2048, 512, 1, 1)
    assert arrays["layer3.5.bn3.running_var"].shape == (1024,)
    assert arrays["fc.weight"].shape == (1000, 2048)
    randomize(model, seed=1)
    keras_nam.load_weights(model, arrays, format="torchvision")
    assert_equal(model, values)


def test_weiaicunzai_names_and_shapes():
    """Those of pytorch-cifar100's models/resnet.py and models/mobilenetv2.py."""
    resnet = keras_nam.to_torch_state_dict(keras_nam.create_model("r50w8_nam"), "weiaicunzai")
    for key, shape in {
        "conv1.0.weight": (8, 3, 3, 3),
        "conv1.1.running_mean": (8,),
        "conv2_x.0.residual_function.3.weight": (8, 8, 3, 3),
        "conv2_x.0.residual_function.7.num_batches_tracked": (),
        "conv2_x.0.shortcut.1.bias": (32,),
        "conv5_x.2.residual_function.6.weight": (256, 64, 1, 1),
        "conv5_x.2.nam.Channel_Att.bn2.weight": (256,),
        "fc.weight": (100, 256),
    }.items():
        assert resnet[key].shape == shape
    mobilenet = keras_nam.to_torch_state_dict(keras_nam.create_model("mbv2"), "weiaicunzai")
    for key, shape in {
        "pre.0.weight": (32, 3, 1, 1),
        "stage1.residual.3.weight": (32, 1, 3, 3),
        "stage1.residual.6.bias": (16,),
        "stage2.1.residual.4.running_var": (144,),
        "stage7.residual.0.weight": (960, 160, 1, 1),
        "conv1.0.weight": (1280, 320, 1, 1),
        "conv2.weight": (100, 1280, 1, 1),
    }.items():
        assert mobilenet[key].shape == shape


@pytest.mark.parametrize("name", ["attention", "residual_function.6", "nam.inner", None])
def test_any_module_may_hold_the_nam_of_a_block(model, name):
    arrays = keras_nam.to_torch_state_dict(model, "weiaicunzai")
    values = randomize(model, seed=3)
    arrays = {
        re.sub(r"\.nam\.", f".{name}." if name else ".", key): array
        for key, array in keras_nam.to_torch_state_dict(model, "weiaicunzai").items()
    }
    randomize(model, seed=4)
    keras_nam.load_weights(model, arrays)
    assert_equal(model, values)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda arrays: {"state_dict": arrays, "epoch": 3, "optimizer": {"state": {}}},
        lambda arrays: {"net": {f"module.{key}": array for key, array in arrays.items()}},
        lambda arrays: {"model": {"model_state_dict": arrays}, "best": np.float64(0.5)},
        lambda arrays: {f"module._orig_mod.{key}": array for key, array in arrays.items()},
        lambda arrays: {k: a for k, a in arrays.items() if "num_batches" not in k},
    ],
    ids=["state_dict", "net-module", "nested", "compiled", "no-counters"],
)
def test_wrappers_prefixes_and_baggage(model, wrap):
    values = values_of(model)
    arrays = keras_nam.to_torch_state_dict(model)
    randomize(model, seed=1)
    assert keras_nam.load_weights(model, wrap(arrays)).fits
    assert_equal(model, values)


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
        r".*create_model\('r18w8_nam', num_classes=10\)",
    ),
    "dtype": (with_integers, "fc.bias is not of a floating-point type.*int64"),
    "huge": (
        lambda a: a.update({"fc.bias": np.broadcast_to(np.float32(0), (1 << 40,))}),
        "fc.bias .*1099511627776",
    ),
    "empty": (lambda a: a.clear(), "No array"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_failed_load_leaves_the_model_untouched(model, name):
    change, message = BROKEN[name]
    values = values_of(model)
    with pytest.raises(ValueError, match=message) as error:
        keras_nam.load_weights(model, broken(change))
    assert "\n" not in str(error.value)
    assert_equal(model, values)


@pytest.mark.parametrize(
    ("tag", "fitting"),
    [
        ("r50_cbam", "'r50_cbam', num_classes=100"),
        ("r34_nam", "'r34_nam', num_classes=100"),
        ("r18_bam", "'r18_bam', num_classes=100"),
        ("r18_none", "'r18', num_classes=100"),
    ],
)
def test_wrong_arch_names_the_one_that_fits(model, tag, fitting):
    with pytest.raises(ValueError, match=re.escape(f"It fits create_model({fitting}) best.")):
        keras_nam.load_weights(model, weights_for(TORCH[f"{tag}/keys"]))


@pytest.mark.parametrize(
    ("arch", "options", "fitting"),
    [
        ("mbv2w16_nam_full", {}, "'mbv2w16_nam_full', num_classes=100"),
        ("r101w8_eca", {"num_classes": 7}, "'r101w8_eca', num_classes=7"),
        ("r18w8", {"stem": "imagenet"}, "'r18w8', num_classes=100, stem='imagenet'"),
    ],
)
def test_the_arch_that_fits_has_its_width_classes_and_stem(model, arch, options, fitting):
    arrays = keras_nam.to_torch_state_dict(keras_nam.create_model(arch, **options), "weiaicunzai")
    with pytest.raises(ValueError, match=re.escape(f"create_model({fitting})")):
        keras_nam.load_weights(model, arrays)


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
