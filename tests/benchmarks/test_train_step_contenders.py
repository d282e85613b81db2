"""The contenders of the training step: one network and task, and the floor."""

from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_nam
from benchmarks import train_step
from benchmarks import train_step_contenders as contenders
from export.runtime import devices
from training.cli import InputError
from training.runs import files

BATCH = 8


def small_network(arch, num_classes=100):
    """Stands in for `create_model`: a network of two blocks."""
    images = x = keras.Input((32, 32, 3))
    for _ in range(2):
        x = keras.layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)
        x = keras_nam.BatchNormalization()(x)
        if arch.endswith("_nam"):
            x = keras_nam.NAMChannelAttention()(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(num_classes)(x))


@pytest.fixture(scope="module")
def opened():
    """The contenders without PyTorch, and what was left out; each has made its first step."""

    def torch_step(model, task, compiled):
        if not compiled:
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

        def step():
            raise RuntimeError("backend='inductor' raised:\nNo working C++ compiler found")

        return step, {}

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(contenders, "torch_step", torch_step)
        monkeypatch.setattr(contenders, "LEARNING_RATE", 0.1)
        monkeypatch.setattr(keras_nam, "create_model", small_network)
        return contenders.open_contenders(contenders.new_task("r18_nam", BATCH, "CPU", 1))


def test_stock_and_ported_train_as_ours(opened):
    of = {contender.name: contender for contender in opened[0]}
    losses = {
        name: [of[name].first_loss, *(of[name].step() for _ in range(3))]
        for name in ("ours", "stock Keras BN", "official, ported")
    }
    # The loss falls by more than 1e-3 of itself in these steps: another gradient would show.
    assert losses["ours"][3] < losses["ours"][0] * (1 - 1e-3)
    for name in ("stock Keras BN", "official, ported"):
        # Float32 rounding is 6e-8; through the layers 5e-7 was measured.
        np.testing.assert_allclose(losses[name], losses["ours"], rtol=5e-6)


def test_the_command_writes_its_report(opened, monkeypatch, tmp_path):
    prepared = []
    monkeypatch.setattr(devices, "prepare_tensorflow", lambda *args: prepared.append(args))
    monkeypatch.setattr(contenders, "open_contenders", lambda task: opened)
    monkeypatch.setattr(train_step, "peak_memory", lambda *args: None)
    monkeypatch.setattr(keras_nam, "create_model", small_network)
    arguments = ["--arch", "r18_nam", "--batch-size", str(BATCH), "--rounds", "5"]
    train_step.main([*arguments, "--threads", "1", "--output", str(tmp_path)])
    report = files.read_json(tmp_path / "train_step.json")
    assert prepared == [("CPU", 1)]
    names = ["ours", "plain", "stock Keras BN", "official, ported", "floor"]
    assert [row["contender"] for row in report["results"]] == names
    assert report["left_out"]["PyTorch"] == "torch is not installed"
    assert "No working C++ compiler" in report["left_out"]["PyTorch, torch.compile"]
    assert report["command"].startswith("python benchmarks/train_step.py --arch r18_nam")
    # Two convolutions and the logits; the first has no gradient of its inputs.
    flops = 2 * 16**2 * 9 * 3 * 8 * 2 + 2 * 8**2 * 9 * 8 * 8 * 3 + 2 * 8 * 100 * 3
    assert report["floor_flops"] == BATCH * flops
    assert (report["rounds"], report["threads"], report["dtype"]) == (5, 1, "float32")
    assert report["device"] == "CPU"
    assert all(row["first_seconds"] > 0 for row in report["results"])
    assert "Left out: PyTorch: " in (tmp_path / "train_step.md").read_text()


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["eager", "compiled"]
)
def test_pytorch_trains_as_ours(opened, compiled):
    pytest.importorskip("torch")
    task = contenders.new_task("r18w8_nam", BATCH, "CPU", 1)
    model = keras_nam.create_model("r18w8_nam", contenders.CLASSES, gate_gradient=False)
    ours = contenders.of_model("ours", model, task)
    step, settings = contenders.torch_step(model, task, compiled)
    np.testing.assert_allclose(
        [step() for _ in range(3)], [ours.step() for _ in range(3)], rtol=5e-6
    )
    assert settings == {"batch_size": BATCH, "dtype": "float32", "threads": 1}


