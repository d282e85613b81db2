"""The table of architectures: counts, shapes, names, and that each of them learns."""

import json
import math
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_nam
from keras_nam.attention import ATTENTIONS
from keras_nam.models import BACKBONES, parse_arch
from tests.support.backends import arrays

ROOT = Path(__file__).parents[2]
# The deep ones differ from r50 in the number of blocks only; their width is cut to be quick.
NARROW = {"r18": "r18w8", "r34": "r34w8", "r50": "r50w8", "r101": "r101w4", "r152": "r152w4"}
QUICK = [
    f"{backbone}{suffix}"
    for backbone in ("r18w8", "r50w8", "mbv2w8")
    for suffix in ["", *(f"_{attention}" for attention in ATTENTIONS)]
] + ["r34w8_nam", "r101w4_nam", "r152w4_nam"]


def parameters(variables):
    return sum(math.prod(variable.shape) for variable in variables)


def test_parameters_of_r50_nam_are_the_references():
    model = keras_nam.create_model("r50_nam")
    assert model.count_params() == 23_818_788
    assert parameters(model.trainable_variables) == 23_735_460


def test_every_arch_of_the_table_is_listed():
    archs = keras_nam.list_archs()
    assert len(archs) == len(set(archs)) == len(BACKBONES) * (len(ATTENTIONS) + 1)
    assert {"r50_nam", "r18", "r101_cbam", "mbv2_nam", "r152_eca"} <= set(archs)
    assert parse_arch("r18w16_nam_full") == ("r18", 16, "nam_full")


@pytest.mark.parametrize("arch", keras_nam.list_archs())
def test_every_arch_builds(arch):
    backbone, _, attention = parse_arch(arch)
    narrow = NARROW.get(backbone, backbone) + (f"_{attention}" if attention else "")
    model = keras_nam.create_model(narrow, num_classes=7)
    assert model.output_shape == (None, 7)
    assert model.name == narrow


@pytest.mark.parametrize("arch", QUICK)
def test_fit_lowers_the_loss_of_a_repeated_batch(arch):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 16, 16, 3)).astype("float32")
    y = np.arange(8) % 4
    model = keras_nam.create_model(arch, num_classes=4, input_shape=(16, 16, 3))
    model.compile(
        keras.optimizers.SGD(0.02),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=True,
    )
    before = model.train_on_batch(x, y)
    # Of a hundred layers and 8 images, the first step may go too far.
    assert any(model.train_on_batch(x, y) < before for _ in range(3))


@pytest.mark.parametrize(
    ("arch", "stem", "sizes"),
    [
        ("r18w8", "cifar", {"stem_relu": 64, "stage1_block1_relu": 64, "stage4_block2_relu": 8}),
        ("r18w8", "imagenet", {"stem_relu": 32, "stage1_block1_relu": 16, "stage4_block2_relu": 2}),
        ("mbv2", "cifar", {"stem_relu": 66, "stage2_block1_bn3": 33, "head_relu": 9}),
        ("mbv2", "imagenet", {"stem_relu": 32, "stage2_block1_bn3": 16, "head_relu": 2}),
    ],
)
def test_stems(arch, stem, sizes):
    model = keras_nam.create_model(arch, input_shape=(64, 64, 3), stem=stem)
    for name, size in sizes.items():
        assert model.get_layer(name).output.shape[1:3] == (size, size)


def test_strided_convolutions_pad_as_pytorch_does():
    """The first output of a strided 3x3 convolution sees the padding; SAME would not have it."""
    model = keras_nam.create_model("r18w8")
    layer = model.get_layer("stage2_block1_conv1")
    assert layer.padding == "valid"
    assert model.get_layer("stage2_block1_conv1_pad").padding == ((1, 1), (1, 1))


def test_layer_names_are_stable():
    names = [layer.name for layer in keras_nam.create_model("r50_nam").layers]
    block = [name for name in names if name.startswith("stage2_block1_")]
    assert block == [
        "stage2_block1_conv1",
        "stage2_block1_bn1",
        "stage2_block1_relu1",
        "stage2_block1_conv2_pad",
        "stage2_block1_conv2",
        "stage2_block1_bn2",
        "stage2_block1_relu2",
        "stage2_block1_conv3",
        "stage2_block1_bn3",
        "stage2_block1_shortcut_conv",
        "stage2_block1_nam",
        "stage2_block1_shortcut_bn",
        "stage2_block1_add",
        "stage2_block1_relu",
    ]


def test_attention_stands_before_the_residual_sum():
    model = keras_nam.create_model("r18w8_nam")
    gate = model.get_layer("stage1_block1_nam")
    assert gate.input is model.get_layer("stage1_block1_bn2").output
    assert gate.output is model.get_layer("stage1_block1_add").input[0]


def test_bam_stands_before_each_strided_stage():
    names = {layer.name for layer in keras_nam.create_model("r18w8_bam").layers}
    assert {name for name in names if name.endswith("_bam")} == {
        "stage1_bam",
        "stage2_bam",
        "stage3_bam",
    }


def test_attention_options_reach_the_layer():
    penalty = keras.regularizers.L1(0.01)
    model = keras_nam.create_model("r18w8_nam", gate_gradient=False, gamma_regularizer=penalty)
    gate = model.get_layer("stage4_block2_nam")
    assert gate.gate_gradient is False
    assert len(model.losses) == 8  # a penalty for each of the eight blocks, and no other


def test_keras_file_round_trip(tmp_path):
    model = keras_nam.create_model("r18w8_nam_full", num_classes=5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3))
    np.testing.assert_array_equal(*arrays([loaded(x), model(x)]))


def test_import_alone_registers_the_layers(tmp_path):
    """In a process that has named no layer: a lazy package would not find the classes."""
    keras_nam.create_model("r18w8_nam_full").save(tmp_path / "model.keras")
    code = f"import keras, keras_nam; keras.saving.load_model({str(tmp_path / 'model.keras')!r})"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stderr[-2000:]


def test_logits_are_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras_nam.create_model("r18w8_nam")
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.output.dtype == "float32"
    assert model.get_layer("stage1_block1_nam").compute_dtype == "float16"


@pytest.mark.parametrize(
    "arch", ["r50_namm", "r51", "r18w0", "r18w8w8", "resnet50", "", None, "r18_"]
)
def test_unknown_archs_are_refused(arch):
    with pytest.raises(ValueError, match=r"Unknown arch. Received: .*Did you mean"):
        keras_nam.create_model(arch)


def test_nearest_match():
    with pytest.raises(ValueError, match="Did you mean 'r50_nam'"):
        keras_nam.create_model("r50_namm")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "cifra"}, "Received: stem='cifra'"),
        ({"gate_gradient": False}, "has no attention"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        keras_nam.create_model("r18w8", **options)


def test_config_is_json():
    json.dumps(keras_nam.create_model("r18w8_nam").get_config())
