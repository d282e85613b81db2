"""The contenders of the training step: the same network and task, the floor, the profile."""

import builtins
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

import keras_nam
from benchmarks import train_step, train_step_floor, train_step_networks, train_step_profile
from benchmarks import train_step_contenders as contenders
from benchmarks import train_step_report as report
from training import runs
from training.cli import InputError

BATCH = 8


@pytest.fixture(scope="module")
def task():
    return contenders.new_task("r18w8_nam", BATCH, "CPU", 1)


@pytest.fixture(scope="module")
def model():
    # The official block stops the gradient through its weights.
    return keras_nam.create_model("r18w8_nam", contenders.CLASSES, gate_gradient=False)


@pytest.fixture(scope="module")
def opened(task):
    """The contenders without PyTorch, and what was left out."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        original = builtins.__import__

        def without_torch(name, *args, **options):
            if name == "torch":
                raise ModuleNotFoundError("No module named 'torch'", name="torch")
            return original(name, *args, **options)

        monkeypatch.setattr(builtins, "__import__", without_torch)
        return contenders.open_contenders(task)


def test_stock_and_ported_train_as_ours(opened):
    of = {contender.name: contender for contender in opened[0]}
    losses = {
        name: [of[name].step() for _ in range(4)]
        for name in ("ours", "stock Keras BN", "official, ported")
    }
    # The loss falls by more than 1e-4 of itself in these steps: another gradient would show.
    assert losses["ours"][3] < losses["ours"][0] * (1 - 1e-4)
    for name in ("stock Keras BN", "official, ported"):
        # Float32 has 6e-8; through the layers 5e-7 was seen.
        np.testing.assert_allclose(losses[name], losses["ours"], rtol=5e-6)


def test_the_command_leaves_its_report(opened, monkeypatch, tmp_path):
    prepared = []
    monkeypatch.setattr(report, "prepare_tensorflow", lambda *args: prepared.append(args))
    monkeypatch.setattr(report, "open_contenders", lambda task: opened)
    monkeypatch.setattr(report, "_memory", lambda args, device: None)
    output = tmp_path / "new" / "results"
    arguments = ["--arch", "r18w8_nam", "--batch-size", str(BATCH), "--rounds", "5"]
    train_step.main([*arguments, "--threads", "1", "--output", str(output)])
    files = ["train_step.json", "train_step.md", "train_step.png"]
    assert sorted(path.name for path in output.iterdir()) == files
    written = runs.read_json(output / "train_step.json")
    assert prepared == [("CPU", 1)]
    names = ["ours", "plain", "stock Keras BN", "official, ported", "floor"]
    assert [row["contender"] for row in written["results"]] == names
    assert written["left_out"] == {"PyTorch": "torch is not installed"}
    assert written["command"].startswith("python benchmarks/train_step.py --arch r18w8_nam")
    assert written["floor_flops"] == BATCH * HAND_COUNT
    assert written["results"][0]["ratio"]["median"] == 1
    assert (written["rounds"], written["threads"], written["dtype"]) == (5, 1, "float32")
    assert "Conv2DBackpropFilter" in [row["operation"] for row in written["profile"]]
    assert sum(row["share"] for row in written["profile"]) == pytest.approx(1, abs=1e-3)
    assert "official, ported" in (output / "train_step.md").read_text()


@pytest.mark.parametrize(
    ("gate", "gate_gradient"),
    [(train_step_networks.StockGate, True), (train_step_networks.OfficialGate, False)],
)
def test_the_gates_have_the_gradients_of_ours(gate, gate_gradient):
    numbers = np.random.default_rng(0)
    x, dy = (tf.constant(numbers.normal(size=(2, 4, 4, 6)), "float32") for _ in range(2))
    gammas = numbers.uniform(0.5, 2, 6)
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
def test_unlike_settings_are_refused(opened, key, other):
    first, second, *_ = opened[0]
    unlike = second._replace(settings={**second.settings, key: other})
    with pytest.raises(InputError, match=f"plain runs with {key} {other} where ours has"):
        contenders.check_alike([first, unlike])


@pytest.mark.parametrize(
    ("factor", "refused"), [(1 + 5e-5, False), (1 - 2e-4, True), (np.nan, True)]
)
def test_another_first_loss_is_refused(factor, refused):
    ours, other = (
        contenders.Contender(name, lambda loss=loss: loss, {}, is_ours=True)
        for name, loss in (("ours", 4.6), ("other", 4.6 * factor))
    )
    if refused:
        with pytest.raises(InputError, match=r"the first loss of other is .* another network"):
            contenders.check_alike([ours, other])
    else:
        contenders.check_alike([ours, other])
    contenders.check_alike([ours, other._replace(is_ours=False)])


def test_a_gate_with_other_weights_is_seen(task, model):
    class OtherGate(train_step_networks.StockGate):
        def weights_of_channels(self):
            return 2 * super().weights_of_channels()

    both = [
        contenders.of_model("ours", model, task, is_ours=True),
        contenders.of_model(
            "other", train_step_networks.rewritten(model, OtherGate), task, is_ours=True
        ),
    ]
    with pytest.raises(InputError, match="the first loss of other"):
        contenders.check_alike(both)


def test_the_rewritten_network_has_no_normalization_of_ours(model):
    copy = train_step_networks.rewritten(model, train_step_networks.OfficialGate)
    assert not [layer for layer in copy.layers if isinstance(layer, keras_nam.BatchNormalization)]
    gates = [layer for layer in copy.layers if type(layer) is train_step_networks.OfficialGate]
    assert len(gates) == 8
    assert copy.count_params() == model.count_params()
    assert {gate.normalization.momentum for gate in gates} == {0.9}
    assert {gate.normalization.epsilon for gate in gates} == {1e-5}


# r18w8, multiply-adds an image. The stem; stage 1 at 32², 8 channels; in the stages 2 to 4, with
# 16, 32 and 64 channels at 16², 8² and 4², a convolution and a shortcut from half the channels.
STEM = 32**2 * 9 * 3 * 8
STAGE_1 = 4 * 32**2 * 9 * 8 * 8
LATER = sum(
    side**2 * (9 * width // 2 * width + 3 * 9 * width * width + width // 2 * width)
    for side, width in ((16, 16), (8, 32), (4, 64))
)
# Two operations each; the stem has no gradient of its inputs.
HAND_COUNT = 2 * (2 * STEM + 3 * (STAGE_1 + LATER + 64 * 100))


def test_the_floor_has_the_products_of_the_network():
    products = train_step_floor.products(keras_nam.create_model("r18w8", 100))
    # A stem; 8 blocks of two convolutions, 3 of them with a shortcut's; the logits.
    assert len(products) == 1 + 8 * 2 + 3 + 1
    assert [product.is_first for product in products] == [True] + 20 * [False]
    assert sum(product.flops for product in products) == HAND_COUNT == 52_827_648


def test_the_floor_computes_all_of_them_and_nothing_else_that_takes_time(opened):
    floor = opened[0][-1]
    ran = Counter(operation for operation, _ in train_step_profile.operations(floor.step))
    steps = train_step_profile.STEPS
    convolutions = {
        "Conv2D": 20 * steps,
        "Conv2DBackpropFilter": 20 * steps,
        "Conv2DBackpropInput": 19 * steps,  # not of the stem
    }
    assert convolutions.items() <= ran.items()
    assert sum(count for name, count in ran.items() if "MatMul" in name) == 3 * steps
    # Beside them: sums of single numbers, and the reading of variables.
    rest = {name for name in ran if "Conv2D" not in name and "MatMul" not in name}
    assert rest <= {"StridedSlice", "ReadVariableOp", "AddN", "AddV2", "Reshape", "Identity"}


def test_depthwise_convolutions_count_each_channel_by_itself():
    products = train_step_floor.products(keras_nam.create_model("mbv2w8", 10))
    depthwise = [product for product in products if product.kernel[-1] == 1]
    assert len(depthwise) == 17
    for product in depthwise:
        height, width, channels = product.outputs
        assert product.flops == 6 * height * width * 9 * channels


@pytest.mark.parametrize(
    ("event", "operation"),
    [
        ("r50/stem_conv/convolution:Conv2D", "Conv2D"),
        ("r50/bn/FusedBatchNormV3:_MklNativeFusedBatchNormV3", "FusedBatchNormV3"),
        ("sgd/mul_213:Mul", "Mul"),
        ("gate/PartitionedCall:PartitionedCall", None),
        ("ExecutorState::Process", None),
        ("EagerExecute", None),
        ("CpuExecutable::ExecuteAsyncOnStream", "compiled by XLA"),
    ],
)
def test_the_operation_of_an_event(event, operation):
    assert train_step_profile.operation_of(event) == operation


def test_the_rest_of_a_profile_is_one_row():
    times = {f"Op{number}": float(number) for number in range(1, 21)}
    rows = train_step_profile.rows(times)
    assert [row["operation"] for row in rows[:2]] == ["Op20", "Op19"]
    assert rows[-1] == {"operation": "6 others", "milliseconds": 21.0, "share": 0.1}
    assert len(rows) == train_step_profile.SHOWN + 1
