"""What a training runs on: its precision and strategy, as asked for or as the machine has it."""

import tensorflow as tf

from training.cli import InputError, check_name

MOST_STEPS = 16
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")
STRATEGIES = ("auto", "none", "mirrored")


def choose_precision(asked, say):
    """Returns the dtype policy: `auto` is float16 on a GPU with tensor cores, else float32."""
    check_name("precision", asked, PRECISIONS)
    gpus = tf.config.list_physical_devices("GPU")
    if asked == "mixed_float16" and not gpus:
        say("warning: --precision mixed_float16 without a GPU is slower than float32.")
    if asked != "auto":
        return asked
    capabilities = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in gpus
    ]
    return "mixed_float16" if gpus and min(capabilities) >= (7, 0) else "float32"


def make_strategy(asked, batch_size, say):
    """Returns the `tf.distribute` strategy: `auto` mirrors over the GPUs if there are several."""
    check_name("strategy", asked, STRATEGIES)
    several = len(tf.config.list_logical_devices("GPU")) > 1
    if asked == "none" or (asked == "auto" and not several):
        return tf.distribute.get_strategy()
    devices = None if several else tf.config.list_logical_devices("CPU")
    strategy = tf.distribute.MirroredStrategy(devices and [device.name for device in devices])
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise InputError(
            f"--batch-size {batch_size} does not divide over {replicas} devices; "
            f"{batch_size // replicas * replicas or replicas} would."
        )
    say(f"mirrored over {replicas} device(s)")
    return strategy


def steps_per_execution(steps):
    """Returns how many steps are run at a call: on a GPU several, so that it need not wait.

    It divides the steps of an epoch, since Keras would run a last, incomplete call whole, into
    the next epoch's images. On a CPU a call costs nothing beside a step.
    """
    if not tf.config.list_physical_devices("GPU"):
        return 1
    return max(n for n in range(1, MOST_STEPS + 1) if steps % n == 0)
