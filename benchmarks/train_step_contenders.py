"""The contenders of the training-step benchmark: training steps on the same images."""

import time
from collections.abc import Callable
from math import prod
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

import keras_nam
from export.runtime.native_log import one_line
from keras_nam.models import parse_arch
from training.cli import InputError
from training.fitting.optimizers import SGD

OURS, PLAIN, FLOOR = "ours", "plain", "floor"
PYTORCH, COMPILED = "PyTorch", "PyTorch, torch.compile"
CLASSES = 100
# A hundred steps on the same images must not bring the loss to 0: denormal numbers are slow.
LEARNING_RATE = 1e-4
# Relative. Rounding changes the first loss by 5e-7, weights w of twice the size by 3e-4.
LARGEST_ERROR = 1e-4


class Task(NamedTuple):
    """What is trained: the arch, images [N, 32, 32, 3], labels [N], and where."""

    arch: str
    images: np.ndarray
    labels: np.ndarray
    device: str
    threads: int


class Contender(NamedTuple):
    """A training step to time."""

    name: str
    step: Callable  # without arguments; makes a step, waits for its end and returns the loss
    settings: dict  # equal for all contenders
    is_ours: bool = True  # our network with our weights, and so with our losses
    first_loss: float | None = None
    first_seconds: float | None = None  # of the first step, with tracing and compilation


def new_task(arch, batch_size, device, threads):
    """Returns a `Task` of random images."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, 32, 32, 3)).astype(np.float32)
    labels = rng.integers(0, CLASSES, batch_size).astype(np.int32)
    return Task(arch, images, labels, device, threads)


def open_contenders(task):
    """Returns a list of `Contender`, and a dictionary of those left out, name to reason."""
    keras.utils.set_random_seed(0)
    model = keras_nam.create_model(task.arch, CLASSES)
    plain = keras_nam.create_model(plain_arch(task.arch), CLASSES)
    opened = [
        of_model(OURS, model, task),
        of_model(PLAIN, plain, task, is_ours=False),
        of_model("stock Keras BN", rewritten(model, StockGate), task),
        of_model("official, ported", rewritten(model, OfficialGate), task),
    ]
    left_out = {}
    for name in (PYTORCH, COMPILED):
        try:
            opened.append(Contender(name, *torch_step(model, task, compiled=name == COMPILED)))
        except ModuleNotFoundError as missing:
            left_out[name] = f"{missing.name} is not installed"
    floor = floor_step(plain, len(task.images))
    opened.append(Contender(FLOOR, lambda: float(floor()), _settings(task, plain), is_ours=False))
    # Not before: a step changes the weights that the others start with.
    contenders = []
    for contender in opened:
        try:
            contenders.append(started(contender))
        except Exception as error:  # PyTorch's compilers raise errors of many types
            if contender.name != COMPILED:
                raise
            left_out[COMPILED] = f"torch.compile failed: {one_line(str(error))}"
    return contenders, left_out


def of_model(name, model, task, is_ours=True):
    """Returns the `Contender` of a Keras model."""
    return Contender(name, keras_step(model, task), _settings(task, model), is_ours)


def started(contender):
    """Returns a contender after its first step."""
    begin = time.perf_counter()
    loss = contender.step()
    return contender._replace(first_loss=loss, first_seconds=time.perf_counter() - begin)


def check_alike(contenders):
    """Raises an InputError if settings differ, or the first losses of our network."""
    ours, *others = contenders
    for other in others:
        for key, value in ours.settings.items():
            if other.settings[key] != value:
                raise InputError(
                    f"{other.name} has {key} {other.settings[key]}, expected {value} as {ours.name}"
                )
        error = abs(other.first_loss - ours.first_loss)
        if other.is_ours and not error <= LARGEST_ERROR * abs(ours.first_loss):
            raise InputError(
                f"the first loss of {other.name} is {other.first_loss:.6f}, expected "
                f"{ours.first_loss:.6f} as {ours.name}: they are different networks"
            )


def keras_step(model, task):
    """Returns the training step of a Keras model: callable without arguments to the loss."""
    optimizer = SGD(LEARNING_RATE)
    optimizer.build(model.trainable_variables)
    images, labels = tf.constant(task.images), tf.constant(task.labels)

    # As the training compiles it: by XLA on a GPU only.
    @tf.function(jit_compile=task.device == "GPU")
    def step(images, labels):
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(loss)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    # The value is on the host only after the whole step is done.
    return lambda: float(step(images, labels))


def _settings(task, model):
    return {
        "batch_size": len(task.images),
        "dtype": " ".join(sorted({layer.compute_dtype for layer in model.layers})),
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
    }


def check_arch(arch):
    """Raises an InputError unless the arch's attention is NAM's channel attention."""
    try:
        attention = parse_arch(arch)[2]
    except ValueError as error:
        raise InputError(f"--arch {arch}: {error}") from None
    if attention != "nam":
        raise InputError(
            f"--arch {arch} has {attention or 'no attention'}: expected <backbone>_nam, such as "
            f"{plain_arch(arch)}_nam"
        )


def plain_arch(arch):
    """Returns the name of an arch without its attention."""
    return arch.partition("_")[0]


class StockGate(layers.Layer):
    """NAM's channel attention, written from its formula on Keras' own normalization."""

    def __init__(self, momentum=0.9, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.normalization = layers.BatchNormalization(momentum=momentum, epsilon=epsilon)

    def build(self, input_shape):
        self.normalization.build(input_shape)

    def channel_weights(self):
        magnitude = ops.abs(self.normalization.gamma)
        return magnitude / ops.sum(magnitude)

    def call(self, x, training=None):
        return x * ops.sigmoid(self.channel_weights() * self.normalization(x, training=training))


class OfficialGate(StockGate):
    """The official PyTorch block, line by line, with its two transpositions mirrored for NHWC."""

    def call(self, x, training=None):
        residual = x
        x = self.normalization(x, training=training)
        weights = ops.stop_gradient(self.channel_weights())
        x = ops.transpose(x, (0, 3, 1, 2))
        x = ops.multiply(weights[:, None, None], x)
        x = ops.transpose(x, (0, 2, 3, 1))
        return ops.sigmoid(x) * residual


def rewritten(model, gate):
    """Returns a copy of a model on Keras' own normalizations, with `gate` for each NAM layer."""

    def replaced(layer):
        if isinstance(layer, keras_nam.NAMChannelAttention):
            return gate(layer.momentum, layer.epsilon, name=layer.name)
        stock = isinstance(layer, keras_nam.BatchNormalization)
        kind = layers.BatchNormalization if stock else layer.__class__
        return kind.from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=replaced)
    copy.set_weights(model.get_weights())
    return copy


