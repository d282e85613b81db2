"""The gates in TensorBoard: their weights and values after each epoch."""

import keras
import numpy as np
import tensorflow as tf

from training.gating import values as gate_values

HISTOGRAM_IMAGES = 8  # TensorBoard's histogram is slower than the network
# Number of a gate's `Distribution` -> group and description.
SCALARS = {
    "mean": ("4 gate mean", "Mean of the gate's values on held-out images. 0.5 halves its input."),
    "std_between_units": (
        "5 gate spread between channels",
        "Standard deviation of the channels' means (of the positions', in a spatial gate): what a "
        "constant for each channel could replace.",
    ),
    "std_within_units": (
        "5 gate spread within channels",
        "Mean standard deviation of a channel's values (of a position's, in a spatial gate): what "
        "depends on the image.",
    ),
}
WEIGHTS = "7 gate weights"
VALUES = "8 gate values"


class Gates(keras.callbacks.Callback):
    """Writes the gates' weights and values after each epoch.

    The statistics of a gate leave out images for which it has values that are not finite.

    Args:
        folder: Path of the TensorBoard logs.
        network: The model of the full size, with NAM gates, even if another size is trained.
        images: Normalized images, [n, H, W, C], for which the gates' values are shown. The inputs
            of all gates for them are in memory at once.
    """

    def __init__(self, folder, network, images):
        super().__init__()
        self.writer = tf.summary.create_file_writer(str(folder))
        self.images = images
        self.gates = gate_values.named_gates(network)
        self.values = tf.function(gate_values.value_function(network))

    def on_epoch_end(self, epoch, logs=None):
        with self.writer.as_default(step=epoch + 1):
            values = self.values(self.images)
            for (name, gate), value in zip(self.gates.items(), values, strict=True):
                _write(name, gate, value)
        self.writer.flush()


def _write(name, gate, value):
    weights = np.asarray(gate.gate_weights)
    tf.summary.histogram(
        f"{WEIGHTS}/{name}",
        weights[np.isfinite(weights)],
        description="|γ| / Σ|γ| of each channel, or as `weighting` says.",
    )
    value = value[np.isfinite(value).all((1, 2, 3))]
    if not len(value):
        return
    tf.summary.histogram(
        f"{VALUES}/{name}",
        value[:HISTOGRAM_IMAGES],
        description=f"sigmoid(w · BN(x)) on {HISTOGRAM_IMAGES} held-out images.",
    )
    numbers = gate_values.distribution(gate, value).numbers
    for key, (group, description) in SCALARS.items():
        tf.summary.scalar(f"{group}/{name}", numbers[key], description=description)
