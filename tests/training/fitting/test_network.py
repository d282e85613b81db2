"""The network that a training builds: what a recipe sets of it, its first weights, its dtypes."""

import keras
import numpy as np
import pytest

import keras_nam
from keras_nam.gates import gates_of
from training import recipes
from training.fitting import network
from training.jobs import Job

SIZE = (32, 32)


def built(arch="r18w4_nam", seed=0, stem="cifar", **settings):
    return network.initial_model(
        Job(arch, "fast", recipes.get("fast", **settings), stem, seed=seed, image_size=SIZE), 10
    )


def kernels(model):
    return {v.path: np.asarray(v) for v in model.trainable_variables if v.path.endswith("kernel")}


@pytest.mark.parametrize("arch", ["r18w4_nam", "r18w4_nam_full"])
def test_a_recipes_settings_of_the_gates_reach_them(arch):
    for gate in gates_of(built(arch)):
        assert (gate.gate_gradient, gate.weighting, gate.gamma_regularizer) == (True, "sum", None)
    model = built(arch, gate_gradient=False, weighting="max", gain=2.0, gamma_penalty=0.25)
    assert gates_of(model)
    for gate in gates_of(model):
        assert (gate.gate_gradient, gate.weighting, gate.gain) == (False, "max", 2)
        assert float(gate.gamma_regularizer(np.float32([-2, 1]))) == pytest.approx(0.75)


def test_the_stem_is_the_one_that_was_asked_for():
    assert built(stem="imagenet").get_layer("stem_conv").kernel_size == (7, 7)
    assert built().get_layer("stem_conv").kernel_size == (3, 3)


def test_the_loss_smooths_the_labels_and_the_metrics_count_to_1_and_5():
    recipe = recipes.get("fast", label_smoothing=0.3)
    job = Job(
        "r18w4", "fast", recipe, "cifar", image_size=SIZE, steps_per_epoch=2, precision="float32"
    )
    model = network.compiled_model(job, 10)
    assert not model.jit_compile
    logits = np.random.default_rng(0).normal(size=(40, 10)).astype("float32")
    labels = np.eye(10, dtype="float32")[np.arange(40) % 10]
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    smoothed = 0.7 * labels + 0.03
    loss = float(model.compute_loss(y=labels, y_pred=logits))
    assert loss == pytest.approx(-(smoothed * log_softmax).sum(1).mean(), rel=1e-5)
    ranks = (logits > logits[labels == 1][:, None]).sum(1)
    found = {k: float(v) for k, v in model.compute_metrics(None, labels, logits).items()}
    assert found["top1"] == pytest.approx((ranks < 1).mean())
    assert found["top5"] == pytest.approx((ranks < 5).mean())


def test_the_first_weights_are_the_seeds_and_the_layers():
    """Those of one seed are the same whatever was drawn before, and with another attention."""
    keras.utils.set_random_seed(1)
    plain = kernels(built("r18w4", seed=3))
    assert len(plain) > 15
    for arch in ("r18w4_nam", "r18w4_bam"):
        gated = kernels(built(arch, seed=3))
        for path, kernel in plain.items():
            np.testing.assert_array_equal(kernel, gated[path])
    for path, kernel in kernels(built("r18w4", seed=4)).items():
        assert np.abs(kernel - plain[path]).max() > 0.01
    values = [kernel.ravel()[0] for kernel in plain.values()]
    assert len(set(values)) == len(values)  # no two layers draw the same


def test_the_first_weights_have_the_initializers_distribution():
    """The same deviation and bounds as Keras' own draws, kernel by kernel."""
    keras.utils.set_random_seed(0)
    theirs = kernels(keras_nam.create_model("mbv2w16_nam", 10))
    ours = kernels(built("mbv2w16_nam"))
    assert ours.keys() == theirs.keys()
    for path in [path for path, kernel in theirs.items() if kernel.size > 2000]:
        assert ours[path].std() == pytest.approx(theirs[path].std(), rel=0.06)
        assert np.abs(ours[path]).max() == pytest.approx(np.abs(theirs[path]).max(), rel=0.02)
        assert abs(ours[path].mean()) < 0.1 * theirs[path].std()


def test_float32_copy_of_a_mixed_model_computes_in_float32():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras_nam.create_model("r18w8_nam_full")
    finally:
        keras.config.set_dtype_policy("float32")
    copy = network.with_dtype(model, "float32")
    assert {layer.compute_dtype for layer in copy._flatten_layers()} == {"float32"}
    for ours, theirs in zip(copy.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