def torch_step(model, task, compiled):
    """Returns the step of the same network in PyTorch, with the official block, and its settings.

    Args:
        model: Keras model, whose weights it starts with.
        task: A `Task`.
        compiled: Whether `torch.compile` compiles the network, forward and backward.
    """
    import torch
    from torch import nn

    from keras_nam.torch_twin import create_twin
    from keras_nam.torch_twin.attention import NAM

    class OfficialBlock(nn.Module):
        def __init__(self, bn2):
            super().__init__()
            self.bn2 = bn2

        def forward(self, x):
            residual = x
            x = self.bn2(x)
            magnitude = self.bn2.weight.data.abs()
            weights = magnitude / torch.sum(magnitude)
            x = x.permute(0, 2, 3, 1).contiguous()
            x = torch.mul(weights, x)
            x = x.permute(0, 3, 1, 2).contiguous()
            return torch.sigmoid(x) * residual

    torch.set_num_threads(task.threads)
    # As `prepare_tensorflow` sets it for TensorFlow.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    device = "cuda" if task.device == "GPU" else "cpu"
    network = create_twin(task.arch, model.output_shape[-1])
    for module in network.modules():
        if isinstance(module, NAM):
            module.Channel_Att = OfficialBlock(module.Channel_Att.bn2)
    arrays = keras_nam.to_torch_state_dict(model)
    network.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()})
    network.to(device).train()
    torch.compiler.config.force_disable_caches = True  # the compile time of a first run
    forward = torch.compile(network) if compiled else network
    images = torch.from_numpy(task.images.transpose(0, 3, 1, 2).copy()).to(device)
    labels = torch.from_numpy(task.labels).long().to(device)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=5e-4
    )
    cross_entropy = nn.CrossEntropyLoss()

    def step():
        optimizer.zero_grad()
        loss = cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    settings = {
        "batch_size": len(images),
        "dtype": str(next(network.parameters()).dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }
    return step, settings


def products(model):
    """Returns a Keras model's convolutions and dense layers, in order."""
    kinds = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)
    return [layer for layer in model.layers if isinstance(layer, kinds)]


def floor_flops(model):
    """Returns the floor's floating-point operations per image: two per multiply-add."""
    return sum(
        # Forward, the kernel's gradient, and the inputs' gradient except for the images.
        2 * prod(layer.output.shape[1:-1]) * prod(layer.kernel.shape) * (3 if place else 2)
        for place, layer in enumerate(products(model))
    )


def floor_step(model, batch_size):
    """Returns a `tf.function` of a model's products and their gradients, and of nothing else."""
    found = products(model)
    rng = np.random.default_rng(0)
    # Variables as inputs, and the outputs as their own gradient: TensorFlow can neither precompute
    # a product nor merge two.
    inputs = {
        shape: tf.Variable(rng.normal(size=(batch_size, *shape)), dtype=model.compute_dtype)
        for shape in {layer.input.shape[1:] for layer in found}
    }

    @tf.function
    def floor():
        total = tf.zeros([], model.compute_dtype)
        for place, layer in enumerate(found):
            # In a network each product waits for the one before.
            with tf.control_dependencies([total]), tf.GradientTape() as tape:
                x = inputs[layer.input.shape[1:]].read_value()
                tape.watch(x)
                outputs = layer(x)
            sources = [layer.kernel.value, x] if place else [layer.kernel.value]
            gradients = tape.gradient(outputs, sources, output_gradients=outputs)
            # A number of each result: TensorFlow removes an unused result.
            total += tf.add_n([tf.reshape(result, [-1])[0] for result in [outputs, *gradients]])
        return total

    return floor
