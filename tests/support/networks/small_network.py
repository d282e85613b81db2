"""A training that fits a network of 200 weights, which is traced in a second instead of ten.

    python tests/support/networks/small_network.py TRAIN_OPTION...

is train.py with that network in place of the one that --arch names.
"""

import sys

import keras
import numpy as np

import keras_nam
from training import cli, train
from training.fitting import job as fitting
from training.fitting import loop, multihost, network
from training.runs import files, plots

# launch.py with the program sys.argv[1] in place of train.py.
LAUNCH = """
import sys
from pathlib import Path
from training import cli, launch
launch.TRAIN = Path(sys.argv.pop(1))
cli.run(launch.main)
"""


def initial_model(job, classes, *more):
    """Returns the small network, whose first weights are the same on every backend.

    `more` are layers before its attention.
    """
    size = job.image_size if job else (32, 32)
    image = keras.Input((*size, 3))
    x = keras.layers.Conv2D(4, 3, strides=4, use_bias=False, name="stem_conv")(image)
    x = keras_nam.BatchNormalization(name="stem_bn")(x)
    for layer in more:
        x = layer(x)
    x = keras_nam.NAMChannelAttention(name="stage1_block1_nam")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    model = keras.Model(image, keras.layers.Dense(classes, dtype="float32", name="logits")(x))
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:
        if weight.name == "kernel":
            weight.assign(rng.normal(0, 0.2, weight.shape))
    return model


def replace_network():
    """Makes every training of this process fit the small network."""
    network.initial_model = initial_model


def write_only_history_and_checkpoints(patch):
    """Makes trainings fit the small network, without pictures, TensorBoard and SavedModel.

    Args:
        patch: A `pytest.MonkeyPatch`.
    """

    def finish(job, *_):
        files.write_json(job.folder / "result.json", {"loss": 0.0})

    patch.setattr(network, "initial_model", initial_model)
    patch.setattr(plots, "curves", lambda *args: args[-1].touch())
    patch.setattr(loop, "tensorboard", lambda *_: [])
    patch.setattr(fitting, "finish", finish)


if __name__ == "__main__":
    replace_network()
    cli.run(lambda: train.main(sys.argv[1:]), multihost.exit_at_once)
