"""The table of architectures: counts, shapes, names, and that the networks learn."""

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
from tests.support.backends import BACKEND, arrays
from tests.support.networks.small_models import created_under

ROOT = Path(__file__).parents[2]
# Each backbone and each attention once. r101 and r152 differ from r50 in the number of blocks only.
BUILT = ["r18w8", "r34w8_nam", "r50w8_se", "mbv2_cbam"]
BUILT += [f"r18w8_{attention}" for attention in ATTENTIONS]
BUILT += [pytest.param(arch, marks=pytest.mark.slow) for arch in ("r101w4_nam", "r152w4_eca")]


def test_parameters_of_r50_nam_are_the_references():
    model = keras_nam.create_model("r50_nam")
    assert model.count_params() == 23_818_788
    assert sum(math.prod(v.shape) for v in model.trainable_variables) == 23_735_460
    # Each convolution's normalization leaves a bias, and a gate keeps two of its four numbers.
    assert keras_nam.fold(model).count_params() == 23_708_900
    names = [layer.name for layer in model.layers]
    assert [name.removeprefix("stage2_block1_") for name in names if "stage2_block1_" in name] == [
        *("conv1", "bn1", "relu1", "conv2_pad", "conv2", "bn2", "relu2", "conv3", "bn3"),
        *("shortcut_conv", "nam", "shortcut_bn", "add", "relu"),
    ]


def test_every_arch_of_the_table_is_listed():
    archs = keras_nam.list_archs()
    assert len(archs) == len(set(archs)) == len(BACKBONES) * (len(ATTENTIONS) + 1)
    assert {"r50_nam", "r18", "r101_cbam", "mbv2_nam", "r152_eca"} <= set(archs)
    assert parse_arch("r18w16_nam_full") == ("r18", 16, "nam_full")


@pytest.mark.parametrize("arch", BUILT)
def test_builds(arch):
    model = keras_nam.create_model(arch, num_classes=7)
    assert (model.name, model.output_shape) == (arch, (None, 7))
    _, _, attention = parse_arch(arch)
    names = [layer.name for layer in model.layers]
    gates = [name for name in names if name.endswith(f"_{attention}")]
    if attention == "bam":
        assert gates == ["stage1_bam", "stage2_bam", "stage3_bam"]
    elif attention:
        assert len(gates) == sum(name.endswith("_conv2") for name in names)  # one per block


@pytest.mark.parametrize(
    "arch", ["r18w16_nam", pytest.param("mbv2w16_nam_full", marks=pytest.mark.slow)]
)
def test_fit_lowers_the_loss_of_a_repeated_batch(arch):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype("float32")
    y = np.arange(8) % 4
    model = keras_nam.create_model(arch, num_classes=4, input_shape=(16, 16, 3))
    model.compile(
        keras.optimizers.SGD(0.02),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=BACKEND != "jax",  # which compiles each operation by itself
    )
    before = model.train_on_batch(x, y)
    # With so many layers and 8 images, the first step may be too long.
    assert any(model.train_on_batch(x, y) < before for _ in range(3))


@pytest.mark.parametrize(
    ("arch", "stem", "sizes"),
    [
        ("r18w8", "cifar", {"stem_relu": 64, "stage1_block1_relu": 64, "stage4_block2_relu": 8}),
        ("r18w8", "imagenet", {"stem_relu": 32, "stage1_block1_relu": 16, "stage4_block2_relu": 2}),
        ("mbv2w8", "cifar", {"stem_relu": 66, "stage2_block1_bn3": 33, "head_relu": 9}),
        ("mbv2w8", "imagenet", {"stem_relu": 32, "stage2_block1_bn3": 16, "head_relu": 2}),
    ],
)
def test_stems(arch, stem, sizes):
    model = keras_nam.create_model(arch, input_shape=(64, 64, 3), stem=stem)
    for name, size in sizes.items():
        assert model.get_layer(name).output.shape[1:3] == (size, size)


def test_the_default_shape_is_in_keras_data_format():
    with created_under(data_format="channels_first"):
        assert keras_nam.create_model("r18w8").input_shape == (None, 3, 32, 32)


def test_the_places_and_options_of_the_gates():
    penalty = keras.regularizers.L1(0.01)
    model = keras_nam.create_model("r18w8_nam", gate_gradient=False, gamma_regularizer=penalty)
    gate = model.get_layer("stage1_block1_nam")
    assert gate.input is model.get_layer("stage1_block1_bn2").output
    assert gate.output is model.get_layer("stage1_block1_add").input[0]
    assert gate.gate_gradient is False
    assert len(model.losses) == 8  # one penalty per block
    json.dumps(model.get_config())
    # As PyTorch pads a strided 3x3 convolution.
    assert model.get_layer("stage2_block1_conv1").padding == "valid"
    assert model.get_layer("stage2_block1_conv1_pad").padding == ((1, 1), (1, 1))


def test_a_new_process_loads_a_keras_file(tmp_path):
    """`import keras_nam` alone registers the layers."""
    model = keras_nam.create_model("r18w8_nam_full", num_classes=5)
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3))
    np.save(tmp_path / "x.npy", x)
    code = (
        f"import os, keras, keras_nam, numpy as np; os.chdir({str(tmp_path)!r}); "
        "model = keras.saving.load_model('model.keras'); "
        "np.save('y.npy', keras.ops.convert_to_numpy(model(np.load('x.npy'))))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stderr[-2000:]
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), *arrays(model(x)))


def test_logits_are_float32_under_mixed_precision():
    with created_under(policy="mixed_float16"):
        model = keras_nam.create_model("r18w8_nam")
    assert model.output.dtype == "float32"
    assert model.get_layer("stage1_block1_nam").compute_dtype == "float16"


@pytest.mark.parametrize(
    "arch", ["r50_namm", "r51", "r18w0", "r18w8w8", "resnet50", "", None, "r18_"]
)
def test_unknown_archs_are_refused_with_the_nearest_one(arch):
    nearest = "'r50_nam'" if arch == "r50_namm" else ""
    with pytest.raises(ValueError, match=f"Received: .*Did you mean {nearest}"):
        keras_nam.create_model(arch)


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


@pytest.mark.parametrize("arch", ["r18w8_nam", "mbv2w8"])
@pytest.mark.parametrize("suffix", ["npz", "keras"])
def test_features_without_a_classifier(tmp_path, arch, suffix):
    """They take a whole network's weights, and are what its pooling and classifier take."""
    whole = keras_nam.create_model(arch, num_classes=3)
    features = keras_nam.create_model(arch, include_top=False)
    path = tmp_path / f"weights.{suffix}"
    if suffix == "keras":
        whole.save(path)
    else:
        np.savez(path, **keras_nam.to_torch_state_dict(whole))
    report = keras_nam.load_weights(features, path, strict=False)
    assert (report.missing, report.mismatched) == ([], [])
    assert len(report.unexpected) == 2
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    found, classifier = features(images), whole.get_layer("logits")
    assert features.output_shape == whole.get_layer("pool").input.shape
    ours, theirs = arrays([classifier(keras.ops.mean(found, (1, 2))), whole(images)])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
