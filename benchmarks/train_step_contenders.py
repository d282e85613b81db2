"""What a benchmark of the training step compares: steps on the same images, made alike."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

import keras_nam
from benchmarks import train_step_floor
from benchmarks.train_step_networks import OfficialGate, StockGate, plain_arch, rewritten
from training.cli import InputError
from training.optimizers import SGD

OURS, PLAIN, FLOOR = "ours", "plain", "floor"
CLASSES = 100
# So small that a hundred steps on the same images do not bring the loss to nothing, and the
# gradients to numbers that processors are slow with.
LEARNING_RATE = 1e-4
# Relative. Rounding was seen to change the loss by 5e-7; weights w that are twice as large by 3e-4,
# a gate without them by 2e-2.
LARGEST_ERROR = 1e-4


class Contender(NamedTuple):
    """A training step that is measured.

    Attributes:
        name: String.
        step: Function that makes a step and returns its loss, once all of it is done.
        settings: Dictionary, what contenders have in common: `batch_size`, `dtype`, `threads`.
        is_ours: Whether it is our network with our weights, so that its loss is ours.
    """

    name: str
    step: Callable
    settings: dict
    is_ours: bool = False


class Task(NamedTuple):
    """What is trained, on what: the arch, images [N, 32, 32, 3], labels [N], and where."""

    arch: str
    images: np.ndarray
    labels: np.ndarray
    device: str
    threads: int


def new_task(arch, batch_size, device, threads):
    """Returns a `Task` of random images."""
    numbers = np.random.default_rng(0)
    images = numbers.normal(size=(batch_size, 32, 32, 3)).astype(np.float32)
    labels = numbers.integers(0, CLASSES, batch_size).astype(np.int32)
    return Task(arch, images, labels, device, threads)


def open_contenders(task):
    """Returns a list of `Contender`, and a dictionary of those left out: name -> the reason."""
    keras.utils.set_random_seed(0)
    model = keras_nam.create_model(task.arch, CLASSES)
    plain = keras_nam.create_model(plain_arch(task.arch), CLASSES)
    contenders = [
        of_model(OURS, model, task, is_ours=True),
        of_model(PLAIN, plain, task),
        of_model("stock Keras BN", rewritten(model, StockGate), task, is_ours=True),
        of_model("official, ported", rewritten(model, OfficialGate), task, is_ours=True),
    ]
    left_out = {}
    try:
        from benchmarks import train_step_torch
    except ModuleNotFoundError as missing:
        left_out["PyTorch"] = f"{missing.name} is not installed"
    else:
        step, settings = train_step_torch.training_step(model, task, LEARNING_RATE)
        contenders.append(Contender("PyTorch", step, settings, is_ours=True))
    step, dtype = train_step_floor.step(train_step_floor.products(plain), len(task.images))
    contenders.append(Contender(FLOOR, step, _settings(task, dtype)))
    return contenders, left_out


def of_model(name, model, task, is_ours=False):
    """Returns the `Contender` of a Keras model."""
    step = training_step(model, task)
    dtypes = {layer.compute_dtype for layer in model.layers}
    return Contender(name, step, _settings(task, *sorted(dtypes)), is_ours)


def training_step(model, task):
    """Returns a function of no arguments that trains a model by a step, and returns the loss."""
    optimizer = SGD(LEARNING_RATE)
    optimizer.build(model.trainable_variables)
    images, labels = tf.constant(task.images), tf.constant(task.labels)

    # As training/fit.py compiles it.
    @tf.function(jit_compile=task.device == "GPU")
    def step(images, labels):
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(loss)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    step.get_concrete_function(images, labels)
    # Its value is on the host when all that was begun before it is done.
    return lambda: float(step(images, labels))


def check_alike(contenders):
    """Shows that like is compared with like: the settings of all, the first loss of the same.

    Raises:
        InputError: If they are not.
    """
    first = contenders[0]
    for other in contenders[1:]:
        for key, value in first.settings.items():
            if other.settings[key] != value:
                raise InputError(
                    f"{other.name} runs with {key} {other.settings[key]} where {first.name} has "
                    f"{value}: unlike things, which are not compared"
                )
    loss = first.step()
    for other in contenders[1:]:
        if not other.is_ours:
            continue
        theirs = other.step()
        if not abs(theirs - loss) <= LARGEST_ERROR * abs(loss):
            raise InputError(
                f"the first loss of {other.name} is {theirs:.6f} where {first.name} has "
                f"{loss:.6f}, with the same weights and images: another network, which is not "
                "compared"
            )


def _settings(task, *dtypes):
    return {
        "batch_size": len(task.images),
        "dtype": " ".join(dtypes),
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
    }
