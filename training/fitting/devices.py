"""The precision and the devices of a training, from the command line or from the machine."""

import contextlib
import dataclasses
import math
from collections.abc import Callable

import keras
import tensorflow as tf

from training.cli import InputError
from training.fitting import multihost

MOST_STEPS = 16


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a training runs.

    Attributes:
        scope: Function, returns the context in which the network is made.
        shard: The number of this process, and the number of processes.
        devices: Integer, the devices of all processes, which share a batch.
        mirrored: Whether each device normalizes its part of a batch separately by default.
    """

    scope: Callable = contextlib.nullcontext
    shard: tuple[int, int] = (0, 1)
    devices: int = 1
    mirrored: bool = False

    @property
    def writes(self):
        """Whether this process writes the run folder."""
        return self.shard[0] == 0


def place(asked, say):
    """Returns the `Placement` of a strategy.

    `auto` is `multihost` in a process that was launched as one of several, `mirrored` over
    several GPUs, and else `none`.

    Raises:
        InputError: If the backend lacks the strategy, or the other processes cannot be reached.
    """
    on_jax = keras.backend.backend() == "jax"
    if on_jax:
        tf.config.set_visible_devices([], "GPU")  # TensorFlow only feeds data; JAX needs the memory
    if asked == "auto":
        several = not on_jax and len(tf.config.list_logical_devices("GPU")) > 1
        asked = "multihost" if multihost.launched() else "mirrored" if several else "none"
    if asked == "none":
        return Placement()
    return _multihost(say) if asked == "multihost" else _mirrored(say)


def _mirrored(say):
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"--strategy mirrored is TensorFlow's, and KERAS_BACKEND is {keras.backend.backend()}. "
            "Unset it, or give --strategy multihost."
        )
    gpus = tf.config.list_logical_devices("GPU")
    names = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
    strategy = tf.distribute.MirroredStrategy(names)
    say(f"mirrored over {len(names)} device(s)")
    return Placement(strategy.scope, devices=len(names), mirrored=True)


def _multihost(say):
    shard = multihost.join(say)
    distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
    count = distribution.num_model_replicas
    keras.distribution.set_distribution(distribution)
    say(f"process {shard[0]} of {shard[1]}, {count} device(s) in all")
    return Placement(shard=shard, devices=count)


def check_batch(batch_size, placement):
    """Raises an InputError unless a batch divides over the devices."""
    if batch_size % placement.devices:
        raise InputError(
            f"--batch-size {batch_size}: expected a multiple of {placement.devices}, the number of "
            "devices."
        )


def scaled(recipe, devices, how):
    """Returns the recipe for more devices. `"none"` keeps it, so the devices share the batch.

    `"linear"` keeps the batch of each device. The batch and the learning rate grow with the devices
    (Goyal et al., 2017, arXiv 1706.02677), and the warm-up has the same number of images.
    """
    if how == "none":
        return recipe
    return dataclasses.replace(
        recipe,
        batch_size=recipe.batch_size * devices,
        learning_rate=recipe.learning_rate * devices,
        warmup_steps=-(-recipe.warmup_steps // devices),
    )


def choose_precision(asked, say):
    """Returns the dtype policy: `auto` is float16 on a GPU with tensor cores, else float32."""
    capabilities = _gpu_capabilities()
    if asked == "mixed_float16" and not capabilities:
        say("warning: --precision mixed_float16 without a GPU is slower than float32.")
    if asked != "auto":
        return asked
    return "mixed_float16" if capabilities and min(capabilities) >= (7, 0) else "float32"


def _gpu_capabilities():
    """Returns the compute capability of each GPU of this process, (0, 0) if unknown."""
    if keras.backend.backend() == "jax":
        import jax

        gpus = [device for device in jax.local_devices() if device.platform == "gpu"]
        return [tuple(int(part) for part in gpu.compute_capability.split(".")) for gpu in gpus]
    return [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in tf.config.list_physical_devices("GPU")
    ]


def execution(steps):
    """Returns the arguments `jit_compile` and `steps_per_execution` of `keras.Model.compile`.

    On one GPU, XLA compiles a step, and one call runs several steps, so that the GPU does not wait.
    Their number divides `steps`, the steps of an epoch: Keras would run an incomplete last call
    into the next epoch's images. On a CPU a call costs little, and oneDNN's convolutions are faster
    than XLA's. With several TensorFlow devices XLA cannot reach the variables of another device.
    """
    if keras.backend.backend() == "jax":
        return {"jit_compile": True, "steps_per_execution": 1}
    if not tf.config.list_physical_devices("GPU") or tf.distribute.has_strategy():
        return {"jit_compile": False, "steps_per_execution": 1}
    most = max(n for n in range(1, MOST_STEPS + 1) if steps % n == 0)
    return {"jit_compile": True, "steps_per_execution": most}


def fit_steps_per_call(model, steps, rest):
    """Sets a model's `steps_per_execution` so that its calls end with an epoch of `rest` steps.

    Args:
        model: A compiled `keras.Model`.
        steps: Integer, the steps of a whole epoch.
        rest: Integer, the steps of the next call of `fit`, which may resume within an epoch.
    """
    fitting = math.gcd(execution(steps)["steps_per_execution"], rest)
    if model.steps_per_execution != fitting:
        model.steps_per_execution = fitting
        for make in (model.make_train_function, model.make_test_function):
            make(force=True)
