"""SGD and Muon against their definitions, and against what they must not be."""

import keras
import numpy as np
import pytest

from training import recipes
from training.fitting import optimizers
from training.fitting.optimizers import SGD, Muon, orthogonalized

RATES = [0.1, 0.05, 0.4, 0.01]


def steps(optimizer, rates=RATES):
    """Returns a parameter after steps with a gradient that depends on it."""
    variable = keras.Variable(np.array([1.0, -2.0, 3.0], "float32"))
    for i, rate in enumerate(rates):
        optimizer.learning_rate = rate
        optimizer.apply([np.cos(np.asarray(variable)) + i], [variable])
    return np.asarray(variable)


def reference(momentum, weight_decay, nesterov, rates=RATES):
    """PyTorch's definition, in numpy."""
    p, v = np.array([1.0, -2.0, 3.0]), np.zeros(3)
    for i, rate in enumerate(rates):
        g = np.cos(p) + i + weight_decay * p
        v = momentum * v + g
        p = p - rate * (g + momentum * v if nesterov else v)
    return p


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_definition(momentum, weight_decay, nesterov):
    actual = steps(SGD(0.1, momentum, weight_decay, nesterov))
    np.testing.assert_allclose(actual, reference(momentum, weight_decay, nesterov), rtol=1e-5)


def test_it_is_neither_keras_decay_nor_keras_momentum():
    ours = steps(SGD(0.1, 0.9, 0.1))
    assert np.abs(ours - steps(keras.optimizers.SGD(0.1, 0.9, weight_decay=0.1))).max() > 0.01
    ours = steps(SGD(0.1, 0.9, 0.0))
    assert np.abs(ours - steps(keras.optimizers.SGD(0.1, 0.9))).max() > 0.01


def test_excluded_variables_do_not_decay():
    optimizer = SGD(0.1, 0.9, 0.1)
    variable = keras.Variable(np.ones(2, "float32"), name="free")
    optimizer.exclude_from_weight_decay([variable])
    optimizer.apply([np.zeros(2, "float32")], [variable])
    np.testing.assert_array_equal(variable, np.ones(2))


def test_variables_that_are_exempt_by_their_path_do_not_decay(tmp_path):
    layers = [keras.layers.Dense(2, name=name) for name in ("head", "gate_1")]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile(SGD(0.1, 0.0, 0.5, decay_exempt=["gate_"]), "mse")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")  # a resumed training has the optimizer of the file
    model = keras.saving.load_model(tmp_path / "model.keras")
    before = [np.array(v) for v in model.trainable_variables]
    zeros = [np.zeros(v.shape, "float32") for v in model.trainable_variables]
    model.optimizer.apply(zeros, model.trainable_variables)
    for variable, old in zip(model.trainable_variables, before, strict=True):
        kept = 1 if "gate_1" in variable.path else 0.95
        np.testing.assert_allclose(variable, kept * old, rtol=1e-6)


@pytest.mark.parametrize(("kind", "more"), [(SGD, {}), (Muon, {"kernel_rate": 0.3})])
def test_config_round_trip(kind, more):
    optimizer = kind(0.2, momentum=0.8, weight_decay=1e-3, nesterov=True, **more)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(copy) is kind
    assert copy.get_config() == optimizer.get_config()
    assert (copy.momentum, copy.weight_decay, copy.nesterov) == (0.8, 1e-3, True)
    assert getattr(copy, "kernel_rate", 0.3) == 0.3


def gradients(shape, count=4):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype("float32")


def first_and_last(optimizer, rates, gradients):
    """Returns a variable's values before and after steps with these gradients."""
    first = np.random.default_rng(1).normal(size=gradients[0].shape).astype("float32")
    variable = keras.Variable(first)
    for rate, gradient in zip(rates, gradients, strict=True):
        optimizer.learning_rate = rate
        optimizer.apply([gradient], [variable])
    return first, np.asarray(variable)


