"""Checkpoints as dictionaries: the reference networks, names, layouts, round trips."""

import pickle
import re

import keras
import numpy as np
import pytest

import keras_nam
from tests.support.golden_weights import GOLDEN, weights_for
from tests.support.small_models import assert_equal, randomize, values_of

TORCH = np.load(GOLDEN / "resnet_torch.npz")
PADDLE = np.load(GOLDEN / "resnet_paddle.npz")
CASES = [
    *[(TORCH, "", tag.removesuffix("/keys")) for tag in TORCH.files if tag.endswith("/keys")],
    *[(PADDLE, "paddle/", tag.removesuffix("/keys")) for tag in PADDLE.files if "/keys" in tag],
]
ATTENTIONS = ("", "_nam", "_nam_spatial", "_nam_full", "_se", "_cbam", "_bam", "_eca")
ARCHS = [*(f"r18w8{a}" for a in ATTENTIONS), *(f"mbv2w8{a}" for a in ATTENTIONS), "r50w8_nam_full"]


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
