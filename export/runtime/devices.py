"""How TensorFlow uses a GPU beside ONNX Runtime, and the device and threads of a timing."""

import os

import tensorflow as tf

from training.cli import InputError


def share_gpu():
    """Lets ONNX Runtime use TensorFlow's GPU, and both compute in full float32.

    By default TensorFlow takes all of a GPU's memory, and multiplies in TensorFloat-32, which
    keeps 10 bits of the mantissa. `providers` does the same for ONNX Runtime. Call it before
    TensorFlow runs anything.
    """
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    tf.config.experimental.enable_tensor_float_32_execution(False)


def prepare_tensorflow(device, threads):
    """Sets TensorFlow's device and number of threads. Call it before TensorFlow runs anything.

    Args:
        device: `"CPU"` or `"GPU"`.
        threads: Integer.

    Raises:
        InputError: If the device does not exist.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if device == "GPU" and not gpus:
        raise InputError(
            "TensorFlow finds no GPU: pip install -e '.[train,gpu]', or measure on the CPU "
            "(--device cpu; --provider cpu, beside ONNX Runtime)"
        )
    tf.config.set_visible_devices(gpus[:1] if device == "GPU" else [], "GPU")
    share_gpu()
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    # Otherwise independent operations would run at once, each with its own threads.
    tf.config.threading.set_inter_op_parallelism_threads(threads)