@pytest.mark.parametrize("shape", [(30, 5), (5, 30), (1, 1), (9, 1)])
def test_orthogonalized_is_keras_iteration(shape):
    matrix = gradients(shape)[0]
    expected = keras.optimizers.Muon().zeropower_via_newtonschulz5(matrix, 4)
    np.testing.assert_allclose(orthogonalized(matrix, 4), expected, atol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("shape", [(3, 3, 2, 5), (3, 3, 4, 1)])
def test_muon_is_its_definition(shape, nesterov):
    steps = gradients(shape)
    optimizer = Muon(0.1, 0.3, momentum=0.8, nesterov=nesterov, weight_decay=0.5)
    w, actual = first_and_last(optimizer, RATES, steps)
    v = 0
    for rate, g in zip(RATES, steps, strict=True):
        v = 0.8 * v + g
        matrix = np.reshape(g + 0.8 * v if nesterov else v, [-1, shape[-1]])
        o = np.reshape(orthogonalized(matrix), shape)
        r = 0.3 * rate
        w = (1 - r**2 / 2) * w - r * np.linalg.norm(w) * o / np.linalg.norm(o)
    np.testing.assert_allclose(actual, w, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_muon_turns_a_kernel_as_far_whatever_the_gradients_size(size):
    (gradient,) = gradients((3, 3, 8, 8), 1)
    optimizer = Muon(kernel_rate=0.5, momentum=0.0)
    first, last = first_and_last(optimizer, [0.1], [size * gradient])
    # The first factor adds 0.05 ** 2 / 2, about at right angles.
    assert np.linalg.norm(last - first) / np.linalg.norm(first) == pytest.approx(0.05, rel=0.01)


def test_muon_keeps_a_kernels_norm():
    steps = gradients((3, 3, 8, 8), 200)
    first, last = first_and_last(Muon(kernel_rate=0.1, momentum=0.0), [1.0] * 200, steps)
    # Random steps, of 0.1 each, would alone make it sqrt(1 + 200 * 0.01) times as long, 1.7.
    assert np.linalg.norm(last) == pytest.approx(np.linalg.norm(first), rel=0.05)


def test_muon_leaves_a_kernel_without_gradient():
    first, last = first_and_last(Muon(kernel_rate=0.1), [0.1], np.zeros((1, 3, 3, 2, 2), "float32"))
    np.testing.assert_allclose(last, first, rtol=1e-4)


@pytest.mark.parametrize("shape", [(5,), (5, 7)])
def test_muon_is_sgd_for_all_but_the_kernels_of_convolutions(shape):
    steps = gradients(shape)
    muon, sgd = (first_and_last(kind(weight_decay=0.1), RATES, steps)[1] for kind in (Muon, SGD))
    np.testing.assert_array_equal(muon, sgd)


@pytest.mark.parametrize(("name", "kind"), [("sgd", SGD), ("muon", Muon)])
def test_the_recipe_names_the_optimizer_and_its_settings(name, kind):
    changes = {"momentum": 0.7, "weight_decay": 0.1, "nesterov": True, "kernel_rate": 0.3}
    changes["decay_exempt"] = ("_nam",)
    optimizer = optimizers.from_recipe(recipes.get("paddle", optimizer=name, **changes), 0.2)
    assert type(optimizer) is kind
    assert (optimizer.momentum, optimizer.weight_decay, optimizer.nesterov) == (0.7, 0.1, True)
    assert getattr(optimizer, "kernel_rate", 0.3) == 0.3
    assert optimizer.decay_exempt == ["_nam"]


def test_adamw_of_thawed_layers_steps_as_at_the_start():
    steps = gradients((3, 4))
    fresh, later = (optimizers.AdamW(0.1, started=n, weight_decay=0.0) for n in (0, 1000))
    later.build([keras.Variable(np.zeros((3, 4), "float32"))])
    later.iterations.assign(1000)
    variables = [keras.Variable(np.zeros((3, 4), "float32")), later._trainable_variables[0]]
    for optimizer, variable in zip((fresh, later), variables, strict=True):
        for gradient in steps:
            optimizer.apply([gradient], [variable])
    np.testing.assert_allclose(*map(np.asarray, variables), rtol=1e-3)
    assert keras.optimizers.deserialize(keras.optimizers.serialize(later)).started == 1000
