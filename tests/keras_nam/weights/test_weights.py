"""Checkpoints as dictionaries: the reference networks, names, layouts, round trips."""

import pickle
import re

import keras
import numpy as np
import pytest

import keras_nam
from keras_nam.attention import ATTENTIONS
from tests.support.networks.small_models import assert_equal, randomize, values_of
from tests.support.weights.golden_weights import GOLDEN, weights_for

TORCH = np.load(GOLDEN / "resnet_torch.npz")
PADDLE = np.load(GOLDEN / "resnet_paddle.npz")
CASES = [
    *[(TORCH, "", tag.removesuffix("/keys")) for tag in TORCH.files if tag.endswith("/keys")],
    *[(PADDLE, "paddle/", tag.removesuffix("/keys")) for tag in PADDLE.files if "/keys" in tag],
]


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


def assert_round_trips(model, formats=("official", "weiaicunzai", "paddle")):
    values = randomize(model)
    for format in formats:
        if format == "paddle":
            arrays = keras_nam.to_paddle_state_dict(model)
        else:
            arrays = keras_nam.to_torch_state_dict(model, format)
        assert all(array.flags.c_contiguous for array in arrays.values())
        randomize(model, seed=2)
        assert keras_nam.load_weights(model, arrays, format=format).fits
        assert_equal(model, values)
    return arrays


@pytest.mark.parametrize("arch", ["r18w8_nam_full", "r18w8_bam", "mbv2w8_bam"])
def test_networks_round_trip(arch):
    assert_round_trips(keras_nam.create_model(arch))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_layers_round_trip(attention):
    layer = ATTENTIONS[attention].layer()
    with pytest.raises(ValueError, match="build"):
        keras_nam.load_weights(layer, {})
    layer.build((None, 4, 4, 32))
    arrays = assert_round_trips(layer, ["paddle", "official"])
    # SE and ECA are in no golden network: the names are of their authors' code.
    names = {"se": ["fc.0.bias", "fc.0.weight", "fc.2.bias", "fc.2.weight"], "eca": ["conv.weight"]}
    assert sorted(arrays) == names.get(attention, sorted(arrays))


def test_paddle_checkpoint_of_a_layer(layer):
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


PUBLISHED = {
    # torchvision's models/resnet.py
    ("r50w8", "torchvision"): {
        "conv1.weight": (8, 3, 7, 7),
        "layer1.0.downsample.0.weight": (32, 8, 1, 1),
        "layer3.5.bn3.running_var": (128,),
        "fc.weight": (100, 256),
    },
    # pytorch-cifar100's models/resnet.py and models/mobilenetv2.py
    ("r50w8_nam", "weiaicunzai"): {
        "conv1.0.weight": (8, 3, 3, 3),
        "conv1.1.running_mean": (8,),
        "conv2_x.0.residual_function.3.weight": (8, 8, 3, 3),
        "conv2_x.0.residual_function.7.num_batches_tracked": (),
        "conv2_x.0.shortcut.1.bias": (32,),
        "conv5_x.2.residual_function.6.weight": (256, 64, 1, 1),
        "conv5_x.2.nam.Channel_Att.bn2.weight": (256,),
        "fc.weight": (100, 256),
    },
    ("mbv2", "weiaicunzai"): {
        "pre.0.weight": (32, 3, 1, 1),
        "stage1.residual.3.weight": (32, 1, 3, 3),
        "stage1.residual.6.bias": (16,),
        "stage2.1.residual.4.running_var": (144,),
        "stage7.residual.0.weight": (960, 160, 1, 1),
        "conv1.0.weight": (1280, 320, 1, 1),
        "conv2.weight": (100, 1280, 1, 1),
    },
}


@pytest.mark.parametrize(("arch", "format"), PUBLISHED)
def test_published_names_and_shapes(arch, format):
    is_torchvision = format == "torchvision"
    options = {"input_shape": (64, 64, 3), "stem": "imagenet"} if is_torchvision else {}
    arrays = assert_round_trips(keras_nam.create_model(arch, **options), [format])
    for key, shape in PUBLISHED[arch, format].items():
        assert arrays[key].shape == shape
    assert len(arrays) == 320 or not is_torchvision


def test_a_format_of_other_names_does_not_fit(model):
    arrays = keras_nam.to_torch_state_dict(model, "weiaicunzai")
    with pytest.raises(ValueError, match=r"missing \(conv1.weight"):
        keras_nam.load_weights(model, arrays, format="torchvision")


@pytest.mark.parametrize("name", [".attention.", ".residual_function.6.", ".nam.inner.", "."])
def test_any_module_may_hold_the_nam_of_a_block(model, name):
    values = values_of(model)
    arrays = keras_nam.to_torch_state_dict(model, "weiaicunzai")
    randomize(model, seed=4)
    keras_nam.load_weights(model, {re.sub(r"\.nam\.", name, k): a for k, a in arrays.items()})
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
def test_wrappers_and_prefixes(model, wrap):
    values = values_of(model)
    arrays = keras_nam.to_torch_state_dict(model)
    randomize(model, seed=1)
    assert keras_nam.load_weights(model, wrap(arrays)).fits
    assert_equal(model, values)