@pytest.mark.parametrize(
    ("gate", "gate_gradient"), [(contenders.StockGate, True), (contenders.OfficialGate, False)]
)
def test_the_gates_have_the_gradients_of_ours(gate, gate_gradient):
    rng = np.random.default_rng(0)
    x, dy = (tf.constant(rng.normal(size=(2, 4, 4, 6)), "float32") for _ in range(2))
    gammas = rng.uniform(0.5, 2, 6)
    gradients = []
    for layer in (gate(), keras_nam.NAMChannelAttention(gate_gradient=gate_gradient)):
        layer.build(x.shape)
        layer.trainable_variables[0].assign(gammas)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        variables = [variable.value for variable in layer.trainable_variables]
        gradients.append(tape.gradient(y, [x, *variables], output_gradients=dy))
    for theirs, ours in zip(*gradients, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("key", "other"), [("batch_size", 9), ("dtype", "half"), ("threads", 7)])
def test_other_settings_are_refused(opened, key, other):
    first, second, *_ = opened[0]
    contenders.check_alike([first, second])
    changed = second._replace(settings={**second.settings, key: other})
    with pytest.raises(InputError, match=f"plain has {key} {other}, expected"):
        contenders.check_alike([first, changed])


def test_another_first_loss_is_refused():
    ours = contenders.Contender("ours", None, {}, first_loss=4.6)
    contenders.check_alike([ours, ours._replace(first_loss=4.6 * (1 + 5e-5))])
    for factor in (1 - 2e-4, np.nan):
        other = ours._replace(name="other", first_loss=4.6 * factor)
        with pytest.raises(InputError, match="the first loss of other"):
            contenders.check_alike([ours, other])
        contenders.check_alike([ours, other._replace(is_ours=False)])


def test_the_rewritten_network_has_no_normalization_of_ours():
    model = small_network("r18_nam")
    copy = contenders.rewritten(model, contenders.OfficialGate)
    assert not [layer for layer in copy.layers if isinstance(layer, keras_nam.BatchNormalization)]
    gates = [layer for layer in copy.layers if type(layer) is contenders.OfficialGate]
    assert len(gates) == 2
    assert copy.count_params() == model.count_params()
    assert {gate.normalization.momentum for gate in gates} == {0.9}
    assert {gate.normalization.epsilon for gate in gates} == {1e-5}


def executed(graph):
    """Returns the operations that the outputs of a graph depend on; TensorFlow runs no others."""
    found, waiting = set(), [output.op for output in graph.outputs]
    while waiting:
        operation = waiting.pop()
        if operation not in found:
            found.add(operation)
            waiting += [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]
    return found


def test_the_floor_has_all_products_and_their_gradients_and_no_other_work():
    layers = [
        keras.layers.Conv2D(6, 1),
        keras.layers.DepthwiseConv2D(3, strides=2, padding="same"),
        keras.layers.Flatten(),
        keras.layers.Dense(10),
    ]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    # Two operations per multiply-add; the first product has no gradient of its inputs.
    flops = 4 * 8 * 8 * 3 * 6 + 6 * 4 * 4 * 9 * 6 + 6 * 4 * 4 * 6 * 10
    assert contenders.floor_flops(model) == flops
    graph = contenders.floor_step(model, BATCH).get_concrete_function().graph
    ran = Counter(operation.type for operation in executed(graph))
    depthwise = "DepthwiseConv2dNative"
    products = {"Conv2D": 1, "Conv2DBackpropFilter": 1, "MatMul": 3, depthwise: 1}
    products |= {f"{depthwise}BackpropFilter": 1, f"{depthwise}BackpropInput": 1}
    assert {name: ran.pop(name) for name in products} == products
    # Besides: sums of single numbers, constants, reading of variables, the biases.
    assert ran.keys() <= {
        *("StridedSlice", "ReadVariableOp", "AddN", "AddV2", "Reshape", "Identity", "Const"),
        *("Placeholder", "NoOp", "Shape", "ShapeN", "BiasAdd", "Squeeze"),
    }
