"""Where TensorFlow runs while a time is taken, and with how many threads."""

import tensorflow as tf

from training.cli import InputError


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
            "TensorFlow sees no GPU here: pip install 'keras-nam[gpu]', or measure on the CPU "
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
