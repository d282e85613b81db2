"""A run's TensorBoard: the columns of `history.csv`, the result, and pictures.

A step is an epoch, counted from 1 as in `curves.png`. TensorBoard sorts by name, so the groups are
numbered.
"""

import io

import keras
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from training.runs import files, plots
from training.runs.scores import worst_confusions

FOLDER = "tensorboard"
TRAIN, HELD_OUT, TEST = "train", "held_out", "test"  # TensorBoard's runs
PICTURES = "6 pictures"
# Column of `history.csv` -> tag and description.
SCALARS = {
    "top1": (
        "1 quality/top-1",
        "Share of the images whose class has the largest logit, 0–1. `train`: of augmented images, "
        "while the weights change. `held_out`, `test`: of images as they are.",
    ),
    "top5": (
        "1 quality/top-5",
        "Share of the images whose class is among the five largest logits, 0–1.",
    ),
    "loss": (
        "1 quality/loss",
        "Cross-entropy in nats. `train`, `held_out`: with smoothed labels if `label_smoothing` is "
        "above 0, and with `gamma_penalty`. `test`: without both.",
    ),
    "images_per_second": (
        "2 speed/images per second",
        "Training images a second, without the evaluation. It changes with the image size.",
    ),
    "seconds": ("2 speed/seconds", "Duration of an epoch, with its evaluation."),
    "learning_rate": ("3 schedule/learning rate", "At the epoch's end."),
}
HELD_OUT_SCALARS = ("top1", "top5", "loss")
HYPER_PARAMETERS = ("arch", "stem", "recipe", "dataset", "precision", "seed")


class Board(keras.callbacks.Callback):
    """Writes the configuration and augmented images, and the scalars after each epoch.

    Args:
        folder: Path of the run folder, with its `config.json`.
        history: The run's `History` callback, which comes before this one.
        preview: A picture of augmented images, [1, H, W, 3], values 0–1.
    """

    def __init__(self, folder, history, preview):
        super().__init__()
        self.folder = folder
        self.history = history
        self.preview = preview
        self.writers = {name: _writer(folder, name) for name in (TRAIN, HELD_OUT)}

    def on_train_begin(self, logs=None):
        if self.preview is None:  # a second call of Keras' `fit`
            return
        with self.writers[TRAIN].as_default(step=0):
            tf.summary.text(
                "configuration",
                _table(files.read_json(self.folder / files.CONFIG)),
                description="The settings in config.json.",
            )
            tf.summary.image(
                f"{PICTURES}/augmented images",
                self.preview,
                description="Training images of the full size as the network receives them, before "
                "the normalization.",
            )
        self.preview = None

    def on_epoch_end(self, epoch, logs=None):
        row = self.history.rows[-1]
        with self.writers[TRAIN].as_default(step=row["epoch"]):
            _write_scalars(row)
        with self.writers[HELD_OUT].as_default(step=row["epoch"]):
            _write_scalars({key: row[f"val_{key}"] for key in HELD_OUT_SCALARS})
        for writer in self.writers.values():
            writer.flush()


def write_result(folder, result, scores, split, class_names):
    """Writes the test result, its pictures, and the run's row among the hyper-parameters.

    Args:
        folder: Path of the run folder.
        result: Dictionary, the content of `result.json`.
        scores: The scores on the test set, from `scores.evaluate`.
        split: The test set, with `images` (0–255) and `labels`.
        class_names: List of strings.
    """
    with _writer(folder, TEST).as_default(step=result["epochs"]):
        _write_scalars({key: result[key] for key in HELD_OUT_SCALARS})
        tf.summary.image(
            f"{PICTURES}/mistakes",
            _image(plots.mistakes, scores, split, class_names, 16),
            description="The wrong predictions with the highest probabilities.",
        )
        if worst_confusions(scores, class_names):
            tf.summary.image(
                f"{PICTURES}/confusions",
                _image(plots.confusions, scores, class_names),
                description="The classes of the most frequent confusions: rows are labels, "
                "columns predictions, numbers images.",
            )
    with _writer(folder, ".").as_default():
        values = _hyper_parameters(files.read_json(folder / files.CONFIG))
        metrics = [
            hparams.Metric(SCALARS[key][0], group=run, display_name=f"{run} {key}")
            for run, keys in ((TEST, HELD_OUT_SCALARS), (TRAIN, ("images_per_second",)))
            for key in keys
        ]
        hparams.hparams_config([hparams.HParam(name) for name in values], metrics)
        hparams.hparams(values, trial_id=folder.name)


def _writer(folder, name):
    return tf.summary.create_file_writer(str(folder / FOLDER / name))


def _write_scalars(row):
    for key, (tag, description) in SCALARS.items():
        if key in row:
            tf.summary.scalar(tag, row[key], description=description)


def _table(config):
    """Returns a `config.json` as a table in Markdown."""
    rows = (f"| {name} | {value} |" for name, value in files.described(config).items())
    return "\n".join(["| setting | value |", "|---|---|", *rows])


def _hyper_parameters(config):
    """Returns name -> value, a number or a string, of what is varied between runs."""
    varied = {key: config[key] for key in HYPER_PARAMETERS} | config["recipe_settings"]
    return {
        key: ", ".join(map(str, value)) if isinstance(value, list) else value
        for key, value in varied.items()
        if value is not None and key not in ("mean", "std")
    }


def _image(draw, *arguments):
    """Returns what a function of `plots` draws as a tensor [1, H, W, 3]."""
    buffer = io.BytesIO()
    draw(*arguments, buffer)
    return tf.io.decode_png(buffer.getvalue(), 3)[None]
