"""How TensorFlow uses a GPU beside ONNX Runtime, and where it runs while a time is taken."""

import os

import tensorflow as tf

from training.cli import InputError


def share_gpu():
    """Lets ONNX Runtime use TensorFlow's GPU, where both compute in full float32.

    By default TensorFlow takes all of a GPU's memory, and multiplies in TensorFloat-32, which
    keeps 10 bits of the mantissa. Call it before TensorFlow runs anything.
    """
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    # As `providers` has it for ONNX Runtime.
    tf.config.experimental.enable_tensor_float_32_execution(False)


def prepare_tensorflow(device, threads):
    """Has TensorFlow run on a device with so many threads; before anything else is done with it.

    Args:
        device: `"CPU"` or `"GPU"`.
        threads: Integer.

    Raises:
        InputError: If there is no such device.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if device == "GPU" and not gpus:
        raise InputError(
            "TensorFlow sees no GPU here: pip install -e '.[train,gpu]', or measure on the CPU "
            "(--device cpu; --provider cpu, beside ONNX Runtime)"
        )
    visible = gpus[:1] if device == "GPU" else []
    tf.config.set_visible_devices(visible, "GPU")
    for gpu in visible:
        # Else TensorFlow takes all of the memory, and leaves ONNX Runtime none.
        tf.config.experimental.set_memory_growth(gpu, True)
        # As `providers` has it for ONNX Runtime.
        tf.config.experimental.enable_tensor_float_32_execution(False)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    # Else independent operations would run beside each other, each in threads of its own.
    tf.config.threading.set_inter_op_parallelism_threads(threads)
